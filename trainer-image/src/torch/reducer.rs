//! DDP's reducer and logger. Their order of calls is `crate::ddp`'s business.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ptr::NonNull;

use tch::{Kind, Tensor};

use super::ffi::{self, c_string, check, pointers};
use super::{ProcessGroup, TorchError};

/// How the reducer treats buckets; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReducerOptions {
    /// A bucket of gradients is closed when it holds this much.
    pub bucket_bytes: usize,
    /// The bucket that is ready first is closed earlier, so that communication starts early.
    pub first_bucket_bytes: usize,
    /// Whether some parameters may get no gradient in a step.
    pub find_unused: bool,
    /// Whether gradients are views into the buckets, which saves a copy of each.
    pub gradient_as_bucket_view: bool,
    /// Whether buffers are broadcast before forward passes; only logged here.
    pub broadcast_buffers: bool,
    /// Kind in which gradients travel: half or bfloat16. Without it: their own.
    pub compression: Option<Kind>,
}

/// c10d's reducer with its logger: it averages gradients over all ranks while backward runs.
pub struct Reducer {
    handle: NonNull<ffi::Reducer>,
}

/// Fails unless parameters have the same number, shapes, kinds and strides on all ranks.
///
/// # Errors
/// Names the parameter that differs, or a rank is gone.
pub(crate) fn verify_parameters(group: &ProcessGroup, parameters: &[impl Borrow<Tensor>]) -> Result<(), TorchError> {
    let parameters = pointers(parameters);
    // SAFETY: group and tensors live through the call.
    check(unsafe { ffi::ty_verify_parameters(group.handle(), parameters.as_ptr(), parameters.len()) })
}

/// Replaces tensors on every rank by those of rank `root`, in chunks of `chunk_bytes`.
///
/// # Errors
/// A rank is gone.
pub(crate) fn broadcast_coalesced(
    group: &ProcessGroup,
    tensors: &[impl Borrow<Tensor>],
    chunk_bytes: usize,
    root: u32,
) -> Result<(), TorchError> {
    let tensors = pointers(tensors);
    let root = i32::try_from(root).unwrap_or(i32::MAX);
    // SAFETY: group and tensors live through the call.
    check(unsafe { ffi::ty_broadcast_coalesced(group.handle(), tensors.as_ptr(), tensors.len(), chunk_bytes, root) })
}

/// libtorch's own assignment of tensors to buckets: `result[i]` is the bucket of tensor i. See `crate::ddp::plan_buckets`.
///
/// # Errors
/// `limits` is empty, or a tensor is not dense.
pub fn assign_buckets(tensors: &[impl Borrow<Tensor>], limits: &[usize]) -> Result<Vec<usize>, TorchError> {
    let tensors = pointers(tensors);
    let (mut bucket_of, mut buckets) = (vec![0; tensors.len()], 0);
    // SAFETY: all arrays live through the call and have the lengths that are told.
    check(unsafe {
        ffi::ty_assign_buckets(
            tensors.as_ptr(),
            tensors.len(),
            limits.as_ptr(),
            limits.len(),
            bucket_of.as_mut_ptr(),
            &raw mut buckets,
        )
    })?;
    Ok(bucket_of)
}

impl Reducer {
    /// A reducer over named parameters; `buckets` lists their indices in the order in which gradients become ready.
    ///
    /// # Errors
    /// A parameter needs no gradient, or a rank is gone.
    pub fn new(
        group: &ProcessGroup,
        parameters: &[(String, Tensor)],
        buckets: &[Vec<usize>],
        options: ReducerOptions,
    ) -> Result<Reducer, TorchError> {
        let tensors: Vec<_> = parameters.iter().map(|(_, tensor)| ffi::pointer(tensor)).collect();
        let names: Vec<_> = parameters.iter().map(|(name, _)| c_string(name)).collect();
        let names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let members: Vec<usize> = buckets.concat();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(buckets.iter().scan(0, |end, bucket| {
                *end += bucket.len();
                Some(*end)
            }))
            .collect();
        let signed = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let options = ffi::ReducerOptions {
            bucket_bytes: signed(options.bucket_bytes),
            first_bucket_bytes: signed(options.first_bucket_bytes),
            find_unused: options.find_unused,
            gradient_as_bucket_view: options.gradient_as_bucket_view,
            broadcast_buffers: options.broadcast_buffers,
            compression: match options.compression {
                None => -1,
                Some(Kind::Half) => 5,
                Some(Kind::BFloat16) => 15,
                Some(other) => return Err(TorchError::Other(format!("gradients can't travel as {other:?}"))),
            },
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: all arrays live through the call; `starts` has one entry more than there are buckets. The reducer
        // holds references of its own to the parameters and to the process group.
        check(unsafe {
            ffi::ty_reducer_new(
                group.handle(),
                tensors.as_ptr(),
                names.as_ptr(),
                tensors.len(),
                members.as_ptr(),
                starts.as_ptr(),
                buckets.len(),
                options,
                &raw mut handle,
            )
        })?;
        let handle = NonNull::new(handle).ok_or_else(|| TorchError::Other("the shim gave no reducer".to_string()))?;
        Ok(Reducer { handle })
    }

    /// To be called before a forward pass whose gradients will be averaged.
    ///
    /// # Errors
    /// The last such pass was not followed by a backward that reached every parameter.
    pub fn before_forward(&self) -> Result<(), TorchError> {
        // SAFETY: the handle is alive as long as self. So below.
        check(unsafe { ffi::ty_reducer_before_forward(self.handle.as_ptr()) })
    }

    /// Sorts the buckets by the order in which gradients really came; true the one time when it did.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn rebuild_buckets(&self) -> Result<bool, TorchError> {
        let mut rebuilt = false;
        // SAFETY: as above.
        check(unsafe { ffi::ty_reducer_rebuild_buckets(self.handle.as_ptr(), &raw mut rebuilt) })?;
        Ok(rebuilt)
    }

    /// To be called between a forward pass and its backward if the gradients will be averaged. `outputs` is where the
    /// search for unused parameters starts; empty without one.
    ///
    /// # Errors
    /// None is known.
    pub fn before_backward(&self, outputs: &[&Tensor]) -> Result<(), TorchError> {
        let outputs = pointers(outputs);
        // SAFETY: as above.
        check(unsafe { ffi::ty_reducer_before_backward(self.handle.as_ptr(), outputs.as_ptr(), outputs.len()) })
    }

    /// Takes times in every `rate`-th step; libtorch's default is 100.
    ///
    /// # Errors
    /// The rate is 0.
    pub fn set_sample_rate(&self, rate: u32) -> Result<(), TorchError> {
        // SAFETY: as above.
        check(unsafe { ffi::ty_reducer_sample_rate(self.handle.as_ptr(), i32::try_from(rate).unwrap_or(i32::MAX)) })
    }

    /// Bytes of compressed gradients that this rank has handed to collectives; 0 without compression.
    ///
    /// # Errors
    /// None is known.
    pub fn compressed_bytes(&self) -> Result<u64, TorchError> {
        let mut bytes = 0;
        // SAFETY: as above.
        check(unsafe { ffi::ty_reducer_bytes(self.handle.as_ptr(), &raw mut bytes) })?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// What the logger knows, by libtorch's names: times in ns (`avg_backward_compute_comm_overlap_time` and others),
    /// sizes in bytes.
    ///
    /// # Errors
    /// None is known.
    pub fn figures(&self) -> Result<BTreeMap<String, i64>, TorchError> {
        let text = ffi::new_bytes(|bytes, length| {
            // SAFETY: as above.
            unsafe { ffi::ty_reducer_figures(self.handle.as_ptr(), bytes, length) }
        })?;
        let parse =
            |line: &str| line.split_once('\t').and_then(|(key, value)| Some((key.to_string(), value.parse().ok()?)));
        Ok(String::from_utf8_lossy(&text).lines().filter_map(parse).collect())
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used after this. A failure on the way out has nobody left to hear it.
        unsafe { ffi::ty_reducer_free(self.handle.as_ptr()) };
    }
}
