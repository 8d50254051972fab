//! `--set path=value`: edits a manifest before it is checked.

use serde_json::Value;

use super::fault::Place;
use super::path::{self, Step};
use super::tree::{self, Content, Entry, Node};

/// An edit: which field gets which value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// As it was typed.
    text: String,
    path: String,
    steps: Vec<Step>,
    value: Node,
}

/// A `--set` that is none, or that fits no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no `=`, or no path before it.
    #[error("--set {0}: write a field and its value, such as --set spec.training.epochs=3")]
    Form(String),
    /// The value is no YAML.
    #[error("--set {text}: the value is no YAML: {fault}")]
    Value {
        /// As it was typed.
        text: String,
        /// What is wrong with it.
        fault: String,
    },
    /// No document has such a field.
    #[error("--set {text}: {path} is not a field of {kinds}.{hint}")]
    Unknown {
        /// As it was typed.
        text: String,
        /// The path.
        path: String,
        /// Kinds in the file.
        kinds: String,
        /// Fields of a similar name.
        hint: String,
    },
    /// The path leads through a list item that is not there.
    #[error("--set {text}: there is no item {index} in the list; it can be {next} at most, which adds one")]
    Item {
        /// As it was typed.
        text: String,
        /// The number given.
        index: usize,
        /// The number that would add an item.
        next: usize,
    },
}

impl Setting {
    /// Reads `path=value`; the value is YAML, and empty means null.
    ///
    /// # Errors
    /// [`SetError::Form`] and [`SetError::Value`].
    pub fn parse(text: &str) -> Result<Setting, SetError> {
        let form = || SetError::Form(text.to_owned());
        let (path, value) = text.split_once('=').ok_or_else(form)?;
        let steps = path::steps(path).filter(|steps| !steps.is_empty()).ok_or_else(form)?;
        let nodes =
            tree::parse(value).map_err(|fault| SetError::Value { text: text.to_owned(), fault: fault.message })?;
        let place = Place { line: 1, column: 1, width: 1, set_by: Some(text.to_owned()) };
        let null = Node { place: place.clone(), content: Content::Scalar(Value::Null) };
        let value = relocated(nodes.into_iter().next().unwrap_or(null), &place);
        Ok(Setting { text: text.to_owned(), path: path.to_owned(), steps, value })
    }

    /// Whether a document with this schema has the field.
    pub(super) fn fits(&self, schema: &Value) -> bool {
        match self.steps.first() {
            Some(Step::Field(first)) if first == "metadata" => true,
            Some(Step::Field(first)) if first == "spec" => path::in_schema(schema, &self.steps).is_some(),
            _ => false,
        }
    }

    /// The fault of fitting none of the documents, whose kinds and schemas these are.
    pub(super) fn unknown(&self, kinds: &[(&str, &Value)]) -> SetError {
        let names: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
        let hint = kinds.iter().find_map(|(_, schema)| self.near(schema)).unwrap_or_default();
        SetError::Unknown { text: self.text.clone(), path: self.path.clone(), kinds: names.join(" or "), hint }
    }

    /// The names that there are where this path leaves the schema, the most similar one alone if there is one.
    fn near(&self, schema: &Value) -> Option<String> {
        let known = (0..self.steps.len()).rev().find(|n| path::in_schema(schema, &self.steps[..*n]).is_some())?;
        let Step::Field(wrong) = self.steps.get(known)? else { return None };
        let fields = path::in_schema(schema, &self.steps[..known])?.get("properties")?.as_object()?;
        let similar = fields
            .keys()
            .map(|name| (strsim::normalized_damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase()), name))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(likeness, _)| *likeness > 0.6);
        Some(match similar {
            Some((_, name)) => format!(" Did you mean {name}?"),
            None => format!(" There are {}", fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
        })
    }

    /// Puts the value into a document.
    ///
    /// # Errors
    /// [`SetError::Item`] if the path leads past the end of a list.
    pub(super) fn apply(&self, root: &mut Node) -> Result<(), SetError> {
        let mut node = root;
        for step in &self.steps {
            node = match step {
                Step::Field(name) => self.field(node, name),
                Step::Item(index) => self.item(node, *index)?,
            };
        }
        *node = self.value.clone();
        Ok(())
    }

    fn field<'n>(&self, node: &'n mut Node, name: &str) -> &'n mut Node {
        if !matches!(node.content, Content::Block(_)) {
            node.content = Content::Block(Vec::new());
        }
        let Content::Block(entries) = &mut node.content else { unreachable!("made a block above") };
        let index = entries.iter().position(|entry| entry.name == name).unwrap_or_else(|| {
            let place = self.value.place.clone();
            let node = Node { place: place.clone(), content: Content::Scalar(Value::Null) };
            entries.push(Entry { name: name.to_owned(), place, node });
            entries.len() - 1
        });
        &mut entries[index].node
    }

    fn item<'n>(&self, node: &'n mut Node, index: usize) -> Result<&'n mut Node, SetError> {
        if !matches!(node.content, Content::List(_)) {
            node.content = Content::List(Vec::new());
        }
        let Content::List(items) = &mut node.content else { unreachable!("made a list above") };
        if index > items.len() {
            return Err(SetError::Item { text: self.text.clone(), index, next: items.len() });
        }
        if index == items.len() {
            items.push(Node { place: self.value.place.clone(), content: Content::Scalar(Value::Null) });
        }
        Ok(&mut items[index])
    }
}

fn relocated(node: Node, place: &Place) -> Node {
    let content = match node.content {
        Content::Scalar(value) => Content::Scalar(value),
        Content::List(items) => Content::List(items.into_iter().map(|item| relocated(item, place)).collect()),
        Content::Block(entries) => Content::Block(
            entries
                .into_iter()
                .map(|entry| Entry { place: place.clone(), node: relocated(entry.node, place), ..entry })
                .collect(),
        ),
    };
    Node { place: place.clone(), content }
}
