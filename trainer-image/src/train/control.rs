//! What all ranks do with a step, decided by rank 0 alone: stop before it, or save a checkpoint after it. The decision
//! travels as one more buffer of the model in the broadcast that precedes each forward pass, so that it costs no collective
//! of its own, and is known before anything of the step is computed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::ddp::{DdpError, Group};
use crate::fault::Fault;

/// Key by which a rank asks rank 0 to stop.
const STOP: &str = "stop";
/// How often rank 0 looks for that key.
const LOOK: Duration = Duration::from_millis(200);

/// What all ranks do with a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Save a checkpoint after it.
    pub(super) save: bool,
    /// Save a checkpoint in its place, and end.
    pub(super) stop: bool,
}

/// The line from the operator's SIGTERM, at whichever rank it arrives, to all ranks.
pub(super) struct Control {
    signal: Arc<AtomicBool>,
    asked: bool,
    looked: Instant,
    buffer: Tensor,
}

impl Control {
    /// From now on SIGTERM and SIGINT no longer end the process: they are to be asked for.
    pub(super) fn new(device: Device) -> Result<Control, Fault> {
        let signal = Arc::new(AtomicBool::new(false));
        for number in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(number, signal.clone())
                .map_err(|error| Fault::io(format_args!("handle signal {number}"), error))?;
        }
        let buffer = Tensor::zeros([1], (Kind::Int64, device));
        Ok(Control { signal, asked: false, looked: Instant::now(), buffer })
    }

    /// The buffer that carries the orders.
    pub(super) fn buffer(&self) -> (String, Tensor) {
        ("trainyard.orders".to_owned(), self.buffer.shallow_clone())
    }

    /// Whether this process was told to stop.
    pub(super) fn is_signalled(&self) -> bool {
        self.signal.load(Ordering::Relaxed)
    }

    /// Before a forward pass: rank 0 writes the orders of the step, other ranks pass a signal on to it.
    pub(super) fn prepare(&mut self, group: &Group, save: bool) -> Result<(), DdpError> {
        if group.rank() != 0 {
            if self.is_signalled() && !self.asked {
                self.asked = true;
                group.set(STOP, b"1")?;
            }
            return Ok(());
        }
        if !self.asked && group.world_size() > 1 && self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.asked = group.has(STOP)?;
        }
        let stop = self.is_signalled() || self.asked;
        let _ = self.buffer.fill_(i64::from(save) | (i64::from(stop) << 1));
        Ok(())
    }

    /// Once a forward pass is prepared: the step's orders, the same on all ranks.
    pub(super) fn orders(&self) -> Orders {
        let bits = self.buffer.int64_value(&[0]);
        Orders { save: bits & 1 != 0, stop: bits & 2 != 0 }
    }
}
