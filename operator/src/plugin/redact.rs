//! What leaves the cluster in a support bundle, without what may be secret: values of environment variables, arguments that
//! look like passwords, queries of URIs.

use serde_json::Value;

/// What stands in the place of what was taken out.
const REDACTED: &str = "REDACTED";
/// Words in a name by which its value may be secret.
const SECRET_WORDS: [&str; 7] = ["token", "password", "passwd", "secret", "credential", "apikey", "api-key"];
/// The copy of a manifest that kubectl keeps, values of variables and all.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes out of an object what may be secret.
pub(crate) fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (name, value) in fields.iter_mut() {
                match (name.as_str(), &mut *value) {
                    ("env", Value::Array(variables)) => variables.iter_mut().for_each(variable),
                    ("command" | "args", Value::Array(arguments)) => words(arguments),
                    ("annotations", Value::Object(annotations)) => annotations.iter_mut().for_each(|(name, value)| {
                        if name == LAST_APPLIED || is_secret(name) {
                            *value = REDACTED.into();
                        }
                    }),
                    _ => {}
                }
                redact(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) if text.contains("://") => *text = uris(text),
        _ => {}
    }
}

/// A variable keeps its name, and where its value comes from if it is a reference.
fn variable(variable: &mut Value) {
    if let Some(value) = variable.get_mut("value") {
        *value = REDACTED.into();
    }
}

/// Arguments of a command: `--token=x`, and `x` after `--token`.
fn words(arguments: &mut [Value]) {
    let mut after_name = false;
    for argument in arguments {
        let Some(text) = argument.as_str() else { continue };
        let names = is_secret(text);
        let replaced = match text.split_once('=') {
            Some((name, _)) if is_secret(name) => Some(format!("{name}={REDACTED}")),
            // A script in one argument can't be told apart.
            _ if names && text.contains(char::is_whitespace) => Some(REDACTED.to_owned()),
            _ if after_name && !text.starts_with('-') => Some(REDACTED.to_owned()),
            _ => None,
        };
        after_name = names && text.starts_with('-') && !text.contains('=');
        if let Some(replaced) = replaced {
            *argument = replaced.into();
        }
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// A text with the queries and the user names of its URIs taken out: a signed URI is as good as a password.
pub(crate) fn uris(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out += before;
        let end = after.find(|c: char| c.is_whitespace() || "\"'<>)},".contains(c)).unwrap_or(after.len());
        let (uri, following) = after.split_at(end);
        let (address, query) = uri.split_once('?').map_or((uri, None), |(address, query)| (address, Some(query)));
        let host_end = address.find('/').unwrap_or(address.len());
        match address[..host_end].rfind('@') {
            Some(at) => {
                out += REDACTED;
                out += &address[at..];
            }
            None => out += address,
        }
        if query.is_some() {
            out += "?";
            out += REDACTED;
        }
        rest = following;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_variables_go_and_their_names_and_references_stay() {
        let mut pod = json!({"spec": {
            "initContainers": [{"env": [{"name": "A", "value": "hush"}]}],
            "containers": [{"env": [
                {"name": "PLAIN", "value": "hush"},
                {"name": "REFERENCE", "valueFrom": {"secretKeyRef": {"name": "storage", "key": "id"}}},
            ], "envFrom": [{"secretRef": {"name": "storage"}}]}],
        }});
        redact(&mut pod);
        assert!(!pod.to_string().contains("hush"), "{pod}");
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["env"][0], json!({"name": "PLAIN", "value": "REDACTED"}));
        assert_eq!(container["env"][1]["valueFrom"]["secretKeyRef"]["name"], "storage");
        assert_eq!(container["envFrom"][0]["secretRef"]["name"], "storage");
    }

    #[test]
    fn a_job_loses_its_variables_and_the_copy_that_kubectl_keeps() {
        let mut job = json!({
            "metadata": {"managedFields": [{}], "annotations": {LAST_APPLIED: "{\"env\": \"hush\"}", "team": "vision"}},
            "spec": {"infrastructure": {"pod": {"env": [{"name": "A", "value": "hush"}]}, "args": ["--token", "hush", "--epochs", "3"]}},
        });
        redact(&mut job);
        assert!(!job.to_string().contains("hush"), "{job}");
        assert_eq!(job["metadata"]["annotations"]["team"], "vision");
        assert_eq!(job["spec"]["infrastructure"]["args"], json!(["--token", "REDACTED", "--epochs", "3"]));
        assert_eq!(job["metadata"].get("managedFields"), None);
    }

    #[test]
    fn arguments_that_name_a_secret_lose_their_value() {
        for (before, after) in [
            (json!(["--password=hush", "-v"]), json!(["--password=REDACTED", "-v"])),
            (json!(["sh", "-c", "TOKEN=a run"]), json!(["sh", "-c", "TOKEN=REDACTED"])),
            (json!(["sh", "-c", "run --api-key a"]), json!(["sh", "-c", "REDACTED"])),
            (json!(["--token", "--next", "kept"]), json!(["--token", "--next", "kept"])),
        ] {
            let mut job = json!({"args": before});
            redact(&mut job);
            assert_eq!(job["args"], after);
        }
    }

    #[test]
    fn a_signed_uri_loses_its_query_and_a_users_name() {
        for (before, after) in [
            ("s3://bucket/a is there", "s3://bucket/a is there"),
            ("get https://host/a?X-Sig=hush, then", "get https://host/a?REDACTED, then"),
            ("https://ann:hush@host/a", "https://REDACTED@host/a"),
            ("no uri", "no uri"),
        ] {
            assert_eq!(uris(before), after);
        }
    }
}
