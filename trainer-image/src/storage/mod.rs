//! Files and objects: one way to read and write what lies on this machine or in a store (S3, Google Cloud, Azure), and to read from
//! a web server.
//!
//! What lies in a store has its URI as its path: `s3://bucket/images/a.png`. Paths of this machine are absolute, so that the
//! two can't be mistaken for each other, and joining, naming and printing are the same for both.
//!
//! ```text
//!  read, read_all ─┬─► std::fs
//!                  ├─► cache (data alone, where the environment asks for it)
//!                  └─► object ─► store (one for each bucket, from the usual environment variables) ─► object_store
//! ```
//!
//! The facade blocks; behind it is one small runtime, started when a store is first used. Errors are [`std::io::Error`]s of
//! the kinds that files have (not found, permission denied, other), with a [`StorageError`] inside that says more.

mod cache;
mod error;
mod object;
mod store;
mod upload;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use crds::contract::Cause;
use crds::uri::{Scheme, Uri};
use futures::{StreamExt, stream};

pub use error::StorageError;
pub(crate) use object::{Entry, Object};
pub(crate) use store::patience;

use crate::fault::Fault;

/// Reads of one caller that are under way at the same time. At 20 ms a read they make 1,600 images a second for each thread.
const AT_ONCE: usize = 32;

/// The path of what a URI means: of this machine for `file`, the URI itself for a store.
///
/// # Errors
/// [`Cause::BadSpec`] for what is no URI, and for a claim that nobody has turned into a mounted folder.
pub(crate) fn path_of(uri: &str) -> Result<PathBuf, Fault> {
    let parsed: Uri = uri.parse().map_err(|error| Fault::new(Cause::BadSpec, format!("{uri}: {error}")))?;
    match parsed.scheme() {
        Scheme::File => Ok(PathBuf::from(parsed.path())),
        Scheme::Pvc => Err(Fault::new(Cause::BadSpec, format!("{uri}: the claim is mounted nowhere"))
            .hint("the operator mounts claims; on this machine name a folder by file:///path")),
        _ => Ok(PathBuf::from(uri.trim_end_matches('/'))),
    }
}

/// Whether a path is that of a store.
pub(crate) fn is_remote(path: &Path) -> bool {
    scheme(path).is_some_and(|scheme| !matches!(scheme, Scheme::File | Scheme::Pvc))
}

/// The scheme that a path begins with.
pub(crate) fn scheme(path: &Path) -> Option<Scheme> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let is =
        |scheme: &Scheme| bytes.strip_prefix(scheme.name().as_bytes()).is_some_and(|rest| rest.starts_with(b"://"));
    Scheme::ALL.into_iter().find(is)
}

/// What lies at `path` below `root`; a path that is a URI of its own lies where it says.
pub(crate) fn join(root: &Path, path: &Path) -> PathBuf {
    match scheme(path) {
        None => root.join(path),
        Some(Scheme::File) => {
            path.to_str().and_then(|text| text.strip_prefix("file://")).map_or_else(|| root.join(path), PathBuf::from)
        }
        Some(_) => path.to_owned(),
    }
}

/// A whole file or object.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    match Object::at(path)? {
        None => std::fs::read(path),
        Some(object) => object.get(u64::MAX).map(Vec::from),
    }
}

/// A whole file or object of at most `limit` bytes; larger ones are [`io::ErrorKind::FileTooLarge`].
pub(crate) fn read_at_most(path: &Path, limit: u64) -> io::Result<Bytes> {
    match Object::at(path)? {
        None => read_piece(&Piece { path: path.to_owned(), range: None }, limit),
        Some(object) => object.get(limit),
    }
}

/// A part of a file or object, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Which bytes; without, all.
    pub(crate) range: Option<Range<u64>>,
}

/// Pieces of data, many at a time, in their order; what lies in a store comes from the cache, if there is one. More than `limit` bytes of one are [`io::ErrorKind::FileTooLarge`].
pub(crate) fn read_all(pieces: Vec<Piece>, limit: u64) -> Vec<io::Result<Bytes>> {
    let read = |piece: Piece| async move {
        match Object::at(&piece.path)? {
            None => read_piece(&piece, limit),
            Some(_) if piece.range.as_ref().is_some_and(|range| range.end - range.start > limit) => {
                Err(io::ErrorKind::FileTooLarge.into())
            }
            Some(object) => object.fetch_cached(piece.range, limit).await,
        }
    };
    store::block_on(stream::iter(pieces).map(read).buffered(AT_ONCE).collect())
}

/// A piece of a file of this machine.
pub(crate) fn read_piece(piece: &Piece, limit: u64) -> io::Result<Bytes> {
    let mut file = File::open(&piece.path)?;
    let mut bytes = Vec::new();
    match &piece.range {
        None => {
            file.by_ref().take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        }
        Some(range) if range.end - range.start <= limit => {
            bytes.resize((range.end - range.start) as usize, 0);
            file.read_exact_at(&mut bytes, range.start)?;
        }
        Some(_) => return Err(io::ErrorKind::FileTooLarge.into()),
    }
    if bytes.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_means_a_path_of_this_machine_or_itself() {
        let path = |uri: &str| path_of(uri).map_err(|fault| fault.cause());
        assert_eq!(path("file:///data/a"), Ok(PathBuf::from("/data/a")));
        assert_eq!(path("s3://bucket/a/"), Ok(PathBuf::from("s3://bucket/a")));
        assert_eq!(path("pvc://claim/a"), Err(Cause::BadSpec));
        assert_eq!(path("nonsense"), Err(Cause::BadSpec));
    }

    #[test]
    fn paths_of_stores_join_as_others_do() {
        let root = Path::new("s3://bucket/images");
        assert!(is_remote(root) && !is_remote(Path::new("/s3://bucket")));
        for (path, joined) in [
            ("left/0.png", "s3://bucket/images/left/0.png"),
            ("gs://other/0.png", "gs://other/0.png"),
            ("file:///data/0.png", "/data/0.png"),
        ] {
            assert_eq!(join(root, Path::new(path)).to_str(), Some(joined));
        }
    }
}
