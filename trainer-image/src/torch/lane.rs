//! Copies between host and device that nobody waits for: beside what a GPU computes, through pinned memory. On a CPU the same
//! calls copy at once.

use std::ffi::c_void;
use std::ptr;

use tch::{Device, Tensor};

use super::TorchError;
use super::ffi::{self, check, pointer};

// `c10::ScalarType`.
const UINT8: i32 = 0;
const INT64: i32 = 4;

/// A stream of copies beside the one that computes.
pub struct Lane(*mut ffi::Lane);

// SAFETY: a lane is the name of a stream, which never changes; libtorch's streams and allocators take calls of any thread.
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

/// Values on their way to the host. Their memory may be read once they have [arrived](Self::arrived).
pub struct OnItsWay {
    tensor: Tensor,
    arrival: Arrival,
}

/// Tensors as they were, on their way to the host.
pub struct Snapshot {
    tensors: Vec<Tensor>,
    arrival: Arrival,
}

struct Arrival(*mut ffi::Arrival);

// SAFETY: an event is waited for and freed by one owner, on whatever thread that is.
unsafe impl Send for Arrival {}

impl Lane {
    /// A lane of a device. On a GPU, [`load_cuda`](super::load_cuda) comes before.
    ///
    /// # Errors
    /// The device can't be used.
    pub fn new(device: Device) -> Result<Lane, TorchError> {
        let (kind, index) = match device {
            Device::Cuda(index) => (ffi::CUDA, index as i32),
            _ => (ffi::CPU, 0),
        };
        let mut lane = ptr::null_mut();
        // SAFETY: the out pointer lives through the call.
        check(unsafe { ffi::ty_lane_new(kind, index, &raw mut lane) })?;
        Ok(Lane(lane))
    }

    /// Brings bytes to the device as a tensor of this shape, which may be computed with at once: the device waits for it, not the
    /// host.
    ///
    /// # Errors
    /// The shape has another number of values, or memory ran out.
    pub fn bytes(&self, values: &[u8], size: &[i64]) -> Result<Tensor, TorchError> {
        self.upload(values, size, UINT8)
    }

    /// As [`bytes`](Self::bytes), of integers of 64 bits in one dimension.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn integers(&self, values: &[i64]) -> Result<Tensor, TorchError> {
        self.upload(values, &[values.len() as i64], INT64)
    }

    fn upload<T>(&self, values: &[T], size: &[i64], kind: i32) -> Result<Tensor, TorchError> {
        if size.iter().product::<i64>() != values.len() as i64 || size.iter().any(|extent| *extent < 0) {
            return Err(TorchError::Other(format!("{} values for a tensor of shape {size:?}", values.len())));
        }
        let data: *const c_void = values.as_ptr().cast();
        // SAFETY: data and shape live through the call, which copies as many values of this kind as there are.
        ffi::new_tensor(|out| unsafe { ffi::ty_lane_upload(self.0, data, size.as_ptr(), size.len(), kind, out) })
    }

    /// Copies tensors as they are now to the host, contiguous in the usual order of dimensions: what is computed next does
    /// not change them any more. On a GPU they are copied there first, so that it needs room for them once more.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn snapshot(&self, sources: &[Tensor]) -> Result<Snapshot, TorchError> {
        let pointers = ffi::pointers(sources);
        let mut copies = vec![ptr::null_mut(); sources.len()];
        let mut arrival = ptr::null_mut();
        // SAFETY: the tensors live through the call, and there is room for as many.
        check(unsafe {
            ffi::ty_lane_snapshot(self.0, pointers.as_ptr(), pointers.len(), copies.as_mut_ptr(), &raw mut arrival)
        })?;
        // SAFETY: on success the shim has stored tensors that are ours to free.
        let tensors = copies.into_iter().map(|copy| unsafe { Tensor::from_ptr(copy) }).collect();
        Ok(Snapshot { tensors, arrival: Arrival(arrival) })
    }
}

/// Starts to bring a tensor to the host, as it is when the device has computed it. A tensor of the host is there: it must not be
/// changed in place until it is read.
///
/// # Errors
/// Memory ran out.
pub fn read_back(tensor: &Tensor) -> Result<OnItsWay, TorchError> {
    let mut arrival = ptr::null_mut();
    // SAFETY: the tensor and the out pointers live through the call.
    let tensor = ffi::new_tensor(|out| unsafe { ffi::ty_read_back(pointer(tensor), out, &raw mut arrival) })?;
    Ok(OnItsWay { tensor, arrival: Arrival(arrival) })
}

impl OnItsWay {
    /// Waits for the values.
    ///
    /// # Errors
    /// The device failed. So below.
    pub fn arrived(self) -> Result<Tensor, TorchError> {
        self.arrival.wait()?;
        Ok(self.tensor)
    }
}

impl Snapshot {
    /// Waits for the values, in the order of the originals.
    pub fn arrived(self) -> Result<Vec<Tensor>, TorchError> {
        self.arrival.wait()?;
        Ok(self.tensors)
    }
}

impl Arrival {
    fn wait(&self) -> Result<(), TorchError> {
        // SAFETY: alive as long as self.
        check(unsafe { ffi::ty_arrival_wait(self.0) })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // SAFETY: freed once; nobody else has the pointer. So below.
        let _ = check(unsafe { ffi::ty_lane_free(self.0) });
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = check(unsafe { ffi::ty_arrival_free(self.0) });
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, kind};

    use super::*;
    use crate::torch::{is_channels_last, to_channels_last};

    #[test]
    fn what_is_brought_to_a_device_keeps_values_shape_and_kind() {
        let lane = Lane::new(Device::Cpu).unwrap();
        let mut bytes: Vec<u8> = (0..12).collect();
        let tensor = lane.bytes(&bytes, &[2, 3, 2]).unwrap();
        bytes.fill(0);
        assert_eq!((tensor.size(), tensor.kind()), (vec![2, 3, 2], Kind::Uint8));
        assert_eq!(Vec::<u8>::try_from(tensor.flatten(0, -1)).unwrap(), (0..12).collect::<Vec<u8>>());
        let labels = lane.integers(&[3, -1, i64::MAX]).unwrap();
        assert_eq!(labels, Tensor::from_slice(&[3, -1, i64::MAX]));
        assert_eq!(lane.integers(&[]).unwrap().size(), [0]);
        let error = lane.bytes(&bytes, &[5]).unwrap_err().to_string();
        assert_eq!(error, "libtorch: 12 values for a tensor of shape [5]");
    }

    #[test]
    fn a_snapshot_is_what_the_tensors_were() {
        let weight = to_channels_last(&Tensor::rand([2, 3, 4, 5], kind::FLOAT_CPU)).unwrap().set_requires_grad(true);
        let count = Tensor::from(7_i64);
        let before = weight.detach().copy();
        let lane = Lane::new(Device::Cpu).unwrap();
        let snapshot = lane.snapshot(&[weight.shallow_clone(), count.shallow_clone()]).unwrap();
        let _ = tch::no_grad(|| weight.shallow_clone().fill_(0.0));
        let _ = count.shallow_clone().fill_(0);
        let copies = std::thread::spawn(move || snapshot.arrived().unwrap()).join().unwrap();
        assert_eq!(copies[0], before);
        assert!(!copies[0].requires_grad() && !is_channels_last(&copies[0]) && copies[0].is_contiguous());
        assert_eq!(copies[1].int64_value(&[]), 7);
        assert_eq!(lane.snapshot(&[]).unwrap().arrived().unwrap().len(), 0);
    }

    #[test]
    fn what_is_read_back_is_there_once_it_has_arrived() {
        let loss = (Tensor::from_slice(&[1.5, 2.5]).set_requires_grad(true) * 2.0).detach();
        assert_eq!(Vec::<f64>::try_from(read_back(&loss).unwrap().arrived().unwrap()).unwrap(), [3.0, 5.0]);
    }
}
