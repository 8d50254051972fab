//! Where the time of a training goes, as rank 0's own clock has it. Nothing waits for the clock: on a GPU, forward, backward
//! and optimizer are the time it takes to hand over the work, and what the GPU still computes then is a phase of its own.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Seconds by what was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Phases {
    /// Waiting for images to be read, decoded and augmented.
    pub data: f64,
    /// The network and the loss, with what the ranks agree on before.
    pub forward: f64,
    /// Gradients, and their average over the ranks.
    pub backward: f64,
    /// Waiting for the device to have computed what it was handed; next to nothing on a CPU.
    pub device: f64,
    /// From gradients to weights.
    pub optimizer: f64,
    /// The validation after an epoch.
    pub validation: f64,
    /// Taking the weights for a checkpoint, and waiting for the one before; the writing itself is in the background.
    pub checkpoint: f64,
}

/// What time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the fields of Phases, which say it")]
pub enum Phase {
    Data,
    Forward,
    Backward,
    Device,
    Optimizer,
    Validation,
    Checkpoint,
}

impl Phase {
    /// All of them in the order of a step.
    pub const ALL: [Phase; 7] = [
        Phase::Data,
        Phase::Forward,
        Phase::Backward,
        Phase::Device,
        Phase::Optimizer,
        Phase::Validation,
        Phase::Checkpoint,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Data => "waiting for data",
            Phase::Forward => "forward",
            Phase::Backward => "backward",
            Phase::Device => "waiting for the device",
            Phase::Optimizer => "optimizer",
            Phase::Validation => "validation",
            Phase::Checkpoint => "checkpoints",
        }
    }
}

impl Phases {
    /// Seconds of a phase.
    pub fn of(&self, phase: Phase) -> f64 {
        let mut copy = *self;
        *copy.slot(phase)
    }

    fn slot(&mut self, phase: Phase) -> &mut f64 {
        match phase {
            Phase::Data => &mut self.data,
            Phase::Forward => &mut self.forward,
            Phase::Backward => &mut self.backward,
            Phase::Device => &mut self.device,
            Phase::Optimizer => &mut self.optimizer,
            Phase::Validation => &mut self.validation,
            Phase::Checkpoint => &mut self.checkpoint,
        }
    }

    /// Adds the seconds of others.
    pub fn add(&mut self, other: &Phases) {
        for phase in Phase::ALL {
            *self.slot(phase) += other.of(phase);
        }
    }
}

/// Tells apart what time is spent on.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    since: Instant,
    /// What it has measured.
    pub phases: Phases,
}

impl Stopwatch {
    /// A watch that has measured `phases` before.
    pub fn new(phases: Phases) -> Stopwatch {
        Stopwatch { since: Instant::now(), phases }
    }

    /// What was done since the last call counts for nothing.
    pub fn start(&mut self) {
        self.since = Instant::now();
    }

    /// What was done since the last call was this.
    pub fn lap(&mut self, phase: Phase) {
        let now = Instant::now();
        *self.phases.slot(phase) += now.duration_since(self.since).as_secs_f64();
        self.since = now;
    }

    /// What it has measured; it begins anew.
    pub fn take(&mut self) -> Phases {
        std::mem::take(&mut self.phases)
    }
}
