//! Work that a GPU gets as a whole: recorded once, then started by one call. Saves the time in which a host that hands over one
//! operation after the other keeps a fast GPU waiting.

use std::ptr;

use tch::Device;

use super::TorchError;
use super::ffi::{self, check};

/// What a GPU did while it was recorded. It works with the memory that the tensors had then: what is to be taken in must be
/// copied there, and they must not be freed before this.
pub struct Graph(*mut ffi::Graph);

// SAFETY: a graph is replayed and freed by one owner, on whatever thread that is.
unsafe impl Send for Graph {}

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What is left for tensors.
    pub available: i64,
    /// What a step so far has taken for itself at most, and given back.
    pub step: i64,
}

impl Room {
    /// Of GPU `index`.
    ///
    /// # Errors
    /// The plug-in is not loaded.
    pub fn of(index: usize) -> Result<Room, TorchError> {
        let mut room = Room { available: 0, step: 0 };
        // SAFETY: the out values live through the call.
        check(unsafe { ffi::ty_graph_room(index as i32, &raw mut room.available, &raw mut room.step) })?;
        Ok(room)
    }
}

/// From now on this thread computes on a stream of its own, since the default one can't be recorded. Before the tensors are made
/// that it is to compute with.
///
/// # Errors
/// The device can't be used.
pub fn compute_beside(device: Device) -> Result<(), TorchError> {
    let Device::Cuda(index) = device else { return Ok(()) };
    // SAFETY: no pointers.
    check(unsafe { ffi::ty_compute_beside(ffi::CUDA, index as i32) })
}

impl Graph {
    /// Records what `work` has GPU `index` do, which is not done meanwhile: what it returns has no values yet. After a failure
    /// the GPU goes on as if nothing had been recorded.
    ///
    /// # Errors
    /// Those of `work`; it asked for something that can't be recorded; memory ran out.
    pub fn record<T, E: From<TorchError>>(index: usize, work: impl FnOnce() -> Result<T, E>) -> Result<(Graph, T), E> {
        let mut handle = ptr::null_mut();
        // SAFETY: the out pointer lives through the call.
        check(unsafe { ffi::ty_graph_begin(index as i32, &raw mut handle) })?;
        // Dropped without an end, it is given up.
        let graph = Graph(handle);
        let result = work()?;
        // SAFETY: alive as long as the graph. So below.
        check(unsafe { ffi::ty_graph_end(graph.0) })?;
        Ok((graph, result))
    }

    /// Has the GPU do all of it.
    ///
    /// # Errors
    /// The GPU failed.
    pub fn replay(&self) -> Result<(), TorchError> {
        // SAFETY: as above.
        check(unsafe { ffi::ty_graph_replay(self.0) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: freed once; nobody else has the pointer.
        let _ = check(unsafe { ffi::ty_graph_free(self.0) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gpu_nothing_is_recorded() {
        compute_beside(Device::Cpu).unwrap();
        let recorded = Graph::record(0, || -> Result<(), TorchError> { panic!("there is nothing to record") });
        let error = recorded.err().unwrap().to_string();
        assert!(error.contains("the CUDA plug-in is not loaded"), "{error}");
        assert!(Room::of(0).unwrap_err().to_string().contains("the CUDA plug-in is not loaded"));
    }
}
