//! Objects kept on this machine's disk, so that each epoch after the first reads them from there. It is used where the
//! environment names a folder and a size for it, by all processes of a node together.
//!
//! An entry is a file: the object's ETag, a digest, the bytes. The first time that a process meets an entry it asks the store
//! whether the object is still that one; from then on it takes it as it is. Whoever adds an entry first books its size, under
//! a lock, in the file `used`; when the size is spent, the entries that were not used for longest go. A cache that can't be
//! read or written is done without: it never ends a job.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crds::contract::env::{DATA_CACHE, DATA_CACHE_BYTES};
use sha2::{Digest, Sha256};

/// First bytes of an entry.
const MAGIC: &[u8; 4] = b"tyc1";
/// Where the sizes of all entries are added up; its lock is that of the cache.
const USED: &str = "used";
/// An object of more than this share of the cache is not kept: it would drive out too much.
const LARGEST: u64 = 8;
/// From when on a file that is half written is that of a process that was killed.
const ABANDONED: Duration = Duration::from_secs(600);

/// What stands for an object, or for a part of one.
pub(super) type Key = [u8; 32];

/// A folder of entries.
pub(super) struct Cache {
    folder: PathBuf,
    limit: u64,
    /// What this process has found to be current.
    current: Mutex<HashSet<Key>>,
    broken: AtomicBool,
}

/// An entry that was found.
pub(super) struct Hit {
    pub(super) e_tag: String,
    pub(super) bytes: Bytes,
    /// Whether this process knows that it is current.
    pub(super) is_current: bool,
}

/// The cache that the environment asks for.
pub(super) fn cache() -> Option<&'static Cache> {
    static CACHE: OnceLock<Option<Cache>> = OnceLock::new();
    CACHE
        .get_or_init(|| {
            let folder = PathBuf::from(std::env::var_os(DATA_CACHE)?);
            match std::env::var(DATA_CACHE_BYTES).ok().and_then(|text| text.trim().parse().ok()) {
                Some(limit) => Some(Cache::new(folder, limit)),
                None => {
                    tracing::warn!(
                        "no data is cached: {DATA_CACHE_BYTES} is to be the bytes that {DATA_CACHE} may take"
                    );
                    None
                }
            }
        })
        .as_ref()
}

/// The key of an object's bytes.
pub(super) fn key(uri: &str, range: Option<&Range<u64>>) -> Key {
    let (start, end) = range.map_or((0, u64::MAX), |range| (range.start, range.end));
    let mut hash = Sha256::new();
    hash.update(start.to_le_bytes());
    hash.update(end.to_le_bytes());
    hash.update(uri);
    hash.finalize().into()
}

impl Cache {
    pub(super) fn new(folder: PathBuf, limit: u64) -> Cache {
        Cache { folder, limit, current: Mutex::default(), broken: AtomicBool::new(false) }
    }

    /// The entry of a key, which thereby is the one used last.
    pub(super) fn get(&self, key: &Key) -> Option<Hit> {
        let path = self.path(key);
        let (e_tag, bytes) = match read_entry(&path) {
            Ok(Some(entry)) => entry,
            // A power cut, or a disk that loses bits.
            Ok(None) => {
                let _ = fs::remove_file(&path);
                return None;
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.give_up(&error);
                }
                return None;
            }
        };
        let is_current = self.current.lock().unwrap_or_else(PoisonError::into_inner).contains(key);
        Some(Hit { e_tag, bytes, is_current })
    }

    /// Notes that the store has called an entry current.
    pub(super) fn confirm(&self, key: Key) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// Keeps bytes that a store has just given.
    pub(super) fn put(&self, key: Key, e_tag: &str, bytes: &[u8]) {
        if self.broken.load(Ordering::Relaxed) {
            return;
        }
        match self.add(&key, e_tag, bytes) {
            Ok(true) => self.confirm(key),
            Ok(false) => {}
            Err(error) => self.give_up(&error),
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(&name[..2]).join(&name[2..])
    }

    /// Says once that the cache can't be used.
    fn give_up(&self, error: &io::Error) {
        if !self.broken.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, folder = %self.folder.display(), "data is no longer cached on this machine");
        }
    }

    /// Adds an entry, and says whether it is there; one that is too large is left out.
    fn add(&self, key: &Key, e_tag: &str, bytes: &[u8]) -> io::Result<bool> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut head = Vec::from(*MAGIC);
        head.extend((e_tag.len() as u32).to_le_bytes());
        head.extend(e_tag.as_bytes());
        head.extend(Sha256::digest(bytes));
        let size = (head.len() + bytes.len()) as u64;
        if size > self.limit / LARGEST {
            return Ok(false);
        }
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        let name = format!(".{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let staged = folder.join(name);
        let write = || {
            let mut file = self.book(size, &staged)?;
            file.write_all(&head)?;
            file.write_all(bytes)?;
            // Under the lock: who lists the folder meanwhile might see it under neither name.
            let _lock = self.lock()?;
            fs::rename(&staged, &path)
        };
        write().inspect_err(|_| drop(fs::remove_file(&staged)))?;
        Ok(true)
    }

    /// The file of the sum, locked until it is closed.
    fn lock(&self) -> io::Result<File> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(self.folder.join(USED))?;
        file.lock()?;
        Ok(file)
    }

    /// Makes room for so many bytes and takes it, by a file of that length: who counts from now on counts it.
    fn book(&self, size: u64, staged: &Path) -> io::Result<File> {
        let mut sum = self.lock()?;
        let mut text = String::new();
        sum.read_to_string(&mut text)?;
        // Without a sum, or with one that is none, the folder tells.
        let used: Option<u64> = text.trim().parse().ok();
        let used = match used {
            Some(used) if used + size <= self.limit => used,
            _ => self.make_room(self.limit - self.limit / LARGEST - size)?,
        };
        let file = File::create_new(staged)?;
        file.set_len(size)?;
        sum.rewind()?;
        sum.set_len(0)?;
        write!(sum, "{}", used + size)?;
        Ok(file)
    }

    /// Removes entries, those first that were not used for longest, until the others take no more than this; returns what
    /// they take.
    fn make_room(&self, at_most: u64) -> io::Result<u64> {
        let mut entries = Vec::new();
        for folder in fs::read_dir(&self.folder)?.flatten().filter(|entry| entry.path().is_dir()) {
            for entry in fs::read_dir(folder.path())?.flatten() {
                // Another process may remove what is listed here.
                let Ok(metadata) = entry.metadata() else { continue };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let is_staged = entry.file_name().as_encoded_bytes().starts_with(b".");
                match is_staged && used.elapsed().is_ok_and(|age| age > ABANDONED) {
                    true => drop(fs::remove_file(entry.path())),
                    // One that is being written can't be driven out, but it takes its room.
                    false => entries.push((is_staged, used, metadata.len(), entry.path())),
                }
            }
        }
        entries.sort();
        let mut sum: u64 = entries.iter().map(|entry| entry.2).sum();
        for (_, _, size, path) in entries.into_iter().filter(|entry| !entry.0) {
            if sum <= at_most {
                break;
            }
            fs::remove_file(path)?;
            sum -= size;
        }
        Ok(sum)
    }
}

/// ETag and bytes of an entry; none if it is damaged.
fn read_entry(path: &Path) -> io::Result<Option<(String, Bytes)>> {
    let mut file = File::open(path)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    // By this time the entries are ordered; a file system that keeps none orders them by their age.
    let _ = file.set_modified(SystemTime::now());
    Ok(parse(&Bytes::from(content)))
}

fn parse(content: &Bytes) -> Option<(String, Bytes)> {
    let (magic, rest) = content.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (e_tag, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (digest, bytes) = rest.split_first_chunk::<32>()?;
    let whole = magic == MAGIC && Sha256::digest(bytes)[..] == digest[..];
    let e_tag = String::from_utf8(e_tag.to_vec()).ok()?;
    whole.then(|| (e_tag, content.slice(content.len() - bytes.len()..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 80_000;

    fn cache(folder: &Path) -> Cache {
        Cache::new(folder.to_owned(), LIMIT)
    }

    fn numbered(number: u32) -> Key {
        key(&format!("s3://bucket/{number}"), None)
    }

    /// Bytes of all files below a folder.
    fn size(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).unwrap().flatten();
        entries
            .map(|entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().unwrap().len() })
            .sum()
    }

    #[test]
    fn what_was_put_comes_back_and_is_current_for_the_process_that_put_it() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path());
        cache.put(numbered(1), "tag", b"pixels");
        let hit = cache.get(&numbered(1)).unwrap();
        assert_eq!((hit.e_tag.as_str(), &hit.bytes[..], hit.is_current), ("tag", &b"pixels"[..], true));
        let another = self::cache(root.path()).get(&numbered(1)).unwrap();
        assert!(!another.is_current);
        assert!(cache.get(&key("s3://bucket/1", Some(&(0..6)))).is_none());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path());
        let bytes = vec![7; 9_000];
        for number in 0..8 {
            cache.put(numbered(number), "tag", &bytes);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(cache.get(&numbered(0)).is_some());
        cache.put(numbered(8), "tag", &bytes);
        let left: Vec<u32> = (0..9).filter(|number| cache.path(&numbered(*number)).exists()).collect();
        assert!(left.contains(&0) && left.contains(&8) && !left.contains(&1), "{left:?}");
    }

    #[test]
    fn processes_that_share_it_stay_within_its_size() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for process in 0..4 {
                // Each with a lock of its own, as processes have.
                let cache = cache(root.path());
                scope.spawn(move || {
                    for number in 0..60 {
                        cache.put(
                            numbered(process * 40 + number),
                            "tag",
                            &vec![number as u8; 500 + 97 * number as usize],
                        );
                        if let Some(hit) = cache.get(&numbered(number)) {
                            assert!(hit.bytes.iter().all(|byte| *byte == hit.bytes[0]));
                        }
                    }
                    assert!(!cache.broken.load(Ordering::Relaxed));
                });
            }
        });
        assert!(size(root.path()) <= LIMIT + 20, "{}", size(root.path()));
    }

    #[test]
    fn a_damaged_entry_is_none_and_a_cache_without_a_disk_is_done_without() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path());
        cache.put(numbered(1), "tag", b"pixels");
        let path = cache.path(&numbered(1));
        let mut content = fs::read(&path).unwrap();
        *content.last_mut().unwrap() ^= 1;
        fs::write(&path, content).unwrap();
        assert!(cache.get(&numbered(1)).is_none());
        assert!(!path.exists());
        cache.put(numbered(2), "tag", &vec![0; LIMIT as usize]);
        assert!(cache.get(&numbered(2)).is_none(), "larger than its share");
        let none = Cache::new("/proc/nowhere".into(), LIMIT);
        none.put(numbered(1), "tag", b"pixels");
        assert!(none.get(&numbered(1)).is_none());
    }
}
