//! Makes batches ahead of time, in threads, and hands them out in the order asked for.
//!
//! A thread makes a whole batch, so that threads meet once a batch and not once an image. No more than a fixed number of batches
//! exist at a time, and a batch handed back is filled again: in the steady state no memory is taken.
//!
//! A decoder that panics costs one image, not the process and not the batch: its thread dies, hands the batch over with the image
//! marked as failed, and is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::error::{DataError, ImageFault};

/// What the loader loads. It is shared by the threads.
pub trait Render: Send + Sync + 'static {
    /// What each thread has of its own.
    type Worker;

    /// Makes it, at the start of the thread.
    fn worker(&self) -> Self::Worker;

    /// Bytes of one image.
    fn image_bytes(&self) -> usize;

    /// The class of a sample, -1 if it has none.
    fn label(&self, sample: usize) -> i64;

    /// The file of a sample, for messages.
    fn path(&self, sample: usize) -> PathBuf;

    /// Told which samples come next, before the first of them is rendered.
    fn prepare(&self, _worker: &mut Self::Worker, _samples: &[usize]) {}

    /// Writes the pixels of one sample in this epoch.
    fn render(&self, worker: &mut Self::Worker, sample: usize, epoch: u64, pixels: &mut [u8]) -> Result<(), DataError>;
}

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

/// How to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads, at least 1.
    pub threads: usize,
    /// Batches that are ready or in the making beside the one in use; at least as many as threads are kept busy by.
    pub prefetch: usize,
    /// What becomes of images that can't be used.
    pub failures: Failures,
}

impl Options {
    /// So many threads, each with a batch in the making and one ready; a failure ends it.
    pub fn new(threads: usize) -> Self {
        Self { threads, prefetch: 2 * threads, failures: Failures::Stop }
    }
}

/// The threads for each of `ranks` processes that share the cores which this one may use now, at least 1. A process that keeps
/// to a part of them asks before it does.
pub fn default_threads(ranks: usize) -> usize {
    share(thread::available_parallelism().map_or(1, usize::from), ranks)
}

/// The cores of each of `ranks` processes, at least 1.
fn share(cores: usize, ranks: usize) -> usize {
    (cores / ranks.max(1)).max(1)
}

/// Threads that make batches. Dropping it stops them: each finishes the image at hand, no more.
pub struct Loader<R: Render> {
    shared: Arc<Shared<R>>,
    threads: Vec<JoinHandle<()>>,
    /// Samples that failed, to count each once.
    failed: BTreeSet<usize>,
}

struct Shared<R> {
    render: Arc<R>,
    options: Options,
    state: Mutex<State>,
    /// There is something to do for a thread.
    work: Condvar,
    /// There is something to look at for the one who waits for a batch.
    ready: Condvar,
    stop: AtomicBool,
}

struct State {
    requests: Box<dyn Iterator<Item = Request> + Send>,
    exhausted: bool,
    /// Number of the next batch to be started.
    started: u64,
    /// Number of the next batch to be handed out.
    delivered: u64,
    /// Finished batches that wait for their turn.
    done: BTreeMap<u64, Batch>,
    /// Batches whose thread died.
    orphans: Vec<Job>,
    /// Batches handed back.
    spare: Vec<Batch>,
    /// Threads that have died and are not replaced yet.
    dead: usize,
}

struct Job {
    number: u64,
    request: Request,
    /// Places whose image made the decoder panic.
    panicked: Vec<usize>,
}

impl<R: Render> Loader<R> {
    /// Starts the threads. The requests are taken one by one, as they are needed, under a lock: each should cost little.
    pub fn start(
        render: Arc<R>,
        requests: impl Iterator<Item = Request> + Send + 'static,
        options: Options,
    ) -> Result<Self, DataError> {
        let state = State {
            requests: Box::new(requests),
            exhausted: false,
            started: 0,
            delivered: 0,
            done: BTreeMap::new(),
            orphans: Vec::new(),
            spare: Vec::new(),
            dead: 0,
        };
        let shared = Arc::new(Shared {
            render,
            options: Options { threads: options.threads.max(1), prefetch: options.prefetch.max(1), ..options },
            state: Mutex::new(state),
            work: Condvar::new(),
            ready: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut loader = Self { shared, threads: Vec::new(), failed: BTreeSet::new() };
        for _ in 0..loader.shared.options.threads {
            loader.spawn()?;
        }
        Ok(loader)
    }

    /// The next batch, when it is ready; none after the last one, and after an error.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not hand batches back between calls")]
    pub fn next(&mut self) -> Option<Result<Batch, DataError>> {
        let result = self.wait()?.and_then(|batch| self.settle(batch));
        if result.is_err() {
            self.shared.end();
        }
        Some(result)
    }

    /// Takes a batch back that is no longer needed, to fill it again.
    pub fn recycle(&self, batch: Batch) {
        let mut state = self.shared.lock();
        if state.spare.len() < self.shared.options.prefetch {
            state.spare.push(batch);
        }
    }

    /// Waits for the batch whose turn it is.
    fn wait(&mut self) -> Option<Result<Batch, DataError>> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            if shared.stop.load(Ordering::Relaxed) {
                return None;
            }
            let number = state.delivered;
            if let Some(batch) = state.done.remove(&number) {
                state.delivered += 1;
                drop(state);
                shared.work.notify_one();
                return Some(Ok(batch));
            }
            if state.exhausted && state.delivered == state.started {
                return None;
            }
            if state.dead > 0 {
                state.dead -= 1;
                if let Err(error) = self.spawn() {
                    return Some(Err(error));
                }
                continue;
            }
            state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Decides what becomes of the failures of a batch.
    fn settle(&mut self, mut batch: Batch) -> Result<Batch, DataError> {
        // A network that fails says nothing of the images, and another try would find them whole.
        if let Some(place) = batch.failures.iter().position(|(_, error)| error.is_of_the_way()) {
            return Err(batch.failures.swap_remove(place).1);
        }
        match self.shared.options.failures {
            Failures::Report => Ok(batch),
            Failures::Stop => match batch.failures.is_empty() {
                true => Ok(batch),
                false => Err(batch.failures.swap_remove(0).1),
            },
            Failures::Replace { at_most } => {
                self.failed.extend(batch.failures.iter().map(|(place, _)| batch.indices[*place]));
                let none_left = batch.failures.len() == batch.indices.len();
                if let Some((_, last)) = batch.failures.pop_if(|_| none_left || self.failed.len() > at_most) {
                    return Err(DataError::TooManyBroken {
                        found: self.failed.len(),
                        allowed: at_most,
                        last: Box::new(last),
                    });
                }
                replace_failed(&mut batch, self.shared.render.image_bytes());
                Ok(batch)
            }
        }
    }

    fn spawn(&mut self) -> Result<(), DataError> {
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name("loader".into()).spawn(move || work(&shared));
        let threads = self.shared.options.threads;
        self.threads.push(thread.map_err(|source| DataError::Threads { threads, source })?);
        Ok(())
    }
}

impl<R: Render> Drop for Loader<R> {
    fn drop(&mut self) {
        self.shared.end();
        for thread in self.threads.drain(..) {
            // A thread that panicked has reported its image already.
            let _ = thread.join();
        }
    }
}

impl<R> Shared<R> {
    /// The state. No code that can panic runs while it is locked, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every thread to stop.
    fn end(&self) {
        // Under the lock: no thread is then between looking at the flag and going to sleep.
        let _state = self.lock();
        self.stop.store(true, Ordering::Relaxed);
        self.work.notify_all();
        self.ready.notify_all();
    }

    /// The next batch to make, with a buffer for it; none if the thread is to end.
    fn take(&self) -> Option<(Job, Batch)> {
        let mut state = self.lock();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(job) = state.orphans.pop() {
                return Some((job, state.spare.pop().unwrap_or_default()));
            }
            // One batch is with the user, the others are ready or in the making.
            if !state.exhausted && state.started < state.delivered + self.options.prefetch as u64 {
                if let Some(request) = state.requests.next() {
                    let number = state.started;
                    state.started += 1;
                    return Some((
                        Job { number, request, panicked: Vec::new() },
                        state.spare.pop().unwrap_or_default(),
                    ));
                }
                state.exhausted = true;
                self.ready.notify_all();
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What a thread does until it is told to stop.
fn work<R: Render>(shared: &Shared<R>) {
    let mut worker = shared.render.worker();
    while let Some((job, mut batch)) = shared.take() {
        let number = job.number;
        let mut guard = Guard { shared, job: Some(job), place: 0 };
        if fill(&mut guard, &mut worker, &mut batch).is_none() {
            guard.job = None;
            return;
        }
        guard.job = None;
        shared.lock().done.insert(number, batch);
        shared.ready.notify_one();
    }
}

/// Fills a batch; none if it was told to stop halfway.
fn fill<R: Render>(guard: &mut Guard<'_, R>, worker: &mut R::Worker, batch: &mut Batch) -> Option<()> {
    let shared = guard.shared;
    let render = &shared.render;
    let bytes = render.image_bytes();
    let count = guard.job.as_ref().map_or(0, |job| job.request.samples.len());
    batch.pixels.resize(count * bytes, 0);
    batch.labels.clear();
    batch.indices.clear();
    batch.failures.clear();
    render.prepare(worker, guard.job.as_ref().map_or(&[], |job| &job.request.samples));
    for place in 0..count {
        if shared.stop.load(Ordering::Relaxed) {
            return None;
        }
        guard.place = place;
        let job = guard.job.as_ref()?;
        let sample = job.request.samples[place];
        let pixels = &mut batch.pixels[place * bytes..][..bytes];
        let rendered = if job.panicked.contains(&place) {
            Err(DataError::image(render.path(sample), ImageFault::Panicked))
        } else {
            render.render(worker, sample, job.request.epoch, pixels)
        };
        if let Err(error) = rendered {
            pixels.fill(0);
            batch.failures.push((place, error));
        }
        batch.labels.push(render.label(sample));
        batch.indices.push(sample);
    }
    Some(())
}

/// Hands a batch over if its thread dies.
struct Guard<'a, R> {
    shared: &'a Shared<R>,
    job: Option<Job>,
    /// The image at hand.
    place: usize,
}

impl<R> Drop for Guard<'_, R> {
    fn drop(&mut self) {
        // Without a panic, the job was taken out before.
        let Some(mut job) = self.job.take() else { return };
        job.panicked.push(self.place);
        let mut state = self.shared.lock();
        state.orphans.push(job);
        state.dead += 1;
        self.shared.ready.notify_all();
        self.shared.work.notify_all();
    }
}

/// Puts the next usable image of the batch, counted in a circle, in the place of each failed one. There is at least one.
fn replace_failed(batch: &mut Batch, bytes: usize) {
    let failed: BTreeSet<usize> = batch.failures.iter().map(|(place, _)| *place).collect();
    let count = batch.indices.len();
    for &place in &failed {
        let Some(from) = (1..count).map(|step| (place + step) % count).find(|from| !failed.contains(from)) else {
            return;
        };
        batch.pixels.copy_within(from * bytes..(from + 1) * bytes, place * bytes);
        batch.labels[place] = batch.labels[from];
        batch.indices[place] = batch.indices[from];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_share_the_cores_and_each_has_one_at_least() {
        let table = [(64, 1, 64), (64, 8, 8), (64, 3, 21), (2, 8, 1), (1, 1, 1), (4, 0, 4)];
        for (cores, ranks, threads) in table {
            assert_eq!(share(cores, ranks), threads, "{cores} cores, {ranks} ranks");
        }
    }
}
