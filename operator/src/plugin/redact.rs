//! What leaves the cluster in a support bundle, without what may be secret: values of environment variables, what stands behind a
//! name such as "password" in arguments, annotations, messages and lines of a log, and the queries and users of URIs.

use serde_json::Value;

/// What stands in the place of what was taken out.
const REDACTED: &str = "REDACTED";
/// Words in a name by which its value may be secret; `_`, `-` and `.` in the name don't count.
const SECRET_WORDS: [&str; 9] =
    ["token", "password", "passwd", "passphrase", "secret", "credential", "authorization", "accesskey", "apikey"];
/// The copy of a manifest that kubectl keeps, values of variables and all.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes out of an object what may be secret.
pub(crate) fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (name, value) in fields.iter_mut() {
                match (name.as_str(), &mut *value) {
                    ("env" | "httpHeaders", Value::Array(variables)) => variables.iter_mut().for_each(variable),
                    ("command" | "args", Value::Array(arguments)) => words(arguments),
                    ("annotations" | "volumeAttributes", Value::Object(entries)) => {
                        entries.iter_mut().for_each(|(name, value)| entry(name, value));
                    }
                    _ => {}
                }
                redact(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(line) => *line = text(line),
        _ => {}
    }
}

/// An annotation or an attribute of a volume. Tools keep whole objects in annotations, as JSON.
fn entry(name: &str, value: &mut Value) {
    if name == LAST_APPLIED || is_secret(name) {
        *value = REDACTED.into();
        return;
    }
    let kept = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    if let Some(mut kept) = kept.filter(|kept| kept.is_object() || kept.is_array()) {
        redact(&mut kept);
        *value = kept.to_string().into();
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

/// Whether what goes by this name may be secret. Every key is, whatever it opens.
fn is_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| !"_-.".contains(*c)).collect::<String>().to_ascii_lowercase();
    plain.ends_with("key") || SECRET_WORDS.iter().any(|word| plain.contains(word))
}

/// A text without what may be secret in it: in URIs, and behind names.
pub(crate) fn text(text: &str) -> String {
    named(&uris(text))
}

/// A text without the values of names that are secret: `PASSWORD=a`, `"token": "a"`, `--api-key a`, `Authorization: Bearer a`. The
/// name may stand in JSON that is itself in a string, with its quotes escaped.
fn named(text: &str) -> String {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_of_name) {
        let end = rest[start..].find(|c: char| !is_of_name(c)).map_or(rest.len(), |length| start + length);
        let (name, following) = (&rest[start..end], &rest[end..]);
        out += &rest[..end];
        rest = following;
        let is_scheme = name.eq_ignore_ascii_case("bearer");
        if !is_scheme && !is_secret(name) {
            continue;
        }
        let Some(between) = separator(following, is_scheme || name.starts_with("--")) else { continue };
        let (separator, value) = following.split_at(between);
        out += separator;
        // The name of a scheme is told; what comes after it is not.
        let scheme = ["bearer ", "basic "].iter().find(|word| value.to_ascii_lowercase().starts_with(*word));
        let scheme = scheme.map_or(0, |word| word.len());
        out += &value[..scheme];
        let value = &value[scheme..];
        let length = length(value, separator);
        if length > 0 {
            out += REDACTED;
        }
        rest = &value[length..];
    }
    out + rest
}

/// How long that is which stands between a name and its value; `None` where no value comes.
fn separator(following: &str, spaces_do: bool) -> Option<usize> {
    let after_name = following.trim_start_matches(['\\', '"', '\'']).trim_start_matches([' ', '\t']);
    let after_sign = after_name.trim_start_matches(['=', ':']);
    let has_sign = after_sign.len() < after_name.len();
    let is_option = !has_sign && after_sign.starts_with('-');
    let unquoted = after_sign.trim_start_matches([' ', '\t']);
    let quoted = unquoted.trim_start_matches('\\');
    let value = quoted.strip_prefix(['"', '\'']).unwrap_or(unquoted);
    let is_separated = has_sign || (spaces_do && following.starts_with([' ', '\t']) && !is_option);
    // An object, such as that of a secretKeyRef, is looked into on its own.
    (is_separated && !value.is_empty() && !value.starts_with('{')).then(|| following.len() - value.len())
}

/// How long a value is: as far as its quote goes if the separator ends with one, otherwise to the next space or sign.
fn length(value: &str, separator: &str) -> usize {
    let end = match separator.chars().next_back() {
        // Escaped itself: it ends at the next that is.
        Some(quote @ ('"' | '\'')) if separator.trim_end_matches(quote).ends_with('\\') => value.find('\\'),
        Some(quote @ ('"' | '\'')) => {
            let mut is_escaped = false;
            value.find(|c: char| {
                let ends = c == quote && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                ends
            })
        }
        _ => value.find(|c: char| c.is_whitespace() || "\"'\\,;&)}]".contains(c)),
    };
    end.unwrap_or(value.len())
}

/// A text with the queries and the users of its URIs taken out: a signed URI is as good as a password.
fn uris(text: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || "\"'<>\\".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out += before;
        let host = user(&after[..after.find(is_end).unwrap_or(after.len())]);
        if host > 0 {
            out += REDACTED;
        }
        let after = &after[host..];
        let path = after.find(|c: char| is_end(c) || "?#),}".contains(c)).unwrap_or(after.len());
        let (path, after) = after.split_at(path);
        out += path;
        rest = after;
        if after.starts_with(['?', '#']) {
            let query = &after[..after.find(is_end).unwrap_or(after.len())];
            // Signs of the sentence that the URI stands in.
            let query = query.trim_end_matches([',', ';', '.', ':', ')', '}', ']']);
            out += &after[..1];
            out += REDACTED;
            rest = &after[query.len().max(1)..];
        }
    }
    out + rest
}

/// How long the part before the `@` of a URI's host is.
fn user(uri: &str) -> usize {
    let authority = uri.find(['/', '?', '#']).unwrap_or(uri.len());
    if let Some(at) = uri[..authority].rfind('@') {
        return at;
    }
    // Where a port would stand there is none: a password with a slash in it.
    let port = uri[..authority].split_once(':').map(|(_, port)| port);
    let is_password = port.is_some_and(|port| !port.is_empty() && !port.contains(']') && port.parse::<u16>().is_err());
    if is_password { uri.rfind('@').unwrap_or(0) } else { 0 }
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
    fn annotations_lose_secrets_by_their_name_and_in_the_objects_that_they_keep() {
        let kept = json!({"spec": {"env": [{"name": "A", "value": "hush"}]}}).to_string();
        let mut pod = json!({
            "metadata": {"annotations": {"example.org/applied": kept, "example.org/api-key": "hush", "note": "key: hush"}},
            "spec": {"volumes": [{"csi": {"driver": "d", "volumeAttributes": {"accountKey": "hush", "share": "a"}}}],
                     "containers": [{"livenessProbe": {"httpGet": {"httpHeaders": [{"name": "X", "value": "hush"}]}}}]},
            "status": {"message": "can't start: STORAGE_KEY=hush is wrong"},
        });
        redact(&mut pod);
        assert!(!pod.to_string().contains("hush"), "{pod}");
        assert_eq!(pod["spec"]["volumes"][0]["csi"]["volumeAttributes"]["share"], "a");
        assert_eq!(pod["status"]["message"], "can't start: STORAGE_KEY=REDACTED is wrong");
    }

    #[test]
    fn a_line_of_a_log_loses_what_stands_behind_a_name_that_is_secret() {
        for (before, after) in [
            ("AWS_SECRET_ACCESS_KEY=hu/sh+ region=a", "AWS_SECRET_ACCESS_KEY=REDACTED region=a"),
            (r#"{"token":"hu\"sh","step":3}"#, r#"{"token":"REDACTED","step":3}"#),
            (
                r#"{"message":"{\"password\": \"hush\", \"a\": 1}"}"#,
                r#"{"message":"{\"password\": \"REDACTED\", \"a\": 1}"}"#,
            ),
            ("Authorization: Bearer hush.hush, retried", "Authorization: Bearer REDACTED, retried"),
            ("with bearer hush", "with bearer REDACTED"),
            ("run --api-key hush --epochs 3", "run --api-key REDACTED --epochs 3"),
            ("run --token --epochs 3", "run --token --epochs 3"),
            ("run --token 'hush hush' on", "run --token 'REDACTED' on"),
            (r#"{"token":"","step":3}"#, r#"{"token":"","step":3}"#),
            (r#""secretRef":{"name":"storage"}"#, r#""secretRef":{"name":"storage"}"#),
            ("client_secret='hush hush' is set", "client_secret='REDACTED' is set"),
            ("the secret storage is not found", "the secret storage is not found"),
            ("no token: ", "no token: "),
            ("steps=3 loss=0.1", "steps=3 loss=0.1"),
        ] {
            assert_eq!(text(before), after);
        }
    }

    #[test]
    fn a_signed_uri_loses_its_query_and_a_users_name() {
        for (before, after) in [
            ("s3://bucket/a is there", "s3://bucket/a is there"),
            ("get https://host/a?X-Sig=hush, then", "get https://host/a?REDACTED, then"),
            ("https://ann:hush@host/a", "https://REDACTED@host/a"),
            ("https://ann:hu,sh)@host/a", "https://REDACTED@host/a"),
            ("https://ann:hu/sh@host/a", "https://REDACTED@host/a"),
            ("s3://a/b,https://ann:hush@host/a?x=hu,sh&y=hush", "s3://a/b,https://REDACTED@host/a?REDACTED"),
            (
                r#""s3://a/b?key=hush\" and https://host/#token=hush."#,
                r#""s3://a/b?REDACTED\" and https://host/#REDACTED."#,
            ),
            ("http://host:8080/a@b and http://[::1]:80/a@b", "http://host:8080/a@b and http://[::1]:80/a@b"),
            ("no uri", "no uri"),
        ] {
            assert_eq!(uris(before), after);
        }
    }
}
