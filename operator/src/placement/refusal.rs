//! Why a job has no place.

use std::fmt;

use crds::reasons::reason;
use crds::status::bounded;

/// Why a job has no place: what was wrong, with counts, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose fault it is.
    pub why: Why,
    /// What was wrong: a sentence.
    pub message: String,
    /// What to do: a sentence.
    pub hint: String,
}

/// Whether the job or the pool is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The spec asks for what there can't be whatever the pool: waiting is of no use.
    BadSpec,
    /// No node, or too few, can ever do; another pool may.
    NoFittingNode,
}

impl Refusal {
    pub(super) fn new(why: Why, message: impl Into<String>, hint: impl Into<String>) -> Refusal {
        Refusal { why, message: message.into(), hint: hint.into() }
    }

    /// The reason of the condition Schedulable.
    pub fn reason(&self) -> &'static str {
        match self.why {
            Why::BadSpec => reason::BAD_SPEC,
            Why::NoFittingNode => reason::NO_FITTING_NODE,
        }
    }

    /// Message and hint in one text that fits a status.
    pub fn text(&self) -> String {
        bounded(&format!("{}. {}", self.message, self.hint))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl std::error::Error for Refusal {}
