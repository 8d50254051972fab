//! The checks that need libtorch: does the GPU compute what the CPU computes, how fast do bytes come to it, do the GPUs of
//! this pod reach each other. A GPU that answers wrongly is worse than none: the training would go on, to nowhere.

use std::time::Instant;

use crds::contract::Cause;
use tch::{Device, Kind, Tensor};

use super::verdict::{Outcome, Verdict};
use crate::fault::{Fault, guard};

/// Rows and columns of the matrices.
const SIDE: i64 = 512;
/// Images of the convolution: count, channels, height and width.
const IMAGES: [i64; 4] = [8, 16, 32, 32];
/// Largest difference from the CPU's values, as a part of the largest of them. GPUs may round convolutions to 10 bits of mantissa (TF32);
/// one that computes wrongly is off by far more.
const ROUNDING: f64 = 2e-2;
/// Bytes that travel between host and GPU to time them.
const CARGO: i64 = 64 << 20;
/// Less than that many bytes a second is a link of fewer lanes than the GPU has: PCI Express 3 gives 12e9 over sixteen.
const NARROW: f64 = 3e9;

/// Adds the checks of computing on a device to a verdict whose earlier ones have passed.
pub(super) fn add(verdict: &mut Verdict, devices: &[Device]) {
    let each = |check: fn(Device) -> Result<String, Fault>| {
        move |devices: &[Device]| match devices.iter().map(|device| check(*device)).collect::<Result<Vec<_>, _>>() {
            Ok(seen) => Outcome::Passed(seen.join(", ")),
            Err(fault) => failed(&fault),
        }
    };
    verdict.check("matrix product", |_| each(matrix_product)(devices));
    verdict.check("convolution", |_| each(convolution)(devices));
    verdict.check("transfers", |_| {
        match devices.iter().map(|device| transfers(*device)).collect::<Result<Vec<_>, _>>() {
            Ok(rates) => judge_transfers(&rates),
            Err(fault) => failed(&fault),
        }
    });
}

/// Makes sure that a device computes rightly, before anything is built on it. Milliseconds once its libraries are loaded.
///
/// # Errors
/// [`Cause::NodeFault`] if it does not, and whatever it fails with.
pub(crate) fn try_out(device: Device) -> Result<(), Fault> {
    // Some of tch's functions panic for lack of memory, which a server goes on without.
    guard(|| {
        matrix_product(device)?;
        convolution(device).map(drop)
    })
}

fn failed(fault: &Fault) -> Outcome {
    let hint = match fault.advice() {
        "" => "look for Xids in the node's kernel log, reset the GPU, and have it replaced if it happens again",
        hint => hint,
    };
    Outcome::Failed { cause: fault.cause(), message: fault.to_string(), hint: hint.to_owned() }
}

/// Values from -1 to 1 that look random and are the same everywhere: no generator is asked, whose state a training needs.
fn values(shape: &[i64]) -> Result<Tensor, Fault> {
    let count: i64 = shape.iter().product();
    let values = Tensor::f_arange(count, (Kind::Double, Device::Cpu))?.f_mul_scalar(12.9898)?.f_sin()?;
    Ok(values.f_mul_scalar(43.758)?.f_frac()?.f_to_kind(Kind::Float)?.f_reshape(shape)?)
}

fn matrix_product(device: Device) -> Result<String, Fault> {
    let (one, other) = (values(&[SIDE, SIDE])?, values(&[SIDE + 1, SIDE])?.f_narrow(0, 1, SIDE)?.f_contiguous()?);
    let expected = one.f_matmul(&other)?;
    let begin = Instant::now();
    let product = one.f_to(device)?.f_matmul(&other.f_to(device)?)?.f_to(Device::Cpu)?;
    same("a matrix product", device, &[("the product", product, expected)])?;
    Ok(took(begin))
}

/// A convolution forward and backward, as most of a training is made of.
fn convolution(device: Device) -> Result<String, Fault> {
    let [_, channels, ..] = IMAGES;
    let (images, weights) = (values(&IMAGES)?, values(&[24, channels, 3, 3])?);
    let on = |device: Device| -> Result<[Tensor; 3], Fault> {
        let leaf = |tensor: &Tensor| Ok::<_, Fault>(tensor.f_to(device)?.copy().set_requires_grad(true));
        let (images, weights) = (leaf(&images)?, leaf(&weights)?);
        let output = images.f_conv2d(&weights, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)?;
        crate::torch::backward(&output.f_square()?.f_mean(Kind::Float)?)?;
        let host = |tensor: &Tensor| Ok::<_, Fault>(tensor.f_detach()?.f_to(Device::Cpu)?);
        Ok([host(&output)?, host(&images.f_grad()?)?, host(&weights.f_grad()?)?])
    };
    let expected = on(Device::Cpu)?;
    let begin = Instant::now();
    let names = ["the output", "the gradient by the images", "the gradient by the weights"];
    let found = on(device)?.into_iter().zip(expected);
    let pairs: Vec<_> = names.into_iter().zip(found).map(|(name, (found, expected))| (name, found, expected)).collect();
    same("a convolution", device, &pairs)?;
    Ok(took(begin))
}

fn took(begin: Instant) -> String {
    format!("as the CPU, in {:.1} ms", begin.elapsed().as_secs_f64() * 1000.0)
}

fn same(what: &str, device: Device, pairs: &[(&str, Tensor, Tensor)]) -> Result<(), Fault> {
    for (name, found, expected) in pairs {
        let apart = found.f_sub(expected)?.f_abs()?.f_max()?.double_value(&[]);
        let share = apart / expected.f_abs()?.f_max()?.double_value(&[]);
        if share.is_nan() || share > ROUNDING {
            let message = format!(
                "{what} on {device:?} is wrong: {name} differs from the CPU's by {share:.3} of its largest value"
            );
            return Err(Fault::new(Cause::NodeFault, message)
                .hint("the GPU computes wrongly: take it out of service and have it replaced"));
        }
    }
    Ok(())
}

/// Bytes a second to a device and back. The device's clock is not asked: a copy to the host has to wait for all before it.
fn transfers(device: Device) -> Result<[f64; 2], Fault> {
    let host = Tensor::f_zeros([CARGO], (Kind::Uint8, Device::Cpu))?;
    // Where the link is what limits, memory that the driver need not copy first.
    let host = if device.is_cuda() { host.f_pin_memory(device)? } else { host };
    let (mut to, mut from) = (f64::MAX, f64::MAX);
    for _ in 0..3 {
        let begin = Instant::now();
        let there = host.f_to(device)?;
        // One byte of it comes back when all of it has arrived.
        there.f_select(0, CARGO - 1)?.int64_value(&[]);
        to = to.min(begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        drop(there.f_to(Device::Cpu)?);
        from = from.min(begin.elapsed().as_secs_f64());
    }
    Ok([to, from].map(|seconds| CARGO as f64 / seconds.max(1e-9)))
}

fn judge_transfers(rates: &[[f64; 2]]) -> Outcome {
    let said: Vec<String> =
        rates.iter().map(|[to, from]| format!("{:.1} GB/s there, {:.1} GB/s back", to / 1e9, from / 1e9)).collect();
    let message = said.join(", ");
    match rates.iter().any(|[to, _]| *to < NARROW) {
        false => Outcome::Passed(message),
        true => Outcome::Noted {
            message: format!("bytes come slowly to a GPU: {message}"),
            hint: "see how many lanes it has (nvidia-smi -q -d PCIE), and whether the pod's CPUs are those near it"
                .to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_computes_rightly_passes() {
        try_out(Device::Cpu).unwrap();
        let rates = transfers(Device::Cpu).unwrap();
        assert!(rates.iter().all(|rate| *rate > 0.0), "{rates:?}");
    }

    #[test]
    fn a_device_that_computes_wrongly_is_named_with_what_differs() {
        let expected = values(&[4, 4]).unwrap();
        let rounded = &expected * 1.001;
        same("a product", Device::Cuda(1), &[("the product", rounded, expected.copy())]).unwrap();
        for wrong in [&expected * 0.5, &expected * f64::NAN] {
            let fault = same("a product", Device::Cuda(1), &[("the sum", wrong, expected.copy())]).unwrap_err();
            assert_eq!(fault.exit_code(), 160);
            assert!(fault.to_string().starts_with("a product on Cuda(1) is wrong: the sum differs"), "{fault}");
        }
    }

    #[test]
    fn a_narrow_link_is_told() {
        let wide = judge_transfers(&[[25e9, 26e9]]);
        assert_eq!(wide, Outcome::Passed("25.0 GB/s there, 26.0 GB/s back".to_owned()));
        assert!(matches!(judge_transfers(&[[25e9, 26e9], [0.9e9, 0.8e9]]), Outcome::Noted { .. }));
    }
}
