//! A store that all ranks share, and the collectives on top of it.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::time::Duration;

use tch::Tensor;

use super::TorchError;
use super::ffi::{self, c_string, check, pointer};

/// Where the ranks meet, and which of them this process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host that serves the store, by name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether this process serves the store.
    pub is_host: bool,
    /// Rank of this process, from 0.
    pub rank: u32,
    /// Number of ranks.
    pub world_size: u32,
}

/// A c10d process group with its store. Collectives must be called by every rank in the same order, from one thread.
pub struct ProcessGroup {
    handle: NonNull<ffi::Group>,
    rank: u32,
    world_size: u32,
    /// Whether a thread may still wait in the store: then nothing is freed.
    is_left_alone: Cell<bool>,
}

/// A handle for another thread to ask the store with.
struct Asked(NonNull<ffi::Group>);

// SAFETY: c10d's stores take calls from any thread one after the other, and the handle outlives the thread: see `ask_within`.
unsafe impl Send for Asked {}

// SAFETY: the handle is a reference to c10d's store and group, which count their owners by atomics and lock what they share.
unsafe impl Send for ProcessGroup {}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

impl ProcessGroup {
    /// Opens the store: serves it, or waits until it can be reached. A world of one keeps it in the process and uses no
    /// port.
    ///
    /// # Errors
    /// The port is taken, or the host did not answer within `timeout`.
    pub fn open(endpoint: &Endpoint, timeout: Duration) -> Result<ProcessGroup, TorchError> {
        let Endpoint { host, port, is_host, rank, world_size } = endpoint;
        let signed = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        let mut handle = std::ptr::null_mut();
        let host = c_string(host);
        // SAFETY: the string and the out pointer live through the call.
        check(unsafe {
            ffi::ty_group_open(
                host.as_ptr(),
                *port,
                *is_host,
                signed(*rank),
                signed(*world_size),
                milliseconds(timeout),
                &raw mut handle,
            )
        })?;
        let handle = NonNull::new(handle).ok_or_else(|| TorchError::Other("the shim gave no group".to_string()))?;
        Ok(ProcessGroup { handle, rank: *rank, world_size: *world_size, is_left_alone: Cell::new(false) })
    }

    /// Asks the store something, and waits for `limit` at most: a host that was stopped takes questions and never answers.
    /// `ask` may use the store alone, no collectives; or be the last use of the group. `None` where it came to nothing in time; the group's memory is not
    /// freed then.
    pub fn ask_within<T: Send + 'static>(
        &self,
        limit: Duration,
        ask: impl FnOnce(&ProcessGroup) -> T + Send + 'static,
    ) -> Option<T> {
        let (handle, rank, world_size) = (Asked(self.handle), self.rank, self.world_size);
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            // The whole of it, not its pointer alone, is what may be sent.
            let Asked(handle) = { handle };
            let group = ManuallyDrop::new(ProcessGroup { handle, rank, world_size, is_left_alone: Cell::new(true) });
            // Nobody listens any more where it took too long.
            let _ = tell.send(ask(&group));
        });
        let answer = told.recv_timeout(limit).ok();
        if answer.is_none() {
            self.is_left_alone.set(true);
        }
        answer
    }

    /// Another handle of the same store and group, for another thread.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn share(&self) -> Result<ProcessGroup, TorchError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the handle is alive as long as self, the out pointer through the call.
        check(unsafe { ffi::ty_group_share(self.handle(), &raw mut handle) })?;
        let handle = NonNull::new(handle).ok_or_else(|| TorchError::Other("the shim gave no group".to_string()))?;
        Ok(ProcessGroup { handle, rank: self.rank, world_size: self.world_size, is_left_alone: Cell::new(false) })
    }

    /// Waits until each collective of this rank has ended, on its GPU too.
    ///
    /// # Errors
    /// One failed.
    pub fn settle(&self) -> Result<(), TorchError> {
        // SAFETY: the handle is alive as long as self. So below.
        check(unsafe { ffi::ty_group_settle(self.handle()) })
    }

    /// Gives up the connections, whatever the other ranks do; the group is of no further use. What takes longer than `limit`
    /// is not waited for, and nothing is freed then: the process is to end.
    pub fn abort_within(&self, limit: Duration) {
        let aborted = self.ask_within(limit, |group| {
            // SAFETY: as above. Nobody is left to hear of a failure.
            let _ = check(unsafe { ffi::ty_group_abort(group.handle()) });
        });
        if aborted.is_none() {
            tracing::debug!("the connections to the other ranks did not end within {} s", limit.as_secs_f64());
        }
    }

    pub(super) fn handle(&self) -> *mut ffi::Group {
        self.handle.as_ptr()
    }

    /// Rank of this process, from 0.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        self.world_size
    }

    /// Puts `prefix` before every key from now on.
    ///
    /// # Errors
    /// None is known.
    pub fn prefix_keys(&self, prefix: &str) -> Result<(), TorchError> {
        let prefix = c_string(prefix);
        // SAFETY: the handle is alive as long as self, the string through the call.
        check(unsafe { ffi::ty_group_prefix(self.handle(), prefix.as_ptr()) })
    }

    /// Sets a key of the store.
    ///
    /// # Errors
    /// The host of the store is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), TorchError> {
        let key = c_string(key);
        // SAFETY: the handle is alive as long as self, the rest through the call.
        check(unsafe { ffi::ty_store_set(self.handle(), key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Waits until a key is there and returns its value.
    ///
    /// # Errors
    /// [`TorchError::Timeout`] after `timeout`, or the host of the store is gone.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, TorchError> {
        let key = c_string(key);
        ffi::new_bytes(|value, length| {
            // SAFETY: the handle is alive as long as self, the rest through the call.
            unsafe { ffi::ty_store_get(self.handle(), key.as_ptr(), milliseconds(timeout), value, length) }
        })
    }

    /// Adds to a counter that starts at 0 and returns its new value.
    ///
    /// # Errors
    /// The host of the store is gone.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64, TorchError> {
        let key = c_string(key);
        let mut sum = 0;
        // SAFETY: the handle is alive as long as self, the rest through the call.
        check(unsafe { ffi::ty_store_add(self.handle(), key.as_ptr(), amount, &raw mut sum) })?;
        Ok(sum)
    }

    /// Whether a key is there now.
    ///
    /// # Errors
    /// The host of the store is gone.
    pub fn has(&self, key: &str) -> Result<bool, TorchError> {
        let key = c_string(key);
        let mut there = false;
        // SAFETY: the handle is alive as long as self, the rest through the call.
        check(unsafe { ffi::ty_store_has(self.handle(), key.as_ptr(), &raw mut there) })?;
        Ok(there)
    }

    /// Connects all ranks by Gloo. `address` is one of this machine's, on which the others reach it; an empty one lets
    /// `GLOO_SOCKET_IFNAME` or the host's name decide. A collective that takes longer than `timeout` fails.
    ///
    /// # Errors
    /// A rank did not come or can't be reached.
    pub fn connect_gloo(&self, address: &str, timeout: Duration) -> Result<(), TorchError> {
        let address = c_string(address);
        // SAFETY: the handle is alive as long as self, the string through the call.
        check(unsafe { ffi::ty_group_connect_gloo(self.handle(), address.as_ptr(), milliseconds(timeout)) })
    }

    /// Connects all ranks by NCCL, this one with GPU `index`. Needs [`load_cuda`](super::load_cuda).
    ///
    /// # Errors
    /// A rank did not come, can't be reached or has no such GPU.
    pub fn connect_nccl(&self, index: u32, timeout: Duration) -> Result<(), TorchError> {
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        // SAFETY: the handle is alive as long as self.
        check(unsafe { ffi::ty_group_connect_nccl(self.handle(), index, milliseconds(timeout)) })
    }

    /// Replaces `tensor` on every rank by the sum over all ranks.
    ///
    /// # Errors
    /// A rank is gone or did not come in time; the group is of no further use then. So for all collectives.
    pub fn all_reduce_sum(&self, tensor: &Tensor) -> Result<(), TorchError> {
        // SAFETY: the handle is alive as long as self, the tensor through the call.
        check(unsafe { ffi::ty_group_all_reduce_sum(self.handle(), pointer(tensor)) })
    }

    /// Replaces `tensor` on every rank by that of rank `root`.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn broadcast(&self, tensor: &Tensor, root: u32) -> Result<(), TorchError> {
        // SAFETY: the handle is alive as long as self, the tensor through the call.
        check(unsafe {
            ffi::ty_group_broadcast(self.handle(), pointer(tensor), i32::try_from(root).unwrap_or(i32::MAX))
        })
    }

    /// The tensors of all ranks, stacked: shape `[world_size, ..tensor's]`. All ranks give the same shape and kind.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Tensor, TorchError> {
        let mut shape = vec![i64::from(self.world_size)];
        shape.extend(tensor.size());
        let out = Tensor::f_empty(&shape, (tensor.kind(), tensor.device()))?;
        // SAFETY: the handle is alive as long as self, the tensors through the call.
        check(unsafe { ffi::ty_group_all_gather(self.handle(), pointer(&out), pointer(tensor)) })?;
        Ok(out)
    }

    /// The collectives that did not end, or failed, as JSON in the form of libtorch's flight recorder: by NCCL from that
    /// recorder itself, which is one for the whole process.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn flights(&self) -> Result<Vec<u8>, TorchError> {
        ffi::new_bytes(|text, length| {
            // SAFETY: the handle is alive as long as self, the rest through the call.
            unsafe { ffi::ty_group_flights(self.handle(), text, length) }
        })
    }

    /// Waits until every rank is here.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn barrier(&self) -> Result<(), TorchError> {
        // SAFETY: the handle is alive as long as self.
        check(unsafe { ffi::ty_group_barrier(self.handle()) })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if self.is_left_alone.get() {
            return;
        }
        // SAFETY: the handle is ours and not used after this. A failure on the way out has nobody left to hear it.
        unsafe { ffi::ty_group_free(self.handle()) };
    }
}
