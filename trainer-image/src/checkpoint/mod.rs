//! Checkpoints: all that a training needs to go on bit for bit, committed by one rename and checked by digest.
//!
//! `checkpoints/step-000000120/` holds `state.safetensors` (model, best model, optimizer) and `checkpoint.json` (the
//! position, and the digest of the state). A folder of that name is complete; anything else is garbage.

mod policy;
mod writer;

pub use policy::{Clock, Policy};
pub use writer::Writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::fault::Fault;
use crate::folder::{self, Folder};
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
    state_digest: String,
    position: Position,
}

fn name(step: u64) -> String {
    format!("step-{step:09}")
}

/// The complete checkpoints of a folder as (step, path), oldest first.
pub fn list(output: &Path) -> Result<Vec<(u64, PathBuf)>, Fault> {
    let folder = output.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::io(format_args!("list {}", folder.display()), error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Fault::io(format_args!("list {}", folder.display()), error))?;
        if let Some(step) = entry.file_name().to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint that is whole; one with a wrong digest is passed over with a warning.
pub fn newest<Position: DeserializeOwned>(output: &Path) -> Result<Option<Checkpoint<Position>>, Fault> {
    for (step, path) in list(output)?.into_iter().rev() {
        match read(&path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(reason) => {
                tracing::warn!(step, path = %path.display(), reason, "passing over a checkpoint that is not whole");
            }
        }
    }
    Ok(None)
}

fn is_whole(path: &Path) -> bool {
    let record =
        fs::read(path.join(RECORD)).ok().and_then(|bytes| serde_json::from_slice::<Record<IgnoredAny>>(&bytes).ok());
    let state = fs::read(path.join(STATE)).ok();
    matches!((record, state), (Some(record), Some(state)) if folder::digest(&state) == record.state_digest)
}

fn read<Position: DeserializeOwned>(path: &Path) -> Result<Checkpoint<Position>, String> {
    let record = fs::read(path.join(RECORD)).map_err(|error| error.to_string())?;
    let record: Record<Position> = serde_json::from_slice(&record).map_err(|error| error.to_string())?;
    let state = fs::read(path.join(STATE)).map_err(|error| error.to_string())?;
    if folder::digest(&state) != record.state_digest {
        return Err(format!("the digest of {STATE} differs from the recorded one"));
    }
    let tensors = read_safetensors(&state).map_err(|error| error.to_string())?;
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
    let staged = folder.join(format!(".{}.attempt-{attempt}", name(checkpoint.step)));
    let state = write_safetensors(&checkpoint.tensors)?;
    let record =
        Record { step: checkpoint.step, attempt, state_digest: folder::digest(&state), position: &checkpoint.position };
    let record = serde_json::to_vec_pretty(&record).expect("a position is plain data");
    let write = || {
        fs::create_dir_all(&staged)?;
        folder::write_durably(&staged.join(STATE), &state)?;
        folder::write_durably(&staged.join(RECORD), &record)?;
        folder::sync_folder(&staged)
    };
    write().map_err(|error| Fault::io(format_args!("write the checkpoint {}", staged.display()), error))?;
    output.check_current()?;
    let rename = || {
        if target.exists() {
            // The same step of the same job has the same content, unless it was damaged.
            if is_whole(&target) {
                return fs::remove_dir_all(&staged);
            }
            fs::remove_dir_all(&target)?;
        }
        fs::rename(&staged, &target)?;
        folder::sync_folder(&folder)
    };
    rename().map_err(|error| Fault::io(format_args!("commit the checkpoint {}", target.display()), error))?;
    prune(output.path(), keep, attempt)?;
    Ok(target)
}

/// Removes the oldest checkpoints beyond `keep`, and what attempts up to this one left half written.
fn prune(output: &Path, keep: usize, attempt: u32) -> Result<(), Fault> {
    let complete = list(output)?;
    let surplus = complete.len().saturating_sub(keep.max(1));
    for (_, path) in &complete[..surplus] {
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
