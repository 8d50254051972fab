//! Whose the folder is. The claim is the file that every job of Trainyard leaves in its output. Where parts of a job have
//! attempts of their own, the folder is claimed by the job as a whole, and each part's work by a claim of its own.
//!
//! A job that was deleted and created anew has the name of the one before and another UID. It takes the claim over where that
//! one has not finished, and goes on with its work. Which of the two is the later one the times at which they were created say,
//! not who comes last: what is left of the earlier one never gets the claim again.

use std::cmp::Ordering;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::{FolderError, Owner};

const NAME: &str = "claim.json";

/// A claim that this process has taken.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    folder: PathBuf,
    path: PathBuf,
    content: Content,
    holds: Holds,
    /// The file that ends the work, if a job of the same name may take over what is not at its end.
    finished: Option<PathBuf>,
}

/// What a claim says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    #[serde(flatten)]
    owner: Owner,
    /// Attempts of the jobs from which it was taken over: those of its owner count on from there.
    #[serde(default, skip_serializing_if = "is_zero")]
    attempts_before: u32,
    /// UID of the job that it was taken over from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    taken_from: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Who may write under a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// The newest attempt of the job.
    Attempt,
    /// The job, whichever of its attempts.
    Job,
}

/// Where a claim stands beside the one that lies there.
enum Standing {
    /// It is that one.
    Same,
    /// It is the later one.
    Later,
}

impl Claim {
    /// Takes the folder for a job, for a newer attempt of the job that has it, or for one of that name which was created later,
    /// if the folder has no file `finished` yet. Of two jobs that come at the same time one gets it.
    pub(crate) fn take(disk: &Disk, folder: &Path, owner: &Owner, finished: &str) -> Result<Self, FolderError> {
        Self::take_as(disk, folder, NAME, owner, Holds::Attempt, Some(folder.join(finished)))
    }

    /// Takes the folder for a job as a whole. Which attempt may write what in it is for other claims to say.
    pub(crate) fn take_for_job(disk: &Disk, folder: &Path, owner: &Owner) -> Result<Self, FolderError> {
        Self::take_as(disk, folder, NAME, owner, Holds::Job, None)
    }

    /// Takes a part of the work in a folder for a job, or for a newer attempt of it: `name` is the file that says whose it is.
    pub(crate) fn take_part(disk: &Disk, folder: &Path, name: &str, owner: &Owner) -> Result<Self, FolderError> {
        Self::take_as(disk, folder, name, owner, Holds::Attempt, None)
    }

    fn take_as(
        disk: &Disk,
        folder: &Path,
        name: &str,
        owner: &Owner,
        holds: Holds,
        finished: Option<PathBuf>,
    ) -> Result<Self, FolderError> {
        let content = Content { owner: owner.clone(), attempts_before: 0, taken_from: None };
        let mut claim = Self { folder: folder.to_owned(), path: folder.join(name), content, holds, finished };
        if disk.read(&claim.path)?.is_none() {
            match disk.put_new(&claim.path, &claim.bytes()) {
                Ok(true) => return Ok(claim),
                // Somebody was faster, and has tidied up already.
                Err(FolderError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                Ok(false) => {}
                Err(error) => return Err(error),
            }
        }
        // Whoever else takes the folder over changes the claim: then it is looked at anew.
        while let Some((bytes_seen, holder)) = claim.holder(disk)? {
            // A claim without content, which a kill leaves where there are no links, is nobody's.
            let standing = holder.as_ref().map_or(Ok(Standing::Later), |holder| claim.beside(disk, holder))?;
            claim.content = Content::after(owner, holder.as_ref());
            match standing {
                Standing::Same => return Ok(claim),
                Standing::Later if disk.replace(&claim.path, &bytes_seen, &claim.bytes())? => break,
                Standing::Later => {}
            }
        }
        // Another attempt may have come at the same time.
        claim.check(disk)?;
        if let Some(from) = &claim.content.taken_from {
            tracing::info!(folder = %folder.display(), from, "goes on with what an earlier job of this name has left");
        }
        Ok(claim)
    }

    /// Fails if the claim is no longer this attempt's.
    pub(crate) fn check(&self, disk: &Disk) -> Result<(), FolderError> {
        let gone = || FolderError::Damaged { path: self.path.clone(), why: "it is gone or empty".into() };
        loop {
            let (seen, holder) = self.holder(disk)?.ok_or_else(gone)?;
            match self.beside(disk, &holder.ok_or_else(gone)?)? {
                Standing::Same => return Ok(()),
                // On a disk an older attempt that came at the same time may have been the last to write: it is told now.
                Standing::Later if disk.replace(&self.path, &seen, &self.bytes())? => return Ok(()),
                Standing::Later => {}
            }
        }
    }

    /// Where this claim stands beside that of `holder`.
    ///
    /// # Errors
    /// If that one counts.
    fn beside(&self, disk: &Disk, holder: &Content) -> Result<Standing, FolderError> {
        let (own, other) = (&self.content.owner, &holder.owner);
        if own.uid != other.uid {
            let (folder, owner, uid) = (self.folder.clone(), other.name.clone(), other.uid.clone());
            // One second can have seen both: then the UIDs decide, for both alike.
            let order = (own.created, &own.uid).cmp(&(other.created, &other.uid));
            return match &self.finished {
                Some(finished) if own.name == other.name && own.created.is_some() => match order {
                    Ordering::Less => Err(FolderError::TakenOver { folder, owner, uid }),
                    _ if disk.read(finished)?.is_some() => Err(FolderError::Owned { folder, owner, uid }),
                    _ => Ok(Standing::Later),
                },
                _ => Err(FolderError::Owned { folder, owner, uid }),
            };
        }
        match own.attempt.cmp(&other.attempt) {
            _ if self.holds == Holds::Job => Ok(Standing::Same),
            Ordering::Equal => Ok(Standing::Same),
            Ordering::Greater => Ok(Standing::Later),
            Ordering::Less => Err(FolderError::Superseded { attempt: own.attempt, newer: other.attempt }),
        }
    }

    /// The attempt, counted on from those of the jobs that it was taken over from.
    pub(crate) fn attempt(&self) -> u32 {
        self.content.attempts_before + self.content.owner.attempt
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.content.owner
    }

    /// What the claim says, as bytes and as what they mean, which is nothing while they are empty; none without a claim.
    fn holder(&self, disk: &Disk) -> Result<Option<(Vec<u8>, Option<Content>)>, FolderError> {
        let Some(bytes) = disk.read(&self.path)? else { return Ok(None) };
        if bytes.is_empty() {
            return Ok(Some((bytes, None)));
        }
        match serde_json::from_slice(&bytes) {
            Ok(content) => Ok(Some((bytes, Some(content)))),
            Err(error) => Err(FolderError::Damaged { path: self.path.clone(), why: error.to_string() }),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&self.content).expect("an owner is plain data")
    }
}

impl Content {
    /// The claim of an owner after that of `holder`.
    fn after(owner: &Owner, holder: Option<&Content>) -> Content {
        let (attempts_before, taken_from) = match holder {
            None => (0, None),
            Some(same) if same.owner.uid == owner.uid => (same.attempts_before, same.taken_from.clone()),
            // Another attempt of it may have come at the same time, of which nobody knows: one more.
            Some(earlier) => {
                let attempts = earlier.attempts_before.saturating_add(earlier.owner.attempt).saturating_add(1);
                (attempts, Some(earlier.owner.uid.clone()))
            }
        };
        Content { owner: owner.clone(), attempts_before, taken_from }
    }
}
