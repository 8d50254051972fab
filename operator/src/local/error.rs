//! Why a job can't be run here, and the exit code that goes with it.

use std::io;
use std::path::PathBuf;

use crds::contract::Cause;

use crate::manifest::{LocatedFault, SetError};

/// Why a job can't be run here. A job that was run and failed is no error: it is an [`Outcome`](super::Outcome).
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The manifest has faults.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Manifest(Vec<LocatedFault>),
    /// A `--set` can't be carried out.
    #[error(transparent)]
    Set(#[from] SetError),
    /// Data or a model that the job reads is not there.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Missing(Vec<LocatedFault>),
    /// The folder that the job writes to can't be made or written.
    #[error("{fault}")]
    Output {
        /// What it means.
        cause: Cause,
        /// Which one, and why.
        fault: Box<LocatedFault>,
    },
    /// The job has started with another spec.
    #[error(
        "{faults}\nThis job has started with another spec ({folder}). Give it back the old spec to go on, give the new one \
         another name, or start over with --fresh, which keeps the old state aside",
        faults = .faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        folder = .folder.display()
    )]
    Changed {
        /// The fields that differ.
        faults: Vec<LocatedFault>,
        /// The job's folder.
        folder: PathBuf,
    },
    /// Another process runs the job.
    #[error(
        "{job} is run by the process {pid} already: wait for it, or stop it by `kill {pid}`, which commits a checkpoint"
    )]
    Locked {
        /// The job.
        job: String,
        /// The process.
        pid: String,
    },
    /// The trainer was not found.
    #[error("{0}. Build it by `make trainer`, or name it by --trainer or TRAINYARD_TRAINER")]
    Trainer(String),
    /// GPUs were asked for that are not there.
    #[error("{0}. Run on the CPU by --device Cpu, or on a machine with such GPUs")]
    NoGpu(String),
    /// The state that an earlier run left can't be read.
    #[error("{path} is not what this version writes: {fault}. Start over with --fresh, which keeps it aside", path = .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// A file or process could not be made, read or written.
    #[error("can't {what} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl RunError {
    /// Wraps what the system says about `path`.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> RunError {
        let path = path.into();
        move |source| RunError::Io { what, path, source }
    }

    /// The exit code of `trainyard run`: the contract's where a cause fits, those of `sysexits.h` and the shell elsewhere.
    pub fn exit_code(&self) -> u8 {
        const TEMPORARY_FAILURE: u8 = 75;
        const COMMAND_NOT_FOUND: u8 = 127;
        let by_cause = |cause: Cause| u8::try_from(cause.exit_code()).unwrap_or(1);
        match self {
            RunError::Manifest(_) | RunError::Set(_) | RunError::Changed { .. } => by_cause(Cause::BadSpec),
            RunError::Missing(_) => by_cause(Cause::DataMissing),
            RunError::Output { cause, .. } => by_cause(*cause),
            RunError::Locked { .. } => TEMPORARY_FAILURE,
            RunError::Trainer(_) => COMMAND_NOT_FOUND,
            RunError::NoGpu(_) => by_cause(Cause::GpuUnsupported),
            RunError::State { .. } | RunError::Io { .. } => 1,
        }
    }

    /// A name of the kind of error that never changes.
    pub fn category(&self) -> &'static str {
        match self {
            RunError::Manifest(_) => "manifest",
            RunError::Set(_) => "set",
            RunError::Missing(_) => "missing",
            RunError::Output { .. } => "output",
            RunError::Changed { .. } => "changed",
            RunError::Locked { .. } => "locked",
            RunError::Trainer(_) => "trainer",
            RunError::NoGpu(_) => "no_gpu",
            RunError::State { .. } => "state",
            RunError::Io { .. } => "io",
        }
    }
}
