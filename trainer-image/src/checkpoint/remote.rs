//! Checkpoints in a store, where nothing is renamed: the tensors go first, under a name of the attempt's own, and the record
//! that names them is created last. Whoever reads a record finds what it names; a ghost of an older attempt finds the
//! record taken, and has touched nothing that the record names. Where the ghost was first, the newer attempt replaces its
//! record, on condition that it is still the one that was read.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::{Checkpoint, Found, RECORD, Record, Standing, list, name, standing};
use crate::fault::Fault;
use crate::folder::{self, Folder};
use crate::storage::Object;
use crate::zoo::write_safetensors;

/// What an attempt calls its tensors.
fn state_of(attempt: u32) -> String {
    format!("state.attempt-{attempt}.safetensors")
}

fn attempt_of(state: &str) -> Option<u32> {
    state.strip_prefix("state.attempt-")?.strip_suffix(".safetensors")?.parse().ok()
}

fn at(path: &Path) -> io::Result<Object> {
    Object::at(path)?.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Names of the files of each step that has any.
fn files(folder: &Path) -> io::Result<BTreeMap<u64, Vec<String>>> {
    let mut steps: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for entry in at(folder)?.list()? {
        let mut parts = entry.path.iter().map(|part| part.to_string_lossy());
        let step = parts.next().and_then(|first| first.strip_prefix("step-")?.parse().ok());
        if let (Some(step), Some(file), None) = (step, parts.next(), parts.next()) {
            steps.entry(step).or_default().push(file.into_owned());
        }
    }
    Ok(steps)
}

fn is_complete(files: &[String]) -> bool {
    files.iter().any(|file| file == RECORD)
}

/// Steps of the complete checkpoints.
pub(super) fn steps(folder: &Path) -> Result<Vec<u64>, Fault> {
    let steps = files(folder).map_err(|error| Fault::io(format_args!("list {}", folder.display()), error))?;
    Ok(steps.into_iter().filter(|(_, files)| is_complete(files)).map(|(step, _)| step).collect())
}

/// Writes a checkpoint, commits it, and removes the oldest beyond `keep`.
pub(super) fn commit<Position: Serialize>(
    output: &Folder,
    folder: &Path,
    keep: usize,
    checkpoint: &Checkpoint<Position>,
) -> Result<(), Fault> {
    let target = folder.join(name(checkpoint.step));
    let attempt = output.attempt();
    let state = write_safetensors(&checkpoint.tensors)?;
    let record = Record {
        step: checkpoint.step,
        attempt,
        state: state_of(attempt),
        state_digest: folder::digest(&state),
        position: &checkpoint.position,
    };
    let json = serde_json::to_vec_pretty(&record).expect("a position is plain data");
    let writing = |error| Fault::io(format_args!("write the checkpoint {}", target.display()), error);
    at(&target.join(&record.state)).and_then(|object| object.put(state)).map_err(writing)?;
    output.check_current()?;
    let commit = at(&target.join(RECORD)).map_err(writing)?;
    while !commit.create(json.clone()).map_err(writing)? {
        let before = match commit.get(u64::MAX) {
            Ok(before) => before,
            // It was pruned meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(writing(error)),
        };
        match standing(&target, &record.state_digest, attempt)? {
            Standing::Same => break,
            Standing::Stale if commit.replace(&before, json.clone()).map_err(writing)? => break,
            // Something came between: it is looked at anew.
            Standing::Stale => {}
        }
    }
    prune(output.path(), folder, keep, attempt)
}

/// Removes the oldest checkpoints beyond `keep`, their records first, and what attempts up to this one left without a record.
fn prune(output: &Path, folder: &Path, keep: usize, attempt: u32) -> Result<(), Fault> {
    let removing = |error| Fault::io(format_args!("remove old checkpoints of {}", folder.display()), error);
    let complete = list(output)?;
    let surplus = complete.len().saturating_sub(keep.max(1));
    for Found { path, .. } in &complete[..surplus] {
        at(&path.join(RECORD)).and_then(|record| record.delete()).map_err(removing)?;
        at(path).and_then(|step| step.delete_below()).map_err(removing)?;
    }
    for (step, files) in files(folder).map_err(removing)? {
        if is_complete(&files) {
            continue;
        }
        for file in files.iter().filter(|file| attempt_of(file).is_some_and(|writer| writer <= attempt)) {
            // Litter that can't be removed is no reason to fail.
            let _ = at(&folder.join(name(step)).join(file)).and_then(|object| object.delete());
        }
    }
    Ok(())
}
