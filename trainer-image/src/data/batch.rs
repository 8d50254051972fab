//! Batches: what is asked for, what comes of it, and how parts that several threads have made become one.

use std::collections::BTreeSet;

use super::augment::Flips;
use super::error::DataError;

/// A batch to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Its samples.
    pub samples: Vec<usize>,
}

/// A batch.
#[derive(Debug, Default)]
pub struct Batch {
    /// The images one after the other, each of rows of pixels of 3 bytes (NHWC). Those of failed samples are black, or, with
    /// [`Failures::Replace`], those of another one.
    pub pixels: Vec<u8>,
    /// Of each image, what is left to do of it.
    pub flips: Vec<Flips>,
    /// The class of each image, -1 if it has none.
    pub labels: Vec<i64>,
    /// The sample of each image.
    pub indices: Vec<usize>,
    /// What failed: the place in this batch, and why.
    pub failures: Vec<(usize, DataError)>,
}

/// What becomes of images that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failures {
    /// The first one is an error, and ends the loader.
    Stop,
    /// Each is replaced by the next image of its batch that can be used, with its label and index, and reported. More different
    /// ones than this are an error.
    Replace {
        /// Images that may fail, in the life of the loader.
        at_most: usize,
    },
    /// Each is reported, and black.
    Report,
}

impl Request {
    /// The request in at most so many parts of about the same size, in order.
    pub(super) fn in_parts(self, parts: usize) -> Vec<Request> {
        let parts = parts.clamp(1, self.samples.len().max(1));
        if parts == 1 {
            return vec![self];
        }
        let at = |part: usize| part * self.samples.len() / parts;
        let part = |part| Request { epoch: self.epoch, samples: self.samples[at(part)..at(part + 1)].to_vec() };
        (0..parts).map(part).collect()
    }
}

impl Batch {
    /// Forgets what is in it. The memory stays.
    pub(super) fn clear(&mut self) {
        self.pixels.clear();
        self.flips.clear();
        self.labels.clear();
        self.indices.clear();
        self.failures.clear();
    }

    /// Adds a part at the end, whose failures move.
    pub(super) fn append(&mut self, part: &mut Batch) {
        let places = self.indices.len();
        self.pixels.extend_from_slice(&part.pixels);
        self.flips.append(&mut part.flips);
        self.labels.append(&mut part.labels);
        self.indices.append(&mut part.indices);
        self.failures.extend(part.failures.drain(..).map(|(place, error)| (places + place, error)));
    }

    /// Puts the next usable image, counted in a circle, in the place of each failed one. There is at least one.
    pub(super) fn replace_failed(&mut self, bytes: usize) {
        let failed: BTreeSet<usize> = self.failures.iter().map(|(place, _)| *place).collect();
        let count = self.indices.len();
        for &place in &failed {
            let Some(from) = (1..count).map(|step| (place + step) % count).find(|from| !failed.contains(from)) else {
                return;
            };
            self.pixels.copy_within(from * bytes..(from + 1) * bytes, place * bytes);
            self.flips[place] = self.flips[from];
            self.labels[place] = self.labels[from];
            self.indices[place] = self.indices[from];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_request_are_all_of_it_in_order_and_none_is_empty() {
        for samples in [0, 1, 2, 7, 8] {
            let whole = Request { epoch: 3, samples: (0..samples).collect() };
            for parts in [0, 1, 2, 3, 7, 20] {
                let made = whole.clone().in_parts(parts);
                assert!(made.len() <= parts.max(1) && made.iter().all(|part| part.epoch == 3));
                let sizes: Vec<usize> = made.iter().map(|part| part.samples.len()).collect();
                assert!(samples == 0 || sizes.iter().all(|size| *size > 0), "{sizes:?}");
                assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
                let joined: Vec<usize> = made.into_iter().flat_map(|part| part.samples).collect();
                assert_eq!(joined, whole.samples);
            }
        }
    }
}
