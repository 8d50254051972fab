//! YAML as a tree that knows where each part of it stands.
//!
//! Plain scalars are typed as kubectl types them (YAML 1.1: `yes` and `on` are true), so that a manifest means here what it
//! means there.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span as ParserSpan, Tag};
use serde_json::{Map, Number, Value};

use super::fault::Place;
use super::scalar;

/// Parts of one file beyond which it is refused: aliases can make a small file a giant.
const MOST_NODES: usize = 100_000;

/// A part of a manifest, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

/// What a part of a manifest is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Block(Vec<Entry>),
}

/// A field of a block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Where the name stands.
    pub(crate) place: Place,
    pub(crate) node: Node,
}

/// YAML that is none: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SyntaxError {
    pub(crate) place: Place,
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

impl Node {
    /// The same without places.
    pub(crate) fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Node::value).collect()),
            Content::Block(entries) => {
                let fields = entries.iter().map(|entry| (entry.name.clone(), entry.node.value()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }

    /// The field of that name, if this is a block that has one.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        match &self.content {
            Content::Block(entries) => entries.iter().find(|entry| entry.name == name),
            _ => None,
        }
    }

    /// The item of that number, if this is a list that has one.
    pub(crate) fn item(&self, index: usize) -> Option<&Node> {
        match &self.content {
            Content::List(items) => items.get(index),
            _ => None,
        }
    }
}

/// The documents of a YAML text, empty ones left out.
///
/// # Errors
/// The first fault: of syntax, a field given twice, a key that is no text, an unknown tag or anchor.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let mut builder = Builder { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    loop {
        match builder.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(..), _) => {
                builder.anchors.clear();
                let (event, span) = builder.next()?;
                let node = builder.node(event, span)?;
                if node.content != Content::Scalar(Value::Null) {
                    documents.push(node);
                }
            }
            _ => {}
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, ParserSpan), SyntaxError> {
        loop {
            return match self.parser.next() {
                Some(Ok((Event::Comment(..), _))) => continue,
                Some(Ok(next)) => Ok(next),
                Some(Err(error)) => Err(syntax(&error)),
                None => Ok((Event::StreamEnd, ParserSpan::empty(granit_parser::Marker::new(0, 1, 0)))),
            };
        }
    }

    fn node(&mut self, event: Event<'a>, span: ParserSpan) -> Result<Node, SyntaxError> {
        let place = place(&span);
        let (anchor, content) = match event {
            Event::Alias(id) => return self.alias(id, &place),
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, Content::Scalar(scalar_value(&text, style, tag.as_deref(), &place)?))
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span)?),
                    }
                }
                (anchor, Content::List(items))
            }
            Event::MappingStart(_, anchor, _) => (anchor, Content::Block(self.entries()?)),
            _ => return Err(SyntaxError { place, message: "a value is missing here".to_owned(), hint: "" }),
        };
        self.count(1, &place)?;
        let node = Node { place, content };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entries(&mut self) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = match self.next()? {
                (Event::MappingEnd, _) => break,
                next => next,
            };
            let key = self.node(event, span)?;
            let (event, span) = self.next()?;
            let node = self.node(event, span)?;
            let name = match key.content {
                Content::Scalar(Value::String(name)) => name,
                Content::Scalar(other) => other.to_string(),
                _ => {
                    let message = "a list or block can't be the name of a field".to_owned();
                    return Err(SyntaxError { place: key.place, message, hint: "" });
                }
            };
            if name == "<<" {
                merged.extend(merge(&node)?);
            } else if let Some(earlier) = entries.iter().find(|entry| entry.name == name) {
                let message = format!("{name} is given twice, first in line {}", earlier.place.line);
                return Err(SyntaxError { place: key.place, message, hint: "Leave one of the two out" });
            } else {
                entries.push(Entry { name, place: key.place, node });
            }
        }
        for entry in merged {
            if entries.iter().all(|own| own.name != entry.name) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn alias(&mut self, id: usize, place: &Place) -> Result<Node, SyntaxError> {
        let node = self.anchors.get(&id).cloned().ok_or_else(|| SyntaxError {
            place: place.clone(),
            message: "this alias stands inside of what it stands for".to_owned(),
            hint: "",
        })?;
        self.count(size(&node), place)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, place: &Place) -> Result<(), SyntaxError> {
        self.nodes += nodes;
        if self.nodes <= MOST_NODES {
            return Ok(());
        }
        let message = format!("the file has more than {MOST_NODES} values, aliases counted as what they stand for");
        Err(SyntaxError { place: place.clone(), message, hint: "" })
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.content {
        Content::Scalar(_) => 0,
        Content::List(items) => items.iter().map(size).sum(),
        Content::Block(entries) => entries.iter().map(|entry| size(&entry.node)).sum(),
    }
}

/// The fields that a merge key (`<<: *base`) brings in.
fn merge(node: &Node) -> Result<Vec<Entry>, SyntaxError> {
    match &node.content {
        Content::Block(entries) => Ok(entries.clone()),
        Content::List(items) => {
            let blocks: Result<Vec<Vec<Entry>>, SyntaxError> = items.iter().map(merge).collect();
            let mut fields: Vec<Entry> = Vec::new();
            for entry in blocks?.into_iter().flatten() {
                if fields.iter().all(|known| known.name != entry.name) {
                    fields.push(entry);
                }
            }
            Ok(fields)
        }
        Content::Scalar(_) => {
            let message = "<< takes a block of fields, or a list of such".to_owned();
            Err(SyntaxError { place: node.place.clone(), message, hint: "" })
        }
    }
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>, place: &Place) -> Result<Value, SyntaxError> {
    let refuse = |message: String, hint| SyntaxError { place: place.clone(), message, hint };
    let Some(tag) = tag else {
        let typed = if style == ScalarStyle::Plain { scalar::plain(text) } else { Some(text.into()) };
        return typed.ok_or_else(|| {
            refuse(format!("{text} is no number that a manifest can have"), "Put it in quotes if it is a text")
        });
    };
    let wanted = tag.suffix();
    let typed = match wanted {
        "str" => Some(Value::String(text.to_owned())),
        "int" => scalar::plain(text).filter(|value| value.is_i64() || value.is_u64()),
        "float" => scalar::plain(text).and_then(|value| value.as_f64()).and_then(Number::from_f64).map(Value::Number),
        "bool" => scalar::plain(text).filter(Value::is_boolean),
        "null" => scalar::plain(text).filter(Value::is_null),
        _ => {
            return Err(refuse(
                format!("the tag {wanted} is unknown"),
                "There are !!str, !!int, !!float, !!bool and !!null",
            ));
        }
    };
    typed.ok_or_else(|| refuse(format!("{text:?} is no {wanted}"), ""))
}

fn place(span: &ParserSpan) -> Place {
    let width = if span.start.line() == span.end.line() { span.end.col().saturating_sub(span.start.col()) } else { 1 };
    Place { line: span.start.line(), column: span.start.col() + 1, width: width.max(1), set_by: None }
}

fn syntax(error: &granit_parser::ScanError) -> SyntaxError {
    let at = error.marker();
    let message = error.info();
    let hint = if message.contains("tab") { "Indent by spaces: YAML knows no tabs" } else { "" };
    SyntaxError { place: Place { line: at.line(), column: at.col() + 1, width: 1, set_by: None }, message, hint }
}
