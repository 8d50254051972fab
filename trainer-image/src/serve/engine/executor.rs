//! The thread that computes: one for the device, whatever number of models there is, so that models take turns instead of
//! standing in each other's way. Each model has a lane of its own; the batch whose first image has waited longest goes first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use crds::contract::Cause;
use tokio::sync::oneshot;

use super::admission::Slot;
use super::queue::{Due, Gathering, Queue};
use crate::fault::Fault;
use crate::serve::error::ServeError;
use crate::serve::metrics::Metrics;
use crate::serve::statistics::Statistics;
use crate::torch::ASSERTED;

/// What computes the batches of a lane: as many outputs as inputs, in their order.
pub(in crate::serve) type Compute<I, O> = Box<dyn FnMut(Vec<I>) -> Result<Vec<O>, Fault> + Send>;

/// One image that waits.
pub(in crate::serve) struct Item<I, O> {
    pub(in crate::serve) input: I,
    pub(in crate::serve) reply: oneshot::Sender<Result<O, ServeError>>,
    /// Its place among those that may wait; it is free as soon as the batch begins.
    pub(in crate::serve) slot: Slot,
}

/// A lane as the thread sees it.
trait Line: Send {
    fn due(&self, now: Instant) -> Due;
    /// The next batch, ready to be computed without the lock.
    fn take(&mut self) -> Box<dyn FnOnce(&Metrics) -> Option<Fault> + Send>;
    fn is_done(&self) -> bool;
}

/// A lane: what waits, and what computes it.
struct Track<I, O> {
    queue: Queue<Item<I, O>>,
    compute: Arc<Mutex<Compute<I, O>>>,
    statistics: Arc<Statistics>,
    /// Nobody can ask any more.
    retired: bool,
}

type Shared<T> = Arc<Mutex<T>>;

#[derive(Default)]
struct Lines {
    lines: Vec<Shared<dyn Line>>,
    closed: bool,
}

struct State {
    lines: Mutex<Lines>,
    wake: Condvar,
    /// Since when the present batch has been computed.
    busy: Mutex<Option<Instant>>,
}

/// The thread. Dropping it computes what still waits and ends it.
pub(in crate::serve) struct Executor {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

/// Where images of one model are handed in. Dropping it lets what waits be computed, then drops what computes.
pub(in crate::serve) struct Lane<I, O> {
    track: Shared<Track<I, O>>,
    state: Arc<State>,
}

/// A panic elsewhere leaves what waits as it is: each step on it is whole.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    /// Starts the thread. `broken` is told a fault after which nothing can be computed any more.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(in crate::serve) fn start(
        metrics: Arc<Metrics>,
        broken: impl Fn(Fault) + Send + 'static,
    ) -> io::Result<Executor> {
        let state = Arc::new(State { lines: Mutex::default(), wake: Condvar::new(), busy: Mutex::default() });
        let shared = Arc::clone(&state);
        let run = move || {
            while let Some(batch) = next(&shared) {
                *lock(&shared.busy) = Some(Instant::now());
                let fault = batch(&metrics);
                *lock(&shared.busy) = None;
                if let Some(fault) = fault {
                    broken(fault);
                }
            }
        };
        let thread = thread::Builder::new().name("network".to_owned()).spawn(run)?;
        Ok(Executor { state, thread: Some(thread) })
    }

    /// For how long the present batch has been computed; zero if there is none.
    pub(in crate::serve) fn busy(&self) -> Duration {
        lock(&self.state.busy).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// A lane of its own, whose images are counted in `statistics`.
    pub(in crate::serve) fn lane<I: Send + 'static, O: Send + 'static>(
        &self,
        gathering: Gathering,
        statistics: Arc<Statistics>,
        compute: Compute<I, O>,
    ) -> Lane<I, O> {
        let track =
            Track { queue: Queue::new(gathering), compute: Arc::new(Mutex::new(compute)), statistics, retired: false };
        let track = Arc::new(Mutex::new(track));
        let line: Shared<dyn Line> = track.clone();
        lock(&self.state.lines).lines.push(line);
        Lane { track, state: Arc::clone(&self.state) }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        lock(&self.state.lines).closed = true;
        self.state.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been told by the panic hook.
            let _ = thread.join();
        }
    }
}

impl<I, O> Lane<I, O> {
    /// Hands images in that came together: they go together, as far as they fit in a batch. Nothing is computed for a reply
    /// whose receiver is gone by the time its batch begins.
    pub(in crate::serve) fn push(&self, items: Vec<Item<I, O>>) {
        let mut track = lock(&self.track);
        let now = Instant::now();
        for item in items {
            track.queue.push(now, item);
        }
        drop(track);
        self.wake();
    }

    /// Drops what nobody waits for any more, to make room.
    pub(in crate::serve) fn purge(&self) {
        lock(&self.track).queue.purge(|item| !item.reply.is_closed());
    }

    fn wake(&self) {
        // With the lock taken once, the thread is either before its look at the lanes or asleep: no call is lost.
        drop(lock(&self.state.lines));
        self.state.wake.notify_one();
    }
}

impl<I, O> Drop for Lane<I, O> {
    fn drop(&mut self) {
        lock(&self.track).retired = true;
        self.wake();
    }
}

impl<I: Send + 'static, O: Send + 'static> Line for Track<I, O> {
    fn due(&self, now: Instant) -> Due {
        match self.queue.due(now) {
            // Nobody comes any more.
            Due::At(_) if self.retired => Due::Since(now),
            due => due,
        }
    }

    fn take(&mut self) -> Box<dyn FnOnce(&Metrics) -> Option<Fault> + Send> {
        let batch = self.queue.take(|item| !item.reply.is_closed());
        let (compute, statistics) = (Arc::clone(&self.compute), Arc::clone(&self.statistics));
        Box::new(move |metrics| run(batch, &compute, &statistics, metrics))
    }

    fn is_done(&self) -> bool {
        self.retired && self.queue.is_empty()
    }
}

/// Waits for the next batch; none when all is done and nobody asks any more.
fn next(state: &State) -> Option<Box<dyn FnOnce(&Metrics) -> Option<Fault> + Send>> {
    let mut lines = lock(&state.lines);
    loop {
        let (done, open): (Vec<_>, Vec<_>) =
            mem::take(&mut lines.lines).into_iter().partition(|line| lock(line).is_done());
        lines.lines = open;
        if !done.is_empty() {
            // A model takes a while to be dropped: not under the lock, for which requests would wait.
            drop(lines);
            drop(done);
            lines = lock(&state.lines);
            continue;
        }
        let now = Instant::now();
        let mut chosen: Option<(Instant, Shared<dyn Line>)> = None;
        let mut earliest: Option<Instant> = None;
        for line in &lines.lines {
            match lock(line).due(now) {
                Due::Never => {}
                Due::At(time) => earliest = Some(earliest.map_or(time, |earliest| earliest.min(time))),
                Due::Since(since) if chosen.as_ref().is_none_or(|(oldest, _)| since < *oldest) => {
                    chosen = Some((since, Arc::clone(line)));
                }
                Due::Since(_) => {}
            }
        }
        if let Some((_, line)) = chosen {
            return Some(lock(&line).take());
        }
        lines = match earliest {
            Some(time) => {
                let wait = time.saturating_duration_since(now);
                state.wake.wait_timeout(lines, wait).unwrap_or_else(PoisonError::into_inner).0
            }
            None if lines.closed => return None,
            None => state.wake.wait(lines).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// Computes a batch and answers; a fault that outlasts the batch is returned.
fn run<I, O>(
    batch: Vec<(Instant, Item<I, O>)>,
    compute: &Mutex<Compute<I, O>>,
    statistics: &Statistics,
    metrics: &Metrics,
) -> Option<Fault> {
    if batch.is_empty() {
        return None;
    }
    let start = Instant::now();
    let count = batch.len();
    let (mut inputs, mut replies) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (since, Item { input, reply, slot }) in batch {
        let waited = start.saturating_duration_since(since);
        metrics.waited(&statistics.model, waited);
        statistics.waited(waited);
        drop(slot);
        inputs.push(input);
        replies.push(reply);
    }
    let computed = catch_unwind(AssertUnwindSafe(|| lock(compute)(inputs)))
        .unwrap_or_else(|payload| Err(Fault::from_panic(payload.as_ref())));
    let took = start.elapsed();
    metrics.computed(&statistics.model, count, took);
    statistics.computed(count, took);
    match computed {
        Ok(outputs) => {
            for (reply, output) in replies.into_iter().zip(outputs) {
                // Whoever asked may have left meanwhile.
                let _ = reply.send(Ok(output));
            }
            None
        }
        Err(fault) => {
            let error = ServeError::of_network(&fault, count);
            tracing::error!(images = count, "a batch failed: {fault}");
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
            is_lasting(&fault).then_some(fault)
        }
    }
}

/// Whether nothing can be computed any more by this process: the GPU failed, or CUDA refuses all calls after an assertion that failed
/// in a kernel, which may be the program's own fault.
fn is_lasting(fault: &Fault) -> bool {
    fault.cause() == Cause::NodeFault || fault.to_string().contains(ASSERTED)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tch::TchError;

    use super::*;
    use crate::serve::engine::{Admission, ONE_BY_ONE};

    #[test]
    fn a_batch_that_is_being_computed_tells_for_how_long() {
        let executor = Executor::start(Arc::default(), |_| ()).unwrap();
        let (go_on, wait) = mpsc::channel::<()>();
        let compute = move |inputs: Vec<u8>| {
            wait.recv().unwrap();
            Ok(inputs)
        };
        let lane = executor.lane(ONE_BY_ONE, Arc::new(Statistics::new("a")), Box::new(compute));
        assert_eq!(executor.busy(), Duration::ZERO);
        let (reply, answer) = oneshot::channel();
        let slot = Admission::new(1).admit(1).unwrap().swap_remove(0);
        lane.push(vec![Item { input: 7, reply, slot }]);
        let long = Duration::from_millis(30);
        while executor.busy() < long {
            thread::sleep(long / 10);
        }
        go_on.send(()).unwrap();
        assert_eq!(answer.blocking_recv().unwrap(), Ok(7));
        while !executor.busy().is_zero() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_fault_after_which_cuda_refuses_every_call_is_told_and_one_of_a_batch_is_not() {
        let told = |thrown: &'static str, unwraps: bool| {
            let fails = move |_: Vec<u8>| -> Result<Vec<u8>, Fault> {
                let thrown = || -> Result<Vec<u8>, TchError> { Err(TchError::Torch(thrown.to_owned())) };
                Ok(if unwraps { thrown().unwrap() } else { thrown()? })
            };
            let (reply, answer) = oneshot::channel();
            let slot = Admission::new(1).admit(1).unwrap().swap_remove(0);
            let batch = vec![(Instant::now(), Item { input: 7, reply, slot })];
            let compute: Mutex<Compute<u8, u8>> = Mutex::new(Box::new(fails));
            let told = run(batch, &compute, &Statistics::new("a"), &Metrics::default());
            assert!(answer.blocking_recv().unwrap().is_err(), "{thrown}");
            told.is_some()
        };
        for (thrown, lasts) in [
            ("CUDA error: device-side assert triggered", true),
            ("CUDA error: an illegal memory access was encountered", true),
            ("CUDA out of memory. Tried to allocate 2.00 GiB", false),
            ("CUDA error: invalid configuration argument", false),
            ("mat1 and mat2 shapes cannot be multiplied", false),
        ] {
            assert_eq!([told(thrown, false), told(thrown, true)], [lasts; 2], "{thrown}");
        }
    }
}
