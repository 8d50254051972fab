//! The output folder of a job: claimed by one job, written so that a reader sees a file whole or not at all, and closed
//! to attempts that were superseded.

mod claim;
mod disk;
mod error;

pub(crate) use claim::Claim;
#[cfg(test)]
pub(crate) use disk::Fate;
pub(crate) use disk::{Disk, sync_folder, write_durably};
pub use error::FolderError;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Who writes to a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// UID of the job.
    pub uid: String,
    /// Kind, namespace and name of the job, for people.
    pub name: String,
    /// The newest attempt. Older ones may no longer write, unless the folder is claimed by the job as a whole.
    pub attempt: u32,
}

/// A claimed output folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    disk: Disk,
    claim: Claim,
}

impl Folder {
    /// Creates the folder if need be and claims it for `owner`. What killed attempts left half written is removed.
    ///
    /// # Errors
    /// If another job has claimed it, a newer attempt of the same job has, or it can't be written.
    pub fn claim(path: &Path, owner: &Owner) -> Result<Folder, FolderError> {
        let disk = Disk::default();
        disk.create_folder(path)?;
        let claim = Claim::take(&disk, path, owner)?;
        disk.tidy(path)?;
        Ok(Folder { path: path.to_owned(), disk, claim })
    }

    /// Where the folder lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The attempt that writes.
    pub fn attempt(&self) -> u32 {
        self.claim.attempt()
    }

    /// Fails if a newer attempt of the job has taken over: what this one writes would undo its work.
    pub fn check_current(&self) -> Result<(), FolderError> {
        self.claim.check(&self.disk)
    }

    /// Writes a file below the folder whole or not at all, and durably. Returns its digest.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<String, FolderError> {
        self.disk.put(&self.path.join(name), |file| file.write_all(bytes))?;
        Ok(digest(bytes))
    }
}

/// `sha256:` and the digest in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crds::contract::Cause;

    use super::*;

    fn owner(uid: &str, attempt: u32) -> Owner {
        Owner { uid: uid.into(), name: format!("TrainingJob default/{uid}"), attempt }
    }

    #[test]
    fn a_folder_has_one_owner() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("models/a");
        Folder::claim(&path, &owner("a", 1)).unwrap();
        Folder::claim(&path, &owner("a", 2)).unwrap();
        let error = Folder::claim(&path, &owner("b", 1)).unwrap_err();
        assert_eq!(error.cause(), Cause::BadSpec);
        assert!(error.to_string().contains("TrainingJob default/a"), "{error}");
    }

    #[test]
    fn of_jobs_that_come_at_the_same_time_one_gets_the_folder() {
        for _ in 0..50 {
            let root = tempfile::tempdir().unwrap();
            let barrier = std::sync::Barrier::new(4);
            let got: Vec<bool> = std::thread::scope(|scope| {
                let claims = ["a", "b", "c", "d"].map(|uid| {
                    let (barrier, path) = (&barrier, root.path());
                    scope.spawn(move || {
                        barrier.wait();
                        Folder::claim(path, &owner(uid, 1)).is_ok_and(|folder| folder.check_current().is_ok())
                    })
                });
                claims.map(|claim| claim.join().unwrap()).into()
            });
            assert_eq!(got.iter().filter(|got| **got).count(), 1, "{got:?}");
        }
    }

    #[test]
    fn an_older_attempt_can_no_longer_write() {
        let root = tempfile::tempdir().unwrap();
        let ghost = Folder::claim(root.path(), &owner("a", 1)).unwrap();
        ghost.check_current().unwrap();
        Folder::claim(root.path(), &owner("a", 2)).unwrap();
        assert!(ghost.check_current().unwrap_err().to_string().contains("superseded by attempt 2"));
        assert!(Folder::claim(root.path(), &owner("a", 1)).is_err());
    }

    #[test]
    fn an_older_attempt_that_claims_at_the_same_time_and_writes_last_does_not_stay() {
        let root = tempfile::tempdir().unwrap();
        let older = Folder::claim(root.path(), &owner("a", 2)).unwrap();
        let seen = fs::read(root.path().join("claim.json")).unwrap();
        let newer = Folder::claim(root.path(), &owner("a", 3)).unwrap();
        fs::write(root.path().join("claim.json"), seen).unwrap();
        newer.check_current().unwrap();
        assert!(older.check_current().unwrap_err().to_string().contains("superseded by attempt 3"));
    }

    #[test]
    fn a_write_leaves_nothing_beside_the_file_and_a_new_attempt_removes_what_a_kill_left() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(".model.json.staged-7-0-00000000deadbeef"), b"{").unwrap();
        let folder = Folder::claim(root.path(), &owner("a", 1)).unwrap();
        let digest = folder.write("x.bin", b"abc").unwrap();
        assert_eq!(digest, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let mut names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["claim.json", "x.bin"]);
    }
}
