//! An object, or the prefix of many: what can be done with it, whole or not at all.

use std::future::Future;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use crds::uri::{Scheme, Uri};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};

use super::upload::{PART, Upload};
use super::{StorageError, cache, is_remote, store};

/// A place in a store.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) key: Key,
    pub(super) uri: String,
}

/// One object below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path below the prefix.
    pub(crate) path: PathBuf,
    /// Its bytes.
    pub(crate) size: u64,
}

impl Object {
    /// The place that a path means; none if it is one of this machine.
    pub(crate) fn at(path: &Path) -> io::Result<Option<Object>> {
        if !is_remote(path) {
            return Ok(None);
        }
        let name = |why: String| StorageError::Name { uri: path.display().to_string(), why };
        let text = path.to_str().ok_or_else(|| name("it is not UTF-8".into()))?;
        let uri: Uri = text.parse().map_err(|error: crds::uri::UriError| name(error.to_string()))?;
        let key = match uri.scheme() {
            Scheme::Https if uri.path().contains(['?', '#']) => {
                return Err(name("a URL is read by its path alone, and this one has more after it".into()).into());
            }
            // A URL's path is encoded by whoever wrote it; a key of a store is what it is.
            Scheme::Https => Key::from_url_path(uri.path()),
            _ => Key::parse(uri.path()),
        };
        let key = key.map_err(|error| name(error.to_string()))?;
        Ok(Some(Object { store: store::open(&uri)?, key, uri: text.to_owned() }))
    }

    /// All of it. More than `limit` bytes are [`io::ErrorKind::FileTooLarge`].
    pub(crate) fn get(&self, limit: u64) -> io::Result<Bytes> {
        store::block_on(self.fetch(limit))
    }

    /// As [`get`](Self::get), within the runtime.
    pub(super) async fn fetch(&self, limit: u64) -> io::Result<Bytes> {
        let found = self.store.get(&self.key).await.map_err(|error| self.failed("read", error))?;
        if found.meta.size > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        found.bytes().await.map_err(|error| self.failed("read", error))
    }

    /// All of it, or some of its bytes, from the cache of this machine if they are there and the store says that they are still
    /// the same.
    pub(super) async fn fetch_cached(&self, range: Option<Range<u64>>, limit: u64) -> io::Result<Bytes> {
        let Some(cache) = cache::cache() else {
            return match range {
                None => self.fetch(limit).await,
                Some(range) => self.fetch_range(range).await,
            };
        };
        let key = cache::key(&self.uri, range.as_ref());
        let hit = match cache.get(&key) {
            Some(hit) if hit.is_current => return Ok(hit.bytes),
            hit => hit,
        };
        let options = GetOptions {
            if_none_match: hit.as_ref().map(|hit| hit.e_tag.clone()),
            range: range.clone().map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let found = match (self.store.get_opts(&self.key, options).await, hit) {
            (Err(object_store::Error::NotModified { .. }), Some(hit)) => {
                cache.confirm(key);
                return Ok(hit.bytes);
            }
            (found, _) => found.map_err(|error| self.failed("read", error))?,
        };
        if range.is_none() && found.meta.size > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let e_tag = found.meta.e_tag.clone();
        let bytes = found.bytes().await.map_err(|error| self.failed("read", error))?;
        if range.is_some_and(|range| range.end - range.start != bytes.len() as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Without an ETag nobody could tell whether it is still current.
        if let Some(e_tag) = e_tag.filter(|e_tag| !e_tag.is_empty()) {
            cache.put(key, &e_tag, &bytes);
        }
        Ok(bytes)
    }

    /// Some of its bytes: all of the range, or an error.
    pub(super) async fn fetch_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let wanted = range.end - range.start;
        let bytes = self.store.get_range(&self.key, range).await.map_err(|error| self.failed("read", error))?;
        if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// As [`fetch_range`](Self::fetch_range), blocking.
    pub(crate) fn range(&self, range: Range<u64>) -> io::Result<Bytes> {
        store::block_on(self.fetch_range(range))
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> io::Result<u64> {
        self.wait("look at", self.store.head(&self.key)).map(|meta| meta.size)
    }

    /// All objects below this prefix, sorted by their paths, folder by folder.
    pub(crate) fn list(&self) -> io::Result<Vec<Entry>> {
        let entry = |meta: ObjectMeta| {
            let parts = meta.location.prefix_match(&self.key)?;
            let path: PathBuf = parts.map(|part| part.as_ref().to_owned()).collect();
            (!path.as_os_str().is_empty()).then_some(Entry { path, size: meta.size })
        };
        let listed = self.store.list(Some(&self.key)).try_filter_map(|meta| async move { Ok(entry(meta)) });
        let mut entries: Vec<Entry> = self.wait("list", listed.try_collect())?;
        entries.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }

    /// Names of what is right below this prefix, in their order.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let listed = self.wait("list", self.store.list_with_delimiter(Some(&self.key)))?;
        let objects = listed.objects.into_iter().map(|meta| meta.location);
        let names = objects.chain(listed.common_prefixes).filter_map(|key| key.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }

    /// Puts bytes there, over what was there.
    pub(crate) fn put(&self, bytes: Vec<u8>) -> io::Result<()> {
        let mut bytes = Bytes::from(bytes);
        let mut upload = Upload::new(self);
        while bytes.len() >= PART {
            upload.send(bytes.split_to(PART))?;
        }
        upload.finish_with(bytes)
    }

    /// Puts there what is written, over what was there; nothing if the writing fails. Of what is written no more than a few parts
    /// are in memory.
    pub(crate) fn put_written(&self, write: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>) -> io::Result<()> {
        let mut upload = Upload::new(self);
        write(&mut upload)?;
        upload.finish()
    }

    /// Puts bytes there if nothing is, and says whether it did.
    pub(crate) fn create(&self, bytes: Vec<u8>) -> io::Result<bool> {
        self.put_if(bytes, &PutMode::Create)
    }

    /// Puts bytes in the place of `before`, and says whether it did: if something else is there, it stays.
    pub(crate) fn replace(&self, before: &[u8], bytes: Vec<u8>) -> io::Result<bool> {
        let found = self.wait("read", async {
            let found = self.store.get_opts(&self.key, GetOptions::default()).await?;
            let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
            Ok((version, found.bytes().await?))
        });
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok((_, now)) if now != before => Ok(false),
            Ok((version, _)) => self.put_if(bytes, &PutMode::Update(version)),
        }
    }

    fn put_if(&self, bytes: Vec<u8>, mode: &PutMode) -> io::Result<bool> {
        use object_store::Error::{AlreadyExists, NotFound, Precondition};
        let put = self.store.put_opts(&self.key, bytes.into(), mode.clone().into());
        match store::block_on(put) {
            Ok(_) => Ok(true),
            Err(AlreadyExists { .. } | Precondition { .. }) => Ok(false),
            // What was to be replaced is gone.
            Err(NotFound { .. }) if matches!(mode, PutMode::Update(_)) => Ok(false),
            Err(error) => Err(self.failed("write", error)),
        }
    }

    /// Removes it; it need not be there.
    pub(crate) fn delete(&self) -> io::Result<()> {
        match self.wait("remove", self.store.delete(&self.key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Removes all that is below this prefix.
    pub(crate) fn delete_below(&self) -> io::Result<()> {
        self.wait("remove", async {
            let keys = self.store.list(Some(&self.key)).map_ok(|meta| meta.location).boxed();
            self.store.delete_stream(keys).try_for_each(|_| async { Ok(()) }).await.or_else(|error| {
                if matches!(error, object_store::Error::NotFound { .. }) { Ok(()) } else { Err(error) }
            })
        })
    }

    /// An error of this place that no store made.
    pub(crate) fn nothing(&self) -> io::Error {
        StorageError::Nothing { uri: self.uri.clone() }.into()
    }

    pub(super) fn wait<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> io::Result<T> {
        store::block_on(work).map_err(|error| self.failed(doing, error))
    }

    fn failed(&self, doing: &'static str, error: object_store::Error) -> io::Error {
        StorageError::new(&self.uri, doing, error).into()
    }
}
