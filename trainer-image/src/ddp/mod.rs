//! DistributedDataParallel: every rank has the whole model and a part of each batch; gradients are averaged while the
//! backward pass runs, so that weights stay equal everywhere, bit for bit what Python's class of that name does.
//!
//! ```text
//!  Group::join ─► Ddp::new ─► [ clear_gradients ─► forward ─► backward ─► optimizer step ]*
//! ```

mod deadline;
mod error;
mod flight;
mod group;
mod meeting;
mod plan;
mod roll;
mod verify;
mod watch;

use std::cell::Cell;
use std::collections::BTreeMap;

use tch::{Kind, Tensor};

pub use error::DdpError;
use error::During;
pub use flight::Flight;
pub use group::{Backend, Group, Rendezvous, StoreHost};
pub use plan::{Shape, plan_buckets};

use crate::torch::{self, Reducer, ReducerOptions, TorchError, reducer};

/// How gradients and buffers are kept equal; sizes in bytes. The defaults are Python's, but for bucket views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DdpOptions {
    /// A bucket of gradients is closed when it holds this much.
    pub bucket_bytes: usize,
    /// The same for the bucket that is ready first. Python takes 1 MiB, or `bucket_cap_mb` where that is given.
    pub first_bucket_bytes: usize,
    /// Whether some parameters may get no gradient in a step. Costs a walk over the graph in each.
    pub find_unused: bool,
    /// Whether gradients are views into the buckets, which saves a copy of each.
    pub gradient_as_bucket_view: bool,
    /// Whether rank 0's buffers (batch norm's running statistics) replace those of the others before forward passes.
    pub broadcast_buffers: bool,
    /// Kind in which gradients travel, if not their own: half or bfloat16. Python's `fp16_compress_hook` and
    /// `bf16_compress_hook`.
    pub compression: Option<Kind>,
}

impl Default for DdpOptions {
    fn default() -> Self {
        DdpOptions {
            bucket_bytes: 25 << 20,
            first_bucket_bytes: 1 << 20,
            find_unused: false,
            gradient_as_bucket_view: true,
            broadcast_buffers: true,
            compression: None,
        }
    }
}

/// What the backward pass after a forward does with gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradSync {
    /// Averages them over all ranks.
    Average,
    /// Only adds them up on this rank, for a later pass that averages: Python's `no_sync`.
    Accumulate,
}

/// Bytes that one broadcast carries at most: Python's `broadcast_bucket_size`.
const BROADCAST_BYTES: usize = 250 << 20;

/// A model whose gradients are averaged over all ranks. Put the model on its device and in its memory format first.
pub struct Ddp<'g> {
    group: &'g Group,
    // The reducer's hooks sit on the parameters' graph nodes: they hold the parameters alive themselves.
    reducer: Reducer,
    /// Names of the parameters.
    names: Vec<String>,
    parameters: Vec<Tensor>,
    buffers: Vec<Tensor>,
    options: DdpOptions,
    /// Whether the next forward broadcasts the buffers. Python's `require_forward_param_sync`: set by a forward that is
    /// averaged, cleared by one that is not, so that accumulation sees each rank's own statistics.
    broadcast_next: bool,
    /// Backward passes that have averaged.
    averaged: Cell<u64>,
}

impl<'g> Ddp<'g> {
    /// Checks that the model is the same on all ranks, and gives all of them rank 0's weights and buffers.
    ///
    /// `parameters` are the trainable ones and `buffers` all others, both by name and in the order of the model, the
    /// same on every rank.
    ///
    /// # Errors
    /// The model differs between ranks, a parameter is not trainable, or a rank is gone.
    pub fn new(
        group: &'g Group,
        parameters: &[(String, Tensor)],
        buffers: &[(String, Tensor)],
        options: DdpOptions,
    ) -> Result<Ddp<'g>, DdpError> {
        let alias = |named: &[(String, Tensor)]| -> Vec<Tensor> {
            named.iter().map(|(_, tensor)| tensor.shallow_clone()).collect()
        };
        verify::same_model(group, parameters, buffers)?;
        let names = parameters.iter().map(|(name, _)| name.clone()).collect();
        let (weights, buffers) = (alias(parameters), alias(buffers));
        group.during("comparing the model between ranks", reducer::verify_parameters(group.processes(), &weights))?;
        let all: Vec<&Tensor> = weights.iter().chain(&buffers).collect();
        let shared = reducer::broadcast_coalesced(group.processes(), &all, BROADCAST_BYTES, 0);
        group.during("sharing rank 0's weights", shared)?;
        // The order in which gradients come is not known yet: one bucket, until the reducer has seen a backward. With
        // unused parameters it never rebuilds.
        let limits = match options.find_unused {
            true => vec![options.first_bucket_bytes, options.bucket_bytes],
            false => vec![usize::MAX],
        };
        let shapes: Vec<Shape> = weights.iter().map(Shape::of).collect();
        let mut buckets = plan_buckets(&shapes, &limits);
        // Gradients come roughly in the reverse order of the model.
        buckets.reverse();
        let reducer_options = ReducerOptions {
            bucket_bytes: options.bucket_bytes,
            first_bucket_bytes: options.first_bucket_bytes,
            find_unused: options.find_unused,
            gradient_as_bucket_view: options.gradient_as_bucket_view,
            broadcast_buffers: options.broadcast_buffers,
            compression: options.compression,
        };
        let reducer = Reducer::new(group.processes(), parameters, &buckets, reducer_options)
            .during("preparing the gradient buckets")?;
        Ok(Ddp {
            group,
            reducer,
            names,
            parameters: weights,
            buffers,
            options,
            broadcast_next: true,
            averaged: Cell::new(0),
        })
    }

    /// Runs the forward pass `model` between the steps that averaging needs, and returns its output. Every call with
    /// [`GradSync::Average`] must be followed by one [`backward`](Self::backward). For validation call the model itself.
    ///
    /// # Errors
    /// A rank is gone; memory ran out; the last averaged backward did not reach every parameter.
    pub fn forward<E: Into<TorchError>>(
        &mut self,
        sync: GradSync,
        model: impl FnOnce() -> Result<Tensor, E>,
    ) -> Result<Tensor, DdpError> {
        self.prepare(sync)?;
        self.forward_prepared(sync, model)
    }

    /// The first half of [`forward`](Self::forward): all ranks get rank 0's buffers, if it is time. What they say may then
    /// be looked at before anything is computed.
    ///
    /// # Errors
    /// A rank is gone; the last averaged backward did not reach every parameter.
    pub fn prepare(&mut self, sync: GradSync) -> Result<(), DdpError> {
        const DURING: &str = "preparing a forward pass";
        if sync == GradSync::Average {
            self.reducer.before_forward().during(DURING)?;
        }
        self.group.during(DURING, self.reducer.rebuild_buckets())?;
        if self.broadcast_next && self.options.broadcast_buffers {
            self.share_buffers()?;
        }
        Ok(())
    }

    /// The second half of [`forward`](Self::forward), after [`prepare`](Self::prepare) with the same `sync`.
    ///
    /// # Errors
    /// Memory ran out; a rank is gone, where batch norms are synchronised.
    pub fn forward_prepared<E: Into<TorchError>>(
        &mut self,
        sync: GradSync,
        model: impl FnOnce() -> Result<Tensor, E>,
    ) -> Result<Tensor, DdpError> {
        let averages = sync == GradSync::Average;
        // Batch norms that are synchronised have collectives.
        let output = self.group.during("computing a forward pass", model().map_err(Into::into))?;
        self.broadcast_next = averages;
        if averages {
            let searched: &[&Tensor] = if self.options.find_unused { &[&output] } else { &[] };
            self.reducer.before_backward(searched).during("preparing a backward pass")?;
        }
        Ok(output)
    }

    /// Gives all ranks rank 0's buffers, as Python's class does before a forward pass in evaluation mode.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn share_buffers(&self) -> Result<(), DdpError> {
        if self.buffers.is_empty() || self.group.world_size() == 1 {
            return Ok(());
        }
        let shared = reducer::broadcast_coalesced(self.group.processes(), &self.buffers, BROADCAST_BYTES, 0);
        self.group.during("sharing rank 0's buffers", shared)
    }

    /// Computes gradients of a scalar loss, and averages them over all ranks if the forward was called so.
    ///
    /// # Errors
    /// A rank is gone, or memory ran out; the first pass that averages gave no gradient to some parameters, and they are
    /// not searched for.
    pub fn backward(&self, loss: &Tensor) -> Result<(), DdpError> {
        self.group.during("averaging gradients in the backward pass", torch::backward(loss))?;
        // What the last forward was called with.
        let averages = self.broadcast_next;
        let before = self.averaged.get();
        self.averaged.set(before + u64::from(averages));
        if averages && before == 0 {
            let names = self.without_gradient();
            match (names.is_empty(), self.options.find_unused) {
                (true, _) => {}
                (false, true) => tracing::warn!(?names, "parameters got no gradient in the first step"),
                // The reducer would wait for them, and say so in the next forward pass by number alone.
                (false, false) => return Err(DdpError::Unused { names }),
            }
        }
        Ok(())
    }

    /// Bytes of gradients that this rank has handed to the collectives that average them. What a network carries for each
    /// rank is up to twice that: all-reduce sends parts in two rounds.
    ///
    /// # Errors
    /// None is known.
    pub fn gradient_bytes(&self) -> Result<u64, DdpError> {
        if self.options.compression.is_some() {
            return self.reducer.compressed_bytes().during("counting bytes");
        }
        let once: usize = self.parameters.iter().map(|parameter| Shape::of(parameter).bytes).sum();
        Ok(self.averaged.get() * once as u64)
    }

    /// Names of the parameters that have no gradient now.
    pub fn without_gradient(&self) -> Vec<String> {
        let without = self.names.iter().zip(&self.parameters).filter(|(_, parameter)| !parameter.grad().defined());
        without.map(|(name, _)| name.clone()).collect()
    }

    /// Forgets the gradients, before the first backward pass of a step.
    ///
    /// # Errors
    /// None is known.
    pub fn clear_gradients(&self) -> Result<(), DdpError> {
        torch::clear_gradients(&self.parameters).during("clearing gradients")
    }

    /// Takes times in every `rate`-th step for [`figures`](Self::figures); libtorch's default is 100.
    ///
    /// # Errors
    /// The rate is 0.
    pub fn set_sample_rate(&self, rate: u32) -> Result<(), DdpError> {
        self.reducer.set_sample_rate(rate).during("setting the sample rate")
    }

    /// What libtorch logged, by its names: times in ns (`avg_backward_comm_time`,
    /// `avg_backward_compute_comm_overlap_time`), sizes in bytes.
    ///
    /// # Errors
    /// None is known.
    pub fn figures(&self) -> Result<BTreeMap<String, i64>, DdpError> {
        self.reducer.figures().during("reading the reducer's figures")
    }
}

#[cfg(test)]
mod tests {
    use tch::kind::FLOAT_CPU;

    use super::*;

    fn parameter(name: &str) -> (String, Tensor) {
        (name.to_owned(), Tensor::ones([3], FLOAT_CPU).set_requires_grad(true))
    }

    /// A step whose loss uses all parameters but the last.
    fn step(options: DdpOptions) -> Result<Vec<String>, DdpError> {
        let group = Group::alone()?;
        let parameters = [parameter("used"), parameter("also.used"), parameter("idle")];
        let mut ddp = Ddp::new(&group, &parameters, &[], options)?;
        let loss = ddp.forward(GradSync::Average, || {
            (&parameters[0].1 * &parameters[1].1).f_sum(Kind::Float).map_err(TorchError::from)
        })?;
        ddp.backward(&loss)?;
        Ok(ddp.without_gradient())
    }

    #[test]
    fn a_parameter_without_a_gradient_is_told_by_name_after_the_first_step() {
        let error = step(DdpOptions::default()).unwrap_err();
        assert_eq!(error.category(), "unused-parameters");
        assert!(error.to_string().contains("gave no gradient to idle;"), "{error}");
    }

    #[test]
    fn with_a_search_for_unused_parameters_one_may_go_without() {
        assert_eq!(step(DdpOptions { find_unused: true, ..DdpOptions::default() }).unwrap(), ["idle"]);
    }

    /// Gradients after a step in which each is a multiple of `scale`, and the bytes that travelled.
    fn travelled(compression: Option<Kind>, scale: f64) -> (Vec<f32>, u64) {
        let group = Group::alone().unwrap();
        let parameters = [parameter("one"), parameter("two")];
        let mut ddp = Ddp::new(&group, &parameters, &[], DdpOptions { compression, ..DdpOptions::default() }).unwrap();
        for _ in 0..2 {
            ddp.clear_gradients().unwrap();
            let model = || (&parameters[0].1 + &parameters[1].1).f_mul_scalar(scale)?.f_sum(Kind::Float);
            let loss = ddp.forward(GradSync::Average, model).unwrap();
            ddp.backward(&loss).unwrap();
        }
        (Vec::try_from(parameters[0].1.grad()).unwrap(), ddp.gradient_bytes().unwrap())
    }

    #[test]
    fn compressed_gradients_are_rounded_and_take_half_the_bytes() {
        // Two steps of two parameters of three numbers.
        assert_eq!(travelled(None, 1.001), (vec![1.001; 3], 48));
        assert_eq!(travelled(Some(Kind::Half), 1.001), (vec![1.000_976_6; 3], 24));
        assert_eq!(travelled(Some(Kind::BFloat16), 1.001), (vec![1.0; 3], 24));
        // Beyond float16's range.
        assert_eq!(travelled(Some(Kind::Half), 1e5).0, vec![f32::INFINITY; 3]);
    }
}
