//! What all ranks do with a step, decided by rank 0 alone: stop before it, or save a checkpoint after it. The decision
//! travels as one more buffer of the model in the broadcast that precedes each forward pass, so that it costs no collective
//! of its own, and is known before anything of the step is computed. Rank 0 does not wait for its own buffer, others read it
//! once a step.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::ddp::{DdpError, Group};
use crate::fault::Fault;

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

/// The line from the operator's SIGTERM, at whichever rank it arrives, to all ranks.
pub(super) struct Control {
    signal: Arc<AtomicBool>,
    /// Whether the key is there, as far as this process knows.
    asked: bool,
    looked: Instant,
    buffer: Tensor,
    /// The step's orders, if they are known here.
    known: Cell<Option<Orders>>,
}

impl Control {
    /// From now on SIGTERM and SIGINT no longer end the process: they are to be asked for.
    pub(super) fn new(device: Device) -> Result<Control, Fault> {
        let signal = Arc::new(AtomicBool::new(false));
        for number in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(number, signal.clone())
                .map_err(|error| Fault::io(format_args!("handle signal {number}"), error))?;
        }
        Ok(Control::listening(signal, Tensor::f_zeros([1], (Kind::Int64, device))?))
    }

    fn listening(signal: Arc<AtomicBool>, buffer: Tensor) -> Control {
        Control { signal, asked: false, looked: Instant::now(), buffer, known: Cell::new(None) }
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

    /// Before a forward pass: rank 0 writes the orders of the step, other ranks pass a signal on to it.
    pub(super) fn prepare(&mut self, group: &Group, save: bool) -> Result<(), Fault> {
        if group.rank() != 0 {
            self.known.set(None);
            return Ok(self.pass_on(group)?);
        }
        let stop = self.stops(group)?;
        self.known.set(Some(Orders { save, stop }));
        if group.world_size() > 1 {
            let _ = self.buffer.f_fill_(i64::from(save) | (i64::from(stop) << 1))?;
        }
        Ok(())
    }

    /// Once a forward pass is prepared: the step's orders, the same on all ranks.
    pub(super) fn orders(&self) -> Result<Orders, Fault> {
        if let Some(orders) = self.known.get() {
            return Ok(orders);
        }
        let bits = self.buffer.f_int64_value(&[0])?;
        let orders = Orders { save: bits & 1 != 0, stop: bits & 2 != 0 };
        self.known.set(Some(orders));
        Ok(orders)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::ddp::{Backend, Rendezvous, StoreHost};

    /// One of two ranks, with a signal that nobody sends but the test.
    fn meet(rank: u32, port: u16) -> (Group, Control) {
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
        (group.unwrap(), Control::listening(Arc::default(), buffer))
    }

    #[test]
    fn a_signal_at_one_rank_soon_stops_all() {
        // Rank 0, which decides on steps, or another one.
        for told in [0, 1] {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
            let run = |rank| {
                let (group, mut control) = meet(rank, port);
                thread::sleep(LOOK);
                assert!(!control.stops(&group).unwrap(), "nobody was told yet");
                group.barrier().unwrap();
                if rank == told {
                    control.signal.store(true, Ordering::Relaxed);
                    assert!(control.stops(&group).unwrap(), "rank {rank} knows at once");
                }
                let began = Instant::now();
                while !control.stops(&group).unwrap() {
                    assert!(began.elapsed() < Duration::from_secs(30), "rank {rank} was never told");
                    thread::sleep(Duration::from_millis(10));
                }
                // The store ends with rank 0.
                group.barrier().unwrap();
            };
            let run = &run;
            thread::scope(|scope| [0, 1].map(|rank| scope.spawn(move || run(rank))).map(|end| end.join().unwrap()));
        }
    }

    #[test]
    fn orders_are_read_once_a_step_and_not_at_all_where_they_are_given() {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        let run = |rank| {
            let (group, mut control) = meet(rank, port);
            for step in 0..3 {
                let save = step == 1;
                // What another rank wants does not count.
                control.prepare(&group, save || rank == 1).unwrap();
                group.broadcast(&control.buffer, 0).unwrap();
                let expected = Orders { save, stop: false };
                assert_eq!(control.orders().unwrap(), expected, "step {step} of rank {rank}");
                let _ = control.buffer.f_fill_(3).unwrap();
                assert_eq!(control.orders().unwrap(), expected, "step {step} of rank {rank}, again");
            }
            group.barrier().unwrap();
        };
        let run = &run;
        thread::scope(|scope| [0, 1].map(|rank| scope.spawn(move || run(rank))).map(|end| end.join().unwrap()));
        let group = Group::alone().unwrap();
        let mut alone = Control::listening(Arc::default(), Tensor::zeros([1], (Kind::Int64, Device::Cpu)));
        alone.prepare(&group, true).unwrap();
        assert_eq!(alone.orders().unwrap(), Orders { save: true, stop: false });
        assert_eq!(alone.buffer.int64_value(&[0]), 0, "nobody is to be told");
    }
}
