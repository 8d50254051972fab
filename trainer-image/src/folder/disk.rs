//! Every step that changes a file or folder, one method each. Whole files only: what is there was written to its end
//! and is on the disk. In a store, an object is whole by nature, and a folder is what names have in common.
//!
//! A test counts the steps and lets the process "die" at any of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::FolderError;
use crate::storage::{self, Object, is_remote};

/// Names of staged files differ within the process by this.
static STAGED: AtomicU64 = AtomicU64::new(0);

/// The file system.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) fate: Fate,
}

/// How many more steps a process of a test lives.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate(pub(crate) Option<std::sync::Arc<std::sync::atomic::AtomicI64>>);

impl Disk {
    /// Fails from the step on at which the test's process dies.
    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        match &self.fate.0 {
            Some(left) if left.fetch_sub(1, Ordering::SeqCst) <= 0 => Err(io::Error::other("killed")),
            _ => Ok(()),
        }
    }

    #[cfg(not(test))]
    /// Only a test's process dies at a step.
    fn step(&self) -> io::Result<()> {
        Ok(())
    }

    /// Creates a folder and those above it.
    pub(crate) fn create_folder(&self, path: &Path) -> Result<(), FolderError> {
        if is_remote(path) {
            return Ok(());
        }
        self.step()
            .and_then(|()| fs::create_dir_all(path))
            .map_err(|error| FolderError::io("create the folder", path, error))
    }

    /// Removes a folder with all that is in it; it need not be there, and others may remove it at the same time.
    pub(crate) fn remove_folder(&self, path: &Path) -> Result<(), FolderError> {
        let remove = || -> io::Result<()> {
            if let Some(folder) = Object::at(path)? {
                return folder.delete_below();
            }
            let entries = match fs::read_dir(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                entries => entries?.collect::<io::Result<Vec<_>>>()?,
            };
            for entry in entries {
                if entry.file_type()?.is_dir() {
                    self.remove_folder(&entry.path()).map_err(io::Error::other)?;
                } else {
                    self.step()?;
                    absent_is_fine(fs::remove_file(entry.path()))?;
                }
            }
            self.step()?;
            match fs::remove_dir(path) {
                // A peer that does not know yet that all is done has staged something: the next to come clears it away.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
                removed => absent_is_fine(removed),
            }
        };
        remove().map_err(|error| FolderError::io("remove the folder", path, error))
    }

    /// Removes a file; it need not be there.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), FolderError> {
        let remove = || match Object::at(path)? {
            Some(object) => object.delete(),
            None => absent_is_fine(fs::remove_file(path)),
        };
        self.step().and_then(|()| remove()).map_err(|error| FolderError::io("remove", path, error))
    }

    /// Removes what killed processes have staged in a folder.
    pub(crate) fn tidy(&self, folder: &Path) -> Result<(), FolderError> {
        for name in self.list(folder)? {
            if is_staged(&name) {
                self.remove(&folder.join(name))?;
            }
        }
        Ok(())
    }

    /// A whole file; `None` if it is not there.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, FolderError> {
        match storage::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FolderError::io("read", path, error)),
        }
    }

    /// Names in a folder, in their order. A folder of a store that is not there is as one that is empty.
    pub(crate) fn list(&self, folder: &Path) -> Result<Vec<String>, FolderError> {
        let list = || -> io::Result<Vec<String>> {
            if let Some(folder) = Object::at(folder)? {
                return folder.names();
            }
            let mut names = Vec::new();
            for entry in fs::read_dir(folder)? {
                names.extend(entry?.file_name().into_string());
            }
            names.sort();
            Ok(names)
        };
        list().map_err(|error| FolderError::io("list", folder, error))
    }

    /// Puts a file in its place, over what was there.
    pub(crate) fn put(
        &self,
        path: &Path,
        write: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>,
    ) -> Result<(), FolderError> {
        self.put_staged(path, folder_of(path), write)
    }

    /// As [`put`](Self::put), staged in another folder of the same file system: what a kill leaves is cleared away with it.
    pub(crate) fn put_staged(
        &self,
        path: &Path,
        staging: &Path,
        write: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>,
    ) -> Result<(), FolderError> {
        let put = || -> io::Result<()> {
            if let Some(object) = Object::at(path)? {
                return object.put_written(write);
            }
            let staged = self.stage(path, staging, write)?;
            self.step()?;
            fs::rename(&staged, path)?;
            self.step()?;
            sync_folder(folder_of(path))
        };
        put().map_err(|error| FolderError::io("write", path, error))
    }

    /// Puts a file in its place if there is none, and says whether it did.
    pub(crate) fn put_new(&self, path: &Path, bytes: &[u8]) -> Result<bool, FolderError> {
        let put = || -> io::Result<bool> {
            if let Some(object) = Object::at(path)? {
                return object.create(bytes.to_vec());
            }
            let staged = self.stage(path, folder_of(path), |file| file.write_all(bytes))?;
            self.step()?;
            // A link, unlike a rename, fails if the name is taken; and unlike a file that is created in its place and then
            // written it is never seen half-written.
            let created = match fs::hard_link(&staged, path) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) if has_no_links(&error) => create_new(path, bytes)?,
                Err(error) => return Err(error),
            };
            self.step()?;
            absent_is_fine(fs::remove_file(&staged))?;
            self.step()?;
            sync_folder(folder_of(path))?;
            Ok(created)
        };
        put().map_err(|error| FolderError::io("write", path, error))
    }

    /// Puts a file in its place unless there is one, staged in another folder. What is there is whole: where the file system has
    /// no links, of two that come at the same time the later one stays.
    pub(crate) fn put_once(&self, path: &Path, staging: &Path, bytes: &[u8]) -> Result<(), FolderError> {
        let put = || -> io::Result<()> {
            if let Some(object) = Object::at(path)? {
                return object.create(bytes.to_vec()).map(drop);
            }
            let staged = self.stage(path, staging, |file| file.write_all(bytes))?;
            self.step()?;
            match fs::hard_link(&staged, path) {
                Ok(()) => absent_is_fine(fs::remove_file(&staged))?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => absent_is_fine(fs::remove_file(&staged))?,
                Err(error) if has_no_links(&error) => fs::rename(&staged, path)?,
                Err(error) => return Err(error),
            }
            self.step()?;
            sync_folder(folder_of(path))
        };
        put().map_err(|error| FolderError::io("write", path, error))
    }

    /// Puts a file in the place of one with the content `before`, and says whether it did. A store sees to it that nothing
    /// came between; on a disk the one who comes last wins.
    pub(crate) fn replace(&self, path: &Path, before: &[u8], bytes: &[u8]) -> Result<bool, FolderError> {
        match Object::at(path) {
            Ok(None) => self.put(path, |file| file.write_all(bytes)).map(|()| true),
            Ok(Some(object)) => {
                object.replace(before, bytes.to_vec()).map_err(|error| FolderError::io("write", path, error))
            }
            Err(error) => Err(FolderError::io("write", path, error)),
        }
    }

    /// Writes a file beside the place it is meant for, down to the disk.
    fn stage(
        &self,
        path: &Path,
        staging: &Path,
        write: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let staged = staging.join(staged_name(path));
        self.step()?;
        let mut file = io::BufWriter::new(File::create_new(&staged)?);
        write(&mut file)?;
        file.flush()?;
        if let Err(killed) = self.step() {
            // A kill in the midst of a write leaves a torn file.
            let length = file.get_ref().metadata()?.len();
            file.get_ref().set_len(length / 2)?;
            return Err(killed);
        }
        file.get_ref().sync_all()?;
        Ok(staged)
    }
}

/// The name of a staged file is like no other one's, also of another process on another machine.
fn staged_name(path: &Path) -> String {
    let mut random = [0; 8];
    // Without randomness the number and the process still tell most apart, and create_new refuses the rest.
    let _ = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
    let number = STAGED.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.staged-{}-{number}-{:016x}", std::process::id(), u64::from_le_bytes(random))
}

/// Whether a name in a folder is that of a staged file.
fn is_staged(name: &str) -> bool {
    name.starts_with('.') && name.contains(".staged-")
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

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Some network and object-store mounts have no hard links.
fn has_no_links(error: &io::Error) -> bool {
    error.kind() == ErrorKind::Unsupported
        || matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EMLINK))
}

fn create_new(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            file.write_all(bytes)?;
            file.sync_all()?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}
