//! Writes checkpoints in the background, one at a time, so that training does not wait for the disk. A full disk or a store
//! that is gone may come back: what failed is tried again for a while, in which training goes on without newer checkpoints.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crds::contract::Cause;
use serde::Serialize;

use super::{Checkpoint, commit};
use crate::fault::Fault;
use crate::folder::Folder;
use crate::storage::patience;

/// How much longer a checkpoint is tried again than a single request: while it is, nobody waits for it.
const PATIENCE: u32 = 5;
/// The first pause before another try, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The part of the time for a collective for which rank 0 waits for a checkpoint while the other ranks wait for it: it has to
/// be the first to end, since it alone knows why.
const SHARE: f64 = 0.75;
/// How long a checkpoint may be in the writing until training no longer waits for it to hand over the next one.
const SLOW: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// A checkpoint to be written.
struct Order<Position> {
    step: u64,
    /// Waits until it is here.
    arrive: Box<dyn FnOnce() -> Result<Checkpoint<Position>, Fault> + Send>,
}

/// A thread that commits checkpoints to an output folder.
pub struct Writer<Position> {
    work: Option<SyncSender<Order<Position>>>,
    done: Receiver<Result<u64, Fault>>,
    thread: Option<JoinHandle<()>>,
    in_flight: bool,
    since: Instant,
    /// What the one that is being written has failed by.
    trouble: Arc<Mutex<Option<String>>>,
    /// Longest time to wait for checkpoints in a row.
    longest: Duration,
    /// How much of it the one that is being written has waited for the one before.
    spent: Duration,
}

impl<Position: Serialize + Send + 'static> Writer<Position> {
    /// Starts the thread; `keep` is the number of checkpoints that stay, `collective` the time after which ranks that wait for
    /// this one give up; [`Duration::MAX`] without such.
    pub fn start(output: Folder, keep: usize, collective: Duration) -> Writer<Position> {
        let longest = collective.mul_f64(SHARE);
        Writer::committing(patience() * PATIENCE, longest, PAUSES, move |checkpoint: &Checkpoint<Position>| {
            commit(&output, keep, checkpoint).map(|_| checkpoint.step)
        })
    }

    /// Starts the thread with what commits a checkpoint, which is tried for `patience` and waited for at most for `longest`.
    fn committing(
        patience: Duration,
        longest: Duration,
        pauses: (Duration, Duration),
        commit: impl Fn(&Checkpoint<Position>) -> Result<u64, Fault> + Send + 'static,
    ) -> Writer<Position> {
        let (work, orders) = sync_channel::<Order<Position>>(1);
        let (report, done) = sync_channel(1);
        let trouble = Arc::default();
        let told = Arc::clone(&trouble);
        let run = move || {
            for Order { step, arrive } in orders {
                let result = arrive()
                    .and_then(|checkpoint| again_and_again(patience, pauses, &told, step, || commit(&checkpoint)));
                if report.send(result).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(run).expect("a thread can start");
        Writer {
            work: Some(work),
            done,
            thread: Some(thread),
            in_flight: false,
            since: Instant::now(),
            trouble,
            longest,
            spent: Duration::ZERO,
        }
    }

    /// Whether a checkpoint is being written.
    pub fn is_busy(&self) -> bool {
        self.in_flight
    }

    /// Whether the one that is being written has failed and is tried again, or takes so long that it will: to hand another one
    /// over would mean to wait for the storage.
    pub fn is_failing(&self) -> bool {
        self.in_flight && (lock(&self.trouble).is_some() || self.since.elapsed() > SLOW.min(self.longest))
    }

    /// Hands the checkpoint of a step over, which `arrive` gives, on the writer's thread: it may wait for a device there. Says which
    /// step was committed before. If one is still being written, waits for that first. What `arrive` fails by is told by the next
    /// call, as what the writing fails by.
    pub fn submit(
        &mut self,
        step: u64,
        arrive: impl FnOnce() -> Result<Checkpoint<Position>, Fault> + Send + 'static,
    ) -> Result<Option<u64>, Fault> {
        self.spent = Duration::ZERO;
        let began = Instant::now();
        let finished = self.wait()?;
        self.spent = began.elapsed();
        let order = Order { step, arrive: Box::new(arrive) };
        self.work.as_ref().expect("open until dropped").send(order).expect("the thread runs until dropped");
        (self.in_flight, self.since) = (true, Instant::now());
        *lock(&self.trouble) = None;
        Ok(finished)
    }

    /// Waits until nothing is being written, or what is fails: the step that was committed meanwhile, and whether the writer is
    /// free for another one.
    pub fn wait_unless_failing(&mut self) -> Result<(Option<u64>, bool), Fault> {
        while self.in_flight {
            if let Some(step) = self.poll()? {
                return Ok((Some(step), true));
            }
            if self.is_failing() {
                return Ok((None, false));
            }
            std::thread::sleep(LOOK);
        }
        Ok((None, true))
    }

    /// The step of a checkpoint that was committed since the last call, without waiting.
    pub fn poll(&mut self) -> Result<Option<u64>, Fault> {
        match self.done.try_recv() {
            Ok(result) => {
                self.in_flight = false;
                result.map(Some)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(None),
        }
    }

    /// Waits until nothing is being written; the step of the checkpoint that was.
    ///
    /// # Errors
    /// What it failed by; [`Cause::Storage`] as well if it is not written before the other ranks give up.
    pub fn wait(&mut self) -> Result<Option<u64>, Fault> {
        if !self.in_flight {
            return Ok(None);
        }
        self.in_flight = false;
        match self.done.recv_timeout(self.longest.saturating_sub(self.spent)) {
            Ok(result) => result.map(Some),
            Err(RecvTimeoutError::Disconnected) => panic!("the thread answers each order"),
            Err(RecvTimeoutError::Timeout) => {
                // It is left alone: what it waits for may never come.
                self.thread = None;
                let why = lock(&self.trouble).take().map_or(String::new(), |fault| format!(": {fault}"));
                let message = format!("a checkpoint is not written after {} s{why}", self.longest.as_secs_f64());
                Err(Fault::new(Cause::Storage, message).hint(
                    "look for a full disk or a lost volume; where the storage is slow, raise training.collectiveTimeoutSeconds",
                ))
            }
        }
    }
}

/// Tries until it succeeds, or fails for a reason that time does not mend, or for so long.
fn again_and_again(
    patience: Duration,
    (first, longest): (Duration, Duration),
    trouble: &Mutex<Option<String>>,
    step: u64,
    commit: impl Fn() -> Result<u64, Fault>,
) -> Result<u64, Fault> {
    let began = Instant::now();
    let mut pause = first;
    loop {
        let result = commit();
        let fault = match result {
            Err(fault) if fault.cause() == Cause::Storage && began.elapsed() + pause < patience => fault,
            result => {
                *lock(trouble) = None;
                return result;
            }
        };
        *lock(trouble) = Some(fault.to_string());
        tracing::warn!(step, %fault, again_in = ?pause, "a checkpoint could not be saved; the training goes on meanwhile");
        std::thread::sleep(pause);
        pause = longest.min(pause * 2);
    }
}

/// Nothing panics while it is locked.
fn lock(trouble: &Mutex<Option<String>>) -> MutexGuard<'_, Option<String>> {
    trouble.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Position> Drop for Writer<Position> {
    fn drop(&mut self) {
        self.work = None;
        // One that fails is tried again in vain: nobody is here any more to go on from it.
        let waits = lock(&self.trouble).is_none();
        if waits && let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tch::Tensor;

    use super::*;
    use crate::checkpoint::newest;
    use crate::folder::Owner;

    const MINUTE: Duration = Duration::from_secs(60);
    const QUICK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(20));

    fn checkpoint(step: u64) -> Checkpoint<String> {
        Checkpoint { step, position: format!("at {step}"), tensors: vec![("a".into(), Tensor::from_slice(&[1.0_f32]))] }
    }

    #[test]
    fn a_disk_that_was_full_gets_the_checkpoint_when_there_is_room_again() {
        let root = tempfile::tempdir().unwrap();
        let owner = Owner { uid: "a".into(), name: "TrainingJob default/a".into(), attempt: 1, created: None };
        let output = Folder::claim(root.path(), &owner).unwrap();
        let staged = root.path().join("checkpoints/.step-000000007.attempt-1");
        fs::create_dir_all(&staged).unwrap();
        // Whatever is written there, the system says that the disk is full.
        symlink("/dev/full", staged.join("state.safetensors")).unwrap();
        let tries = Arc::new(AtomicU32::new(0));
        let counted = tries.clone();
        let mut writer = Writer::committing(MINUTE, MINUTE, QUICK, move |checkpoint: &Checkpoint<String>| {
            let result = commit(&output, 2, checkpoint).map(|_| checkpoint.step);
            if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                assert!(result.as_ref().unwrap_err().to_string().contains("No space left"), "{result:?}");
            }
            result
        });
        writer.submit(7, || Ok(checkpoint(7))).unwrap();
        assert_eq!(writer.wait().unwrap(), Some(7));
        assert_eq!(tries.load(Ordering::Relaxed), 2);
        assert_eq!(newest::<String>(root.path()).unwrap().checkpoint.unwrap().position, "at 7");
    }

    #[test]
    fn storage_that_stays_away_ends_it_as_such_and_meanwhile_it_says_that_it_fails() {
        let full = |_: &Checkpoint<String>| Err(Fault::new(Cause::Storage, "full"));
        let mut writer = Writer::committing(Duration::from_millis(200), MINUTE, QUICK, full);
        writer.submit(1, || Ok(checkpoint(1))).unwrap();
        assert_eq!(writer.wait_unless_failing().unwrap(), (None, false));
        assert_eq!(writer.poll().unwrap(), None);
        assert_eq!(writer.wait().unwrap_err().cause(), Cause::Storage);
        assert!(!writer.is_failing());
    }

    #[test]
    fn nobody_waits_for_a_checkpoint_longer_than_the_other_ranks_do() {
        let full = |_: &Checkpoint<String>| Err(Fault::new(Cause::Storage, "no space left"));
        let mut writer = Writer::committing(100 * MINUTE, Duration::from_millis(300), QUICK, full);
        writer.submit(1, || Ok(checkpoint(1))).unwrap();
        let fault = writer.wait().unwrap_err();
        assert_eq!(fault.cause(), Cause::Storage);
        assert_eq!(fault.to_string(), "a checkpoint is not written after 0.3 s: no space left");
        // Its thread tries on for hours: the test ends all the same.
        drop(writer);
    }

    #[test]
    fn what_time_does_not_mend_is_not_tried_again() {
        let tries = Arc::new(AtomicU32::new(0));
        let counted = tries.clone();
        let mut writer = Writer::committing(MINUTE, MINUTE, QUICK, move |_: &Checkpoint<String>| {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(Fault::new(Cause::Permission, "read-only"))
        });
        writer.submit(1, || Ok(checkpoint(1))).unwrap();
        assert_eq!((writer.wait().unwrap_err().cause(), tries.load(Ordering::Relaxed)), (Cause::Permission, 1));
    }

    #[test]
    fn a_checkpoint_is_waited_for_on_the_writer_s_thread_and_one_that_is_not_good_is_not_written() {
        let written = Arc::new(AtomicU32::new(0));
        let counted = written.clone();
        let mut writer = Writer::committing(MINUTE, MINUTE, QUICK, move |checkpoint: &Checkpoint<String>| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(checkpoint.step)
        });
        let (arrived, arrives) = sync_channel(1);
        let waits = move || {
            arrives.recv().expect("it is sent");
            Ok(checkpoint(5))
        };
        writer.submit(5, waits).unwrap();
        assert_eq!((writer.poll().unwrap(), written.load(Ordering::Relaxed)), (None, 0), "it is on its way");
        arrived.send(()).unwrap();
        assert_eq!(writer.wait().unwrap(), Some(5));
        writer.submit(6, || Err(Fault::new(Cause::NotFinite, "a weight").at_step(6))).unwrap();
        let fault = writer.submit(7, || Ok(checkpoint(7))).unwrap_err();
        assert_eq!((fault.cause(), written.load(Ordering::Relaxed)), (Cause::NotFinite, 1));
    }
}
