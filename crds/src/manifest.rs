//! The custom resource definitions, as they lie beside the sources and as `trainyard crds` prints them.

use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{ModelEndpoint, ScoringJob, TrainingJob};

const HEADER: &str = "\
# Generated from the Rust types in crds/src; a test compares the two.
# To write it anew: UPDATE_CRDS=1 cargo test -p crds --test manifests
";

/// Longest name: a pod's is that of its resource, its attempt and its number, and a host name has 63 characters at most.
const NAME_CHARACTERS: u32 = 48;

/// A custom resource definition as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Name of the file in `crds/`.
    pub file_name: &'static str,
    /// Its text.
    pub yaml: String,
}

/// The three definitions, in the order of their files.
pub fn manifests() -> Vec<Manifest> {
    [
        ("modelendpoints.yaml", definition::<ModelEndpoint>()),
        ("scoringjobs.yaml", definition::<ScoringJob>()),
        ("trainingjobs.yaml", definition::<TrainingJob>()),
    ]
    .into_iter()
    .map(|(file_name, definition)| Manifest { file_name, yaml: format!("{HEADER}{}", yaml(&definition)) })
    .collect()
}

/// The definition of a kind, with a schema that is exactly what the types accept.
pub fn definition<K: CustomResourceExt>() -> Value {
    let mut definition = serde_json::to_value(K::crd()).unwrap_or_default();
    if let Some(schema) = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        tidy(schema);
        schema["properties"]["metadata"] = json!({"type": "object", "properties": {"name": {
            "type": "string", "maxLength": NAME_CHARACTERS, "pattern": crate::schema::OWN_NAME,
        }}});
        if let Some(status) = schema.pointer_mut("/properties/status") {
            drop_defaults(status);
        }
    }
    definition
}

/// The schema of a kind: `openAPIV3Schema` of its definition.
pub fn schema<K: CustomResourceExt>() -> Value {
    definition::<K>().pointer_mut("/spec/versions/0/schema/openAPIV3Schema").map(Value::take).unwrap_or_default()
}

fn yaml(definition: &Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(definition, options).unwrap_or_else(|fault| format!("# {fault}\n"))
}

/// Brings a derived schema to what is meant: no nulls (absent is absent), whole numbers as such, formats that Kubernetes
/// knows, descriptions in one line. Defaults of blocks stay whole: the API server judges each one by the rules of its block
/// before it fills in those of the fields.
fn tidy(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("nullable");
    fields.remove("title");
    if let Some(Value::String(description)) = fields.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    if let Some(Value::String(format)) = fields.get_mut("format") {
        match format.as_str() {
            "uint8" | "uint16" | "uint32" => *format = "int32".into(),
            "uint64" => *format = "int64".into(),
            _ => {}
        }
    }
    for bound in ["minimum", "maximum", "default"] {
        if let Some(value) = fields.get_mut(bound) {
            whole(value);
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(tidy);
    }
    for child in ["items", "additionalProperties"] {
        if let Some(child) = fields.get_mut(child) {
            tidy(child);
        }
    }
}

/// A status says what is; nothing in it is filled in.
fn drop_defaults(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("default");
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(drop_defaults);
    }
    if let Some(items) = fields.get_mut("items") {
        drop_defaults(items);
    }
}

/// Writes 1.0 as 1, here and below.
fn whole(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < EXACT) {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole),
        Value::Object(fields) => fields.values_mut().for_each(whole),
        _ => {}
    }
}
