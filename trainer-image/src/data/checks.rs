//! What a look at a data set shows before anything is trained on it: classes that a part lacks, classes of very different
//! sizes, validation images that are trained on as well, images far smaller than the model's input. None of it ends a job: it
//! is what a person wants to know before the figures are believed.
//!
//! Two images can only have the same bytes if they have the same number of them: few have to be read. What is read is bounded,
//! and a finding says so where the bound was met.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::dataset::Dataset;
use super::decode::{Decoder, MAX_PIXELS};
use super::error::DataError;
use super::images::MAX_FILE_BYTES;
use crate::storage::{Object, Piece, is_remote, join, read_all};

/// Times that the largest class has the images of the smallest one from which on it is worth a word.
const IMBALANCE: usize = 10;
/// An image that is blown up more than so many times shows the model little.
const BLOWN_UP: u32 = 4;
/// Images whose size in pixels is looked at.
const LOOKED_AT: usize = 512;
/// Images up to which duplicates are looked for.
const COMPARED: usize = 500_000;
/// Bytes that are read to compare images.
const COMPARED_BYTES: u64 = 256 << 20;
/// Images that are read at a time.
const AT_ONCE: usize = 64;
/// Names of a kind that are given.
const NAMED: usize = 5;

/// Something that a person should know about the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: a word or two.
    pub check: String,
    /// What was found: a sentence.
    pub text: String,
}

/// Looks at the two parts of a data set, for a model with an input of `image_size` x `image_size` pixels.
///
/// # Errors
/// Only if the way to the data fails. Images that can't be read are found by whoever loads them.
pub fn check(training: &Dataset, validation: Option<&Dataset>, image_size: u32) -> Result<Vec<Finding>, DataError> {
    let mut findings = Vec::new();
    let mut add = |check: &str, text: Option<String>| {
        findings.extend(text.map(|text| Finding { check: check.to_owned(), text }));
    };
    add("classes", validation.and_then(|validation| not_validated(training, validation)));
    add("balance", imbalance(training));
    add("duplicates", validation.map_or(Ok(None), |validation| duplicates(training, validation))?);
    add("image size", tiny(training, validation, image_size)?);
    Ok(findings)
}

fn not_validated(training: &Dataset, validation: &Dataset) -> Option<String> {
    let counts = validation.class_counts();
    let missing: Vec<&str> =
        training.classes.iter().zip(counts).filter(|(_, count)| *count == 0).map(|(class, _)| class.as_str()).collect();
    (!missing.is_empty())
        .then(|| format!("validation says nothing of {}: it has no image of it", named("class", "classes", &missing)))
}

fn imbalance(training: &Dataset) -> Option<String> {
    let counts = training.class_counts();
    let classes = || training.classes.iter().zip(&counts);
    let (largest, most) = classes().max_by_key(|(_, count)| **count)?;
    let (smallest, least) = classes().min_by_key(|(_, count)| **count)?;
    (*most >= IMBALANCE * (*least).max(1)).then(|| {
        format!(
            "class {largest:?} has {most} images to train on and class {smallest:?} has {least}: accuracy can look good while \
             small classes are not recognised; see each class in the report"
        )
    })
}

/// Validation images that are trained on as well, byte for byte.
fn duplicates(training: &Dataset, validation: &Dataset) -> Result<Option<String>, DataError> {
    let total = training.samples.len() + validation.samples.len();
    if total > COMPARED {
        return Ok(Some(format!("{total} images are more than the {COMPARED} up to which copies are looked for")));
    }
    let mut by_size: BTreeMap<u64, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (index, size) in sizes(training)?.into_iter().enumerate() {
        if let Some(size) = size {
            by_size.entry(size).or_default().0.push(index);
        }
    }
    for (index, size) in sizes(validation)?.into_iter().enumerate() {
        if let Some(here) = size.and_then(|size| by_size.get_mut(&size)) {
            here.1.push(index);
        }
    }
    let (mut candidates, mut bytes, mut not_compared) = ((Vec::new(), Vec::new()), 0, 0);
    for (size, (mut trained_on, mut held_out)) in by_size.into_iter().filter(|(_, (_, held_out))| !held_out.is_empty())
    {
        bytes += size * (trained_on.len() + held_out.len()) as u64;
        if bytes > COMPARED_BYTES {
            not_compared += held_out.len();
            continue;
        }
        candidates.0.append(&mut trained_on);
        candidates.1.append(&mut held_out);
    }
    let mut trained_on = HashMap::new();
    each(training, &candidates.0, |index, bytes| {
        trained_on.entry(<[u8; 32]>::from(Sha256::digest(bytes))).or_insert(index);
    })?;
    let mut copies = Vec::new();
    each(validation, &candidates.1, |index, bytes| {
        if let Some(&copy) = trained_on.get(&<[u8; 32]>::from(Sha256::digest(bytes))) {
            copies.push((index, copy));
        }
    })?;
    if copies.is_empty() {
        return Ok((not_compared > 0).then(|| {
            format!("no copies between the parts; {not_compared} validation images were too many bytes to compare")
        }));
    }
    let name = |data: &Dataset, index: usize| data.samples[index].path.display().to_string();
    let pairs: Vec<String> = copies
        .iter()
        .map(|(index, copy)| match (name(validation, *index), name(training, *copy)) {
            (one, other) if one == other => one,
            (one, other) => format!("{one} (as {other})"),
        })
        .collect();
    let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
    let rest = match not_compared {
        0 => String::new(),
        rest => format!("; {rest} others were too many bytes to compare"),
    };
    Ok(Some(format!(
        "{} of {} validation images are trained on as well, byte for byte, so that validation flatters the model: {}{rest}",
        copies.len(),
        validation.samples.len(),
        some(&pairs)
    )))
}

/// Images that are far smaller than the model's input.
fn tiny(training: &Dataset, validation: Option<&Dataset>, image_size: u32) -> Result<Option<String>, DataError> {
    let mut decoder = Decoder::new(MAX_PIXELS);
    let (mut looked_at, mut small) = (0, Vec::new());
    for data in [Some(training), validation].into_iter().flatten() {
        let stride = data.samples.len().div_ceil(LOOKED_AT / 2).max(1);
        let indices: Vec<usize> = (0..data.samples.len()).step_by(stride).collect();
        each(data, &indices, |index, bytes| {
            let Ok(opened) = decoder.open(bytes) else { return };
            looked_at += 1;
            if opened.size.0.min(opened.size.1) * BLOWN_UP < image_size {
                small.push(data.samples[index].path.display().to_string());
            }
        })?;
    }
    let names: Vec<&str> = small.iter().map(String::as_str).collect();
    Ok((!small.is_empty()).then(|| {
        format!(
            "{} of {looked_at} images looked at are blown up more than {BLOWN_UP} times to {image_size} pixels (data.imageSize): {}",
            small.len(),
            some(&names)
        )
    }))
}

/// Bytes of each sample, where they can be known without reading it.
fn sizes(data: &Dataset) -> Result<Vec<Option<u64>>, DataError> {
    let pieces: Vec<Option<Piece>> = data.samples.iter().map(|sample| data.piece(&sample.path).ok()).collect();
    let listed = listed_sizes(data)?;
    let size = |piece: &Option<Piece>| -> Option<u64> {
        let piece = piece.as_ref()?;
        match &piece.range {
            Some(range) => Some(range.end - range.start),
            None if is_remote(&piece.path) => listed.get(&piece.path).copied(),
            None => Some(fs::metadata(&piece.path).ok()?.len()),
        }
    };
    // On network storage each look takes its time.
    let part = pieces.len().div_ceil(AT_ONCE / 4).max(1);
    Ok(thread::scope(|scope| {
        let parts: Vec<_> =
            pieces.chunks(part).map(|part| scope.spawn(move || part.iter().map(size).collect::<Vec<_>>())).collect();
        let join = |part: thread::ScopedJoinHandle<'_, Vec<Option<u64>>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        parts.into_iter().flat_map(join).collect()
    }))
}

/// Sizes of the objects below the root, if it is a store's that can be listed.
fn listed_sizes(data: &Dataset) -> Result<HashMap<PathBuf, u64>, DataError> {
    let is_listed = data.archive.is_none() && data.root.to_str().is_some_and(|root| !root.starts_with("https://"));
    let root = Object::at(&data.root).map_err(|error| DataError::from_io(&data.root, error))?;
    let Some(root) = root.filter(|_| is_listed) else { return Ok(HashMap::new()) };
    let entries = root.list().map_err(|error| DataError::from_io(&data.root, error))?;
    Ok(entries.into_iter().map(|entry| (join(&data.root, Path::new(&entry.path)), entry.size)).collect())
}

/// Shows the bytes of samples, some at a time. Those that can't be read are left out; a way that fails is an error.
fn each(data: &Dataset, indices: &[usize], mut look: impl FnMut(usize, &[u8])) -> Result<(), DataError> {
    for part in indices.chunks(AT_ONCE) {
        let found = part.iter().filter_map(|index| Some((*index, data.piece(&data.samples[*index].path).ok()?)));
        let (indices, pieces): (Vec<usize>, Vec<Piece>) = found.unzip();
        for (index, bytes) in indices.into_iter().zip(read_all(pieces, MAX_FILE_BYTES)) {
            match bytes.map_err(|error| DataError::from_io(data.file(index), error)) {
                Ok(bytes) => look(index, &bytes),
                Err(error) if error.is_of_the_way() => return Err(error),
                Err(_) => {}
            }
        }
    }
    Ok(())
}

fn named(one: &str, many: &str, names: &[&str]) -> String {
    format!("{} {}", if names.len() == 1 { one } else { many }, some(names))
}

/// The first few names, and how many more there are.
fn some(names: &[&str]) -> String {
    let first = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
