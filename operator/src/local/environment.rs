//! The environment that a manifest gives its pods, for processes of this machine: values as they are; what comes from a
//! cluster is to be set where the command is typed, since processes inherit that.

use std::collections::BTreeMap;

use crds::fault::Fault;
use crds::infrastructure::Infrastructure;
use crds::open::Open;
use k8s_openapi::api::core::v1::EnvVar;

const FIELD: &str = "spec.infrastructure.pod";

/// The variables that have a value in the manifest.
pub(super) fn given(infrastructure: &Infrastructure) -> BTreeMap<String, String> {
    let mut given = BTreeMap::new();
    for variable in variables(infrastructure).filter(|variable| variable.value_from.is_none()) {
        let value = expand(variable.value.as_deref().unwrap_or_default(), &given);
        given.insert(variable.name.clone(), value);
    }
    given
}

/// Those whose values only a cluster has.
pub(super) fn left_out(infrastructure: &Infrastructure) -> Vec<Fault> {
    let told =
        |path: String, what: String, hint: &str| Fault::warning(path, format!("has no effect here: {what}"), hint);
    let variables = variables(infrastructure).enumerate().filter(|(_, variable)| variable.value_from.is_some());
    let variables = variables.map(|(number, variable)| {
        let what = format!("the value of {} comes from a cluster", variable.name);
        told(format!("{FIELD}.env[{number}]"), what, "Set it where you type this command: processes inherit it")
    });
    let sources = (0..infrastructure.pod.env_from.len()).map(|number| {
        let what = "secrets and config maps are a cluster's".to_owned();
        told(format!("{FIELD}.envFrom[{number}]"), what, "Set its variables where you type this command")
    });
    variables.chain(sources).collect()
}

fn variables(infrastructure: &Infrastructure) -> impl Iterator<Item = &EnvVar> {
    infrastructure.pod.env.iter().filter_map(Open::get)
}

/// A value with the variables before it that it names, as Kubernetes expands them: `$(NAME)`; `$$` is a dollar sign. What
/// names none stays as it is.
fn expand(value: &str, known: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(place) = rest.find('$') {
        let (before, from) = rest.split_at(place);
        expanded.push_str(before);
        let named = from.strip_prefix("$(").and_then(|from| from.split_once(')'));
        let (put, after) = match named.and_then(|(name, after)| Some((known.get(name)?.as_str(), after))) {
            Some(named) => named,
            None if from.starts_with("$$") => ("$", &from[2..]),
            None => ("$", &from[1..]),
        };
        expanded.push_str(put);
        rest = after;
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_expanded_as_in_pods() {
        let known = BTreeMap::from([("A".to_owned(), "one".to_owned())]);
        for (value, expected) in [
            ("plain", "plain"),
            ("$(A)/x", "one/x"),
            ("$$(A)", "$(A)"),
            ("$(B) $(A)", "$(B) one"),
            ("$(A", "$(A"),
            ("5$", "5$"),
            ("$A $$", "$A $"),
        ] {
            assert_eq!(expand(value, &known), expected, "{value}");
        }
    }
}
