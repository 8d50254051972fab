//! What can go wrong with an output folder, and which end of the job it means.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use crds::contract::Cause;

use crate::fault::Fault;

/// Why rows can't be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The folder belongs to another job.
    #[error("the output folder {} belongs to {owner} (UID {uid})", folder.display())]
    Owned {
        /// The folder.
        folder: PathBuf,
        /// Kind, namespace and name of the job it belongs to.
        owner: String,
        /// Its UID.
        uid: String,
    },
    /// A newer attempt of this job writes now.
    #[error("attempt {attempt} was superseded by attempt {newer}: it stops without writing")]
    Superseded {
        /// The attempt of this process.
        attempt: u32,
        /// The attempt that the claim names.
        newer: u32,
    },
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
    /// A file of this module's making does not read as one.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The caller's rows don't fit.
    #[error("{0}")]
    Rows(String),
    /// The file system refused.
    #[error("can't {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl OutputError {
    /// An error of the file system; one of this module's that came through it stays what it was.
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        source.downcast().unwrap_or_else(|source| Self::Io { doing, path: path.into(), source })
    }

    /// A short word for metrics, of which there are few.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Owned { .. } => "owned",
            Self::Superseded { .. } => "superseded",
            Self::Differs { .. } => "differs",
            Self::Request(_) => "request",
            Self::Damaged { .. } => "damaged",
            Self::Rows(_) => "rows",
            Self::Io { .. } => "io",
        }
    }

    /// Which end of the job it means.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Owned { .. } | Self::Differs { .. } | Self::Request(_) => Cause::BadSpec,
            Self::Superseded { .. } | Self::Rows(_) => Cause::Bug,
            Self::Damaged { .. } => Cause::BadData,
            Self::Io { source, .. } => match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Cause::Permission,
                // The folder's path leads through a file.
                ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidFilename => Cause::BadSpec,
                _ => Cause::Storage,
            },
        }
    }

    /// What to do about it; may be empty.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Owned { .. } => {
                "give this job another output.uri, or remove the folder if its content is no longer needed"
            }
            Self::Differs { .. } => "give this job another output.uri, or remove the folder to begin anew",
            Self::Damaged { .. } => "remove the output folder to begin anew",
            Self::Io { source, .. } => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "make room on the output's volume: what is written is kept, and the job goes on from there"
                }
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    "the trainer runs as a plain user: make the output writable for it"
                }
                _ => "",
            },
            Self::Superseded { .. } | Self::Rows(_) | Self::Request(_) => "",
        }
    }
}

impl From<OutputError> for Fault {
    fn from(error: OutputError) -> Fault {
        Fault::new(error.cause(), error.to_string()).hint(error.hint())
    }
}
