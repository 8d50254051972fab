//! What all ranks do with a step, decided by rank 0 alone: stop before it, or save a checkpoint after it. The decision
//! travels as one more buffer of the model in the broadcast that precedes each forward pass, so that it costs no collective
//! of its own, and is known before anything of the step is computed.
//!
//! A GPU gets to a broadcast once it is done with the step before. So that no rank waits for it before each step, with nothing
//! handed over meanwhile, GPUs' orders travel a step ahead: with each step those of the next one, of which the first has none but its
//! own. A request to stop then takes effect a step later, on all ranks at the same step all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::checkpoint::Due;
use crate::ddp::{DdpError, Group};
use crate::fault::Fault;
use crate::torch::{OnItsWay, read_back};

/// Key by which a rank that was told to stop tells the others.
const STOP: &str = "stop";
/// How often others look for that key.
const LOOK: Duration = Duration::from_millis(200);

/// What all ranks do with a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Save a checkpoint after it.
    pub(super) save: bool,
    /// Save a checkpoint in its place, and end.
    pub(super) stop: bool,
}

impl Orders {
    /// As they travel.
    const BITS: u32 = 2;

    fn bits(self) -> i64 {
        i64::from(self.save) | (i64::from(self.stop) << 1)
    }

    fn of_bits(bits: i64) -> Orders {
        Orders { save: bits & 1 != 0, stop: bits & 2 != 0 }
    }
}

/// Whether orders travel a step ahead.
fn travel_ahead(device: Device, world_size: u32) -> bool {
    device != Device::Cpu && world_size > 1
}

/// The line from the operator's SIGTERM, at whichever rank it arrives, to all ranks.
pub(super) struct Control {
    signal: Arc<AtomicBool>,
    /// Whether the key is there, as far as this process knows.
    asked: bool,
    looked: Instant,
    buffer: Tensor,
    /// Whether orders are given a step ahead.
    is_ahead: bool,
    /// The step's orders, if they are known here.
    known: Option<Orders>,
    /// What is known of those of the step after it.
    next: Next,
}

/// The orders of the step after the present one.
enum Next {
    Unknown,
    /// On rank 0, which has given them.
    Given(Orders),
    /// On other ranks: the buffer as it is in this step.
    OnItsWay(OnItsWay),
}

impl Control {
    /// From now on SIGTERM and SIGINT no longer end the process: they are to be asked for.
    pub(super) fn new(device: Device, world_size: u32) -> Result<Control, Fault> {
        let signal = Arc::new(AtomicBool::new(false));
        for number in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(number, signal.clone())
                .map_err(|error| Fault::io(format_args!("handle signal {number}"), error))?;
        }
        let buffer = Tensor::f_zeros([1], (Kind::Int64, device))?;
        Ok(Control::listening(signal, buffer, travel_ahead(device, world_size)))
    }

    fn listening(signal: Arc<AtomicBool>, buffer: Tensor, is_ahead: bool) -> Control {
        Control { signal, asked: false, looked: Instant::now(), buffer, is_ahead, known: None, next: Next::Unknown }
    }

    /// The buffer that carries the orders.
    pub(super) fn buffer(&self) -> (String, Tensor) {
        ("trainyard.orders".to_owned(), self.buffer.shallow_clone())
    }

    /// Whether any rank was told to stop, as far as is known here, and soon on all. For work without orders, such as a
    /// validation, whose ranks break off each by itself and say so in the collective at its end.
    pub(super) fn stops(&mut self, group: &Group) -> Result<bool, DdpError> {
        self.pass_on(group)?;
        if !self.asked && group.world_size() > 1 && self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.asked = group.has(STOP)?;
        }
        Ok(self.asked)
    }

    /// Tells the others of a signal, once.
    fn pass_on(&mut self, group: &Group) -> Result<(), DdpError> {
        if self.signal.load(Ordering::Relaxed) && !self.asked {
            self.asked = true;
            group.set(STOP, b"1")?;
        }
        Ok(())
    }

    /// Before a forward pass: rank 0 writes the orders of the step, or of the next one, other ranks pass a signal on to it.
    pub(super) fn prepare(&mut self, group: &Group, due: Due) -> Result<(), Fault> {
        self.known = match std::mem::replace(&mut self.next, Next::Unknown) {
            Next::Unknown => None,
            Next::Given(orders) => Some(orders),
            Next::OnItsWay(buffer) => Some(Orders::of_bits(buffer.arrived()?.f_int64_value(&[0])? >> Orders::BITS)),
        };
        if group.rank() != 0 {
            return Ok(self.pass_on(group)?);
        }
        let stop = self.stops(group)?;
        let orders = *self.known.get_or_insert(Orders { save: due.is_due(), stop });
        let mut bits = orders.bits();
        if self.is_ahead {
            let next = Orders { save: due.then(orders.save).is_due(), stop };
            bits |= next.bits() << Orders::BITS;
            self.next = Next::Given(next);
        }
        if group.world_size() > 1 {
            let _ = self.buffer.f_fill_(bits)?;
        }
        Ok(())
    }

    /// Once a forward pass is prepared: the step's orders, the same on all ranks.
    pub(super) fn orders(&mut self) -> Result<Orders, Fault> {
        if self.is_ahead && matches!(self.next, Next::Unknown) {
            self.next = Next::OnItsWay(read_back(&self.buffer)?);
        }
        if let Some(orders) = self.known {
            return Ok(orders);
        }
        Ok(*self.known.insert(Orders::of_bits(self.buffer.f_int64_value(&[0])?)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::checkpoint::{Clock, Policy};
    use crate::ddp::{Backend, Rendezvous, StoreHost};

    /// One of two ranks, with a signal that nobody sends but the test.
    fn meet(rank: u32, port: u16, is_ahead: bool) -> (Group, Control) {
        let minute = Duration::from_secs(60);
        let group = Group::join(&Rendezvous {
            addr: "127.0.0.1".to_owned(),
            port,
            rank,
            world_size: 2,
            run_id: "control".to_owned(),
            host: StoreHost::FirstRank,
            join_timeout: minute,
            timeout: minute,
            backend: Backend::Gloo,
        });
        let buffer = Tensor::zeros([1], (Kind::Int64, Device::Cpu));
        (group.unwrap(), Control::listening(Arc::default(), buffer, is_ahead))
    }

    /// Does the same on both ranks.
    fn on_both<T: Send>(is_ahead: bool, run: impl Fn(u32, &Group, &mut Control) -> T + Sync) -> [T; 2] {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        let run = |rank| {
            let (group, mut control) = meet(rank, port, is_ahead);
            let done = run(rank, &group, &mut control);
            // The store ends with rank 0.
            group.barrier().unwrap();
            done
        };
        let run = &run;
        thread::scope(|scope| [0, 1].map(|rank| scope.spawn(move || run(rank))).map(|end| end.join().unwrap()))
    }

    /// Whether a checkpoint is due after a step, or else not before long.
    fn due(is_due: bool) -> Due {
        let (now, every) = (Instant::now(), if is_due { 1 } else { 1 << 40 });
        let at = |step| Clock { step, now };
        Due { policy: Policy::EverySteps(every), saved: at(0), next: at(1), is_held_up: false }
    }

    #[test]
    fn a_signal_at_one_rank_soon_stops_all() {
        // Rank 0, which decides on steps, or another one.
        for told in [0, 1] {
            on_both(false, |rank, group, control| {
                thread::sleep(LOOK);
                assert!(!control.stops(group).unwrap(), "nobody was told yet");
                group.barrier().unwrap();
                if rank == told {
                    control.signal.store(true, Ordering::Relaxed);
                    assert!(control.stops(group).unwrap(), "rank {rank} knows at once");
                }
                let began = Instant::now();
                while !control.stops(group).unwrap() {
                    assert!(began.elapsed() < Duration::from_secs(30), "rank {rank} was never told");
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
    }

    #[test]
    fn orders_are_read_once_a_step_and_not_at_all_where_they_are_given() {
        on_both(false, |rank, group, control| {
            for step in 0..3 {
                let save = step == 1;
                // What another rank wants does not count.
                control.prepare(group, due(save || rank == 1)).unwrap();
                group.broadcast(&control.buffer, 0).unwrap();
                let expected = Orders { save, stop: false };
                assert_eq!(control.orders().unwrap(), expected, "step {step} of rank {rank}");
                let _ = control.buffer.f_fill_(3).unwrap();
                assert_eq!(control.orders().unwrap(), expected, "step {step} of rank {rank}, again");
            }
        });
        let group = Group::alone().unwrap();
        let mut alone = Control::listening(Arc::default(), Tensor::zeros([1], (Kind::Int64, Device::Cpu)), false);
        alone.prepare(&group, due(true)).unwrap();
        assert_eq!(alone.orders().unwrap(), Orders { save: true, stop: false });
        assert_eq!(alone.buffer.int64_value(&[0]), 0, "nobody is to be told");
    }

    #[test]
    fn checkpoints_are_of_the_same_steps_on_all_ranks_and_a_step_ahead() {
        const EVERY: u64 = 3;
        for is_ahead in [false, true] {
            let saved = on_both(is_ahead, |rank, group, control| {
                let (now, mut saved) = (Instant::now(), vec![0]);
                for step in 1..=10 {
                    let at = |step| Clock { step, now };
                    // Rank 1 would save each time.
                    let policy = Policy::EverySteps(if rank == 0 { EVERY } else { 1 });
                    let newest = at(saved[saved.len() - 1]);
                    control.prepare(group, Due { policy, saved: newest, next: at(step), is_held_up: false }).unwrap();
                    group.broadcast(&control.buffer, 0).unwrap();
                    let orders = control.orders().unwrap();
                    assert!(!orders.stop && orders == control.orders().unwrap(), "step {step} of rank {rank}");
                    if orders.save {
                        saved.push(step);
                    }
                }
                saved
            });
            assert_eq!(saved, [[0, 3, 6, 9], [0, 3, 6, 9]], "ahead: {is_ahead}");
        }
    }

    #[test]
    fn all_ranks_stop_before_the_same_step_whichever_was_told_and_however_orders_travel() {
        /// The step before which rank 0 is told.
        const TOLD: usize = 4;
        for (is_ahead, told) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
            let stopped = on_both(is_ahead, |rank, group, control| {
                for step in 0.. {
                    assert!(step < 100_000, "rank {rank} was never told");
                    if rank == told && step == TOLD {
                        control.signal.store(true, Ordering::Relaxed);
                    }
                    control.prepare(group, due(false)).unwrap();
                    group.broadcast(&control.buffer, 0).unwrap();
                    if control.orders().unwrap().stop {
                        return step;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                unreachable!("it is told")
            });
            assert_eq!(stopped[0], stopped[1], "ahead: {is_ahead}, told: rank {told}");
            if told == 0 {
                assert_eq!(stopped[0], TOLD + usize::from(is_ahead), "at once, or as soon as the next orders travel");
            }
        }
    }

    #[test]
    fn orders_travel_ahead_where_a_rank_would_wait_for_its_gpu() {
        let ahead = [(Device::Cpu, 2), (Device::Cuda(0), 1), (Device::Cuda(0), 2)];
        assert_eq!(ahead.map(|(device, world_size)| travel_ahead(device, world_size)), [false, false, true]);
    }
}
