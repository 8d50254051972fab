//! The inputs, as they were first listed, and what else must stay the same while an output comes into being.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crds::scoring_job::RowFormat;
use serde::{Deserialize, Serialize};

use super::{OutputError, Request, plan};
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
}

/// An input as JSON. A path that is not UTF-8 has its bytes beside the text that people read.
#[derive(Serialize, Deserialize)]
struct Line {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<u32>,
}

impl From<Input> for Line {
    fn from(input: Input) -> Self {
        let bytes = input.path.to_str().is_none().then(|| STANDARD.encode(input.path.as_os_str().as_bytes()));
        Line { path: input.path.to_string_lossy().into_owned(), bytes, label: input.label }
    }
}

impl From<Line> for Input {
    fn from(line: Line) -> Self {
        let bytes = line.bytes.and_then(|bytes| STANDARD.decode(bytes).ok());
        let path = bytes.map_or_else(|| PathBuf::from(line.path), |bytes| PathBuf::from(OsString::from_vec(bytes)));
        Input { path, label: line.label }
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
    if request.shard >= request.shards {
        return Err(OutputError::Request(format!(
            "there is no shard {} of {}, they count from 0",
            request.shard, request.shards
        )));
    }
    let unknown = |input: &&Input| input.label.is_some_and(|label| label as usize >= request.classes.len());
    match request.inputs.iter().find(unknown) {
        Some(input) => {
            Err(OutputError::Request(format!("the label of {} is not a class of the model", input.path.display())))
        }
        None => Ok(()),
    }
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
    /// The inputs that count: those that are frozen, or these, which are frozen now. Says also whether they differ from the
    /// request's. Of several shards that come at the same time one freezes its listing for all.
    pub(super) fn load_or_create(disk: &Disk, work: &Path, request: &Request<'_>) -> Result<(Self, bool), OutputError> {
        let path = work.join(NAME);
        let lines = lines(request.inputs)?;
        let wanted = Header {
            version: VERSION,
            uid: request.job.uid.clone(),
            model_digest: request.model_digest.to_owned(),
            format: request.format,
            classes: request.classes.to_vec(),
            layout: request.layout,
            shards: request.shards,
            labels: request.inputs.iter().any(|input| input.label.is_some()),
            part_rows: plan::part_rows(request.inputs.len()),
            count: request.inputs.len(),
            digest: folder::digest(&lines),
        };
        if disk.read(&path)?.is_none() {
            let mut file = serde_json::to_vec(&wanted).expect("a header is plain data");
            file.push(b'\n');
            file.extend(lines);
            disk.put_new(&path, &file)?;
        }
        let damaged = |why: String| OutputError::damaged(&path, why);
        let bytes = disk.read(&path)?.ok_or_else(|| damaged("it is gone".into()))?;
        let frozen = Self::parse(&bytes).map_err(damaged)?;
        frozen.check(request.folder, &wanted)?;
        let changed = frozen.header.digest != wanted.digest;
        Ok((frozen, changed))
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
    fn check(&self, folder: &Path, wanted: &Header) -> Result<(), OutputError> {
        let (then, now) = (&self.header, wanted);
        let differs =
            |what, then: String, now: String| Err(OutputError::Differs { folder: folder.to_owned(), what, then, now });
        if then.version != now.version {
            return differs("version of Trainyard", format!("form {}", then.version), format!("form {}", now.version));
        }
        if then.model_digest != now.model_digest {
            return differs("model", then.model_digest.clone(), now.model_digest.clone());
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
        if then.shards != now.shards {
            return differs("number of shards", then.shards.to_string(), now.shards.to_string());
        }
        Ok(())
    }
}
