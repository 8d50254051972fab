//! Writes checkpoints in the background, one at a time, so that training does not wait for the disk.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use serde::Serialize;

use super::{Checkpoint, commit};
use crate::fault::Fault;
use crate::folder::Folder;

/// A thread that commits checkpoints to an output folder.
pub struct Writer<Position> {
    work: Option<SyncSender<Checkpoint<Position>>>,
    done: Receiver<Result<u64, Fault>>,
    thread: Option<JoinHandle<()>>,
    in_flight: bool,
}

impl<Position: Serialize + Send + 'static> Writer<Position> {
    /// Starts the thread; `keep` is the number of checkpoints that stay.
    pub fn start(output: Folder, keep: usize) -> Writer<Position> {
        let (work, orders) = sync_channel::<Checkpoint<Position>>(1);
        let (report, done) = sync_channel(1);
        let run = move || {
            for checkpoint in orders {
                let result = commit(&output, keep, &checkpoint).map(|_| checkpoint.step);
                if report.send(result).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(run).expect("a thread can start");
        Writer { work: Some(work), done, thread: Some(thread), in_flight: false }
    }

    /// Whether a checkpoint is being written.
    pub fn is_busy(&self) -> bool {
        self.in_flight
    }

    /// Hands a checkpoint over. If one is still being written, waits for that first.
    pub fn submit(&mut self, checkpoint: Checkpoint<Position>) -> Result<Option<u64>, Fault> {
        let finished = self.wait()?;
        self.work.as_ref().expect("open until dropped").send(checkpoint).expect("the thread runs until dropped");
        self.in_flight = true;
        Ok(finished)
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
    pub fn wait(&mut self) -> Result<Option<u64>, Fault> {
        if !self.in_flight {
            return Ok(None);
        }
        self.in_flight = false;
        self.done.recv().expect("the thread answers each order").map(Some)
    }
}

impl<Position> Drop for Writer<Position> {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing to add here.
            let _ = thread.join();
        }
    }
}
