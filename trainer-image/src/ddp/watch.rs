//! Ends a process whose peers don't come to an exchange between GPUs. By NCCL, a rank waits for the GPU and the GPU for the
//! other ranks: no call fails, and NCCL's own watchdog can do no better than abort the process. A thread looks at the flight
//! recorder instead, and says who is late to what; NCCL's watchdog gets a longer time and is what is left if this one hangs.
//! What that watchdog finds earlier, a connection that is gone, is said in the same words before it ends the process.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::DdpError;
use super::flight::Flight;
use super::group::failure;
use super::roll::roll_call;
use crate::fault::Fault;
use crate::torch::{self, ProcessGroup, TorchError};

/// How often the flight recorder is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What is under way, in words.
const DURING: &str = "exchanging tensors between GPUs";

/// The watching thread; it ends with this.
pub(super) struct Watch {
    _alive: Sender<()>,
}

/// For how long the same collective has been the first that did not end.
#[derive(Default)]
struct Oldest {
    since: Option<(u64, Instant)>,
}

impl Oldest {
    /// What is known at `now` of the first collective under way: whether it has been so for more than `limit`.
    fn is_late(&mut self, open: Option<&Flight>, now: Instant, limit: Duration) -> bool {
        let Some(flight) = open else {
            self.since = None;
            return false;
        };
        match self.since {
            Some((sequence, since)) if sequence == flight.sequence => now.duration_since(since) > limit,
            _ => {
                self.since = Some((flight.sequence, now));
                false
            }
        }
    }
}

impl Watch {
    /// Watches the collectives of `processes`, each of which may take `limit`.
    pub(super) fn start(processes: ProcessGroup, limit: Duration) -> std::io::Result<Watch> {
        let (alive, over) = mpsc::channel();
        let processes = Arc::new(Mutex::new(processes));
        // The group ends with the watch.
        let known = Arc::downgrade(&processes);
        torch::on_lost_peer(move |source| {
            let error = match known.upgrade() {
                Some(processes) => failure(&lock(&processes), DURING, source),
                None => DdpError::Torch { during: DURING, source },
            };
            Fault::from(error).end()
        });
        std::thread::Builder::new().name("collectives".to_owned()).spawn(move || {
            let mut oldest = Oldest::default();
            while over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let processes = lock(&processes);
                let open = processes.flights().ok().and_then(|dump| Flight::open(&dump));
                if oldest.is_late(open.as_ref(), Instant::now(), limit) {
                    let absent = roll_call(&processes);
                    torch::end_process(Fault::from(late(&processes, open, absent, limit)).end());
                }
            }
        })?;
        Ok(Watch { _alive: alive })
    }
}

fn lock(processes: &Mutex<ProcessGroup>) -> MutexGuard<'_, ProcessGroup> {
    processes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn late(processes: &ProcessGroup, collective: Option<Flight>, absent: Vec<u32>, limit: Duration) -> DdpError {
    let waited = format!("timeout after {} s", limit.as_secs_f64());
    if absent.is_empty() {
        let what = collective.map_or_else(|| "a collective".to_owned(), |flight| flight.to_string());
        let text = format!("{waited} in {what}, to which all ranks came: look at the links between the GPUs");
        return DdpError::Torch { during: DURING, source: TorchError::Timeout(text) };
    }
    let source = TorchError::Timeout(waited);
    DdpError::Absent { during: DURING, collective, absent, world_size: processes.world_size(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(sequence: u64) -> Flight {
        Flight { name: "nccl:all_reduce".to_owned(), sequence, sizes: Vec::new() }
    }

    #[test]
    fn a_collective_is_late_when_it_has_been_the_first_one_open_for_too_long() {
        let (start, limit) = (Instant::now(), Duration::from_secs(10));
        let mut oldest = Oldest::default();
        let mut at = |seconds: u64, open: Option<u64>| {
            oldest.is_late(open.map(flight).as_ref(), start + Duration::from_secs(seconds), limit)
        };
        // Each comes to its end in time, one begins when the other has not been looked at as ended.
        assert!(
            ![(0, Some(1)), (9, Some(2)), (18, None), (19, Some(3)), (29, Some(3))]
                .map(|(s, open)| at(s, open))
                .contains(&true)
        );
        assert!(at(30, Some(3)));
    }
}
