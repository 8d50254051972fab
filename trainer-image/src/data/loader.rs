//! Makes batches ahead of time, in threads, and hands them out in the order asked for.
//!
//! A thread makes a whole batch, so that threads meet once a batch and not once an image. No more than a fixed number of batches
//! exist at a time, and a batch handed back is filled again: in the steady state no memory is taken. Where that number of batches
//! would take too much memory there are fewer, and the threads share each of them, part by part.
//!
//! A decoder that panics costs one image, not the process and not the batch: its thread dies, hands the batch over with the image
//! marked as failed, and is replaced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::augment::Flips;
use super::batch::{Batch, Failures, Request};
use super::error::{DataError, ImageFault};
use super::options::{AHEAD_BYTES, Options};

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

    /// Writes the pixels of one sample in this epoch, and says which flips of them are left to do.
    fn render(
        &self,
        worker: &mut Self::Worker,
        sample: usize,
        epoch: u64,
        pixels: &mut [u8],
    ) -> Result<Flips, DataError>;
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
    /// Parts of a batch.
    parts: usize,
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
    /// Finished batches that wait for their turn, and how long a thread was at work on each.
    done: BTreeMap<u64, (Batch, Duration)>,
    /// Parts of batches that have been started, and those whose thread died.
    queue: VecDeque<Job>,
    /// Finished parts of batches that are not whole yet.
    gathered: BTreeMap<u64, Vec<Finished>>,
    /// Batches handed back.
    spare: Vec<Batch>,
    /// Memory of parts.
    spare_parts: Vec<Batch>,
    /// Threads that have died and are not replaced yet.
    dead: usize,
}

/// A batch to be made, or a part of it.
struct Job {
    /// Number of the batch.
    number: u64,
    /// Which part of so many.
    part: usize,
    parts: usize,
    request: Request,
    /// Places whose image made the decoder panic.
    panicked: Vec<usize>,
}

/// A part of a batch, and how long a thread was at work on it.
struct Finished {
    part: usize,
    batch: Batch,
    took: Duration,
}

impl<R: Render> Loader<R> {
    /// Starts the threads. The requests are taken one by one, as they are needed, under a lock: each should cost little.
    pub fn start(
        render: Arc<R>,
        requests: impl Iterator<Item = Request> + Send + 'static,
        options: Options,
    ) -> Result<Self, DataError> {
        Self::start_within(AHEAD_BYTES, render, requests, options)
    }

    /// As [`start`](Self::start), with so many bytes ready or in the making at most.
    pub(super) fn start_within(
        most: usize,
        render: Arc<R>,
        requests: impl Iterator<Item = Request> + Send + 'static,
        options: Options,
    ) -> Result<Self, DataError> {
        let mut requests = requests.peekable();
        let batch_bytes = requests.peek().map_or(0, |first| first.samples.len() * render.image_bytes());
        let (options, parts) = options.within(most, batch_bytes);
        let state = State {
            requests: Box::new(requests),
            exhausted: false,
            started: 0,
            delivered: 0,
            done: BTreeMap::new(),
            queue: VecDeque::new(),
            gathered: BTreeMap::new(),
            spare: Vec::new(),
            spare_parts: Vec::new(),
            dead: 0,
        };
        let shared = Arc::new(Shared {
            render,
            options,
            parts,
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

    /// Batches that are ready or in the making at most.
    pub fn prefetch(&self) -> usize {
        self.shared.options.prefetch
    }

    /// How long it took to make the batches that are ready now: for who counts the time from now on, and gets them for nothing.
    pub fn head_start(&self) -> Duration {
        let worked: Duration = self.shared.lock().done.values().map(|(_, took)| *took).sum();
        let Options { threads, prefetch, .. } = self.shared.options;
        worked / u32::try_from(threads.min(prefetch * self.shared.parts)).unwrap_or(u32::MAX)
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
            if let Some((batch, _)) = state.done.remove(&number) {
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
                batch.replace_failed(self.shared.render.image_bytes());
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
            if let Some(job) = state.queue.pop_front() {
                let room = state.room_for(&job);
                return Some((job, room));
            }
            // One batch is with the user, the others are ready or in the making.
            if !state.exhausted && state.started < state.delivered + self.options.prefetch as u64 {
                if let Some(request) = state.requests.next() {
                    let number = state.started;
                    state.started += 1;
                    let requests = request.in_parts(self.parts);
                    let parts = requests.len();
                    let job = |(part, request)| Job { number, part, parts, request, panicked: Vec::new() };
                    state.queue.extend(requests.into_iter().enumerate().map(job));
                    if parts > 1 {
                        self.work.notify_all();
                    }
                    continue;
                }
                state.exhausted = true;
                self.ready.notify_all();
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes what a thread has made. The one that makes the last part of a batch puts it together.
    fn finish(&self, number: u64, parts: usize, finished: Finished) {
        let mut state = self.lock();
        let whole = if parts == 1 {
            (finished.batch, finished.took)
        } else {
            let gathered = state.gathered.entry(number).or_default();
            gathered.push(finished);
            if gathered.len() < parts {
                return;
            }
            let mut gathered = state.gathered.remove(&number).unwrap_or_default();
            let mut whole = state.spare.pop().unwrap_or_default();
            drop(state);
            gathered.sort_unstable_by_key(|finished| finished.part);
            whole.clear();
            whole.pixels.reserve_exact(gathered.iter().map(|finished| finished.batch.pixels.len()).sum());
            gathered.iter_mut().for_each(|finished| whole.append(&mut finished.batch));
            let took = gathered.iter().map(|finished| finished.took).sum();
            state = self.lock();
            state.spare_parts.extend(gathered.into_iter().map(|finished| finished.batch));
            // One for each thread; what came for more at once would stay for nothing.
            state.spare_parts.truncate(self.options.threads);
            (whole, took)
        };
        state.done.insert(number, whole);
        self.ready.notify_one();
    }
}

impl State {
    /// Memory to fill.
    fn room_for(&mut self, job: &Job) -> Batch {
        let spare = if job.parts == 1 { &mut self.spare } else { &mut self.spare_parts };
        spare.pop().unwrap_or_default()
    }
}

/// What a thread does until it is told to stop.
fn work<R: Render>(shared: &Shared<R>) {
    let mut worker = shared.render.worker();
    while let Some((job, mut batch)) = shared.take() {
        let (number, part, parts) = (job.number, job.part, job.parts);
        let began = Instant::now();
        let mut guard = Guard { shared, job: Some(job), place: 0 };
        let filled = fill(&mut guard, &mut worker, &mut batch);
        guard.job = None;
        if filled.is_none() {
            return;
        }
        shared.finish(number, parts, Finished { part, batch, took: began.elapsed() });
    }
}

/// Fills a batch; none if it was told to stop halfway.
fn fill<R: Render>(guard: &mut Guard<'_, R>, worker: &mut R::Worker, batch: &mut Batch) -> Option<()> {
    let shared = guard.shared;
    let render = &shared.render;
    let bytes = render.image_bytes();
    let count = guard.job.as_ref().map_or(0, |job| job.request.samples.len());
    // What was in it needs no clearing: it is drawn over.
    let mut pixels = std::mem::take(&mut batch.pixels);
    pixels.resize(count * bytes, 0);
    batch.clear();
    batch.pixels = pixels;
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
        let flips = rendered.unwrap_or_else(|error| {
            pixels.fill(0);
            batch.failures.push((place, error));
            Flips::default()
        });
        batch.flips.push(flips);
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
        state.queue.push_front(job);
        state.dead += 1;
        self.shared.ready.notify_all();
        self.shared.work.notify_all();
    }
}
