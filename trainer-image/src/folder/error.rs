//! What can go wrong with an output folder, and which end of the job it means.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use crds::contract::Cause;

use crate::fault::Fault;
use crate::storage::StorageError;

/// Why a folder can't be had, or a file in it can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
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
    /// A job of the same name, which was created later, writes now.
    #[error(
        "the output folder {} was taken over by {owner} (UID {uid}), which was created later: this one stops without writing",
        folder.display()
    )]
    TakenOver {
        /// The folder.
        folder: PathBuf,
        /// Kind, namespace and name of both jobs.
        owner: String,
        /// UID of the later one.
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
    /// A file of the trainer's own making does not read as one.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
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
    /// The store refused or failed.
    #[error(transparent)]
    Storage(StorageError),
}

impl FolderError {
    /// An error of the file system; one of these that came through it stays what it was.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let source = match source.downcast() {
            Ok(this) => return this,
            Err(source) => source,
        };
        match source.downcast() {
            Ok(storage) => Self::Storage(storage),
            Err(source) => Self::Io { doing, path: path.into(), source },
        }
    }

    /// A short word for metrics, of which there are few.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Owned { .. } => "owned",
            Self::TakenOver { .. } => "taken-over",
            Self::Superseded { .. } => "superseded",
            Self::Damaged { .. } => "damaged",
            Self::Io { .. } => "io",
            Self::Storage(error) => error.category(),
        }
    }

    /// Which end of the job it means.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Storage(error) => error.cause(),
            Self::Owned { .. } | Self::TakenOver { .. } => Cause::BadSpec,
            Self::Superseded { .. } => Cause::Bug,
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
            Self::TakenOver { .. } => {
                "nothing if this job was deleted and applied anew; clusters that share a store need an output.uri each"
            }
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
            Self::Storage(error) => error.hint(),
            Self::Superseded { .. } => "",
        }
    }
}

impl From<FolderError> for Fault {
    fn from(error: FolderError) -> Fault {
        Fault::new(error.cause(), error.to_string()).hint(error.hint())
    }
}
