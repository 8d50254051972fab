//! Lists the images of a folder, as torchvision's `ImageFolder` does: a folder for each class, images at any depth below it.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::dataset::Listed;
use super::error::DataError;
use crate::storage::{Entry, Object};

/// Endings of the names of images, in lower case. Other files are passed over, as torchvision does. What an image really is, its
/// content says.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp"];

/// Lists the images below `root`, sorted by path. With `classes`, the first folder of each path is its class, and every such
/// folder must hold an image. Without, images may also lie in `root` itself; they have no class.
pub(super) fn list(root: &Path, classes: bool) -> Result<Vec<Listed>, DataError> {
    let failed = |error| DataError::from_io(root, error);
    if let Some(folder) = Object::at(root).map_err(failed)? {
        let entries = folder.list().map_err(failed)?;
        return if entries.is_empty() { Err(failed(folder.nothing())) } else { of_store(root, entries, classes) };
    }
    let mut walk = Walk { root, ancestors: vec![identity(&stat(root)?)], found: Vec::new() };
    let mut loose = false;
    for entry in entries(root)? {
        if !entry.is_folder {
            loose |= is_image(&entry.name);
            if !classes {
                walk.add(Path::new(&entry.name), None);
            }
            continue;
        }
        let before = walk.found.len();
        let path = Path::new(&entry.name);
        let class = entry.name.to_str().map(str::to_owned);
        if classes && class.is_none() {
            let reason = "the name of a class folder is not UTF-8".into();
            return Err(DataError::Layout { path: root.join(path), reason });
        }
        walk.descend(path, class.as_deref())?;
        if classes && walk.found.len() == before {
            return Err(DataError::EmptyClass { path: root.join(path), class: class.unwrap_or_default() });
        }
    }
    if classes && loose && walk.found.is_empty() {
        let reason = "images lie in this folder itself, and no class folder is there".into();
        return Err(DataError::Layout { path: root.to_owned(), reason });
    }
    Ok(walk.found)
}

/// What [`list`] finds in a store, whose listing comes sorted.
fn of_store(root: &Path, entries: Vec<Entry>, classes: bool) -> Result<Vec<Listed>, DataError> {
    let mut found = Vec::new();
    let mut loose = false;
    let mut empty: Option<String> = None;
    for Entry { path, .. } in entries {
        if path.iter().any(is_passed_over) {
            continue;
        }
        let mut parts = path.iter();
        let first = parts.next().unwrap_or_default().to_string_lossy().into_owned();
        let in_folder = parts.next().is_some();
        let is_image = path.file_name().is_some_and(is_image);
        loose |= is_image && !in_folder;
        if classes && !in_folder {
            continue;
        }
        // A class whose objects have all been passed without an image among them has none: they come together.
        let class = (classes || in_folder).then_some(first);
        if let Some(class) = empty.take_if(|empty| class.as_ref() != Some(empty)) {
            return Err(DataError::EmptyClass { path: root.join(&class), class });
        }
        if is_image {
            empty = None;
            found.push(Listed { path, class, line: 0 });
        } else if classes && found.last().is_none_or(|last: &Listed| last.class != class) {
            empty = class;
        }
    }
    if let Some(class) = empty {
        return Err(DataError::EmptyClass { path: root.join(&class), class });
    }
    if classes && loose && found.is_empty() {
        let reason = "images lie in this folder itself, and no class folder is there".into();
        return Err(DataError::Layout { path: root.to_owned(), reason });
    }
    Ok(found)
}

struct Walk<'a> {
    root: &'a Path,
    /// Device and inode of each folder from the root down to the one being listed.
    ancestors: Vec<(u64, u64)>,
    found: Vec<Listed>,
}

impl Walk<'_> {
    fn add(&mut self, path: &Path, class: Option<&str>) {
        if path.file_name().is_some_and(is_image) {
            self.found.push(Listed { path: path.to_owned(), class: class.map(str::to_owned), line: 0 });
        }
    }

    /// Lists everything below the folder at `path`, relative to the root. Links are followed, as torchvision does.
    fn descend(&mut self, path: &Path, class: Option<&str>) -> Result<(), DataError> {
        let folder = self.root.join(path);
        let this = identity(&stat(&folder)?);
        if self.ancestors.contains(&this) {
            return Err(DataError::LinkLoop { path: folder });
        }
        self.ancestors.push(this);
        for entry in entries(&folder)? {
            let path = path.join(&entry.name);
            if entry.is_folder {
                self.descend(&path, class)?;
            } else {
                self.add(&path, class);
            }
        }
        self.ancestors.pop();
        Ok(())
    }
}

struct FolderEntry {
    name: std::ffi::OsString,
    is_folder: bool,
}

/// The entries of a folder, sorted by name. Left out is what others put into volumes: hidden entries (`.DS_Store`, macOS's `._*`
/// twins, Kubernetes' `..data`), `lost+found` and `__MACOSX`.
fn entries(folder: &Path) -> Result<Vec<FolderEntry>, DataError> {
    let failed = |error| DataError::from_io(folder, error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if is_passed_over(&name) {
            continue;
        }
        let kind = entry.file_type().map_err(failed)?;
        // Only a link costs a look at what it leads to.
        let is_folder = if kind.is_symlink() { stat(&entry.path())?.is_dir() } else { kind.is_dir() };
        entries.push(FolderEntry { name, is_folder });
    }
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

fn stat(path: &Path) -> Result<Metadata, DataError> {
    fs::metadata(path).map_err(|error| DataError::from_io(path, error))
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn is_passed_over(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "lost+found" || name == "__MACOSX"
}

pub(super) fn is_image(name: &OsStr) -> bool {
    let extension = PathBuf::from(name).extension().map(|extension| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == **known))
}
