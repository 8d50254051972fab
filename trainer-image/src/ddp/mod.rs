//! DistributedDataParallel: every rank has the whole model and a part of each batch; gradients are averaged while the
//! backward pass runs, so that weights stay equal everywhere, bit for bit what Python's class of that name does.
//!
//! ```text
//!  Group::join ─► Ddp::new ─► [ clear_gradients ─► forward ─► backward ─► optimizer step ]*
//! ```

mod error;
mod group;
mod plan;

use std::collections::BTreeMap;

use tch::Tensor;

pub use error::DdpError;
use error::During;
pub use group::{Backend, Group, Rendezvous};
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
}

impl Default for DdpOptions {
    fn default() -> Self {
        DdpOptions {
            bucket_bytes: 25 << 20,
            first_bucket_bytes: 1 << 20,
            find_unused: false,
            gradient_as_bucket_view: true,
            broadcast_buffers: true,
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
    parameters: Vec<Tensor>,
    buffers: Vec<Tensor>,
    options: DdpOptions,
    /// Whether the next forward broadcasts the buffers. Python's `require_forward_param_sync`: set by a forward that is
    /// averaged, cleared by one that is not, so that accumulation sees each rank's own statistics.
    broadcast_next: bool,
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
        let (weights, buffers) = (alias(parameters), alias(buffers));
        reducer::verify_parameters(group.processes(), &weights).during("comparing the model between ranks")?;
        let all: Vec<&Tensor> = weights.iter().chain(&buffers).collect();
        reducer::broadcast_coalesced(group.processes(), &all, BROADCAST_BYTES, 0).during("sharing rank 0's weights")?;
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
        };
        let reducer = Reducer::new(group.processes(), parameters, &buckets, reducer_options)
            .during("preparing the gradient buckets")?;
        Ok(Ddp { group, reducer, parameters: weights, buffers, options, broadcast_next: true })
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
        self.reducer.rebuild_buckets().during(DURING)?;
        if self.broadcast_next && self.options.broadcast_buffers {
            self.share_buffers()?;
        }
        Ok(())
    }

    /// The second half of [`forward`](Self::forward), after [`prepare`](Self::prepare) with the same `sync`.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn forward_prepared<E: Into<TorchError>>(
        &mut self,
        sync: GradSync,
        model: impl FnOnce() -> Result<Tensor, E>,
    ) -> Result<Tensor, DdpError> {
        let averages = sync == GradSync::Average;
        let output = model().map_err(Into::into).during("forward pass")?;
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
        if self.buffers.is_empty() {
            return Ok(());
        }
        reducer::broadcast_coalesced(self.group.processes(), &self.buffers, BROADCAST_BYTES, 0)
            .during("sharing rank 0's buffers")
    }

    /// Computes gradients of a scalar loss, and averages them over all ranks if the forward was called so.
    ///
    /// # Errors
    /// A rank is gone, or memory ran out.
    pub fn backward(&self, loss: &Tensor) -> Result<(), DdpError> {
        torch::backward(loss).during("backward pass")
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
