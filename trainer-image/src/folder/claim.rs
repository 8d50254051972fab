//! Whose the folder is. The claim is the file that every job of Trainyard leaves in its output.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::disk::{Disk, is_staged};
use super::{FolderError, Owner};

const NAME: &str = "claim.json";

/// A claim that this process has taken.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    folder: PathBuf,
    owner: Owner,
}

impl Claim {
    /// Takes the folder for a job, or for a newer attempt of the job that has it. Of two jobs that come at the same time
    /// one gets it.
    pub(crate) fn take(disk: &Disk, folder: &Path, owner: &Owner) -> Result<Self, FolderError> {
        let claim = Self { folder: folder.to_owned(), owner: owner.clone() };
        let bytes = serde_json::to_vec_pretty(owner).expect("an owner is plain data");
        let path = folder.join(NAME);
        if disk.read(&path)?.is_none() {
            match disk.put_new(&path, &bytes) {
                Ok(true) => return Ok(claim),
                // Somebody was faster, and has tidied up already.
                Err(FolderError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                Ok(false) => {}
                Err(error) => return Err(error),
            }
        }
        // Whoever else takes the folder over changes the claim: then it is looked at anew.
        while let Some((bytes_seen, holder)) = claim.holder(disk)? {
            match holder {
                Some(holder) if holder.uid != owner.uid => {
                    return Err(FolderError::Owned { folder: folder.to_owned(), owner: holder.name, uid: holder.uid });
                }
                Some(holder) if holder.attempt > owner.attempt => {
                    return Err(FolderError::Superseded { attempt: owner.attempt, newer: holder.attempt });
                }
                Some(holder) if holder.attempt == owner.attempt => return Ok(claim),
                // An older attempt; or a claim without content, which a kill leaves where there are no links: it is nobody's.
                _ if disk.replace(&path, &bytes_seen, &bytes)? => break,
                _ => {}
            }
        }
        // Another attempt may have come at the same time.
        claim.check(disk)?;
        Ok(claim)
    }

    /// Fails if the folder is no longer this attempt's.
    pub(crate) fn check(&self, disk: &Disk) -> Result<(), FolderError> {
        let path = self.folder.join(NAME);
        let holder = self.holder(disk)?.and_then(|(_, holder)| holder);
        let holder = holder.ok_or_else(|| FolderError::Damaged { path, why: "it is gone or empty".into() })?;
        if holder.uid != self.owner.uid {
            return Err(FolderError::Owned { folder: self.folder.clone(), owner: holder.name, uid: holder.uid });
        }
        if holder.attempt > self.owner.attempt {
            return Err(FolderError::Superseded { attempt: self.owner.attempt, newer: holder.attempt });
        }
        Ok(())
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.owner.attempt
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Removes what killed processes have staged in the folder.
    pub(crate) fn tidy(&self, disk: &Disk) -> Result<(), FolderError> {
        for name in disk.list(&self.folder)? {
            if is_staged(&name) {
                disk.remove(&self.folder.join(name))?;
            }
        }
        Ok(())
    }

    /// What the claim says, as bytes and as the owner they name, which they don't while they are empty; none without a claim.
    fn holder(&self, disk: &Disk) -> Result<Option<(Vec<u8>, Option<Owner>)>, FolderError> {
        let path = self.folder.join(NAME);
        let Some(bytes) = disk.read(&path)? else { return Ok(None) };
        if bytes.is_empty() {
            return Ok(Some((bytes, None)));
        }
        match serde_json::from_slice(&bytes) {
            Ok(owner) => Ok(Some((bytes, Some(owner)))),
            Err(error) => Err(FolderError::Damaged { path, why: error.to_string() }),
        }
    }
}
