//! Whose the folder is. The claim is the file that every job of Trainyard leaves in its output.

use std::path::{Path, PathBuf};

use super::OutputError;
use super::disk::{Disk, is_staged_for};
use crate::folder::Owner;

const NAME: &str = "claim.json";

/// A claim that this process has taken.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    folder: PathBuf,
    owner: Owner,
}

impl Claim {
    /// Takes the folder for a job, or for a newer attempt of the job that has it. Of two jobs that come at the same time
    /// one gets it.
    pub(super) fn take(disk: &Disk, folder: &Path, owner: &Owner) -> Result<Self, OutputError> {
        let claim = Self { folder: folder.to_owned(), owner: owner.clone() };
        let bytes = serde_json::to_vec_pretty(owner).expect("an owner is plain data");
        let path = folder.join(NAME);
        if disk.read(&path)?.is_none() && disk.put_new(&path, &bytes)? {
            return Ok(claim);
        }
        match claim.holder(disk)? {
            Some(holder) if holder.uid != owner.uid => {
                return Err(OutputError::Owned { folder: folder.to_owned(), owner: holder.name, uid: holder.uid });
            }
            Some(holder) if holder.attempt > owner.attempt => {
                return Err(OutputError::Superseded { attempt: owner.attempt, newer: holder.attempt });
            }
            Some(holder) if holder.attempt == owner.attempt => return Ok(claim),
            // An older attempt; or a claim without content, which a kill leaves where there are no links: it is nobody's.
            _ => {}
        }
        disk.put(&path, |file| file.write_all(&bytes))?;
        // Another attempt may have come at the same time.
        claim.check(disk)?;
        Ok(claim)
    }

    /// Fails if the folder is no longer this attempt's.
    pub(super) fn check(&self, disk: &Disk) -> Result<(), OutputError> {
        let path = self.folder.join(NAME);
        let holder =
            self.holder(disk)?.ok_or_else(|| OutputError::Damaged { path, why: "it is gone or empty".into() })?;
        if holder.uid != self.owner.uid {
            return Err(OutputError::Owned { folder: self.folder.clone(), owner: holder.name, uid: holder.uid });
        }
        if holder.attempt > self.owner.attempt {
            return Err(OutputError::Superseded { attempt: self.owner.attempt, newer: holder.attempt });
        }
        Ok(())
    }

    pub(super) fn attempt(&self) -> u32 {
        self.owner.attempt
    }

    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Removes what killed processes have staged in the folder.
    pub(super) fn tidy(&self, disk: &Disk) -> Result<(), OutputError> {
        for name in disk.list(&self.folder)? {
            if is_staged_for(&name, NAME) {
                disk.remove(&self.folder.join(name))?;
            }
        }
        Ok(())
    }

    fn holder(&self, disk: &Disk) -> Result<Option<Owner>, OutputError> {
        let path = self.folder.join(NAME);
        let Some(bytes) = disk.read(&path)?.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(owner) => Ok(Some(owner)),
            Err(error) => Err(OutputError::Damaged { path, why: error.to_string() }),
        }
    }
}
