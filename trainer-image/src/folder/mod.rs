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

use crate::model::CARD;

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
    /// When the job was created, in seconds since 1970, where it is known: of two of one name the later one is the one that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
}

/// A claimed output folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    disk: Disk,
    claim: Claim,
}

impl Folder {
    /// Creates the folder if need be and claims it for `owner`, who goes on with what a job of the same name has left that was
    /// created earlier and has not finished. What killed attempts left half written is removed.
    ///
    /// # Errors
    /// If another job has claimed it, or has finished there, a newer attempt of the same job has, or it can't be written.
    pub fn claim(path: &Path, owner: &Owner) -> Result<Folder, FolderError> {
        let disk = Disk::default();
        disk.create_folder(path)?;
        let claim = Claim::take(&disk, path, owner, CARD)?;
        disk.tidy(path)?;
        Ok(Folder { path: path.to_owned(), disk, claim })
    }

    /// Where the folder lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The attempt that writes, counted on from those of the jobs before it that worked at the same.
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
        Owner { uid: uid.into(), name: format!("TrainingJob default/{uid}"), attempt, created: None }
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

    /// A job that is created anew under one name: its UID says when.
    fn anew(created: i64, attempt: u32) -> Owner {
        let name = "TrainingJob default/a".into();
        Owner { uid: format!("created-{created}"), name, attempt, created: Some(created) }
    }

    #[test]
    fn a_job_that_is_created_anew_counts_on_from_the_attempts_before_it() {
        let root = tempfile::tempdir().unwrap();
        let earlier = Folder::claim(root.path(), &anew(10, 3)).unwrap();
        let first = Folder::claim(root.path(), &anew(20, 1)).unwrap();
        // One more than it had: another may have come at the same time.
        assert_eq!((earlier.attempt(), first.attempt()), (3, 5));
        let second = Folder::claim(root.path(), &anew(20, 2)).unwrap();
        let third_job = Folder::claim(root.path(), &anew(30, 1)).unwrap();
        assert_eq!((second.attempt(), third_job.attempt()), (6, 8));
        third_job.check_current().unwrap();
        assert!(first.check_current().is_err() && second.check_current().is_err());
    }

    #[test]
    fn a_job_that_was_created_earlier_gets_the_folder_never_again() {
        // Whether or not it had the folder before.
        for had_it in [true, false] {
            let root = tempfile::tempdir().unwrap();
            let ghost = had_it.then(|| Folder::claim(root.path(), &anew(10, 1)).unwrap());
            let later = Folder::claim(root.path(), &anew(20, 1)).unwrap();
            let returns = Folder::claim(root.path(), &anew(10, 2)).unwrap_err();
            let told = ghost.map(|ghost| ghost.check_current().unwrap_err());
            for error in told.into_iter().chain([returns]) {
                assert!(error.to_string().contains("taken over by TrainingJob default/a (UID created-20)"), "{error}");
                assert_eq!(error.cause(), Cause::BadSpec);
            }
            later.check_current().unwrap();
        }
    }

    #[test]
    fn a_ghost_that_claims_at_the_same_time_and_writes_last_does_not_stay() {
        let root = tempfile::tempdir().unwrap();
        let ghost = Folder::claim(root.path(), &anew(10, 1)).unwrap();
        let seen = fs::read(root.path().join("claim.json")).unwrap();
        let later = Folder::claim(root.path(), &anew(20, 1)).unwrap();
        fs::write(root.path().join("claim.json"), seen).unwrap();
        later.check_current().unwrap();
        assert!(ghost.check_current().unwrap_err().to_string().contains("created-20"));
    }

    #[test]
    fn what_an_older_version_has_claimed_is_taken_over_too() {
        let root = tempfile::tempdir().unwrap();
        let claim = r#"{"uid": "old", "name": "TrainingJob default/a", "attempt": 4}"#;
        fs::write(root.path().join("claim.json"), claim).unwrap();
        assert_eq!(Folder::claim(root.path(), &anew(20, 1)).unwrap().attempt(), 6);
    }

    #[test]
    fn a_folder_stays_another_job_s_if_that_has_finished_or_has_another_name_or_nobody_knows_which_is_the_later() {
        let finished = |root: &Path| fs::write(root.join("model.json"), "{}").unwrap();
        let later = anew(20, 1);
        let named = Owner { name: "TrainingJob default/b".into(), ..later.clone() };
        let ageless = Owner { created: None, ..later.clone() };
        let nothing = |_: &Path| ();
        let cases: [(&dyn Fn(&Path), Owner); 3] = [(&finished, later), (&nothing, named), (&nothing, ageless)];
        for (between, owner) in cases {
            let root = tempfile::tempdir().unwrap();
            let first = Folder::claim(root.path(), &anew(10, 1)).unwrap();
            between(root.path());
            let error = Folder::claim(root.path(), &owner).unwrap_err();
            assert!(matches!(error, FolderError::Owned { .. }), "{owner:?}: {error}");
            first.check_current().unwrap();
        }
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
