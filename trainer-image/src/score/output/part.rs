//! A part: the rows of a range of inputs in the format of the output, behind one line that describes them. One file,
//! so that rows and description are there together or not at all.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::OutputError;
use crate::folder::{self, Disk};

/// A committed part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) range: Range<usize>,
    pub(super) failed: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    attempt: u32,
    start: usize,
    end: usize,
    failed: u64,
    digest: String,
}

impl Part {
    /// Commits the rows of a range.
    pub(super) fn write(
        disk: &Disk,
        path: &Path,
        attempt: u32,
        range: Range<usize>,
        failed: u64,
        rows: &[u8],
    ) -> Result<Self, OutputError> {
        let header = Header { attempt, start: range.start, end: range.end, failed, digest: folder::digest(rows) };
        let mut line = serde_json::to_vec(&header).expect("a header is plain data");
        line.push(b'\n');
        disk.put(path, |file| {
            file.write_all(&line)?;
            file.write_all(rows)
        })?;
        Ok(Self { path: path.to_owned(), range, failed })
    }

    /// A part that an attempt has left; `None` if it is damaged or another attempt's.
    pub(super) fn read(disk: &Disk, path: &Path, attempt: u32) -> Result<Option<Self>, OutputError> {
        let header = disk.read(path)?.and_then(|bytes| split(&bytes).map(|(header, _)| header));
        Ok(header.filter(|header| header.attempt == attempt).map(|header| Self {
            path: path.to_owned(),
            range: header.start..header.end,
            failed: header.failed,
        }))
    }

    /// The rows, and how many of them carry an error. A process of the same attempt may have replaced them by its own.
    pub(super) fn rows(&self, disk: &Disk) -> Result<(Vec<u8>, u64), OutputError> {
        let damaged = |why: &str| OutputError::damaged(&self.path, why);
        let bytes = disk.read(&self.path)?.ok_or_else(|| damaged("it is gone"))?;
        let (header, rows) = split(&bytes).ok_or_else(|| damaged("its digest does not fit its rows"))?;
        if (header.start..header.end) != self.range {
            return Err(damaged("it holds other rows than before"));
        }
        Ok((rows.to_vec(), header.failed))
    }
}

/// Description and rows, if they fit each other.
fn split(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
    let rows = &bytes[end + 1..];
    (folder::digest(rows) == header.digest).then_some((header, rows))
}
