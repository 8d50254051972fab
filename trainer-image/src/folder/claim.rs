//! Whose the folder is. The claim is the file that every job of Trainyard leaves in its output. Where parts of a job have
//! attempts of their own, the folder is claimed by the job as a whole, and each part's work by a claim of its own.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::{FolderError, Owner};

const NAME: &str = "claim.json";

/// A claim that this process has taken.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    folder: PathBuf,
    path: PathBuf,
    owner: Owner,
    holds: Holds,
}

/// Who may write under a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// The newest attempt of the job.
    Attempt,
    /// The job, whichever of its attempts.
    Job,
}

impl Claim {
    /// Takes the folder for a job, or for a newer attempt of the job that has it. Of two jobs that come at the same time
    /// one gets it.
    pub(crate) fn take(disk: &Disk, folder: &Path, owner: &Owner) -> Result<Self, FolderError> {
        Self::take_as(disk, folder, NAME, owner, Holds::Attempt)
    }

    /// Takes the folder for a job as a whole. Which attempt may write what in it is for other claims to say.
    pub(crate) fn take_for_job(disk: &Disk, folder: &Path, owner: &Owner) -> Result<Self, FolderError> {
        Self::take_as(disk, folder, NAME, owner, Holds::Job)
    }

    /// As [`take`](Self::take), a part of the work in a folder: `name` is the file that says whose it is.
    pub(crate) fn take_part(disk: &Disk, folder: &Path, name: &str, owner: &Owner) -> Result<Self, FolderError> {
        Self::take_as(disk, folder, name, owner, Holds::Attempt)
    }

    fn take_as(disk: &Disk, folder: &Path, name: &str, owner: &Owner, holds: Holds) -> Result<Self, FolderError> {
        let claim = Self { folder: folder.to_owned(), path: folder.join(name), owner: owner.clone(), holds };
        let bytes = claim.bytes();
        let path = &claim.path;
        if disk.read(path)?.is_none() {
            match disk.put_new(path, &bytes) {
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
                Some(_) if holds == Holds::Job => return Ok(claim),
                Some(holder) if holder.attempt > owner.attempt => {
                    return Err(FolderError::Superseded { attempt: owner.attempt, newer: holder.attempt });
                }
                Some(holder) if holder.attempt == owner.attempt => return Ok(claim),
                // An older attempt; or a claim without content, which a kill leaves where there are no links: it is nobody's.
                _ if disk.replace(path, &bytes_seen, &bytes)? => break,
                _ => {}
            }
        }
        // Another attempt may have come at the same time.
        claim.check(disk)?;
        Ok(claim)
    }

    /// Fails if the claim is no longer this attempt's.
    pub(crate) fn check(&self, disk: &Disk) -> Result<(), FolderError> {
        let gone = || FolderError::Damaged { path: self.path.clone(), why: "it is gone or empty".into() };
        loop {
            let (seen, holder) = self.holder(disk)?.ok_or_else(gone)?;
            let holder = holder.ok_or_else(gone)?;
            if holder.uid != self.owner.uid {
                return Err(FolderError::Owned { folder: self.folder.clone(), owner: holder.name, uid: holder.uid });
            }
            if self.holds == Holds::Job || holder.attempt == self.owner.attempt {
                return Ok(());
            }
            if holder.attempt > self.owner.attempt {
                return Err(FolderError::Superseded { attempt: self.owner.attempt, newer: holder.attempt });
            }
            // On a disk an older attempt that came at the same time may have been the last to write: it is told now.
            if disk.replace(&self.path, &seen, &self.bytes())? {
                return Ok(());
            }
        }
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.owner.attempt
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// What the claim says, as bytes and as the owner they name, which they don't while they are empty; none without a claim.
    fn holder(&self, disk: &Disk) -> Result<Option<(Vec<u8>, Option<Owner>)>, FolderError> {
        let Some(bytes) = disk.read(&self.path)? else { return Ok(None) };
        if bytes.is_empty() {
            return Ok(Some((bytes, None)));
        }
        match serde_json::from_slice(&bytes) {
            Ok(owner) => Ok(Some((bytes, Some(owner)))),
            Err(error) => Err(FolderError::Damaged { path: self.path.clone(), why: error.to_string() }),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&self.owner).expect("an owner is plain data")
    }
}
