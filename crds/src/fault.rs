//! What is wrong with a manifest, said so that a person can put it right.

use std::fmt;

/// How bad a [`Fault`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// It can be carried out, but not all of it has an effect.
    Warning,
    /// It can't be carried out.
    Error,
}

/// Something wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// The field, as kubectl writes it: `spec.infrastructure.pod.env[0].name`. Empty for the manifest as a whole.
    pub path: String,
    /// What is wrong: a sentence without its full stop.
    pub message: String,
    /// What to do: a sentence without its full stop, or empty.
    pub hint: String,
}

impl Fault {
    /// A fault for which the manifest can't be carried out.
    pub fn error(path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault { severity: Severity::Error, path: path.into(), message: message.into(), hint: hint.into() }
    }

    /// A fault that costs nothing but an effect.
    pub fn warning(path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault { severity: Severity::Warning, ..Fault::error(path, message, hint) }
    }

    /// Whether the manifest can't be carried out.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, ". {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
