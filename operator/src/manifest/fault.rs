//! A fault of a manifest at its place, as a person and as a program read it.

use std::fmt;

use serde::Serialize;

/// Where a part of a manifest stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// Characters that it takes up in that line, 1 or more.
    pub width: usize,
    /// The `--set` that put it there instead of the file.
    pub set_by: Option<String>,
}

/// Something wrong with a manifest, where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocatedFault {
    /// The file as it was named, or the `--set` at fault.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// `error`: it can't be carried out. `warning`: it has no effect.
    pub severity: &'static str,
    /// The field: `spec.training.epochs`; empty for a file that is no YAML.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
    /// The line, as it stands in the file.
    #[serde(skip)]
    pub source: String,
    /// Characters to underline.
    #[serde(skip)]
    pub width: usize,
}

impl LocatedFault {
    /// A fault at `place` of a file with this text.
    pub(crate) fn new(file: &str, text: &str, place: &Place, fault: crds::fault::Fault) -> LocatedFault {
        let severity = if fault.is_error() { "error" } else { "warning" };
        let (file, source) = match &place.set_by {
            Some(set) => (format!("--set {set}"), String::new()),
            None => (file.to_owned(), text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default().to_owned()),
        };
        LocatedFault {
            file,
            line: place.line,
            column: place.column,
            severity,
            path: fault.path,
            message: fault.message,
            hint: fault.hint,
            source,
            width: place.width,
        }
    }

    /// Whether the manifest can't be carried out.
    pub fn is_error(&self) -> bool {
        self.severity == "error"
    }
}

impl fmt::Display for LocatedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warning = if self.is_error() { "" } else { "warning: " };
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        if self.file.starts_with("--set ") {
            write!(f, "{}: {warning}{path}{}", self.file, self.message)?;
        } else {
            write!(f, "{}:{}:{}: {warning}{path}{}", self.file, self.line, self.column, self.message)?;
            let number = self.line.to_string();
            // Tabs stay tabs, so that the caret stands below its place whatever their width.
            let before = self.source.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' });
            let room = self.source.chars().count().saturating_sub(self.column - 1).max(1);
            let carets = "^".repeat(self.width.min(room));
            write!(f, "\n  {number} | {}", self.source)?;
            write!(f, "\n  {} | {}{carets}", " ".repeat(number.len()), before.collect::<String>())?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  {}", self.hint)?;
        }
        Ok(())
    }
}
