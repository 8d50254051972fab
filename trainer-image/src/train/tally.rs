//! The sums of steps on their way from the device. A GPU's are read a step or two later, so that it always has the next step to
//! do; until then nobody says of a step that it is good.

use std::collections::VecDeque;

use tch::{Device, Tensor};

use super::position::Sums;
use crate::fault::Fault;
use crate::input::ahead;
use crate::torch::{OnItsWay, read_back};

/// Steps whose sums are not read yet, the oldest first.
pub(super) struct Tally {
    /// Steps that may be.
    ahead: usize,
    unread: VecDeque<Unread>,
}

struct Unread {
    step: Step,
    images: usize,
    sums: OnItsWay,
}

/// A step that is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// Its number, from 1.
    pub(super) number: u64,
    /// Its learning rate.
    pub(super) rate: f64,
}

/// Which steps are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Those that the device has had time for.
    Due,
    /// All: it is waited for.
    All,
}

impl Tally {
    /// Of steps on a device.
    pub(super) fn new(device: Device) -> Tally {
        Tally::reading_later(ahead(device))
    }

    fn reading_later(ahead: usize) -> Tally {
        Tally { ahead, unread: VecDeque::new() }
    }

    /// Takes a step of so many images, whose sums are the losses and the number of those that were right, in 64 bits.
    pub(super) fn add(&mut self, step: Step, images: usize, sums: &Tensor) -> Result<(), Fault> {
        self.unread.push_back(Unread { step, images, sums: read_back(sums)? });
        Ok(())
    }

    /// The oldest step that is to be read, with this rank's sums.
    ///
    /// What comes after the sums is given as it is.
    pub(super) fn next(&mut self, which: Read) -> Result<Option<(Step, Sums, Vec<f64>)>, Fault> {
        let stay = if which == Read::All { 0 } else { self.ahead };
        if self.unread.len() <= stay {
            return Ok(None);
        }
        let Some(Unread { step, images, sums }) = self.unread.pop_front() else { return Ok(None) };
        let mut sums: Vec<f64> = Vec::try_from(&sums.arrived()?)?;
        let more = sums.split_off(2);
        Ok(Some((step, Sums { loss: sums[0], correct: sums[1], images: images as f64 }, more)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the steps that are read after each of four, and at the end.
    fn read(ahead: usize) -> Vec<Vec<u64>> {
        let mut tally = Tally::reading_later(ahead);
        let take = |tally: &mut Tally, which| {
            let mut numbers = Vec::new();
            while let Some((step, sums, more)) = tally.next(which).unwrap() {
                assert_eq!(more, [7.0]);
                let loss = step.number as f64;
                assert_eq!(sums, Sums { loss, correct: 1.0, images: 8.0 });
                numbers.push(step.number);
            }
            numbers
        };
        let mut all = Vec::new();
        for number in 1..=4 {
            let sums = Tensor::from_slice(&[number as f64, 1.0, 7.0]);
            tally.add(Step { number, rate: 0.1 }, 8, &sums).unwrap();
            all.push(take(&mut tally, Read::Due));
        }
        all.push(take(&mut tally, Read::All));
        all
    }

    #[test]
    fn sums_are_read_at_once_or_later_and_each_once_in_order() {
        assert_eq!(read(0), [vec![1], vec![2], vec![3], vec![4], vec![]]);
        assert_eq!(read(2), [vec![], vec![], vec![1], vec![2], vec![3, 4]]);
        assert_eq!(read(9), [vec![], vec![], vec![], vec![], vec![1, 2, 3, 4]]);
    }

    #[test]
    fn a_cpu_has_its_sums_at_once() {
        assert_eq!((Tally::new(Device::Cpu).ahead, Tally::new(Device::Cuda(0)).ahead), (0, 2));
    }
}
