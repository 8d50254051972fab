//! What data there is: the classes, and the samples with their labels, from a folder, a table or tar files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crds::uri::Scheme;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::archive::{self, Archive};
use super::error::DataError;
use super::parquet::parquet;
use super::{table, tree};
use crate::storage::{Piece, is_remote, join, scheme};

/// How a source lists its images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// By what is there: `.csv` is a CSV table, `.jsonl` and `.ndjson` are JSON Lines, `.parquet` and `.tar` what they say, a
    /// folder is a folder of images.
    #[default]
    Auto,
    /// A folder with a folder for each class, as torchvision's `ImageFolder` reads it. Where no labels are needed, images may
    /// lie in it without class folders.
    ImageFolder,
    /// A table of comma-separated values whose first line names the columns.
    Csv,
    /// A file with one JSON object on each line.
    JsonLines,
    /// An Apache Parquet file.
    Parquet,
    /// Tar files of images with their labels.
    WebDataset,
}

/// Where the data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// A folder, or a table.
    pub path: PathBuf,
    /// How it lists its images.
    pub format: Format,
    /// The table's column with the image's path, relative to the table's folder.
    pub image_column: String,
    /// The table's column with the class.
    pub label_column: String,
}

impl Source {
    /// The source at a path, with the format found out and the columns `image` and `label`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: Format::Auto, image_column: "image".into(), label_column: "label".into() }
    }
}

/// What is expected of the labels.
#[derive(Clone, Copy, Debug)]
pub enum Labels<'a> {
    /// Training: every sample has one, and they make up the classes.
    Discover,
    /// Validation, or scoring with metrics: every sample has one, of these classes. Another class is an error.
    Known(&'a [String]),
    /// Scoring: a label of these classes is taken where there is one; a sample without a label, or of another class, is unlabelled
    /// (the other classes are the data set's [strangers](Dataset::strangers)).
    /// Files that a table names are not checked: a missing one becomes an error of its own row.
    Optional(&'a [String]),
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its path, as listed: relative to the data set's root.
    pub path: PathBuf,
    /// Index of its class.
    pub label: Option<u32>,
}

/// The classes and the samples of a source, in an order that depends on the names alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The folder that the samples' paths are relative to.
    pub root: PathBuf,
    /// Names of the classes; a label is an index into them. Sorted by their bytes, as in torchvision, or as given.
    pub classes: Vec<String>,
    /// Folder: sorted by class, then by path. Table: in the order of its lines. Tar files: in their order.
    pub samples: Vec<Sample>,
    /// Where in tar files the samples lie, if they do.
    pub archive: Option<Arc<Archive>>,
    /// Labels that are none of the classes, each with the indices of the samples that have it: those of the whole source, where
    /// labels are [optional](Labels::Optional).
    pub strangers: BTreeMap<String, Vec<usize>>,
}

/// A sample before its class has a number.
pub(super) struct Listed {
    pub(super) path: PathBuf,
    pub(super) class: Option<String>,
    /// The line of the table, from 1; 0 in a folder.
    pub(super) line: u64,
}

/// Lists what a source holds. No image is opened.
pub fn open(source: &Source, labels: Labels<'_>) -> Result<Dataset, DataError> {
    let path = &source.path;
    let wants_labels = !matches!(labels, Labels::Optional(_));
    let format = format_of(source)?;
    let mut archive = None;
    let (root, listed) = match format {
        Format::ImageFolder | Format::Auto => (path.clone(), tree::list(path, wants_labels)?),
        Format::WebDataset => {
            let (root, listed, found) = archive::list(source, wants_labels)?;
            archive = Some(Arc::new(found));
            (root, listed)
        }
        Format::Csv | Format::JsonLines | Format::Parquet => {
            let root = folder_of(path);
            let rows = match format {
                Format::Csv => table::csv(source)?,
                Format::Parquet => parquet(source)?,
                _ => table::json_lines(source)?,
            };
            if rows.is_empty() {
                return Err(DataError::NoRows { path: path.clone(), reason: "the table has no rows" });
            }
            if wants_labels {
                table::check_rows(source, &rows)?;
                table::check_files(path, root, &rows)?;
            }
            (root.to_owned(), rows)
        }
    };
    if listed.is_empty() {
        return Err(DataError::Empty { path: path.clone() });
    }
    Ok(Dataset { archive, ..number(path, root, listed, labels)? })
}

/// The samples of an earlier list of a source, which is not listed again: only tar files are, for where in them samples lie.
pub fn reopen(source: &Source, classes: &[String], samples: Vec<Sample>) -> Result<Dataset, DataError> {
    let (root, archive) = match format_of(source)? {
        Format::ImageFolder | Format::Auto => (source.path.clone(), None),
        Format::WebDataset => {
            let (root, _, found) = archive::list(source, false)?;
            (root, Some(Arc::new(found)))
        }
        Format::Csv | Format::JsonLines | Format::Parquet => (folder_of(&source.path).to_owned(), None),
    };
    Ok(Dataset { root, classes: classes.to_vec(), samples, archive, strangers: BTreeMap::new() })
}

/// Whether a source names each sample's label itself. The names of folders may be labels, and may mean something else.
pub fn names_labels(source: &Source) -> Result<bool, DataError> {
    Ok(!matches!(format_of(source)?, Format::ImageFolder | Format::Auto))
}

/// The folder that a table lies in, to which its paths are relative.
fn folder_of(table: &Path) -> &Path {
    table.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// How a source lists its images, found out where it doesn't say, and checked where a look tells.
fn format_of(source: &Source) -> Result<Format, DataError> {
    let (path, format) = (&source.path, source.format);
    if is_remote(path) {
        // There, what a name is shows when it is read; a name without a known ending is a folder's.
        let format = if format == Format::Auto { by_extension(path).unwrap_or(Format::ImageFolder) } else { format };
        return match scheme(path) {
            Some(Scheme::Https) if format == Format::ImageFolder => Err(layout(
                path,
                "a web server lists no folders: name a table, or tar files as in name-{0000..0099}.tar".into(),
            )),
            _ => Ok(format),
        };
    }
    let ranged = format == Format::WebDataset || by_extension(path) == Some(Format::WebDataset);
    let is_folder = match fs::metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        // A name with a range in braces is none of a file.
        Err(_) if ranged && path.to_string_lossy().contains('{') => false,
        Err(error) => return Err(DataError::from_io(path, error)),
    };
    match format {
        Format::Auto if is_folder => Ok(Format::ImageFolder),
        Format::Auto => by_extension(path).ok_or_else(|| {
            layout(path, "is a file, and its name ends in none of .csv, .jsonl, .ndjson, .parquet and .tar".into())
        }),
        Format::ImageFolder if !is_folder => {
            Err(layout(path, "the format ImageFolder needs a folder, and this is a file".into()))
        }
        Format::Csv | Format::JsonLines | Format::Parquet if is_folder => {
            Err(layout(path, format!("the format {format:?} needs a file, and this is a folder")))
        }
        format => Ok(format),
    }
}

/// Gives each class its number.
fn number(source: &Path, root: PathBuf, listed: Vec<Listed>, labels: Labels<'_>) -> Result<Dataset, DataError> {
    let classes: Vec<String> = match labels {
        Labels::Known(classes) | Labels::Optional(classes) => classes.to_vec(),
        Labels::Discover => {
            let found: BTreeSet<&String> = listed.iter().filter_map(|sample| sample.class.as_ref()).collect();
            found.into_iter().cloned().collect()
        }
    };
    if matches!(labels, Labels::Discover) && classes.len() < 2 {
        let there = classes.first().map_or("none".into(), |class| format!("only {class:?}"));
        return Err(DataError::FewClasses { path: source.to_owned(), there });
    }
    let numbers: BTreeMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let mut strangers = BTreeMap::<String, Vec<usize>>::new();
    let samples = listed
        .into_iter()
        .enumerate()
        .map(|(index, Listed { path, class, line })| {
            let label = class.as_deref().and_then(|class| numbers.get(class).copied());
            if let (Labels::Known(_), None) = (labels, label) {
                let place = match line {
                    0 => root.join(&path).display().to_string(),
                    line => format!("{}, line {line}", source.display()),
                };
                let class = class.unwrap_or_default();
                return Err(DataError::UnknownClass { place, class, known: classes.len() });
            }
            if let (Some(class), None) = (class, label) {
                strangers.entry(class).or_default().push(index);
            }
            Ok(Sample { path, label })
        })
        .collect::<Result<_, _>>()?;
    Ok(Dataset { root, classes, samples, archive: None, strangers })
}

impl Dataset {
    /// The file of a sample.
    pub fn file(&self, sample: usize) -> PathBuf {
        join(&self.root, &self.samples[sample].path)
    }

    /// Where the bytes of the sample with this path lie.
    pub(super) fn piece(&self, path: &Path) -> Result<Piece, DataError> {
        match &self.archive {
            None => Ok(Piece { path: join(&self.root, path), range: None }),
            Some(archive) => archive.piece(path).ok_or_else(|| DataError::Missing { path: self.root.join(path) }),
        }
    }

    /// Number of samples of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for label in self.samples.iter().filter_map(|sample| sample.label) {
            counts[label as usize] += 1;
        }
        counts
    }

    /// The samples at these indices, with the same classes.
    pub fn subset(&self, indices: &[usize]) -> Self {
        let samples = indices.iter().map(|&index| self.samples[index].clone()).collect();
        let (root, classes, archive) = (self.root.clone(), self.classes.clone(), self.archive.clone());
        Self { root, classes, samples, archive, strangers: BTreeMap::new() }
    }

    /// SHA-256 over the classes, the paths and the labels, in hexadecimal digits: two runs with equal digests list the same
    /// samples under the same numbers. The images' content is not in it.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for class in &self.classes {
            add(class.as_bytes());
        }
        for sample in &self.samples {
            add(sample.path.as_os_str().as_encoded_bytes());
            add(&sample.label.map_or(u64::MAX, u64::from).to_le_bytes());
        }
        super::preprocessing::hexadecimal(&hash.finalize())
    }
}

fn by_extension(path: &Path) -> Option<Format> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match extension.as_str() {
        "csv" => Some(Format::Csv),
        "jsonl" | "ndjson" => Some(Format::JsonLines),
        "parquet" => Some(Format::Parquet),
        "tar" => Some(Format::WebDataset),
        _ => None,
    }
}

fn layout(path: &Path, reason: String) -> DataError {
    DataError::Layout { path: path.to_owned(), reason }
}
