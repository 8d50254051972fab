//! The folder of a local job, which a person can read:
//!
//! ```text
//! .trainyard/jobs/<namespace>.<kind>.<name>/
//!     job.yaml                       the manifest as it was applied
//!     status.json                    what `kubectl get -o json` would show as status
//!     memory.json                    what the next decision rests on
//!     events.log                     what happened when
//!     attempts/<n>/member-<k>.log    what the member wrote, and member-<k>.json, what it said when it ended
//!     lock                           process id of the run under way
//! .trainyard/volumes/<claim>/        what pvc://claim is here
//! ```
//!
//! A file is written beside its place and renamed into it, so that a reader, or a run after a power cut, sees one whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::RunError;
use crate::decide::Event;
use crate::observe::{Ledger, MemberId};

/// What a job remembers between two runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    /// UID of the job; it claims the output.
    pub(crate) uid: String,
    /// Generation of the spec, from 1.
    pub(crate) generation: i64,
    /// What decisions remember.
    pub(crate) ledger: Ledger,
}

/// The folder of a local job. It is this process's alone while this lives.
#[derive(Debug)]
pub(crate) struct JobFolder {
    path: PathBuf,
    _lock: File,
}

/// Name of the state folder, unless a run is told another one.
pub const STATE: &str = ".trainyard";

/// The folder of a job below the state folder.
pub(crate) fn path_of(state: &Path, namespace: &str, kind: &str, name: &str) -> PathBuf {
    state.join("jobs").join(format!("{namespace}.{kind}.{name}"))
}

impl JobFolder {
    /// Opens the folder, making it if need be, and locks it.
    ///
    /// # Errors
    /// [`RunError::Locked`] with the other process's id, [`RunError::Io`].
    pub(crate) fn open(path: PathBuf, job: &str) -> Result<JobFolder, RunError> {
        fs::create_dir_all(&path).map_err(RunError::io("make the folder", &path))?;
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .map_err(RunError::io("open", &file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                lock.read_to_string(&mut pid).map_err(RunError::io("read", &file))?;
                return Err(RunError::Locked { job: job.to_owned(), pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(RunError::io("lock", &file)(source)),
        }
        lock.set_len(0).map_err(RunError::io("write", &file))?;
        writeln!(lock, "{}", std::process::id()).map_err(RunError::io("write", &file))?;
        Ok(JobFolder { path, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest as it was applied last, if there was one.
    pub(crate) fn manifest(&self) -> Result<Option<Value>, RunError> {
        let path = self.path.join("job.yaml");
        let Some(text) = read(&path)? else { return Ok(None) };
        crate::manifest::value_of(&text).map(Some).map_err(|fault| RunError::State { path, fault })
    }

    /// Keeps the manifest as it is applied now.
    pub(crate) fn keep_manifest(&self, manifest: &Value) -> Result<(), RunError> {
        let path = self.path.join("job.yaml");
        let yaml = serde_saphyr::to_string(manifest)
            .map_err(|fault| RunError::State { path: path.clone(), fault: fault.to_string() })?;
        write(&path, yaml.as_bytes())
    }

    /// What the job remembers, if it was run before.
    pub(crate) fn memory(&self) -> Result<Option<Memory>, RunError> {
        read_json(&self.path.join("memory.json"))
    }

    /// The status as it was written last.
    pub(crate) fn status<S: DeserializeOwned>(&self) -> Result<Option<S>, RunError> {
        read_status(&self.path)
    }

    /// Writes down what the job remembers, then the status that follows from it.
    pub(crate) fn keep(&self, memory: &Memory, status: &impl Serialize) -> Result<(), RunError> {
        write_json(&self.path.join("memory.json"), memory)?;
        write_json(&self.path.join("status.json"), status)
    }

    /// Adds a line to the events.
    pub(crate) fn tell(&self, at: Timestamp, event: &Event) -> Result<(), RunError> {
        let path = self.path.join("events.log");
        let kind = if event.warning { "Warning" } else { "Normal" };
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{at:.0} {kind} {} {}", event.reason, event.note))
            .map_err(RunError::io("write", &path))
    }

    /// What a member wrote.
    pub(crate) fn log(&self, id: MemberId) -> PathBuf {
        self.attempt(id.attempt).join(format!("member-{}.log", id.index))
    }

    /// What a member said when it ended.
    pub(crate) fn termination(&self, id: MemberId) -> PathBuf {
        self.attempt(id.attempt).join(format!("member-{}.json", id.index))
    }

    /// The folder of an attempt.
    pub(crate) fn attempt(&self, attempt: u32) -> PathBuf {
        self.path.join("attempts").join(attempt.to_string())
    }
}

/// The status in a job's folder; `None` if there is no such job.
pub(crate) fn read_status<S: DeserializeOwned>(folder: &Path) -> Result<Option<S>, RunError> {
    read_json(&folder.join("status.json"))
}

/// The folders of jobs of this name, of any namespace and kind, each with the kind.
pub(crate) fn of_name(state: &Path, name: &str) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(state.join("jobs")).into_iter().flatten().flatten();
    let mut found: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let folder = entry.file_name().into_string().ok()?;
            let mut parts = folder.splitn(3, '.').skip(1);
            let kind = parts.next()?.to_owned();
            (parts.next() == Some(name)).then(|| (kind, entry.path()))
        })
        .collect();
    found.sort_unstable();
    found
}

/// A path beside `path` that is free, to keep something old.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    (1_u32..)
        .map(|number| path.with_file_name(format!("{name}.old-{number}")))
        .find(|candidate| !candidate.exists())
        .unwrap_or_else(|| path.with_file_name(format!("{name}.old")))
}

fn read(path: &Path) -> Result<Option<String>, RunError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(fault) => Err(RunError::io("read", path)(fault)),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RunError> {
    let Some(text) = read(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|fault| RunError::State { path: path.to_owned(), fault: fault.to_string() })
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|fault| RunError::State { path: path.to_owned(), fault: fault.to_string() })?;
    text.push(b'\n');
    write(path, &text)
}

fn write(path: &Path, content: &[u8]) -> Result<(), RunError> {
    let beside = path.with_extension("new");
    let written = File::create(&beside).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(&beside, path)).map_err(RunError::io("write", path))
}
