//! Manifests: from YAML to what the API server would take, with every fault at its line.
//!
//! ```text
//!  text ─ tree ─► nodes with places ─ set ─► edited ─ crds::check ─► Resource
//!                                                        └─ faults by path ─ path ─► faults by line and column
//! ```

mod fault;
mod path;
mod scalar;
mod set;
mod tree;

#[cfg(test)]
mod tests;

pub use fault::{LocatedFault, Place};
pub use set::{SetError, Setting};

use std::sync::LazyLock;

use crds::check::{self, Resource};
use crds::fault::Fault;
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use serde_json::Value;

use tree::Node;

/// A file of manifests.
#[derive(Clone, Debug)]
pub struct File {
    name: String,
    text: String,
    documents: Vec<Node>,
}

/// A manifest that the API server would take.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The file as it was named.
    pub file: String,
    text: String,
    node: Node,
    /// What it says.
    pub value: Value,
    /// The same, typed.
    pub resource: Resource,
    /// What has no effect.
    pub warnings: Vec<LocatedFault>,
}

impl File {
    /// Reads the documents of a YAML text.
    ///
    /// # Errors
    /// The fault for which the text is no YAML, or that it is empty.
    pub fn parse(name: &str, text: &str) -> Result<File, LocatedFault> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let documents = tree::parse(text).map_err(|error| {
            let fault = Fault::error("", error.message, error.hint);
            LocatedFault::new(name, text, &error.place, fault)
        })?;
        if documents.is_empty() {
            let place = Place { line: 1, column: 1, width: 1, set_by: None };
            let fault = Fault::error("", "there is no manifest in this file", "");
            return Err(LocatedFault::new(name, text, &place, fault));
        }
        Ok(File { name: name.to_owned(), text: text.to_owned(), documents })
    }

    /// Edits every document that has the field.
    ///
    /// # Errors
    /// [`SetError`] if none has.
    pub fn set(&mut self, settings: &[Setting]) -> Result<(), SetError> {
        let values: Vec<Value> = self.documents.iter().map(Node::value).collect();
        let kinds: Vec<(&str, &Value)> = values.iter().map(schema_of).collect();
        for setting in settings {
            let mut fits = false;
            for (node, (_, schema)) in self.documents.iter_mut().zip(&kinds) {
                if setting.fits(schema) {
                    fits = true;
                    setting.apply(node)?;
                }
            }
            if !fits {
                return Err(setting.unknown(&kinds));
            }
        }
        Ok(())
    }

    /// Checks every document: schema, CEL and meaning.
    ///
    /// # Errors
    /// All faults of all documents, in the order of the file; warnings too, if there is an error.
    pub fn check(&self) -> Result<Vec<Manifest>, Vec<LocatedFault>> {
        let mut manifests = Vec::new();
        let mut faults: Vec<LocatedFault> = Vec::new();
        for node in &self.documents {
            let value = node.value();
            match check::read(&value) {
                Ok(resource) => {
                    let warnings = self.located(node, &value, resource.meaning());
                    faults.extend(warnings.clone());
                    manifests.push(Manifest {
                        file: self.name.clone(),
                        text: self.text.clone(),
                        node: node.clone(),
                        value,
                        resource,
                        warnings,
                    });
                }
                Err(broken) => faults.extend(self.located(node, &value, broken)),
            }
        }
        faults.extend(manifests.iter().enumerate().flat_map(|(index, manifest)| manifest.clashes(&manifests[..index])));
        if faults.iter().any(LocatedFault::is_error) { Err(faults) } else { Ok(manifests) }
    }

    fn located(&self, node: &Node, value: &Value, faults: Vec<Fault>) -> Vec<LocatedFault> {
        let mut located: Vec<LocatedFault> =
            faults.into_iter().map(|fault| locate(&self.name, &self.text, node, value, fault)).collect();
        located.sort_by_key(|fault| (fault.line, fault.column));
        located
    }
}

impl Manifest {
    /// `fault` at the place of its field.
    pub fn locate(&self, fault: Fault) -> LocatedFault {
        locate(&self.file, &self.text, &self.node, &self.value, fault)
    }

    /// What can't stand beside the manifests before it in one file: its name, or its output.
    fn clashes(&self, before: &[Manifest]) -> Vec<LocatedFault> {
        let text = |manifest: &Manifest, pointer| {
            manifest.value.pointer(pointer).and_then(Value::as_str).map(|text| text.trim_end_matches('/').to_owned())
        };
        let title = |manifest: &Manifest| format!("{} {}", manifest.resource.kind(), manifest.resource.name());
        let shares = |other: &Manifest, pointer| text(self, pointer) == text(other, pointer);
        let beside: Vec<&Manifest> = before.iter().filter(|other| shares(other, "/metadata/namespace")).collect();
        let mut clashes = Vec::new();
        if beside.iter().any(|other| title(other) == title(self)) {
            let message = format!("the {} is in this file already", title(self));
            clashes.push(Fault::error("metadata.name", message, "Give each a name of its own"));
        } else if let Some(output) = text(self, "/spec/output/uri")
            // A custom image reads the spec by its own lights.
            && text(self, "/spec/infrastructure/image").is_none()
            && let Some(other) = beside.iter().find(|other| shares(other, "/spec/output/uri"))
        {
            let message = format!("{output} is the output of the {} in this file too", title(other));
            clashes.push(Fault::error("spec.output.uri", message, "Give each job a folder of its own"));
        }
        clashes.into_iter().map(|fault| self.locate(fault)).collect()
    }

    /// Checks whether this manifest may take the place of `old`, an object with its status.
    ///
    /// # Errors
    /// Every field that can't change any more.
    pub fn check_update(&self, old: &Value) -> Result<(), Vec<LocatedFault>> {
        match check::read_update(old, &self.value) {
            Ok(_) => Ok(()),
            Err(faults) => Err(faults.into_iter().map(|fault| self.locate(fault)).collect()),
        }
    }
}

/// What a YAML text of one document says, unchecked.
///
/// # Errors
/// What is wrong with it, with its line.
pub(crate) fn value_of(text: &str) -> Result<Value, String> {
    let documents = tree::parse(text).map_err(|error| format!("line {}: {}", error.place.line, error.message))?;
    documents.first().map(Node::value).ok_or_else(|| "it is empty".to_owned())
}

fn locate(file: &str, text: &str, node: &Node, value: &Value, mut fault: Fault) -> LocatedFault {
    let steps = path::steps(&fault.path).unwrap_or_default();
    let ours = matches!(steps.first(), Some(path::Step::Field(first)) if first == "spec" );
    let known = !ours || path::in_schema(schema_of(value).1, &steps).is_some();
    let place = path::locate(node, &fault.path, known);
    if let Some(path) = fault.path.strip_prefix('.') {
        fault.path = path.to_owned();
    }
    LocatedFault::new(file, text, &place, fault)
}

/// The kind that a manifest says it is, and the schema of that kind; one that fits nothing if it is none of ours.
fn schema_of(value: &Value) -> (&str, &'static Value) {
    static SCHEMAS: LazyLock<[(&str, Value); 3]> = LazyLock::new(|| {
        [
            ("TrainingJob", crds::manifest::schema::<TrainingJob>()),
            ("ScoringJob", crds::manifest::schema::<ScoringJob>()),
            ("ModelEndpoint", crds::manifest::schema::<ModelEndpoint>()),
        ]
    });
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("a manifest without a kind");
    let schema = SCHEMAS.iter().find(|(known, _)| *known == kind).map_or(&Value::Null, |(_, schema)| schema);
    (kind, schema)
}
