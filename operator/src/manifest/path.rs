//! Paths of fields as kubectl writes them, `spec.infrastructure.pod.env[0].name`: to their steps, to their place in a
//! manifest, and to what a schema says about them.

use serde_json::Value;

use super::fault::Place;
use super::tree::{Content, Node};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field; names with dots of their own stand in brackets.
    Field(String),
    /// An item of a list, from 0.
    Item(usize),
}

/// The steps of a path. A leading dot means nothing. `None` if brackets don't match or a name is empty.
pub(crate) fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path.strip_prefix('.').unwrap_or(path);
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (name, after) = inner.split_once(']')?;
            steps
                .push(name.parse().map_or_else(|_| Step::Field(name.trim_matches(['\'', '"']).to_owned()), Step::Item));
            rest = after;
        } else {
            let name = rest.strip_prefix('.').filter(|_| !steps.is_empty()).unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            if end == 0 {
                return None;
            }
            steps.push(Step::Field(name[..end].to_owned()));
            rest = &name[end..];
        }
    }
    Some(steps)
}

/// The place of a path in a document: that of the value if it is a scalar, otherwise that of the field's name; for a field that
/// is not there, that of the block it is missing from.
pub(crate) fn locate(root: &Node, path: &str, known: bool) -> Place {
    let mut node = root;
    let mut name = root.place.clone();
    for step in steps(path).unwrap_or_default() {
        let next = match &step {
            Step::Field(field) => node.entry(field).map(|entry| (entry.place.clone(), &entry.node)),
            Step::Item(index) => node.item(*index).map(|item| (item.place.clone(), item)),
        };
        match next {
            Some((place, inner)) => (name, node) = (place, inner),
            None => return name,
        }
    }
    match &node.content {
        // An empty value takes up no place.
        Content::Scalar(value) if known && *value != Value::Null => node.place.clone(),
        _ => name,
    }
}

/// What a schema says about a path; `None` if it doesn't know it.
pub(crate) fn in_schema<'s>(schema: &'s Value, steps: &[Step]) -> Option<&'s Value> {
    steps.iter().try_fold(schema, |schema, step| match step {
        Step::Field(name) => {
            schema.get("properties").and_then(|fields| fields.get(name)).or_else(|| schema.get("additionalProperties"))
        }
        Step::Item(_) => schema.get("items"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str) -> Step {
        Step::Field(name.to_owned())
    }

    #[test]
    fn a_path_comes_apart_into_its_steps() {
        for (path, parts) in [
            ("spec.training.epochs", Some(vec![field("spec"), field("training"), field("epochs")])),
            (".spec.model", Some(vec![field("spec"), field("model")])),
            ("spec.env[0].name", Some(vec![field("spec"), field("env"), Step::Item(0), field("name")])),
            ("spec.labels[a.b/c]", Some(vec![field("spec"), field("labels"), field("a.b/c")])),
            ("spec.labels['a.b/c']", Some(vec![field("spec"), field("labels"), field("a.b/c")])),
            ("", Some(vec![])),
            ("spec..model", None),
            ("spec.env[0", None),
        ] {
            assert_eq!(steps(path), parts, "{path}");
        }
    }
}
