//! Checkpoints: all that a training needs to go on bit for bit, committed by one rename and checked by digest.
//!
//! `checkpoints/step-000000120/` holds `state.safetensors` (model, best model, optimizer) and `checkpoint.json` (the
//! position, and the digest of the state). A folder of that name is complete; anything else is garbage. In a store, where
//! nothing is renamed, a checkpoint is complete with its `checkpoint.json`.
//!
//! Each names the attempt that wrote it, and a newer attempt's counts more than one of a later step: what a ghost of an older
//! attempt commits after the newer one has begun is passed over, and replaced where both come to the same step.

mod policy;
mod remote;
#[cfg(test)]
mod tests;
mod writer;

pub use policy::{Clock, Due, Policy};
pub use writer::Writer;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crds::contract::Cause;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::fault::Fault;
use crate::folder::{self, Folder, FolderError};
use crate::storage::{self, is_remote};
use crate::zoo::{read_safetensors, write_safetensors};

const FOLDER: &str = "checkpoints";
const STATE: &str = "state.safetensors";
const RECORD: &str = "checkpoint.json";

/// A training at a step: where it stands, and its tensors on the host.
#[derive(Debug)]
pub struct Checkpoint<Position> {
    /// Optimizer steps done.
    pub step: u64,
    /// What else the training needs to find its place.
    pub position: Position,
    /// Tensors by name.
    pub tensors: Vec<(String, Tensor)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<Position> {
    step: u64,
    attempt: u32,
    /// Name of the file with the tensors.
    #[serde(default = "state_name")]
    state: String,
    state_digest: String,
    position: Position,
}

fn state_name() -> String {
    STATE.to_owned()
}

fn name(step: u64) -> String {
    format!("step-{step:09}")
}

/// A complete checkpoint. Of two, the greater one is the newer: that of the newer attempt, and of one attempt that of the later
/// step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The attempt that wrote it; 0 if its record can't be read.
    pub attempt: u32,
    /// Its optimizer steps.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
}

/// The complete checkpoints of a folder, oldest first.
pub fn list(output: &Path) -> Result<Vec<Found>, Fault> {
    let folder = output.join(FOLDER);
    let steps = if is_remote(&folder) { remote::steps(&folder)? } else { steps(&folder)? };
    let found = steps.into_iter().map(|step| {
        let path = folder.join(name(step));
        match record::<IgnoredAny>(&path) {
            Ok(record) => Ok(Found { attempt: record.attempt, step, path }),
            Err(Unread::Damaged(_)) => Ok(Found { attempt: 0, step, path }),
            Err(Unread::Storage(fault)) => Err(fault),
        }
    });
    let mut found: Vec<Found> = found.collect::<Result<_, _>>()?;
    found.sort();
    Ok(found)
}

/// Steps of the complete checkpoints on a disk.
fn steps(folder: &Path) -> Result<Vec<u64>, Fault> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::io(format_args!("list {}", folder.display()), error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Fault::io(format_args!("list {}", folder.display()), error))?;
        found.extend(entry.file_name().to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok()));
    }
    Ok(found)
}

/// What a training goes on from.
#[derive(Debug)]
pub struct Newest<Position> {
    /// The newest checkpoint that is whole, if there is one.
    pub checkpoint: Option<Checkpoint<Position>>,
    /// What is wrong with the newer ones.
    pub passed_over: Vec<String>,
}

/// The newest checkpoint that is whole; one with a wrong digest is passed over, and told.
///
/// # Errors
/// If the storage fails: to go back, or to begin anew, for that would be to lose what is there.
pub fn newest<Position: DeserializeOwned>(output: &Path) -> Result<Newest<Position>, Fault> {
    let not_whole = |path: &Path, reason: &str| format!("{} is not whole: {reason}", path.display());
    let mut passed_over = Vec::new();
    let found = list(output)?;
    for (place, Found { path, .. }) in found.iter().enumerate().rev() {
        match read(path) {
            Ok(checkpoint) => {
                // Those whose records can't be read count as the oldest, whatever their steps.
                for other in found[..place].iter().filter(|other| other.attempt == 0 && other.step > checkpoint.step) {
                    if let Err(Unread::Damaged(reason)) = record::<IgnoredAny>(&other.path) {
                        passed_over.push(not_whole(&other.path, &reason));
                    }
                }
                return Ok(Newest { checkpoint: Some(checkpoint), passed_over });
            }
            Err(Unread::Storage(fault)) => return Err(fault),
            Err(Unread::Damaged(reason)) => passed_over.push(not_whole(path, &reason)),
        }
    }
    Ok(Newest { checkpoint: None, passed_over })
}

/// The checkpoint of a step, which another rank has found whole.
///
/// # Errors
/// If it can't be read: the storage does not show all ranks the same.
pub fn of_step<Position: DeserializeOwned>(output: &Path, step: u64) -> Result<Checkpoint<Position>, Fault> {
    let path = output.join(FOLDER).join(name(step));
    read(&path).map_err(|unread| match unread {
        Unread::Storage(fault) => fault,
        Unread::Damaged(reason) => {
            let message =
                format!("rank 0 has read the checkpoint {}, and here it is not whole: {reason}", path.display());
            Fault::new(Cause::Storage, message)
        }
    })
}

/// Why a checkpoint can't be taken.
enum Unread {
    Damaged(String),
    Storage(Fault),
}

/// A file of a checkpoint. One that is missing stays so; one that can't be read now may be read by the next attempt.
fn file(path: &Path, name: &str) -> Result<Vec<u8>, Unread> {
    let file = path.join(name);
    storage::read(&file).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
            Unread::Damaged(format!("{name}: {error}"))
        }
        _ => Unread::Storage(Fault::io(format_args!("read {}", file.display()), error)),
    })
}

fn record<Position: DeserializeOwned>(path: &Path) -> Result<Record<Position>, Unread> {
    serde_json::from_slice(&file(path, RECORD)?).map_err(|error| Unread::Damaged(error.to_string()))
}

/// A checkpoint's record and the bytes of its tensors, if these have the recorded digest.
fn open<Position: DeserializeOwned>(path: &Path) -> Result<(Record<Position>, Vec<u8>), Unread> {
    let record: Record<Position> = record(path)?;
    let state = file(path, &record.state)?;
    if folder::digest(&state) != record.state_digest {
        return Err(Unread::Damaged(format!("the digest of {} differs from the recorded one", record.state)));
    }
    Ok((record, state))
}

/// What becomes of a checkpoint for a step that has one already.
enum Standing {
    /// The one that is there stays: it is the same.
    Same,
    /// It is damaged, or an older attempt's, whose course may have been another.
    Stale,
}

/// Judges the checkpoint that is there. Where a newer attempt has written it, this attempt has no say any more.
fn standing(path: &Path, digest: &str, attempt: u32) -> Result<Standing, Fault> {
    match open::<IgnoredAny>(path) {
        Ok((record, _)) if record.attempt > attempt => {
            Err(FolderError::Superseded { attempt, newer: record.attempt }.into())
        }
        Ok((record, _)) if record.attempt == attempt || record.state_digest == digest => Ok(Standing::Same),
        Ok(_) | Err(Unread::Damaged(_)) => Ok(Standing::Stale),
        Err(Unread::Storage(fault)) => Err(fault),
    }
}

fn read<Position: DeserializeOwned>(path: &Path) -> Result<Checkpoint<Position>, Unread> {
    let (record, state) = open(path)?;
    let tensors = read_safetensors(&state).map_err(|error| Unread::Damaged(error.to_string()))?;
    Ok(Checkpoint { step: record.step, position: record.position, tensors: tensors.into_iter().collect() })
}

/// Writes a checkpoint, commits it, and removes the oldest beyond `keep`.
pub fn commit<Position: Serialize>(
    output: &Folder,
    keep: usize,
    checkpoint: &Checkpoint<Position>,
) -> Result<PathBuf, Fault> {
    let folder = output.path().join(FOLDER);
    let target = folder.join(name(checkpoint.step));
    let attempt = output.attempt();
    if is_remote(&folder) {
        remote::commit(output, &folder, keep, checkpoint)?;
        return Ok(target);
    }
    let staged = folder.join(format!(".{}.attempt-{attempt}", name(checkpoint.step)));
    let state = write_safetensors(&checkpoint.tensors)?;
    let record = Record {
        step: checkpoint.step,
        attempt,
        state: state_name(),
        state_digest: folder::digest(&state),
        position: &checkpoint.position,
    };
    let json = serde_json::to_vec_pretty(&record).expect("a position is plain data");
    let write = || {
        fs::create_dir_all(&staged)?;
        folder::write_durably(&staged.join(STATE), &state)?;
        folder::write_durably(&staged.join(RECORD), &json)?;
        folder::sync_folder(&staged)
    };
    write().map_err(|error| {
        // On a full disk, half a checkpoint takes the room of the next try.
        let _ = fs::remove_dir_all(&staged);
        Fault::io(format_args!("write the checkpoint {}", staged.display()), error)
    })?;
    output.check_current()?;
    let place = || {
        fs::rename(&staged, &target)?;
        folder::sync_folder(&folder)
    };
    let placed = match target.exists() {
        false => place(),
        true => match standing(&target, &record.state_digest, attempt)? {
            Standing::Same => fs::remove_dir_all(&staged),
            // One of the two is there at any time but for a moment, however long it takes to remove one: `prune` does.
            Standing::Stale => {
                let stale = folder.join(format!(".{}.stale.attempt-{attempt}", name(checkpoint.step)));
                let _ = fs::remove_dir_all(&stale);
                fs::rename(&target, &stale).and_then(|()| place())
            }
        },
    };
    placed.map_err(|error| Fault::io(format_args!("commit the checkpoint {}", target.display()), error))?;
    prune(output.path(), keep, attempt)?;
    Ok(target)
}

/// Removes the oldest checkpoints beyond `keep`, and what attempts up to this one left half written.
fn prune(output: &Path, keep: usize, attempt: u32) -> Result<(), Fault> {
    let complete = list(output)?;
    let surplus = complete.len().saturating_sub(keep.max(1));
    for Found { path, .. } in &complete[..surplus] {
        fs::remove_dir_all(path)
            .map_err(|error| Fault::io(format_args!("remove the old checkpoint {}", path.display()), error))?;
    }
    let folder = output.join(FOLDER);
    for entry in
        fs::read_dir(&folder).map_err(|error| Fault::io(format_args!("list {}", folder.display()), error))?.flatten()
    {
        let name = entry.file_name();
        let staged_by =
            name.to_str().and_then(|name| name.strip_prefix(".step-")?.split_once(".attempt-")?.1.parse().ok());
        if staged_by.is_some_and(|writer: u32| writer <= attempt) {
            // Litter that can't be removed is no reason to fail.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// The tensors whose names begin with `prefix`, by the rest of their names.
pub fn section(tensors: &[(String, Tensor)], prefix: &str) -> BTreeMap<String, Tensor> {
    tensors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.shallow_clone())))
        .collect()
}
