//! The inputs, as they were first listed, and what else must stay the same while an output comes into being.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crds::scoring_job::RowFormat;
use serde::{Deserialize, Serialize};

use super::{InputsDone, OutputError, Request, Share, plan};
use crate::folder::{self, Disk};

const NAME: &str = "inputs.jsonl";
/// Version of this file's form.
const VERSION: u32 = 1;

/// One thing to score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Line", into = "Line")]
pub struct Input {
    /// Its path, as listed.
    pub path: PathBuf,
    /// Index of its true class, where known.
    pub label: Option<u32>,
    /// Its label as it was given, where that is no class of the model.
    pub stranger: Option<String>,
}

/// The inputs, as they are listed now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The inputs, in the order of the rows.
    pub inputs: Vec<Input>,
    /// Digest by which training knows the same images.
    pub images_digest: String,
    /// What a person should know of their labels.
    pub note: Option<String>,
}

/// An input as JSON. A path that is not UTF-8 has its bytes beside the text that people read.
#[derive(Serialize, Deserialize)]
struct Line {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stranger: Option<String>,
}

impl From<Input> for Line {
    fn from(input: Input) -> Self {
        let bytes = input.path.to_str().is_none().then(|| STANDARD.encode(input.path.as_os_str().as_bytes()));
        Line { path: input.path.to_string_lossy().into_owned(), bytes, label: input.label, stranger: input.stranger }
    }
}

impl From<Line> for Input {
    fn from(line: Line) -> Self {
        let bytes = line.bytes.and_then(|bytes| STANDARD.decode(bytes).ok());
        let path = bytes.map_or_else(|| PathBuf::from(line.path), |bytes| PathBuf::from(OsString::from_vec(bytes)));
        Input { path, label: line.label, stranger: line.stranger }
    }
}

/// Which columns there are beside path, label, prediction, probability and error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layout {
    /// The probability of every class.
    pub all_classes: bool,
    /// Name and probability of this many classes, the most probable ones first; 0 for none. More than there are classes means all.
    pub top_k: u32,
}

/// The first line of the frozen inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) uid: String,
    pub(super) model_digest: String,
    pub(super) format: RowFormat,
    pub(super) classes: Vec<String>,
    pub(super) layout: Layout,
    pub(super) shards: u32,
    /// Whether any input has a label, so that there is a column for it.
    pub(super) labels: bool,
    /// Rows of each part but a shard's last one.
    pub(super) part_rows: usize,
    pub(super) count: usize,
    /// Digest of the lines that follow.
    pub(super) digest: String,
    /// [`Listing::images_digest`].
    #[serde(default)]
    pub(super) images_digest: String,
    /// [`Listing::note`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// The frozen inputs.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) header: Header,
    pub(super) inputs: Vec<Input>,
}

/// Refuses what can't be written down unambiguously.
pub(super) fn check(request: &Request<'_>) -> Result<(), OutputError> {
    let mut seen = HashSet::new();
    if let Some(twice) = request.classes.iter().find(|class| !seen.insert(class.as_str())) {
        return Err(OutputError::Request(format!(
            "the model has the class {twice:?} twice, and columns are named by classes"
        )));
    }
    let Share { member, members, process, processes } = request.share;
    if member >= members || process >= processes {
        return Err(OutputError::Request(format!(
            "there is no process {process} of {processes} in a member {member} of {members}, they count from 0"
        )));
    }
    let unknown = |input: &&Input| input.label.is_some_and(|label| label as usize >= request.classes.len());
    match request.listing.and_then(|listing| listing.inputs.iter().find(unknown)) {
        Some(input) => {
            Err(OutputError::Request(format!("the label of {} is not a class of the model", input.path.display())))
        }
        None => Ok(()),
    }
}

/// Whether the inputs are frozen in this work folder.
pub(super) fn is_frozen(disk: &Disk, work: &Path) -> Result<bool, OutputError> {
    Ok(disk.read(&work.join(NAME))?.is_some())
}

/// Digest of a list of inputs.
pub(super) fn digest(inputs: &[Input]) -> Result<String, OutputError> {
    lines(inputs).map(|lines| folder::digest(&lines))
}

fn lines(inputs: &[Input]) -> Result<Vec<u8>, OutputError> {
    let mut lines = Vec::new();
    for input in inputs {
        serde_json::to_writer(&mut lines, input)
            .map_err(|error| OutputError::Rows(format!("an input is no JSON: {error}")))?;
        lines.push(b'\n');
    }
    Ok(lines)
}

impl Frozen {
    /// The inputs that count: those that are frozen, or the request's, which are frozen now. Says also whether the two differ.
    /// Of several shards that come at the same time one freezes its listing for all.
    pub(super) fn load_or_create(disk: &Disk, work: &Path, request: &Request<'_>) -> Result<(Self, bool), OutputError> {
        let path = work.join(NAME);
        let listed = request.listing.map(|listing| Self::create(disk, &path, request, listing)).transpose()?;
        let damaged = |why: String| OutputError::damaged(&path, why);
        let bytes = disk.read(&path)?.ok_or_else(|| damaged("it is gone".into()))?;
        let frozen = Self::parse(&bytes).map_err(damaged)?;
        frozen.check(request)?;
        let changed = listed.is_some_and(|digest| frozen.header.digest != digest);
        Ok((frozen, changed))
    }

    /// Freezes a listing, if none is yet, and gives its digest.
    fn create(disk: &Disk, path: &Path, request: &Request<'_>, listing: &Listing) -> Result<String, OutputError> {
        let Listing { inputs, images_digest, note } = listing;
        let Share { members, processes, .. } = request.share;
        let lines = lines(inputs)?;
        let digest = folder::digest(&lines);
        if disk.read(path)?.is_some() {
            return Ok(digest);
        }
        let header = Header {
            version: VERSION,
            uid: request.job.uid.clone(),
            model_digest: request.model_digest.to_owned(),
            format: request.format,
            classes: request.classes.to_vec(),
            layout: request.layout,
            shards: members * processes,
            labels: inputs.iter().any(|input| input.label.is_some() || input.stranger.is_some()),
            part_rows: plan::part_rows(inputs.len()),
            count: inputs.len(),
            digest: digest.clone(),
            images_digest: images_digest.clone(),
            note: note.clone(),
        };
        let mut file = serde_json::to_vec(&header).expect("a header is plain data");
        file.push(b'\n');
        file.extend(lines);
        disk.put_new(path, &file)?;
        Ok(digest)
    }

    /// What is known of the inputs as a whole.
    pub(super) fn done(&self) -> InputsDone {
        let Header { count, digest, images_digest, note, .. } = &self.header;
        InputsDone {
            count: *count as u64,
            digest: digest.clone(),
            images_digest: images_digest.clone(),
            note: note.clone(),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no end of its first line")?;
        let (first, lines) = (&bytes[..end], &bytes[end + 1..]);
        let header: Header = serde_json::from_slice(first).map_err(|error| error.to_string())?;
        if folder::digest(lines) != header.digest {
            return Err("its lines don't have the digest that the first one gives".into());
        }
        let inputs: Vec<Input> = serde_json::Deserializer::from_slice(lines)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        Ok(Self { header, inputs })
    }

    /// Rows of one file come from one model and have one form.
    fn check(&self, now: &Request<'_>) -> Result<(), OutputError> {
        let (then, folder) = (&self.header, now.folder);
        let differs =
            |what, then: String, now: String| Err(OutputError::Differs { folder: folder.to_owned(), what, then, now });
        if then.version != VERSION {
            return differs("version of Trainyard", format!("form {}", then.version), format!("form {VERSION}"));
        }
        if then.model_digest != now.model_digest {
            return differs("model", then.model_digest.clone(), now.model_digest.to_owned());
        }
        if then.format != now.format {
            return differs("format", format!("{:?}", then.format), format!("{:?}", now.format));
        }
        if then.classes != now.classes {
            return differs(
                "list of classes",
                format!("{} classes", then.classes.len()),
                format!("{} others", now.classes.len()),
            );
        }
        if then.layout != now.layout {
            return differs("choice of columns", format!("{:?}", then.layout), format!("{:?}", now.layout));
        }
        Ok(())
    }
}
