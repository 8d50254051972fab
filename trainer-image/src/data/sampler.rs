//! Which sample comes when, on which rank: pure functions of the seed, the epoch and the step.
//!
//! Each epoch has one order of all samples. The steps cut it into global batches, and each rank takes its part of each of
//! them: rank 0 the first `batch_size`, rank 1 the next. The order knows nothing of ranks, so the same global batch at another
//! number of ranks trains on the same samples at the same step.

use super::random::{Random, Use};

/// The order of the training samples, cut into steps and ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    seed: u64,
    samples: usize,
    batch_size: usize,
    ranks: usize,
    /// Samples of one forward pass.
    pass: usize,
}

impl Sampler {
    /// A sampler of `samples` samples, at `batch_size` of them a step on each of `ranks` ranks. None of the three is 0.
    pub fn new(seed: u64, samples: usize, batch_size: usize, ranks: usize) -> Self {
        assert!(samples > 0 && batch_size > 0 && ranks > 0, "a sampler of nothing");
        Self { seed, samples, batch_size, ranks, pass: batch_size }
    }

    /// The same where each rank takes a step in passes of `pass` samples, at least 1.
    pub fn in_passes(self, pass: usize) -> Self {
        Self { pass: pass.max(1), ..self }
    }

    /// Samples of one step on all ranks together.
    pub fn global_batch(&self) -> usize {
        self.batch_size * self.ranks
    }

    /// Steps of an epoch. What is left after the full steps makes one more, of the same size on every rank, padded by wrapping
    /// around to the epoch's first samples (as PyTorch's `DistributedSampler` does). A single image on each rank makes no forward
    /// pass, since batch norm can't learn anything of it: as the last pass of that step it is left out, and as all of the step
    /// as well if there is another one; unless every pass is of a single image.
    pub fn steps_per_epoch(&self) -> usize {
        let full = self.samples / self.global_batch();
        match self.tail() {
            0 => full,
            1 if full > 0 && self.pass > 1 => full,
            _ => full + 1,
        }
    }

    /// Samples of the last, smaller step on each rank; 0 if all steps are full.
    fn tail(&self) -> usize {
        let left = (self.samples % self.global_batch()).div_ceil(self.ranks);
        if left > 1 && self.pass > 1 && left % self.pass == 1 { left - 1 } else { left }
    }

    /// The order of all samples in this epoch (from 0): each index below the number of samples once.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples).collect();
        Random::new(Use::Order, self.seed, epoch, 0).shuffle(&mut order);
        order
    }

    /// The samples of one rank at one step (from 0), out of the epoch's [`order`](Self::order).
    pub fn batch(&self, order: &[usize], step: usize, rank: usize) -> Vec<usize> {
        debug_assert!(rank < self.ranks && step < self.steps_per_epoch() && order.len() == self.samples);
        let start = step * self.global_batch();
        let size = if start + self.global_batch() <= self.samples { self.batch_size } else { self.tail() };
        let first = start + rank * size;
        (first..first + size).map(|place| order[place % order.len()]).collect()
    }

    /// How many of the last samples of a rank's [`batch`](Self::batch) come a second time in the epoch, to fill the batch up.
    pub fn padding(&self, step: usize, rank: usize) -> usize {
        let start = step * self.global_batch();
        if start + self.global_batch() <= self.samples {
            return 0;
        }
        let size = self.tail();
        (start + (rank + 1) * size).saturating_sub(self.samples).min(size)
    }

    /// The batches of one rank in one epoch from `first_step` on: a resumed epoch goes on where it stopped.
    pub fn batches(
        &self,
        epoch: u64,
        first_step: usize,
        rank: usize,
    ) -> impl Iterator<Item = Vec<usize>> + Send + use<> {
        let (sampler, order) = (*self, self.order(epoch));
        (first_step..self.steps_per_epoch()).map(move |step| sampler.batch(&order, step, rank))
    }

    /// The step at which an epoch goes on of which `consumed` samples are done, perhaps at another global batch: the first step
    /// with a sample that is not done. It is exact if `consumed` is a multiple of the global batch; else some samples come twice,
    /// none is left out.
    pub fn step_after(&self, consumed: usize) -> usize {
        if consumed >= self.samples { self.steps_per_epoch() } else { consumed / self.global_batch() }
    }
}

/// The samples that one rank evaluates, out of `samples`: each of them on exactly one rank, none twice, in order, in parts whose
/// sizes differ by one at most.
pub fn evaluation_part(samples: usize, rank: usize, ranks: usize) -> std::ops::Range<usize> {
    samples * rank / ranks..samples * (rank + 1) / ranks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All samples of an epoch in the order in which all ranks together see them.
    fn stream(sampler: &Sampler, epoch: u64) -> Vec<usize> {
        let order = sampler.order(epoch);
        let ranks = sampler.ranks;
        (0..sampler.steps_per_epoch())
            .flat_map(|step| (0..ranks).map(move |rank| (step, rank)))
            .flat_map(|(step, rank)| sampler.batch(&order, step, rank))
            .collect()
    }

    /// Those of them that are no padding.
    fn counted(sampler: &Sampler, epoch: u64) -> Vec<usize> {
        let order = sampler.order(epoch);
        (0..sampler.steps_per_epoch())
            .flat_map(|step| (0..sampler.ranks).map(move |rank| (step, rank)))
            .flat_map(|(step, rank)| {
                let batch = sampler.batch(&order, step, rank);
                batch[..batch.len() - sampler.padding(step, rank)].to_vec()
            })
            .collect()
    }

    #[test]
    fn every_sample_comes_once_an_epoch_and_only_the_last_step_is_padded_or_left_out() {
        for samples in 1..70 {
            for batch_size in [1, 2, 3, 8] {
                for (ranks, pass) in [(1, 8), (2, 2), (3, 3), (4, 8), (1, 2), (2, 3), (1, 1), (2, 1)] {
                    let sampler = Sampler::new(3, samples, batch_size, ranks).in_passes(pass);
                    let seen = stream(&sampler, 5);
                    let once: Vec<usize> = counted(&sampler, 5);
                    assert_eq!(once, seen[..once.len()], "padding comes last");
                    assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), once.len(), "each counts once");
                    assert_eq!(once.len(), seen.len().min(samples));
                    let order = sampler.order(5);
                    let mut sorted = order.clone();
                    sorted.sort_unstable();
                    assert_eq!(sorted, (0..samples).collect::<Vec<_>>());
                    let expected: Vec<usize> = order.iter().cycle().take(seen.len()).copied().collect();
                    assert_eq!(seen, expected, "{sampler:?}");
                    if seen.len() < samples {
                        let left = (samples % sampler.global_batch()).div_ceil(ranks);
                        assert!(samples - seen.len() <= ranks && left % pass == 1, "{sampler:?}");
                    } else {
                        assert!(seen.len() - samples < ranks, "{sampler:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn where_every_pass_is_of_a_single_image_none_is_left_out() {
        let steps =
            |samples, batch_size, ranks| Sampler::new(3, samples, batch_size, ranks).in_passes(1).steps_per_epoch();
        // As PyTorch has them.
        assert_eq!([steps(5, 1, 2), steps(6, 1, 2), steps(5, 1, 1), steps(5, 4, 1)], [3, 3, 5, 2]);
    }

    #[test]
    fn no_step_ends_with_a_pass_of_a_single_image() {
        for samples in 1..70 {
            for (pass, passes) in [(2, 2), (2, 3), (3, 2), (4, 4)] {
                for ranks in [1, 2, 3] {
                    let sampler = Sampler::new(3, samples, pass * passes, ranks).in_passes(pass);
                    let order = sampler.order(0);
                    let sizes: Vec<usize> = (0..sampler.steps_per_epoch())
                        .map(|step| sampler.batch(&order, step, ranks - 1).len())
                        .collect();
                    // Where all there is is one image a rank, there is nothing else to do.
                    assert!(sizes == [1] || sizes.iter().all(|size| size % pass != 1), "{sampler:?} {sizes:?}");
                }
            }
        }
    }

    #[test]
    fn the_stream_of_samples_is_the_same_at_another_number_of_ranks() {
        let streams =
            [(16, 1), (8, 2), (4, 4), (2, 8)].map(|(batch, ranks)| stream(&Sampler::new(9, 160, batch, ranks), 2));
        assert!(streams.iter().all(|other| *other == streams[0]));
    }

    #[test]
    fn an_epoch_goes_on_where_it_stopped() {
        let sampler = Sampler::new(1, 50, 4, 2);
        let whole: Vec<_> = sampler.batches(7, 0, 1).collect();
        for step in 0..=sampler.steps_per_epoch() {
            assert_eq!(sampler.batches(7, step, 1).collect::<Vec<_>>(), whole[step..]);
            assert_eq!(sampler.step_after(step * sampler.global_batch()), step);
        }
    }

    #[test]
    fn every_epoch_and_every_seed_has_its_own_order_that_never_changes() {
        let order = |seed, epoch| Sampler::new(seed, 8, 1, 1).order(epoch);
        assert_eq!(order(0, 0), GOLDEN);
        assert_ne!(order(0, 1), GOLDEN);
        assert_ne!(order(1, 0), GOLDEN);
    }

    /// Written down once: a change here means that no old checkpoint resumes to the same bits.
    const GOLDEN: [usize; 8] = [6, 1, 3, 2, 4, 0, 5, 7];

    #[test]
    fn ranks_evaluate_every_sample_exactly_once() {
        for samples in 0..40 {
            for ranks in 1..9 {
                let all: Vec<usize> = (0..ranks).flat_map(|rank| evaluation_part(samples, rank, ranks)).collect();
                assert_eq!(all, (0..samples).collect::<Vec<_>>());
            }
        }
    }
}
