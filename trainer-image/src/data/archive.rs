//! Samples in tar files, as WebDataset lays them out: members whose names are equal up to the first dot of the last part are one
//! sample, `key.jpg` with `key.cls` (a class's name or number) or `key.json` (with the label column as a field).
//! <https://github.com/webdataset/webdataset>
//!
//! Only headers and labels are read when the files are listed: each image's place is then known, and images are read in any
//! order, as sampling wants it. For a store a window of some KiB is read at a time, many files at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use serde_json::Value;

use super::dataset::{Listed, Source};
use super::error::DataError;
use super::tree::is_image;
use crate::storage::{Object, Piece, is_remote, read_piece};

/// Bytes that are read of a tar file at once while it is listed: some headers and labels of small samples, and little to wait
/// for where images are large.
const WINDOW: u64 = 32 << 10;
/// Tar files that are listed at the same time.
const AT_ONCE: usize = 16;
/// Most bytes of a label.
const MAX_LABEL_BYTES: u64 = 4 << 20;
/// Most files that a range in braces may stand for.
const MAX_FILES: u64 = 1_000_000;

/// Where the images of tar files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The tar files.
    files: Vec<PathBuf>,
    /// Number of the file and the bytes in it, by the sample's path.
    places: HashMap<PathBuf, (usize, Range<u64>)>,
}

impl Archive {
    /// Where the bytes of a sample lie; none if it is in none of the files.
    pub(super) fn piece(&self, sample: &Path) -> Option<Piece> {
        let (file, range) = self.places.get(sample)?;
        Some(Piece { path: self.files[*file].clone(), range: Some(range.clone()) })
    }
}

/// What one tar file holds.
type Found = Vec<(Listed, Range<u64>)>;

/// Lists the samples of a tar file, of all tar files below a folder, or of `name-{0000..0099}.tar`. Their paths, relative to
/// the folder, are those of the tar file and the member: `train-000.tar/cat/17.jpg`. Returns the folder too.
pub(super) fn list(source: &Source, labels: bool) -> Result<(PathBuf, Vec<Listed>, Archive), DataError> {
    let (root, names) = tar_files(&source.path)?;
    let files: Vec<PathBuf> = names.iter().map(|name| root.join(name)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let (Some(file), Some(name)) = (files.get(number), names.get(number)) else { return Ok(found) };
            found.push((number, samples(file, name, &source.label_column, labels)?));
        }
    };
    let found = thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE.min(files.len())).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Vec<(usize, Found)>, DataError>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    })?;
    let mut found: Vec<(usize, Found)> = found.into_iter().flatten().collect();
    found.sort_unstable_by_key(|(number, _)| *number);
    let mut listed = Vec::new();
    let mut places = HashMap::new();
    for (number, samples) in found {
        for (sample, range) in samples {
            if places.insert(sample.path.clone(), (number, range)).is_some() {
                let reason = "the name is there twice".into();
                return Err(DataError::Layout { path: root.join(&sample.path), reason });
            }
            listed.push(sample);
        }
    }
    Ok((root, listed, Archive { files, places }))
}

/// The folder, and the tar files' paths below it, in order.
fn tar_files(path: &Path) -> Result<(PathBuf, Vec<PathBuf>), DataError> {
    let folder = || path.parent().unwrap_or(Path::new("/")).to_owned();
    let name = path.file_name().unwrap_or_default();
    if let Some(names) = name.to_str().and_then(expand) {
        return Ok((folder(), names.map_err(|reason| DataError::Layout { path: path.to_owned(), reason })?));
    }
    if is_tar(name) || (!is_remote(path) && path.is_file()) {
        return Ok((folder(), vec![name.into()]));
    }
    let failed = |error| DataError::from_io(path, error);
    let names: Vec<PathBuf> = match Object::at(path).map_err(failed)? {
        Some(object) => object.list().map_err(failed)?.into_iter().map(|entry| entry.path).collect(),
        None => {
            let entries = std::fs::read_dir(path).map_err(failed)?;
            let mut names = entries
                .map(|entry| Ok(entry?.file_name().into()))
                .collect::<io::Result<Vec<PathBuf>>>()
                .map_err(failed)?;
            names.sort_unstable();
            names
        }
    };
    let hidden = |name: &Path| name.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
    let names: Vec<PathBuf> = names.into_iter().filter(|name| is_tar(name.as_os_str()) && !hidden(name)).collect();
    if names.is_empty() {
        let reason = "the format WebDataset needs .tar files, and here are none".into();
        return Err(DataError::Layout { path: path.to_owned(), reason });
    }
    Ok((path.to_owned(), names))
}

fn is_tar(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"))
}

/// The names that a range in braces stands for, as in a shell: `a-{00..12}.tar`; none without braces.
fn expand(name: &str) -> Option<Result<Vec<PathBuf>, String>> {
    let (before, rest) = name.split_once('{')?;
    let (range, after) = rest.split_once('}')?;
    let (first, last) = range.split_once("..")?;
    let (Ok(from), Ok(to)) = (first.parse::<u64>(), last.parse::<u64>()) else {
        return Some(Err(format!("{{{range}}} is no range of numbers")));
    };
    if to < from || to - from >= MAX_FILES {
        return Some(Err(format!("{{{range}}} is no range of 1 to {MAX_FILES} files")));
    }
    // With leading zeros all numbers have the width of the first.
    let width = if first.starts_with('0') { first.len() } else { 0 };
    Some(Ok((from..=to).map(|number| format!("{before}{number:0width$}{after}").into()).collect()))
}

/// The samples of one tar file.
fn samples(file: &Path, name: &Path, label_column: &str, labels: bool) -> Result<Found, DataError> {
    let reader = Reader::open(file).map_err(|error| DataError::from_io(file, error))?;
    read_samples(&reader, name, label_column, labels).map_err(|reason| match reader.failure.take() {
        Some(error) => DataError::from_io(file, error),
        None => DataError::Layout { path: file.to_owned(), reason },
    })
}

/// One sample while its members come in.
#[derive(Default)]
struct Sample {
    key: PathBuf,
    image: Option<(PathBuf, Range<u64>)>,
    class: Option<String>,
    field: Option<String>,
}

fn read_samples(reader: &Reader, name: &Path, label_column: &str, labels: bool) -> Result<Found, String> {
    let mut archive = tar::Archive::new(reader);
    let mut found = Vec::new();
    let mut sample = Sample::default();
    let not_tar = |error: io::Error| format!("not a tar file, or a damaged one: {error}");
    for member in archive.entries_with_seek().map_err(not_tar)? {
        let mut member = member.map_err(not_tar)?;
        if !matches!(member.header().entry_type(), tar::EntryType::Regular | tar::EntryType::Continuous) {
            continue;
        }
        let path = member.path().map_err(not_tar)?.into_owned();
        let Some((key, ending)) = split(&path) else { continue };
        let range = member.raw_file_position()..member.raw_file_position() + member.size();
        if range.end > reader.size {
            return Err(format!(
                "cut off: {} ends at byte {}, and the file at {}",
                path.display(),
                range.end,
                reader.size
            ));
        }
        if key != sample.key {
            finish(std::mem::take(&mut sample), name, labels, &mut found)?;
            sample.key = key;
        }
        let mut text = || -> Result<Vec<u8>, String> {
            if member.size() > MAX_LABEL_BYTES {
                return Err(format!("{}: a label of more than {MAX_LABEL_BYTES} bytes", path.display()));
            }
            let mut text = Vec::new();
            member.read_to_end(&mut text).map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(text)
        };
        match ending.as_str() {
            "cls" => {
                let class = String::from_utf8(text()?).map_err(|_| format!("{}: not UTF-8 text", path.display()))?;
                sample.class = Some(class.trim().to_owned()).filter(|class| !class.is_empty());
            }
            "json" => {
                sample.field = field(&text()?, label_column).map_err(|why| format!("{}: {why}", path.display()))?;
            }
            _ if is_image(path.as_os_str()) => {
                if let Some((first, _)) = &sample.image {
                    return Err(format!("{} and {} are images of one sample", first.display(), path.display()));
                }
                sample.image = Some((path, range));
            }
            _ => {}
        }
    }
    finish(sample, name, labels, &mut found)?;
    Ok(found)
}

/// Key and ending of a member's name: the name up to the first dot of its last part, and the last ending in lower case. None for
/// hidden files.
fn split(path: &Path) -> Option<(PathBuf, String)> {
    let (stem, endings) = path.file_name()?.to_str()?.split_once('.')?;
    let ending = endings.rsplit('.').next().unwrap_or(endings);
    (!stem.is_empty()).then(|| (path.with_file_name(stem), ending.to_ascii_lowercase()))
}

/// The label in a JSON object: a string or a whole number; none if it has no such field.
fn field(text: &[u8], column: &str) -> Result<Option<String>, String> {
    let object: serde_json::Map<String, Value> =
        serde_json::from_slice(text).map_err(|error| format!("not a JSON object: {error}"))?;
    match object.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(class)) => Ok(Some(class.clone()).filter(|class| !class.is_empty())),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(Some(number.to_string())),
        Some(other) => Err(format!("{column:?} is {other}, and not a string or a whole number")),
    }
}

fn finish(sample: Sample, file: &Path, labels: bool, found: &mut Found) -> Result<(), String> {
    let Some((path, range)) = sample.image else { return Ok(()) };
    let class = sample.class.or(sample.field);
    if labels && class.is_none() {
        return Err(format!(
            "{} has no label: neither {key}.cls nor a field of {key}.json",
            path.display(),
            key = sample.key.display()
        ));
    }
    // A name that leads out of the file is only a name: it is joined, never opened.
    found.push((Listed { path: file.join(path.strip_prefix("/").unwrap_or(&path)), class, line: 0 }, range));
    Ok(())
}

/// Reads a tar file by windows, so that skipping costs nothing.
struct Reader {
    file: PathBuf,
    object: Option<Object>,
    size: u64,
    state: RefCell<(u64, u64, Bytes)>,
    /// What reading failed with: the tar library keeps its text alone.
    failure: RefCell<Option<io::Error>>,
}

impl Reader {
    fn open(file: &Path) -> io::Result<Reader> {
        let object = Object::at(file)?;
        let size = match &object {
            Some(object) => object.size()?,
            None => std::fs::metadata(file)?.len(),
        };
        let state = RefCell::new((0, 0, Bytes::new()));
        Ok(Reader { file: file.to_owned(), object, size, state, failure: RefCell::new(None) })
    }

    fn window(&self, start: u64) -> io::Result<Bytes> {
        let range = start..self.size.min(start + WINDOW);
        match &self.object {
            Some(object) => object.range(range),
            None => read_piece(&Piece { path: self.file.clone(), range: Some(range) }, WINDOW),
        }
    }
}

impl Read for &Reader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        let (position, start, window) = &mut *state;
        if *position >= self.size || target.is_empty() {
            return Ok(0);
        }
        if *position < *start || *position >= *start + window.len() as u64 {
            *window = self.window(*position).map_err(|error| {
                let text = error.to_string();
                *self.failure.borrow_mut() = Some(error);
                io::Error::other(text)
            })?;
            *start = *position;
        }
        let rest = &window[(*position - *start) as usize..];
        let count = rest.len().min(target.len());
        target[..count].copy_from_slice(&rest[..count]);
        *position += count as u64;
        Ok(count)
    }
}

impl Seek for &Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut state = self.state.borrow_mut();
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => state.0.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        state.0 = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(state.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_in_braces_stands_for_its_files() {
        let names = |name: &str| expand(name).map(|names| names.map(|names| names.len()));
        assert_eq!(expand("a-{08..10}.tar"), Some(Ok(["a-08.tar", "a-09.tar", "a-10.tar"].map(PathBuf::from).into())));
        assert_eq!(names("a.tar"), None);
        assert_eq!(names("a-{0..99}.tar"), Some(Ok(100)));
        assert!(matches!(names("a-{5..1}.tar"), Some(Err(_))) && matches!(names("a-{x..y}.tar"), Some(Err(_))));
    }

    #[test]
    fn a_member_has_a_key_and_an_ending() {
        let split = |name: &str| split(Path::new(name)).map(|(key, ending)| (key.display().to_string(), ending));
        assert_eq!(split("a/b.c.JPG"), Some(("a/b".into(), "jpg".into())));
        assert_eq!(split("a.v2/7.cls"), Some(("a.v2/7".into(), "cls".into())));
        assert_eq!((split("a/.hidden"), split("README")), (None, None));
    }
}
