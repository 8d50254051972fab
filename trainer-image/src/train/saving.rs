//! Checkpoints of a training: when one is due, what it holds, and the end after a signal.

use std::time::{Duration, Instant};

use crds::contract::Cause;
use crds::training_job::CheckpointInterval;
use tch::{Kind, Tensor};

use super::course::Course;
use super::position::Position;
use super::tally::Read;
use crate::causes::DIVERGED;
use crate::checkpoint::{Checkpoint, Clock, Due, Policy, Writer};
use crate::fault::Fault;
use crate::folder::Folder;
use crate::optim::Ema;
use crate::torch::{Snapshot, TorchError};
use crate::zoo::host_copy;

/// What becomes of a checkpoint while the one before can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenBusy {
    /// It is passed over: training goes on.
    PassOver,
    /// It waits: it is the last one.
    Wait,
}

/// Rank 0's writer, for which other ranks have so much patience, and when it is to write.
pub(super) fn checkpointing(
    folder: Option<&Folder>,
    interval: CheckpointInterval,
    keep: u32,
    patience: Duration,
) -> (Option<Writer<Position>>, Policy) {
    let policy = match interval {
        CheckpointInterval::Steps(steps) => Policy::EverySteps(u64::from(steps)),
        CheckpointInterval::Seconds(seconds) => Policy::Every(Duration::from_secs(u64::from(seconds))),
    };
    (folder.map(|folder| Writer::start(folder.clone(), keep as usize, patience)), policy)
}

impl Course<'_> {
    /// What decides whether rank 0 wants a checkpoint after the next step. One that is due by time waits until the one before is
    /// written; one that is due by steps is written at its step, unless the storage fails: then it is passed over.
    pub(super) fn due(&self) -> Due {
        let next = Clock { step: self.position.step + 1, now: Instant::now() };
        let is_failing = self.writer.as_ref().is_some_and(Writer::is_failing);
        let may_wait = is_failing || matches!(self.policy, Policy::Every(_));
        let busy = self.writer.as_ref().is_none_or(Writer::is_busy);
        Due { policy: self.policy, saved: self.saved, next, is_held_up: busy && may_wait }
    }

    pub(super) fn after_step(&mut self) -> Result<(), Fault> {
        self.poll_saved()?;
        if self.control.orders()?.save {
            self.save(WhenBusy::PassOver)?;
        }
        Ok(())
    }

    /// Tells of a checkpoint that was committed meanwhile.
    pub(super) fn poll_saved(&mut self) -> Result<(), Fault> {
        if let Some(step) = self.writer.as_mut().map_or(Ok(None), Writer::poll)? {
            self.tell_saved(step);
        }
        Ok(())
    }

    /// Hands a checkpoint to the writer, unless the newest one is of this step. All ranks take part in the sums.
    pub(super) fn save(&mut self, when_busy: WhenBusy) -> Result<(), Fault> {
        self.read_sums(Read::All)?;
        self.shared_sums()?;
        let (step, in_epoch) = (self.position.step, self.position.step_in_epoch);
        // Step 0 has no checkpoint to begin with, and the end of an epoch is more than its last step.
        if self.saved.step == step && step > 0 && in_epoch < self.setup.sampler.steps_per_epoch() {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            self.saved = Clock { step, now: Instant::now() };
            return Ok(());
        };
        if when_busy == WhenBusy::PassOver {
            let (committed, is_free) = writer.wait_unless_failing()?;
            if let Some(step) = committed {
                self.tell_saved(step);
            }
            if !is_free {
                return Ok(());
            }
        }
        self.saved = Clock { step, now: Instant::now() };
        let (mut tensors, mut best) = (Vec::new(), Vec::new());
        let section = |tensors: &mut Vec<(String, Tensor)>, name: &str, content: Vec<(String, Tensor)>| {
            tensors.extend(content.into_iter().map(|(tensor_name, tensor)| (format!("{name}/{tensor_name}"), tensor)));
        };
        section(&mut tensors, "model", self.replica.model.state().tensors());
        section(&mut tensors, "optimizer", self.replica.optimizer.tensors());
        section(&mut tensors, "ema", self.replica.ema.as_ref().map(Ema::tensors).unwrap_or_default());
        section(&mut best, "best", self.best.iter().map(|(name, t)| (name.clone(), t.shallow_clone())).collect());
        let (names, tensors): (Vec<String>, Vec<Tensor>) = tensors.into_iter().unzip();
        let snapshot = self.snapshot(&tensors).map_err(|fault| fault.at_step(step))?;
        self.position.phases = self.replica.watch.phases;
        self.position.updates = Some(self.replica.optimizer.steps());
        self.position.scaler = self.replica.scaler;
        let position = self.position.clone();
        // On the writer's thread: the next step begins meanwhile.
        let arrive = move || -> Result<Checkpoint<Position>, Fault> {
            let mut tensors: Vec<(String, Tensor)> = names.into_iter().zip(snapshot.arrived()?).collect();
            tensors.extend(best);
            check_finite(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
            Ok(Checkpoint { step, position, tensors })
        };
        let arrive = move || arrive().map_err(|fault| fault.at_step(step));
        let finished = self.writer.as_mut().map_or(Ok(None), |writer| writer.submit(step, arrive))?;
        if let Some(step) = finished {
            self.tell_saved(step);
        }
        Ok(())
    }

    /// The tensors as they are now, on their way to the host. A GPU that has no room to keep them while the next step changes them
    /// is waited for.
    fn snapshot(&self, tensors: &[Tensor]) -> Result<Snapshot, Fault> {
        match self.outbound.snapshot(tensors) {
            Err(TorchError::GpuMemory(why)) => {
                tracing::debug!(why, "a checkpoint is copied tensor by tensor");
                let copies: Vec<Tensor> = tensors.iter().map(host_copy).collect();
                Ok(self.outbound.snapshot(&copies)?)
            }
            taken => Ok(taken?),
        }
    }

    fn tell_saved(&self, step: u64) {
        if let Some(progress) = &self.progress {
            progress.update(|progress| progress.checkpoint_step = Some(step));
        }
        tracing::info!(step, "checkpoint committed");
    }

    /// The end after a signal: the checkpoint is on its way, and no rank leaves before it is committed.
    pub(super) fn stopped(&mut self) -> Result<Fault, Fault> {
        if let Some(step) = self.writer.as_mut().map_or(Ok(None), Writer::wait)? {
            self.tell_saved(step);
        }
        self.group.part()?;
        let (step, total) = (self.position.step, self.setup.total_steps());
        let message = format!("stopped at step {step} of {total} with a checkpoint committed");
        Ok(Fault::new(Cause::Preempted, message).at_step(step))
    }
}

/// Refuses a checkpoint that nobody could go on from, or a model that is of no use: what is there stays the newest.
pub(super) fn check_finite<'t>(tensors: impl Iterator<Item = (&'t str, &'t Tensor)>) -> Result<(), Fault> {
    for (name, tensor) in tensors.filter(|(_, tensor)| tensor.kind() == Kind::Float) {
        if tensor.f_isfinite()?.f_all()?.int64_value(&[]) == 0 {
            return Err(Fault::new(Cause::NotFinite, format!("{name} is not finite any more")).hint(DIVERGED));
        }
    }
    Ok(())
}
