//! The spec as the trainer gets it. Manifests name claims and jobs; a trainer knows files and stores.

use std::collections::BTreeMap;

use crds::infrastructure::Device;
use crds::uri::Uri;
use serde_json::{Value, json};

/// Every URI of a spec with its path in there, such as `spec.data.uri`.
pub fn uris(spec: &Value) -> Vec<(String, Uri)> {
    let mut found = Vec::new();
    walk(spec, "spec", &mut |path, text| {
        if let Ok(uri) = Uri::parse(text) {
            found.push((path.to_owned(), uri));
        }
    });
    found
}

/// The spec with the device that was decided on, each claim as the folder it is mounted at, and each model by its URI.
///
/// `mounts` has a folder for each claim, `models` the URI of the model of each TrainingJob that is named.
pub fn resolve(
    spec: &Value,
    device: Device,
    mounts: &BTreeMap<String, String>,
    models: &BTreeMap<String, String>,
) -> Value {
    let mut spec = spec.clone();
    for block in ["model", "retrainFrom"] {
        let uri =
            spec.pointer(&format!("/{block}/trainingJob")).and_then(Value::as_str).and_then(|job| models.get(job));
        if let Some(uri) = uri {
            spec[block] = json!({ "uri": uri });
        }
    }
    spec["infrastructure"]["device"] = json!(device);
    mount(&mut spec, mounts);
    spec
}

/// What a URI is once its claim is mounted.
pub fn mounted(uri: &Uri, mounts: &BTreeMap<String, String>) -> Option<String> {
    let folder = mounts.get(uri.claim()?)?;
    Some(format!("file://{}{}", folder.trim_end_matches('/'), uri.path()))
}

fn mount(value: &mut Value, mounts: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let file = match value {
                    Value::String(text) if is_uri(name) => Uri::parse(text).ok().and_then(|uri| mounted(&uri, mounts)),
                    _ => None,
                };
                match file {
                    Some(file) => *value = Value::String(file),
                    None => mount(value, mounts),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mount(item, mounts)),
        _ => {}
    }
}

fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let below = format!("{path}.{name}");
                match value {
                    Value::String(text) if is_uri(name) => visit(&below, text),
                    _ => walk(value, &below, visit),
                }
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| walk(item, &format!("{path}[{index}]"), visit));
        }
        _ => {}
    }
}

fn is_uri(field: &str) -> bool {
    field == "uri"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_become_folders_and_jobs_become_models() {
        let spec = json!({
            "model": {"trainingJob": "digits"},
            "data": {"uri": "pvc://images/digits", "validation": {"uri": "s3://bucket/held-out"}},
            "output": {"uri": "pvc://out"},
            "infrastructure": {"device": "Auto"},
        });
        let mounts = BTreeMap::from([("images".into(), "/v/images".into()), ("out".into(), "/v/out/".into())]);
        let models = BTreeMap::from([("digits".into(), "file:///v/models/digits".into())]);
        assert_eq!(
            resolve(&spec, Device::Cpu, &mounts, &models),
            json!({
                "model": {"uri": "file:///v/models/digits"},
                "data": {"uri": "file:///v/images/digits", "validation": {"uri": "s3://bucket/held-out"}},
                "output": {"uri": "file:///v/out"},
                "infrastructure": {"device": "Cpu"},
            })
        );
        let paths: Vec<String> = uris(&spec).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["spec.data.uri", "spec.data.validation.uri", "spec.output.uri"]);
    }
}
