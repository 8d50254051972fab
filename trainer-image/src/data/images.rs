//! The images of a data set, ready to be drawn by any thread: read from their files each time, or kept decoded in memory if they
//! are small.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::augment::Flips;
use super::dataset::Dataset;
use super::decode::MAX_PIXELS;
use super::error::{DataError, ImageFault};
use super::loader::Render;
use super::view::{Picture, Scratch, View};
use crate::storage::{Piece, is_remote, join, read_all, read_piece};

/// Bytes of decoded images that are kept in memory, unless told otherwise.
const CACHE_BYTES: usize = 64 << 20;
/// An image is kept if it has no more pixels than so many of the model's inputs: of a larger one, most would be kept for nothing.
const CACHE_INPUTS: usize = 4;
/// Most bytes of a file: an uncompressed image of [`MAX_PIXELS`] with four channels of 16 bits.
pub(super) const MAX_FILE_BYTES: u64 = 8 * MAX_PIXELS;

/// The images of a data set, and how they are to be seen.
pub struct Images {
    dataset: Arc<Dataset>,
    view: View,
    max_pixels: u64,
    cache: Vec<OnceLock<Picture>>,
    cache_left: AtomicUsize,
}

impl Images {
    /// The images of a data set in this view. Small ones are decoded once and kept, 64 MiB of them.
    pub fn new(dataset: Arc<Dataset>, view: View) -> Self {
        let cache = dataset.samples.iter().map(|_| OnceLock::new()).collect();
        Self { dataset, view, max_pixels: MAX_PIXELS, cache, cache_left: AtomicUsize::new(CACHE_BYTES) }
    }

    /// Keeps `bytes` of decoded images in memory at most; 0: none.
    pub fn cache(mut self, bytes: usize) -> Self {
        self.cache_left = AtomicUsize::new(bytes);
        self
    }

    /// Refuses images of more than `pixels` pixels.
    pub fn max_pixels(mut self, pixels: u64) -> Self {
        self.max_pixels = pixels;
        self
    }

    /// The data set.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The view.
    pub fn view(&self) -> &View {
        &self.view
    }

    fn draw(&self, scratch: &mut Scratch, sample: usize, epoch: u64, pixels: &mut [u8]) -> Result<Flips, DataError> {
        let path = &self.dataset.samples[sample].path;
        let fault = |fault| DataError::image(self.dataset.file(sample), fault);
        if let Some(picture) = self.cache[sample].get() {
            return self.view.draw_picture(scratch, picture, epoch, sample, pixels).map_err(fault);
        }
        let mut file = std::mem::take(&mut scratch.file);
        let drawn = self.read(scratch, sample, path, &mut file).and_then(|()| {
            match self.keep(scratch, &file).map_err(fault)? {
                Some(picture) => {
                    let picture = self.cache[sample].get_or_init(|| picture);
                    self.view.draw_picture(scratch, picture, epoch, sample, pixels)
                }
                None => self.view.draw(scratch, &file, epoch, sample, pixels),
            }
            .map_err(fault)
        });
        scratch.file = file;
        drawn
    }

    /// The bytes of a sample, as fetched ahead or from its file.
    fn read(&self, scratch: &mut Scratch, sample: usize, path: &Path, bytes: &mut Vec<u8>) -> Result<(), DataError> {
        let piece = self.dataset.piece(path)?;
        if piece.range.is_none() && !is_remote(&piece.path) {
            return read_file(&piece.path, bytes);
        }
        let fetched = match scratch.fetched.remove(&sample) {
            Some(fetched) => fetched,
            None if is_remote(&piece.path) => read_all(vec![piece], MAX_FILE_BYTES).swap_remove(0),
            None => read_piece(&piece, MAX_FILE_BYTES),
        };
        bytes.clear();
        bytes.extend_from_slice(&fetched.map_err(|error| unread(self.dataset.file(sample), error))?);
        Ok(())
    }

    /// The decoded image, if it is small and there is room for it.
    fn keep(&self, scratch: &mut Scratch, file: &[u8]) -> Result<Option<Picture>, ImageFault> {
        if self.cache_left.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        let opened = scratch.decoder.open(file)?;
        let (size, orientation) = (opened.size, opened.orientation);
        let bytes = size.0 as usize * size.1 as usize * 3;
        // What is kept is whole: what would be shrunk would be seen otherwise, depending on what else had room before.
        let is_shrunk = opened.can_shrink() && self.view.may_shrink(size);
        if is_shrunk || bytes > CACHE_INPUTS * self.view.preprocessing().image_bytes() {
            return Ok(None);
        }
        let reserve = |left: usize| left.checked_sub(bytes);
        if self.cache_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_err() {
            // Full: don't open the others twice.
            self.cache_left.store(0, Ordering::Relaxed);
            return Ok(None);
        }
        let mut pixels = Vec::new();
        let size = scratch.decoder.read(opened, 1, &mut pixels)?;
        Ok(Some(Picture { size, orientation, pixels }))
    }
}

impl Render for Images {
    type Worker = Scratch;

    fn worker(&self) -> Scratch {
        Scratch::new(self.max_pixels)
    }

    fn image_bytes(&self) -> usize {
        self.view.preprocessing().image_bytes()
    }

    fn label(&self, sample: usize) -> i64 {
        self.dataset.samples[sample].label.map_or(-1, i64::from)
    }

    fn path(&self, sample: usize) -> PathBuf {
        self.dataset.file(sample)
    }

    /// A store answers many requests in the time of one: what the batch needs of it is fetched at once.
    fn prepare(&self, scratch: &mut Scratch, samples: &[usize]) {
        scratch.fetched.clear();
        let missing = samples.iter().filter(|sample| self.cache[**sample].get().is_none());
        let piece = |sample: &usize| Some((*sample, self.dataset.piece(&self.dataset.samples[*sample].path).ok()?));
        let (numbers, pieces): (Vec<usize>, Vec<Piece>) =
            missing.filter_map(piece).filter(|(_, piece)| is_remote(&piece.path)).unzip();
        if !pieces.is_empty() {
            scratch.fetched.extend(numbers.into_iter().zip(read_all(pieces, MAX_FILE_BYTES)));
        }
    }

    fn render(&self, scratch: &mut Scratch, sample: usize, epoch: u64, pixels: &mut [u8]) -> Result<Flips, DataError> {
        self.draw(scratch, sample, epoch, pixels)
    }
}

impl Dataset {
    /// Reads the whole image of a sample.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, DataError> {
        let piece = self.piece(path)?;
        let read = match is_remote(&piece.path) {
            true => read_all(vec![piece], MAX_FILE_BYTES).swap_remove(0),
            false => read_piece(&piece, MAX_FILE_BYTES),
        };
        read.map(Vec::from).map_err(|error| unread(join(&self.root, path), error))
    }
}

fn unread(path: PathBuf, error: io::Error) -> DataError {
    match error.kind() {
        ErrorKind::FileTooLarge => DataError::image(path, ImageFault::TooManyBytes { limit: MAX_FILE_BYTES }),
        ErrorKind::UnexpectedEof => DataError::image(path, ImageFault::Truncated),
        _ => DataError::from_io(path, error),
    }
}

/// Reads a whole file.
fn read_file(path: &Path, bytes: &mut Vec<u8>) -> Result<(), DataError> {
    let failed = |error| DataError::from_io(path, error);
    bytes.clear();
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(DataError::image(path, ImageFault::NotAFile));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(DataError::image(path, ImageFault::TooManyBytes { limit: MAX_FILE_BYTES }));
    }
    bytes.reserve(metadata.len() as usize + 1);
    file.read_to_end(bytes).map_err(failed)?;
    Ok(())
}
