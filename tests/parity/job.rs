//! What a rank of a comparison is told, as JSON; `ddp.py` reads the same file.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// A short training of ResNet-18.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Number of ranks.
    pub(crate) world_size: u32,
    /// Optimizer steps.
    pub(crate) steps: usize,
    /// Backward passes for each step; the last one averages.
    pub(crate) passes: usize,
    /// Images of a pass on each rank.
    pub(crate) batch: usize,
    /// Edge of the images in pixels.
    pub(crate) image: usize,
    /// `sgd` or `adamw`.
    pub(crate) optimizer: String,
    /// Whether weights and images lie as NHWC.
    pub(crate) channels_last: bool,
    /// Whether the forward pass runs under autocast to bfloat16.
    pub(crate) bfloat16: bool,
    /// Python's `bucket_cap_mb`, if given.
    pub(crate) bucket_mib: Option<f64>,
    /// Whether to look for unused parameters.
    pub(crate) find_unused: bool,
    /// Kind in which gradients travel, if not their own: `float16` or `bfloat16`.
    pub(crate) compression: Option<String>,
    /// Rank whose model has another number of classes, if there is one. Then all start with weights of their own.
    pub(crate) misfit: Option<u32>,
    /// Largest norm of the gradients, if they are clipped.
    pub(crate) clip: Option<f64>,
    /// Seconds that ranks wait for each other to join.
    pub(crate) join_seconds: f64,
    /// Seconds that a collective may take.
    pub(crate) collective_seconds: f64,
}

impl Job {
    /// Two ranks, SGD with momentum, nothing else.
    pub(crate) fn new(steps: usize) -> Job {
        Job {
            world_size: 2,
            steps,
            passes: 1,
            batch: 4,
            image: 32,
            optimizer: "sgd".to_string(),
            channels_last: false,
            bfloat16: false,
            bucket_mib: None,
            find_unused: false,
            compression: None,
            misfit: None,
            clip: None,
            join_seconds: 60.0,
            // Long: what ends a rank whose peer was killed must be the lost connection.
            collective_seconds: 600.0,
        }
    }

    pub(crate) fn write(&self, folder: &Path) {
        std::fs::write(folder.join("job.json"), serde_json::to_vec(self).unwrap()).unwrap();
    }

    pub(crate) fn read(folder: &Path) -> Job {
        serde_json::from_slice(&std::fs::read(folder.join("job.json")).unwrap()).unwrap()
    }
}
