//! The rows of a batch scoring, each input exactly once and in the order of the inputs, whatever is killed when.
//!
//! ```text
//!  claim ─► freeze the inputs ─► plan ─► score a range ─► commit a part ─┐
//!                                 ▲                                      │ until nothing is missing
//!                                 └──────────────────────────────────────┘
//!  finish: assemble the shard ─► record it ─► all shards there? manifest, last ─► remove the work folder
//! ```
//!
//! The folder, while it is worked on and afterwards:
//! ```text
//!  claim.json                           the job that the folder belongs to
//!  _work/inputs.jsonl                   the inputs as they were first listed; what changes afterwards changes no row
//!  _work/shard-00000.claim.json         the newest attempt at this shard: each shard is restarted alone
//!  _work/shard-00000/part-00000.attempt-1   rows of a range of inputs, whole or not there at all
//!  _work/shard-00000.json               this shard's file is in place
//!  predictions.csv                      one shard: the rows
//!  predictions/shard-00000-of-00004.csv several shards: a contiguous range of the inputs each
//!  manifest.json                        committed last: who sees it sees a complete output
//! ```
//!
//! Every file comes into being by a write beside its place, a sync, and a rename (or a link, where the first must win)
//! with a sync of the folder. A commit first reads the shard's claim: an attempt that was superseded writes no more. A ghost that
//! was paused between that look and its rename can at most leave a part under its own attempt's name, which nobody reads, or
//! a whole file of the same inputs, whose digest the manifest would disown.
//!
//! One process writes a shard at a time. Two of the same attempt don't harm each other: their parts have the same ranges.
//! A process that finds fewer peers than the output has shards writes several, one after the other; with more peers, some
//! have nothing to do.

mod error;
mod freeze;
mod manifest;
mod part;
mod plan;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crds::scoring_job::RowFormat;

use crate::folder::{Claim, Disk, FolderError, Owner};
pub use error::OutputError;
use freeze::Frozen;
pub use freeze::{Input, Layout, Listing};
pub use manifest::{Column, InputsDone, Manifest, RowCounts, RowsFile};
use part::Part;
use rows::Encoder;

const WORK: &str = "_work";

/// What the model says of one input: a prediction, or why there is none.
pub type Row = Result<Prediction, String>;

/// What the model says of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Index of the predicted class. It need not be the most probable one: a decision threshold may say otherwise.
    pub class: usize,
    /// Probability of each class, 0 to 1.
    pub probabilities: Vec<f32>,
}

/// What is to be written, by whom, where.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The output folder. It is created if it is not there.
    pub folder: &'a Path,
    /// The job and its attempt.
    pub job: &'a Owner,
    /// Format of the rows.
    pub format: RowFormat,
    /// Names of the classes, by index; each once.
    pub classes: &'a [String],
    /// Which columns there are beside the fixed ones.
    pub layout: Layout,
    /// Digest of the model: a folder begun with one model is not continued with another.
    pub model_digest: &'a str,
    /// The inputs, as listed now: only the first listing counts. None where one [is there](Output::has_listing).
    pub listing: Option<&'a Listing>,
    /// Which of the processes this one is. Whoever comes first makes a shard for each of them.
    pub share: Share,
}

/// Which of the processes that share the work one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index of its pod, from 0.
    pub member: u32,
    /// Number of pods; at least 1.
    pub members: u32,
    /// Index of the process in its pod, from 0.
    pub process: u32,
    /// Number of processes in this pod; at least 1.
    pub processes: u32,
}

/// An output folder, as it was found.
#[derive(Debug)]
pub enum Output {
    /// There is nothing left to do.
    Finished {
        /// What is there.
        manifest: Manifest,
        /// Whether the inputs are others now than those the output was made from.
        inputs_changed: bool,
    },
    /// There are rows to write, or files to put in place: a writer for each shard of this process, which may have none.
    Resume(Vec<Writer>),
}

/// Where a shard ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// This shard's file.
    pub file: RowsFile,
    /// The whole output, if this was the last shard.
    pub manifest: Option<Manifest>,
}

impl Output {
    /// Whether the inputs were listed for this folder before: what is listed now changes nothing.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn has_listing(folder: &Path) -> Result<bool, OutputError> {
        let disk = Disk::default();
        // The work is cleared away after the manifest has come.
        Ok(freeze::is_frozen(&disk, &folder.join(WORK))? || Manifest::read(&disk, folder)?.is_some())
    }

    /// Claims the folder, or finds out how far the job has got with it.
    ///
    /// # Errors
    /// If the folder belongs to another job, a newer attempt has taken a shard over, the folder was begun with another model or
    /// other columns, or it can't be read or written.
    pub fn open(request: &Request<'_>) -> Result<Self, OutputError> {
        Self::open_on(&Disk::default(), request)
    }

    fn open_on(disk: &Disk, request: &Request<'_>) -> Result<Self, OutputError> {
        freeze::check(request)?;
        disk.create_folder(request.folder)?;
        Claim::take_for_job(disk, request.folder, request.job)?;
        if let Some(manifest) = Manifest::read(disk, request.folder)? {
            return Self::finished(disk, request, manifest);
        }
        let resumed = Writer::resume(disk, request);
        // The last peer may have completed the output meanwhile, and cleared the work away under our feet.
        match Manifest::read(disk, request.folder)? {
            Some(manifest) => Self::finished(disk, request, manifest),
            None => resumed.map(Output::Resume),
        }
    }

    fn finished(disk: &Disk, request: &Request<'_>, manifest: Manifest) -> Result<Self, OutputError> {
        manifest.check(request)?;
        // A kill after the manifest may have left the work behind.
        disk.remove_folder(&request.folder.join(WORK))?;
        disk.tidy(request.folder)?;
        let listed = request.listing.map(|listing| freeze::digest(&listing.inputs)).transpose()?;
        let inputs_changed = listed.is_some_and(|digest| manifest.inputs.digest != digest);
        Ok(Output::Finished { manifest, inputs_changed })
    }
}

/// Writes the rows of one shard. Ask for [`next_missing`](Self::next_missing), score these inputs,
/// [`commit`](Self::commit) their rows, and [`finish`](Self::finish) when nothing is missing.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    shard: u32,
    disk: Disk,
    /// Of the shard.
    claim: Claim,
    frozen: Arc<Frozen>,
    inputs_changed: bool,
    encoder: Encoder,
    range: Range<usize>,
    parts: BTreeMap<usize, Part>,
    /// Another process of the job has finished the output meanwhile.
    finished: Option<Manifest>,
}

impl Writer {
    /// Freezes the inputs, or reads them, and finds out which parts of this process's shards are there.
    fn resume(disk: &Disk, request: &Request<'_>) -> Result<Vec<Self>, OutputError> {
        let work = request.folder.join(WORK);
        disk.create_folder(&work)?;
        let (frozen, inputs_changed) = Frozen::load_or_create(disk, &work, request)?;
        let frozen = Arc::new(frozen);
        let shards = plan::own_shards(frozen.header.shards, request.share);
        shards.map(|shard| Self::resume_shard(disk, request, shard, frozen.clone(), inputs_changed)).collect()
    }

    fn resume_shard(
        disk: &Disk,
        request: &Request<'_>,
        shard: u32,
        frozen: Arc<Frozen>,
        inputs_changed: bool,
    ) -> Result<Self, OutputError> {
        let header = &frozen.header;
        let work = request.folder.join(WORK);
        let shard_folder = work.join(plan::shard_name(shard));
        disk.create_folder(&shard_folder)?;
        let claim = Claim::take_part(disk, &work, &plan::claim_name(shard), request.job)?;
        let range = plan::shard_range(frozen.inputs.len(), shard, header.shards);
        let mut parts = BTreeMap::new();
        for (name, number, attempt) in plan::newest_parts(&disk.list(&shard_folder)?) {
            let expected = plan::part_range(&range, header.part_rows, number);
            // A part that a power cut has damaged counts as missing: its inputs are scored again.
            if let Some(part) = Part::read(disk, &shard_folder.join(name), attempt)?
                && Some(&part.range) == expected.as_ref()
            {
                parts.insert(number, part);
            }
        }
        Ok(Writer {
            encoder: Encoder::new(header.format, &header.classes, header.layout, header.labels),
            folder: request.folder.to_owned(),
            shard,
            disk: disk.clone(),
            claim,
            frozen,
            inputs_changed,
            range,
            parts,
            finished: None,
        })
    }

    /// Index of the shard.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// All inputs of the job, of every shard, as they were first listed. Ranges are indices into them.
    pub fn inputs(&self) -> &[Input] {
        &self.frozen.inputs
    }

    /// What is known of them as a whole.
    pub fn inputs_done(&self) -> InputsDone {
        self.frozen.done()
    }

    /// Whether a listing that was made now differs from the one that counts.
    pub fn inputs_changed(&self) -> bool {
        self.inputs_changed
    }

    /// The inputs of this shard.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Inputs of this shard whose rows are committed.
    pub fn rows_done(&self) -> usize {
        self.parts.values().map(|part| part.range.len()).sum()
    }

    /// Rows of this shard that are committed and carry an error.
    pub fn rows_failed(&self) -> u64 {
        self.parts.values().map(|part| part.failed).sum()
    }

    /// The first inputs whose rows are missing: exactly what the next [`commit`](Self::commit) takes. `None` if there are none.
    pub fn next_missing(&self) -> Option<Range<usize>> {
        if self.finished.is_some() {
            return None;
        }
        plan::missing(&self.range, self.frozen.header.part_rows, |number| self.parts.contains_key(&number)).next()
    }

    /// All ranges that [`next_missing`](Self::next_missing) will give, one after the other.
    pub fn missing(&self) -> Vec<Range<usize>> {
        if self.finished.is_some() {
            return Vec::new();
        }
        plan::missing(&self.range, self.frozen.header.part_rows, |number| self.parts.contains_key(&number)).collect()
    }

    /// Whether rows are still wanted: not if another process of the job has finished the output meanwhile.
    ///
    /// # Errors
    /// If a newer attempt has taken over, or the folder can't be read.
    pub fn may_commit(&mut self) -> Result<bool, OutputError> {
        if self.finished.is_some() {
            return Ok(false);
        }
        match self.claim.check(&self.disk) {
            Ok(()) => Ok(true),
            Err(error) => self.unless_finished(error.into()).map(|()| false),
        }
    }

    /// Commits the rows of a range that [`next_missing`](Self::next_missing) gave, in the order of its inputs. After this
    /// they survive a kill and a power cut; before, none of them is there. Where they are no longer wanted, nothing is written.
    ///
    /// # Errors
    /// If the rows don't fit the range or the classes, a newer attempt has taken over, or the folder can't be written.
    pub fn commit(&mut self, range: Range<usize>, rows: &[Row]) -> Result<(), OutputError> {
        if self.finished.is_some() {
            return Ok(());
        }
        if self.next_missing().as_ref() != Some(&range) || rows.len() != range.len() {
            return Err(OutputError::Rows(format!(
                "{} rows were committed for the inputs {range:?} where {:?} are due",
                rows.len(),
                self.next_missing()
            )));
        }
        let failed = rows.iter().filter(|row| row.is_err()).count() as u64;
        let bytes = self.encoder.part(&self.frozen.inputs[range.clone()], rows)?;
        let attempt = self.claim.attempt();
        let number = plan::part_number(&self.range, self.frozen.header.part_rows, range.start);
        let path = self.shard_folder().join(plan::part_name(number, attempt));
        if !self.may_commit()? {
            return Ok(());
        }
        match Part::write(&self.disk, &path, attempt, range, failed, &bytes) {
            Ok(part) => {
                self.parts.insert(number, part);
                Ok(())
            }
            Err(error) => self.unless_finished(error),
        }
    }

    /// Puts this shard's file in its place and, if it is the last one, completes the output.
    ///
    /// # Errors
    /// If rows are missing, a newer attempt has taken over, or the folder can't be written.
    pub fn finish(mut self) -> Result<Finish, OutputError> {
        if let Some(missing) = self.next_missing() {
            return Err(OutputError::Rows(format!("the rows of the inputs {missing:?} are missing")));
        }
        if self.finished.is_none() {
            // Another process of this attempt may have been faster.
            self.finished = Manifest::read(&self.disk, &self.folder)?;
        }
        if self.finished.is_none() {
            match self.put_in_place() {
                Ok(finish) => return Ok(finish),
                Err(error) => self.unless_finished(error)?,
            }
        }
        self.finish_of_other().ok_or_else(|| OutputError::Rows("a finished output has no file of this shard".into()))
    }

    fn put_in_place(&self) -> Result<Finish, OutputError> {
        self.claim.check(&self.disk)?;
        let file = manifest::place_shard(
            &self.disk,
            &self.folder,
            &self.frozen.header,
            self.shard,
            &self.parts,
            &self.encoder,
        )?;
        self.claim.check(&self.disk)?;
        let manifest = manifest::complete(&self.disk, &self.folder, &self.frozen, self.claim.owner(), &self.encoder)?;
        if manifest.is_some() {
            self.disk.remove_folder(&self.folder.join(WORK))?;
            self.disk.tidy(&self.folder)?;
        }
        Ok(Finish { file, manifest })
    }

    /// The last shard to finish removes the work folder under the feet of its peers: then their rows are in the output.
    fn unless_finished(&mut self, error: OutputError) -> Result<(), OutputError> {
        if matches!(error, OutputError::Folder(FolderError::Superseded { .. })) {
            return Err(error);
        }
        match Manifest::read(&self.disk, &self.folder) {
            Ok(Some(manifest)) => {
                self.finished = Some(manifest);
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn finish_of_other(&self) -> Option<Finish> {
        let manifest = self.finished.clone()?;
        let file = manifest.files.get(self.shard as usize)?.clone();
        Some(Finish { file, manifest: Some(manifest) })
    }

    fn shard_folder(&self) -> PathBuf {
        self.folder.join(WORK).join(plan::shard_name(self.shard))
    }
}
