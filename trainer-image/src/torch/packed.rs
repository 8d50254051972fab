//! Convolutions prepared for inference on CPUs: their weights lie as oneDNN computes with them, and what follows is done
//! while a result is still in a register.

use std::ffi::CStr;
use std::ptr;

use tch::{Kind, Tensor};

use super::TorchError;
use super::ffi::{self, check, pointer};

/// Shape of a square convolution without dilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Zeros at each edge of an image, in pixels.
    pub padding: i64,
    /// Pixels from one result to the next.
    pub stride: i64,
    /// Groups of channels that are convolved by themselves.
    pub groups: i64,
}

/// What is computed of each result while it is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    /// Nothing.
    Nothing,
    /// `max(x, 0)`.
    Relu,
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · min(max(x + 3, 0), 6) / 6`.
    HardSwish,
}

impl Fused {
    /// oneDNN's name in PyTorch's operators.
    fn name(self) -> &'static CStr {
        match self {
            Fused::Nothing => c"none",
            Fused::Relu => c"relu",
            Fused::Silu => c"swish",
            Fused::HardSwish => c"hardswish",
        }
    }
}

/// Whether this CPU computes packed convolutions of a kind: 16-bit ones need instructions that not all have.
///
/// # Errors
/// libtorch lacks the operator that knows.
pub fn packs(kind: Kind) -> Result<bool, TorchError> {
    // `c10::ScalarType`.
    let number = match kind {
        Kind::Float => 6,
        Kind::BFloat16 => 15,
        Kind::Half => 5,
        _ => return Ok(false),
    };
    let mut answer = false;
    // SAFETY: the out pointer lives through the call.
    check(unsafe { ffi::ty_packs(number, &raw mut answer) })?;
    Ok(answer)
}

/// A convolution whose weight is packed. It has no gradient.
#[derive(Debug)]
pub struct PackedConv {
    weight: Tensor,
    bias: Option<Tensor>,
    shape: ffi::ConvShape,
}

impl PackedConv {
    /// Packs a weight of shape `[outputs, inputs / groups, edge, edge]` for images of about the size `[batch, channels, height,
    /// width]`. Others give the same numbers, more slowly if oneDNN wants the weight in another layout for them.
    ///
    /// # Errors
    /// This CPU can't, or memory ran out.
    pub fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        ConvShape { padding, stride, groups }: ConvShape,
        input_size: [i64; 4],
    ) -> Result<PackedConv, TorchError> {
        let shape = ffi::ConvShape { padding, stride, groups };
        // SAFETY: the tensor and the four numbers live through the call.
        let weight =
            ffi::new_tensor(|out| unsafe { ffi::ty_pack_conv(pointer(weight), shape, input_size.as_ptr(), out) })?;
        Ok(PackedConv { weight, bias: bias.map(Tensor::shallow_clone), shape })
    }

    /// The convolution of images of the weight's kind, and what follows.
    ///
    /// # Errors
    /// The images don't fit, or memory ran out.
    pub fn forward(&self, images: &Tensor, then: Fused) -> Result<Tensor, TorchError> {
        let bias = self.bias.as_ref().map_or(ptr::null_mut(), pointer);
        // SAFETY: tensors and name live through the call; the bias may be null.
        ffi::new_tensor(|out| unsafe {
            ffi::ty_packed_conv(pointer(images), pointer(&self.weight), bias, self.shape, then.name().as_ptr(), out)
        })
    }

    /// The convolution of images, added to `sum`, of whose memory the result is made; then what follows.
    ///
    /// # Errors
    /// The images or the sum don't fit, or memory ran out.
    pub fn add_to(&self, images: &Tensor, sum: &Tensor, then: Fused) -> Result<Tensor, TorchError> {
        let bias = self.bias.as_ref().map_or(ptr::null_mut(), pointer);
        let then = if then == Fused::Nothing { ptr::null() } else { then.name().as_ptr() };
        // SAFETY: tensors and name live through the call; bias and name may be null.
        ffi::new_tensor(|out| unsafe {
            ffi::ty_packed_conv_add(pointer(images), pointer(&self.weight), bias, self.shape, then, pointer(sum), out)
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, kind};

    use super::*;
    use crate::torch::to_channels_last;

    fn apart(ours: &Tensor, theirs: &Tensor) -> f64 {
        (ours.to_kind(Kind::Double) - theirs.to_kind(Kind::Double)).abs().max().double_value(&[])
    }

    #[test]
    fn a_packed_convolution_is_the_plain_one_with_what_follows() {
        tch::manual_seed(3);
        let _no_grad = tch::no_grad_guard();
        for (shape, edge, size) in [
            (ConvShape { padding: 1, stride: 1, groups: 1 }, 3, 9),
            (ConvShape { padding: 3, stride: 2, groups: 1 }, 7, 16),
            (ConvShape { padding: 2, stride: 2, groups: 8 }, 5, 11),
            (ConvShape { padding: 0, stride: 1, groups: 1 }, 1, 1),
        ] {
            let images = to_channels_last(&Tensor::randn([3, 8, size, size], kind::FLOAT_CPU)).unwrap();
            let weight = Tensor::randn([16, 8 / shape.groups, edge, edge], kind::FLOAT_CPU);
            let bias = Tensor::randn([16], kind::FLOAT_CPU);
            let packed = PackedConv::new(&weight, Some(&bias), shape, [3, 8, size, size]).unwrap();
            let ConvShape { padding, stride, groups } = shape;
            let plain = images.conv2d(&weight, Some(&bias), [stride; 2], [padding; 2], [1, 1], groups);
            for (fused, expected) in [
                (Fused::Nothing, plain.shallow_clone()),
                (Fused::Relu, plain.relu()),
                (Fused::Silu, plain.silu()),
                (Fused::HardSwish, plain.hardswish()),
            ] {
                let ours = packed.forward(&images, fused).unwrap();
                assert!(apart(&ours, &expected) < 1e-4, "{shape:?} {fused:?}");
            }
            let sum = to_channels_last(&Tensor::randn(plain.size(), kind::FLOAT_CPU)).unwrap();
            let expected = [&plain + &sum, (&plain + &sum).relu()];
            for (fused, expected) in [Fused::Nothing, Fused::Relu].into_iter().zip(expected) {
                let ours = packed.add_to(&images, &sum.copy(), fused).unwrap();
                assert!(apart(&ours, &expected) < 1e-4, "{shape:?}, added, {fused:?}");
            }
        }
    }

    #[test]
    fn a_weight_that_does_not_fit_is_an_error() {
        let weight = Tensor::zeros([4, 3, 1, 1], (Kind::Float, Device::Cpu));
        let shape = ConvShape { padding: 0, stride: 1, groups: 1 };
        let packed = PackedConv::new(&weight, None, shape, [1, 3, 4, 4]).unwrap();
        let images = Tensor::zeros([1, 5, 4, 4], kind::FLOAT_CPU);
        assert!(packed.forward(&images, Fused::Relu).is_err());
    }

    #[test]
    fn integers_are_not_packed() {
        assert!(packs(Kind::Float).unwrap());
        assert!(!packs(Kind::Int64).unwrap());
    }
}
