//! An object that is written piece by piece: in one request as long as it is small, in parts from then on. Either way it is there
//! when it is whole, over what was there, and not before: a store shows nothing of an upload until it is completed. What fails
//! or breaks off is aborted; what a kill leaves, the bucket's rule for incomplete uploads clears away (Azure does after a week).

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use object_store::{Error, MultipartUpload, ObjectStoreExt, Result};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Object;

/// Bytes of a part, each of which is tried again by itself. S3 and Google take 10,000 an object, Azure 50,000.
pub(super) const PART: usize = 16 << 20;
/// Parts that are under way at the same time.
const AT_ONCE: usize = 4;
/// How long an abort waits for parts that are under way.
const LAST: Duration = Duration::from_secs(10);

/// What is being written. It is aborted when it is dropped unfinished.
pub(super) struct Upload<'a> {
    object: &'a Object,
    /// What makes no part yet.
    rest: Vec<u8>,
    parts: Option<Parts>,
}

/// Parts of an upload that has begun.
struct Parts {
    upload: Box<dyn MultipartUpload>,
    under_way: JoinSet<Result<()>>,
}

impl Parts {
    /// Waits until no more than so many parts are under way.
    async fn wait(&mut self, most: usize) -> Result<()> {
        while self.under_way.len() > most
            && let Some(sent) = self.under_way.join_next().await
        {
            sent.map_err(Error::from)??;
        }
        Ok(())
    }

    fn send(&mut self, part: Bytes) {
        self.under_way.spawn(self.upload.put_part(part.into()));
    }
}

impl<'a> Upload<'a> {
    /// Nothing is sent before a part is full.
    pub(super) fn new(object: &'a Object) -> Upload<'a> {
        Upload { object, rest: Vec::new(), parts: None }
    }

    /// Sends a part of [`PART`] bytes.
    pub(super) fn send(&mut self, part: Bytes) -> io::Result<()> {
        let (object, parts) = (self.object, &mut self.parts);
        object.wait("write", async {
            let parts = match parts {
                Some(parts) => parts,
                None => {
                    let upload = object.store.put_multipart(&object.key).await?;
                    parts.insert(Parts { upload, under_way: JoinSet::new() })
                }
            };
            parts.wait(AT_ONCE - 1).await?;
            parts.send(part);
            Ok(())
        })
    }

    /// Puts the object in its place.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let rest = Bytes::from(std::mem::take(&mut self.rest));
        self.finish_with(rest)
    }

    /// As [`finish`](Self::finish), with less than a part at the end.
    pub(super) fn finish_with(mut self, rest: Bytes) -> io::Result<()> {
        let object = self.object;
        let Some(parts) = &mut self.parts else {
            return object.wait("write", object.store.put(&object.key, rest.into())).map(drop);
        };
        object.wait("write", async {
            if !rest.is_empty() {
                parts.send(rest);
            }
            parts.wait(0).await?;
            parts.upload.complete().await
        })?;
        self.parts = None;
        Ok(())
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART - self.rest.len());
        self.rest.extend_from_slice(&bytes[..taken]);
        if self.rest.len() == PART {
            let part = std::mem::replace(&mut self.rest, Vec::with_capacity(PART));
            self.send(part.into())?;
        }
        Ok(taken)
    }

    /// What is not sent yet makes no part: there is nothing to do.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        let aborted = self.object.wait("abort the upload to", async {
            // A part that arrives after the abort stays.
            let arrived = async { while parts.under_way.join_next().await.is_some() {} };
            let _late = timeout(LAST, arrived).await;
            parts.under_way.shutdown().await;
            parts.upload.abort().await
        });
        if let Err(error) = aborted {
            tracing::warn!(%error, "parts of an upload that failed are left in the bucket");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use object_store::path::Path as Key;

    use super::*;

    fn object() -> Object {
        Object { store: Arc::new(InMemory::new()), key: Key::from("a/rows.csv"), uri: "s3://bucket/a/rows.csv".into() }
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index / 7 % 251) as u8).collect()
    }

    #[test]
    fn an_object_is_there_when_it_is_whole_whatever_its_size() {
        for length in [0, 1, PART - 1, PART, PART + 1, 3 * PART + 5] {
            let (object, expected) = (object(), content(length));
            object
                .put_written(|file| {
                    expected.chunks(PART / 3 + 1).try_for_each(|piece| file.write_all(piece))?;
                    assert_eq!(object.get(u64::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
                    Ok(())
                })
                .unwrap();
            assert!(object.get(u64::MAX).unwrap() == expected, "{length}");
            let copied = self::object();
            copied.put(expected.clone()).unwrap();
            assert!(copied.get(u64::MAX).unwrap() == expected, "{length}");
        }
    }

    #[test]
    fn what_fails_on_its_way_leaves_what_was_there() {
        let object = object();
        object.put(b"before".to_vec()).unwrap();
        for length in [1, 2 * PART + 1] {
            let written = object.put_written(|file| {
                file.write_all(&content(length))?;
                Err(io::Error::other("a part is gone"))
            });
            assert_eq!(written.unwrap_err().to_string(), "a part is gone");
            assert_eq!(object.get(u64::MAX).unwrap(), "before");
        }
    }
}
