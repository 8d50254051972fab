//! How the steps of a training come to its GPU: one operation after the other, or, once a few have been made so, each as a whole
//! by a CUDA graph, which leaves a fast GPU no time in which it waits for the host. Which trainings can have it is decided before
//! they begin; one that turns out not to goes on as it was.

use crds::contract::Cause;
use crds::training::{CudaGraphs, Precision, Training};
use tch::{Device, Tensor};

use crate::fault::Fault;
use crate::loss::Targets;
use crate::optim::is_told_by_device;
use crate::torch::{Graph, Room};

/// Steps of a full batch, one operation after the other, before one is recorded: in the first, momentum and moving averages begin,
/// and libraries take what memory they need.
const WARM_UP: u32 = 3;

/// Why a training on a GPU makes its steps one operation after the other. None if each can be recorded as a whole.
pub(super) fn why_apart(training: &Training, world_size: u32) -> Option<&'static str> {
    let counts_on_device = is_told_by_device(&training.optimizer.settings().algorithm);
    [
        (training.cuda_graphs == CudaGraphs::Never, "training.cudaGraphs is Never"),
        (world_size > 1, "several processes average their gradients meanwhile"),
        (training.gradient_accumulation > 1, "a step has several passes (gradientAccumulation)"),
        (training.precision == Precision::Float16, "what is recorded has no scale of gradients, which Float16 needs"),
        (!counts_on_device, "this optimizer counts its steps on the host"),
    ]
    .into_iter()
    .find_map(|(holds, why)| holds.then_some(why))
}

/// Whether a recorded step, which keeps its memory to itself, leaves as much as a step takes to those that are not recorded: the
/// last one of an epoch, which may be smaller, and the validation.
fn has_room(room: Room) -> bool {
    room.step <= room.available / 2
}

/// How steps come to the GPU.
pub(super) enum Launch {
    /// One operation after the other; on a GPU, for a reason.
    Apart(Option<String>),
    /// So far the same. So many full steps are left until one is recorded.
    Before(u32),
    /// As a whole.
    Whole(Box<Whole>),
}

/// What is to be done with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// One operation after the other.
    Apart,
    /// It is recorded, then done.
    Record,
    /// What was recorded is done.
    Replay,
}

/// A step that was recorded, and the tensors that it works with.
pub(super) struct Whole {
    graph: Graph,
    images: Tensor,
    targets: Targets,
    sums: Tensor,
}

impl Launch {
    /// Of a training's steps on a device.
    pub(super) fn of(training: &Training, device: Device, world_size: u32) -> Launch {
        if device == Device::Cpu {
            return Launch::Apart(None);
        }
        why_apart(training, world_size).map_or(Launch::Before(WARM_UP), |why| Launch::Apart(Some(why.to_owned())))
    }

    /// Whether steps are, or are to be, recorded.
    pub(super) fn may_record(&self) -> bool {
        !matches!(self, Launch::Apart(_))
    }

    /// What is to be done with the next step, which has as many images as all but an epoch's last one, or not.
    pub(super) fn next(&mut self, is_full: bool) -> Next {
        match self {
            Launch::Whole(_) if is_full => Next::Replay,
            Launch::Before(0) if is_full => Next::Record,
            Launch::Before(steps) if is_full => {
                *steps -= 1;
                Next::Apart
            }
            _ => Next::Apart,
        }
    }

    /// For the report; nothing on a CPU.
    pub(super) fn told(&self) -> Option<String> {
        match self {
            Launch::Apart(why) => why.as_ref().map(|why| format!("one operation after the other: {why}")),
            Launch::Before(_) => Some("one operation after the other: there were too few full steps".to_owned()),
            Launch::Whole(_) => Some("each as a whole (CUDA graph)".to_owned()),
        }
    }

    /// Goes on one operation after the other, since a step could not be recorded.
    pub(super) fn give_up(&mut self, fault: &Fault) {
        tracing::warn!(%fault, "steps can't be recorded for CUDA graphs: each goes to the GPU operation by operation");
        *self = Launch::Apart(Some(fault.to_string()));
    }
}

impl Whole {
    /// Records what `step` has a GPU do with images and targets like these; it returns the step's sums. Nothing of it is
    /// done yet.
    ///
    /// # Errors
    /// There is no room for it on the GPU, or something in it can't be recorded.
    pub(super) fn record(
        device: Device,
        images: &Tensor,
        targets: &Targets,
        step: impl FnOnce(&Tensor, &Targets) -> Result<Tensor, Fault>,
    ) -> Result<Whole, Fault> {
        let Device::Cuda(index) = device else {
            return Err(Fault::new(Cause::Bug, "there is no GPU that could record a step"));
        };
        let room = Room::of(index)?;
        if !has_room(room) {
            let mib = |bytes: i64| bytes >> 20;
            let text = format!(
                "a step takes {} MiB of the GPU for itself, of {} MiB that are left, and a recorded one as much again",
                mib(room.step),
                mib(room.available)
            );
            return Err(Fault::new(Cause::GpuMemory, text));
        }
        let (images, targets) = (images.f_empty_like()?, targets.empty_like()?);
        let (graph, sums) = Graph::record(index, || step(&images, &targets))?;
        tracing::info!("from here on each full step goes to the GPU as a whole, by a CUDA graph");
        Ok(Whole { graph, images, targets, sums })
    }

    /// Does the step with these images and targets. Its sums stay as they are until the next one is done.
    ///
    /// # Errors
    /// The GPU failed.
    pub(super) fn replay(&self, images: &Tensor, targets: &Targets) -> Result<Tensor, Fault> {
        self.images.shallow_clone().f_copy_(images)?;
        self.targets.copy_from(targets)?;
        self.graph.replay()?;
        Ok(self.sums.shallow_clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn training(spec: Value) -> Training {
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn whether_steps_can_be_recorded_is_known_of_the_recipe() {
        for (spec, world_size, why) in [
            (json!({}), 1, None),
            (
                json!({"precision": "BFloat16", "emaDecay": 0.99, "gradientClipNorm": 1.0, "labelSmoothing": 0.1,
                    "classWeights": {"mode": "Balanced"}, "deterministic": true}),
                1,
                None,
            ),
            (json!({"optimizer": {"name": "Adam"}}), 1, None),
            (json!({"optimizer": {"name": "AdamW"}}), 1, None),
            (json!({"cudaGraphs": "Never"}), 1, Some("training.cudaGraphs is Never")),
            (json!({}), 2, Some("several processes average their gradients meanwhile")),
            (json!({"gradientAccumulation": 2}), 1, Some("a step has several passes (gradientAccumulation)")),
            (
                json!({"precision": "Float16"}),
                1,
                Some("what is recorded has no scale of gradients, which Float16 needs"),
            ),
            (json!({"optimizer": {"name": "RmsProp"}}), 1, Some("this optimizer counts its steps on the host")),
            (json!({"optimizer": {"name": "Adagrad"}}), 1, Some("this optimizer counts its steps on the host")),
        ] {
            assert_eq!(why_apart(&training(spec.clone()), world_size), why, "{spec} on {world_size}");
        }
        assert!(matches!(Launch::of(&training(json!({})), Device::Cpu, 1), Launch::Apart(None)));
    }

    #[test]
    fn a_step_is_recorded_after_some_full_ones_and_smaller_ones_never_are() {
        let mut launch = Launch::of(&training(json!({})), Device::Cuda(0), 1);
        assert!(launch.may_record());
        let next = [true, false, true, true, false, true].map(|is_full| launch.next(is_full));
        assert_eq!(next, [Next::Apart, Next::Apart, Next::Apart, Next::Apart, Next::Apart, Next::Record]);
        assert_eq!(launch.told().unwrap(), "one operation after the other: there were too few full steps");
        launch.give_up(&Fault::new(Cause::NodeFault, "no"));
        assert_eq!((launch.next(true), launch.may_record()), (Next::Apart, false));
        assert_eq!(launch.told().unwrap(), "one operation after the other: no");
    }

    #[test]
    fn a_recorded_step_must_leave_room_for_others() {
        for (available, step, fits) in [(80, 40, true), (79, 40, false), (0, 0, true), (i64::MAX, i64::MAX, false)] {
            assert_eq!(has_room(Room { available, step }), fits, "{step} of {available}");
        }
    }
}
