//! The end of an output: each shard's file in its place, a record of it, and when all are there the manifest.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crds::scoring_job::RowFormat;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::freeze::{Frozen, Header};
use super::part::Part;
use super::rows::Encoder;
use super::{OutputError, Request, WORK, plan};
use crate::folder::{self, Disk, Owner};

const NAME: &str = "manifest.json";
/// Version of the manifest's form.
const VERSION: u32 = 1;

/// A column of the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Column {
    /// Its name.
    pub name: String,
    /// `string` or `float`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it may be empty.
    pub nullable: bool,
}

/// The inputs that the rows are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputsDone {
    /// How many.
    pub count: u64,
    /// Digest of their list.
    pub digest: String,
    /// Digest by which training knows the same images.
    #[serde(default)]
    pub images_digest: String,
    /// What a person should know of their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Counts of the whole output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RowCounts {
    /// Inputs.
    #[serde(rename = "in")]
    pub inputs: u64,
    /// Rows: as many as inputs.
    #[serde(rename = "out")]
    pub written: u64,
    /// Rows with an error in the place of a prediction.
    pub failed: u64,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RowsFile {
    /// Its path below the output folder.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Rows in it that carry an error.
    pub failed: u64,
    /// Its size.
    pub bytes: u64,
    /// Its digest: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
}

/// What a complete output is: `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of this form; 1.
    pub version: u32,
    /// The job, and the attempt that completed the output.
    pub job: Owner,
    /// Digest of the model.
    pub model_digest: String,
    /// Format of the files.
    pub format: RowFormat,
    /// Columns of the rows, in their order. In JSON Lines the classes' probabilities are grouped.
    pub schema: Vec<Column>,
    /// The inputs.
    pub inputs: InputsDone,
    /// Counts.
    pub rows: RowCounts,
    /// The files, one for each shard, in the order of the inputs.
    pub files: Vec<RowsFile>,
}

impl Manifest {
    /// The manifest of a folder; `None` if the output is not complete.
    pub(super) fn read(disk: &Disk, folder: &Path) -> Result<Option<Self>, OutputError> {
        let path = folder.join(NAME);
        let Some(bytes) = disk.read(&path)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| OutputError::damaged(path, error.to_string());
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Digest of the manifest, and through the files' digests of the whole output.
    pub fn digest(&self) -> String {
        folder::digest(&self.to_json())
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest is plain data")
    }

    /// Whether the output is what this job would write: finished is finished, but not for another model.
    pub(super) fn check(&self, request: &Request<'_>) -> Result<(), OutputError> {
        let differs = |what, then: String, now: String| {
            Err(OutputError::Differs { folder: request.folder.to_owned(), what, then, now })
        };
        if self.model_digest != request.model_digest {
            return differs("model", self.model_digest.clone(), request.model_digest.to_owned());
        }
        if self.format != request.format {
            return differs("format", format!("{:?}", self.format), format!("{:?}", request.format));
        }
        Ok(())
    }
}

/// Where a shard's rows go, below the output folder.
pub(super) fn rows_path(format: RowFormat, shard: u32, shards: u32) -> String {
    let ending = match format {
        RowFormat::Csv => "csv",
        RowFormat::JsonLines => "jsonl",
        RowFormat::Parquet => "parquet",
    };
    match shards {
        1 => format!("predictions.{ending}"),
        _ => format!("predictions/{}-of-{shards:05}.{ending}", plan::shard_name(shard)),
    }
}

fn record_path(folder: &Path, shard: u32) -> PathBuf {
    folder.join(WORK).join(format!("{}.json", plan::shard_name(shard)))
}

fn read_record(disk: &Disk, folder: &Path, shard: u32) -> Result<Option<RowsFile>, OutputError> {
    let path = record_path(folder, shard);
    let Some(bytes) = disk.read(&path)? else { return Ok(None) };
    let damaged = |error: serde_json::Error| OutputError::damaged(path, error.to_string());
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Puts a shard's rows in their place and records it. The record comes second: who reads it finds the file.
pub(super) fn place_shard(
    disk: &Disk,
    folder: &Path,
    header: &Header,
    shard: u32,
    parts: &BTreeMap<usize, Part>,
    encoder: &Encoder,
) -> Result<RowsFile, OutputError> {
    if let Some(record) = read_record(disk, folder, shard)? {
        return Ok(record);
    }
    let relative = rows_path(header.format, shard, header.shards);
    let path = folder.join(&relative);
    if let Some(parent) = path.parent() {
        disk.create_folder(parent)?;
    }
    let (mut bytes, mut digest, mut failed) = (0, String::new(), 0);
    disk.put_staged(&path, &folder.join(WORK), |file| {
        let mut counting = Counting { file, bytes: 0, digest: Sha256::new() };
        // What goes into the file is counted, and not what this process has written itself.
        let rows = parts.values().map(|part| {
            let (rows, errors) = part.rows(disk)?;
            failed += errors;
            Ok(rows)
        });
        encoder.assemble(rows, &mut counting)?;
        (bytes, digest) = counting.finish();
        Ok(())
    })?;
    let rows = parts.values().map(|part| part.range.len() as u64).sum();
    let record = RowsFile { path: relative, rows, failed, bytes, digest };
    let json = serde_json::to_vec(&record).expect("a record is plain data");
    disk.put(&record_path(folder, shard), |file| file.write_all(&json))?;
    Ok(record)
}

/// Commits the manifest if every shard's file is in place. `None` while some are missing.
pub(super) fn complete(
    disk: &Disk,
    folder: &Path,
    frozen: &Frozen,
    owner: &Owner,
    encoder: &Encoder,
) -> Result<Option<Manifest>, OutputError> {
    let header = &frozen.header;
    let mut files = Vec::new();
    for shard in 0..header.shards {
        // Without a record it is still to come; or a peer has completed the output and is clearing the work away.
        let Some(record) = read_record(disk, folder, shard)? else { return Manifest::read(disk, folder) };
        let inputs = plan::shard_range(header.count, shard, header.shards).len() as u64;
        if record.rows != inputs {
            let why = format!("it tells of {} rows, and the shard has {inputs} inputs", record.rows);
            return Err(OutputError::damaged(record_path(folder, shard), why));
        }
        files.push(record);
    }
    let sum = |count: fn(&RowsFile) -> u64| files.iter().map(count).sum::<u64>();
    let manifest = Manifest {
        version: VERSION,
        job: owner.clone(),
        model_digest: header.model_digest.clone(),
        format: header.format,
        schema: encoder.schema(),
        inputs: frozen.done(),
        rows: RowCounts {
            inputs: header.count as u64,
            written: sum(|file| file.rows),
            failed: sum(|file| file.failed),
        },
        files,
    };
    // Of peers that come to the end at the same time one completes the output, and all tell of the same.
    disk.put_once(&folder.join(NAME), &folder.join(WORK), &manifest.to_json())?;
    Manifest::read(disk, folder)
}

/// `sha256:` and the digest in hexadecimal.
fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Counts and digests what goes through it.
struct Counting<'a> {
    file: &'a mut (dyn Write + Send),
    bytes: u64,
    digest: Sha256,
}

impl Counting<'_> {
    fn finish(self) -> (u64, String) {
        (self.bytes, hexadecimal(&self.digest.finalize()))
    }
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
