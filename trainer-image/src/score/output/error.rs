//! What can go wrong with the rows of a scoring, and which end of the job it means.

use std::path::PathBuf;

use crds::contract::Cause;

use crate::fault::Fault;
use crate::folder::FolderError;

/// Why rows can't be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The output folder.
    #[error(transparent)]
    Folder(FolderError),
    /// The output was begun with something else.
    #[error("the output in {} was begun with another {what}: {then} then, {now} now", folder.display())]
    Differs {
        /// The folder.
        folder: PathBuf,
        /// What differs.
        what: &'static str,
        /// As it was.
        then: String,
        /// As it is.
        now: String,
    },
    /// The request makes no sense.
    #[error("can't write rows: {0}")]
    Request(String),
    /// The caller's rows don't fit.
    #[error("{0}")]
    Rows(String),
}

impl OutputError {
    pub(super) fn damaged(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self::Folder(FolderError::Damaged { path: path.into(), why: why.into() })
    }

    /// A short word for metrics, of which there are few.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Folder(error) => error.category(),
            Self::Differs { .. } => "differs",
            Self::Request(_) => "request",
            Self::Rows(_) => "rows",
        }
    }

    /// Which end of the job it means.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Folder(error) => error.cause(),
            Self::Differs { .. } | Self::Request(_) => Cause::BadSpec,
            Self::Rows(_) => Cause::Bug,
        }
    }

    /// What to do about it; may be empty.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Folder(error) => error.hint(),
            Self::Differs { .. } => "give this job another output.uri, or remove the folder to begin anew",
            Self::Rows(_) | Self::Request(_) => "",
        }
    }
}

impl From<FolderError> for OutputError {
    /// An error of this module that came through a write of the folder's stays what it was.
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::Io { doing, path, source } => match source.downcast() {
                Ok(through) => through,
                Err(source) => Self::Folder(FolderError::Io { doing, path, source }),
            },
            error => Self::Folder(error),
        }
    }
}

impl From<OutputError> for Fault {
    fn from(error: OutputError) -> Fault {
        Fault::new(error.cause(), error.to_string()).hint(error.hint())
    }
}
