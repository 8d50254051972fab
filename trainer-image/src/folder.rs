//! The output folder of a job: claimed by one job, written so that a reader sees a file whole or not at all, and closed
//! to attempts that were superseded.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crds::contract::Cause;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fault::Fault;

const CLAIM: &str = "claim.json";

/// Who writes to a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// UID of the job.
    pub uid: String,
    /// Kind, namespace and name of the job, for people.
    pub name: String,
    /// The newest attempt. Older ones may no longer write.
    pub attempt: u32,
}

/// A claimed output folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    owner: Owner,
}

impl Folder {
    /// Creates the folder if need be and claims it for `owner`.
    ///
    /// # Errors
    /// [`Cause::BadSpec`] if another job has claimed it; [`Cause::Storage`] or [`Cause::Permission`] if it can't be
    /// written; [`Cause::Bug`] if a newer attempt of the same job has.
    pub fn claim(path: &Path, owner: Owner) -> Result<Folder, Fault> {
        fs::create_dir_all(path)
            .map_err(|error| Fault::io(format_args!("create the output folder {}", path.display()), error))?;
        let folder = Folder { path: path.to_owned(), owner };
        let claim = serde_json::to_vec_pretty(&folder.owner).expect("an owner is plain data");
        let file = path.join(CLAIM);
        match OpenOptions::new().write(true).create_new(true).open(&file) {
            Ok(mut created) => {
                created
                    .write_all(&claim)
                    .and_then(|()| created.sync_all())
                    .map_err(|error| Fault::io(format_args!("write {}", file.display()), error))?;
                return Ok(folder);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Fault::io(format_args!("create {}", file.display()), error)),
        }
        // A kill between creation and write leaves an empty claim: it belongs to nobody.
        if let Some(holder) = folder.holder()? {
            if holder.uid != folder.owner.uid {
                return Err(Fault::new(
                    Cause::BadSpec,
                    format!("the output folder {} belongs to {} (UID {})", path.display(), holder.name, holder.uid),
                )
                .hint("give this job another output.uri, or remove the folder if its content is no longer needed"));
            }
            folder.check_newest(&holder)?;
        }
        folder.write(CLAIM, &claim)?;
        Ok(folder)
    }

    /// Where the folder lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The job and attempt that write.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Fails if a newer attempt of the job has taken over: what this one writes would undo its work.
    pub fn check_current(&self) -> Result<(), Fault> {
        match self.holder()? {
            Some(holder) => self.check_newest(&holder),
            None => Ok(()),
        }
    }

    fn check_newest(&self, holder: &Owner) -> Result<(), Fault> {
        if holder.attempt <= self.owner.attempt {
            return Ok(());
        }
        let (own, newer) = (self.owner.attempt, holder.attempt);
        Err(Fault::new(
            Cause::Bug,
            format!("attempt {own} was superseded by attempt {newer}: it stops without writing"),
        ))
    }

    fn holder(&self) -> Result<Option<Owner>, Fault> {
        let file = self.path.join(CLAIM);
        match fs::read(&file) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::io(format_args!("read {}", file.display()), error)),
        }
    }

    /// Writes a file below the folder whole or not at all, and durably. Returns its digest.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<String, Fault> {
        let target = self.path.join(name);
        write_atomically(&target, bytes, self.owner.attempt)
            .map_err(|error| Fault::io(format_args!("write {}", target.display()), error))?;
        Ok(digest(bytes))
    }
}

/// Writes a file whole or not at all: beside its place, then renamed.
pub(crate) fn write_atomically(target: &Path, bytes: &[u8], attempt: u32) -> io::Result<()> {
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let staged = parent.join(format!(".{name}.attempt-{attempt}"));
    write_durably(&staged, bytes)?;
    fs::rename(&staged, target)?;
    sync_folder(parent)
}

/// Writes a file and waits until it is on the disk.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Waits until the names in a folder are on the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
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
    use super::*;

    fn owner(uid: &str, attempt: u32) -> Owner {
        Owner { uid: uid.into(), name: format!("TrainingJob default/{uid}"), attempt }
    }

    #[test]
    fn a_folder_has_one_owner() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("models/a");
        Folder::claim(&path, owner("a", 1)).unwrap();
        Folder::claim(&path, owner("a", 2)).unwrap();
        let fault = Folder::claim(&path, owner("b", 1)).unwrap_err();
        assert_eq!(fault.cause(), Cause::BadSpec);
        assert!(fault.to_string().contains("TrainingJob default/a"), "{fault}");
    }

    #[test]
    fn an_older_attempt_can_no_longer_write() {
        let root = tempfile::tempdir().unwrap();
        let ghost = Folder::claim(root.path(), owner("a", 1)).unwrap();
        ghost.check_current().unwrap();
        Folder::claim(root.path(), owner("a", 2)).unwrap();
        assert!(ghost.check_current().unwrap_err().to_string().contains("superseded by attempt 2"));
        assert!(Folder::claim(root.path(), owner("a", 1)).is_err());
    }

    #[test]
    fn a_claim_cut_off_by_a_kill_belongs_to_nobody() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(CLAIM), b"").unwrap();
        Folder::claim(root.path(), owner("a", 1)).unwrap();
        assert!(Folder::claim(root.path(), owner("b", 1)).is_err());
    }

    #[test]
    fn a_write_leaves_nothing_beside_the_file() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::claim(root.path(), owner("a", 1)).unwrap();
        let digest = folder.write("x.bin", b"abc").unwrap();
        assert_eq!(digest, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let mut names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["claim.json", "x.bin"]);
    }
}
