//! From a batch of bytes to the network's input, and from there to probabilities: the one way for training, validation,
//! scoring and serving.

use std::collections::VecDeque;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use crate::data::{Batch, Flips, Loader, Preprocessing, Render};
use crate::fault::Fault;
use crate::torch::{Autocast, Lane, OnItsWay, TorchError, read_back};
use crate::zoo::Model;

/// Batches that a GPU has to compute while the host waits for the answers of an earlier one.
const AHEAD: usize = 2;

/// Turns bytes into a normalised tensor on the device.
pub struct Input {
    device: Device,
    size: i64,
    mean: Tensor,
    deviation: Tensor,
    /// On which batches come to the device; made for the first of them.
    lane: OnceLock<Lane>,
}

impl Input {
    /// For images of this preprocessing.
    pub fn new(preprocessing: &Preprocessing, device: Device) -> Input {
        // In bytes' units, so that one subtraction and one division do.
        let channel = |values: [f32; 3]| {
            Tensor::from_slice(&values.map(|value| value * 255.0)).reshape([1, 3, 1, 1]).to_device(device)
        };
        Input {
            device,
            size: i64::from(preprocessing.crop_size),
            mean: channel(preprocessing.mean),
            deviation: channel(preprocessing.standard_deviation),
            lane: OnceLock::new(),
        }
    }

    /// Images of shape `[count, 3, size, size]`, channels last in memory. `pixels` are `count · size² · 3` bytes, NHWC:
    /// they go to the device as bytes, which a GPU takes beside what it computes, and are normalised there.
    pub fn tensor(&self, pixels: &[u8]) -> Result<Tensor, TorchError> {
        let count = (pixels.len() as i64) / (self.size * self.size * 3);
        let bytes = self.lane()?.bytes(pixels, &[count, self.size, self.size, 3])?;
        self.normalised(&bytes)
    }

    /// As [`tensor`](Self::tensor), with the flips that are left to do, of each image.
    pub fn flipped(&self, pixels: &[u8], flips: &[Flips]) -> Result<Tensor, TorchError> {
        let size = [flips.len() as i64, self.size, self.size, 3];
        let mut bytes = self.lane()?.bytes(pixels, &size)?;
        for (dimension, of) in [(2, (|flips| flips.horizontal) as fn(&Flips) -> bool), (1, |flips| flips.vertical)] {
            let whether: Vec<u8> = flips.iter().map(|flips| u8::from(of(flips))).collect();
            if whether.contains(&1) {
                let whether = self.lane()?.bytes(&whether, &[size[0], 1, 1, 1])?.f_to_kind(Kind::Bool)?;
                bytes = bytes.f_flip([dimension])?.f_where_self(&whether, &bytes)?;
            }
        }
        self.normalised(&bytes)
    }

    fn normalised(&self, bytes: &Tensor) -> Result<Tensor, TorchError> {
        let mut images = bytes.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
        Ok(images.f_sub_(&self.mean)?.f_div_(&self.deviation)?)
    }

    /// Classes of images on the device, which takes them as it takes the images.
    pub fn labels(&self, labels: &[i64]) -> Result<Tensor, TorchError> {
        self.lane()?.integers(labels)
    }

    fn lane(&self) -> Result<&Lane, TorchError> {
        if let Some(lane) = self.lane.get() {
            return Ok(lane);
        }
        let made = Lane::new(self.device)?;
        Ok(self.lane.get_or_init(|| made))
    }

    /// Where the tensors go.
    pub fn device(&self) -> Device {
        self.device
    }
}

/// Logits of shape `[images, classes]`, as floats on the device, of a network as it is trained, in evaluation.
pub fn logits(model: &Model, images: &Tensor, precision: Kind) -> Result<Tensor, Fault> {
    let _no_grad = tch::no_grad_guard();
    let _autocast = Autocast::enter(images.device(), precision)?;
    Ok(model.forward(images, false)?.f_to_kind(Kind::Float)?)
}

/// Logits as probabilities: one row of them for each image, in 0 to 1.
pub fn rows(logits: &Tensor) -> Result<Vec<f32>, Fault> {
    rows_later(logits)?.rows()
}

/// Probabilities on their way from the device.
pub struct Rows(OnItsWay);

/// As [`rows`], for who has other things to do until they are there.
pub fn rows_later(logits: &Tensor) -> Result<Rows, Fault> {
    let _no_grad = tch::no_grad_guard();
    Ok(Rows(read_back(&logits.f_softmax(-1, Kind::Float)?.f_contiguous()?)?))
}

impl Rows {
    /// Waits for them.
    pub fn rows(self) -> Result<Vec<f32>, Fault> {
        Ok(Vec::try_from(&self.0.arrived()?.f_view([-1])?)?)
    }
}

/// What a network says of images: one row of class probabilities for each, in 0 to 1.
pub fn probabilities(model: &Model, images: &Tensor, precision: Kind) -> Result<Vec<f32>, Fault> {
    rows(&logits(model, images, precision)?)
}

/// How many batches a device is handed before the answers of the first of them are waited for: a GPU always has the next one to
/// compute.
pub fn ahead(device: Device) -> usize {
    if device == Device::Cpu { 0 } else { AHEAD }
}

/// Runs the network over all batches of a loader; `each` gets a batch with its probabilities, row by row, and says
/// whether to go on. Tells whether it went to the end.
pub fn over_batches<R: Render>(
    model: &Model,
    input: &Input,
    precision: Kind,
    loader: &mut Loader<R>,
    each: impl FnMut(&Batch, &[f32]) -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    let compute = |batch: &Batch| rows_later(&logits(model, &input.tensor(&batch.pixels)?, precision)?);
    in_turn(loader, ahead(input.device()), compute, each)
}

/// Hands each batch to `compute`, and its answers to `each` once `ahead` more have been handed over.
fn in_turn<R: Render>(
    loader: &mut Loader<R>,
    ahead: usize,
    compute: impl Fn(&Batch) -> Result<Rows, Fault>,
    mut each: impl FnMut(&Batch, &[f32]) -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    let mut unread = VecDeque::new();
    loop {
        let batch = loader.next().transpose()?;
        let is_last = batch.is_none();
        if let Some(batch) = batch {
            let rows = compute(&batch)?;
            unread.push_back((batch, rows));
        }
        let unread_at_most = if is_last { 0 } else { ahead };
        while unread.len() > unread_at_most
            && let Some((batch, rows)) = unread.pop_front()
        {
            let goes_on = each(&batch, &rows.rows()?)?;
            loader.recycle(batch);
            if !goes_on {
                return Ok(false);
            }
        }
        if is_last {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::data::{DataError, Options, Request};

    /// Images of one pixel that shows their number.
    struct Numbers;

    impl Render for Numbers {
        type Worker = ();

        fn worker(&self) {}

        fn image_bytes(&self) -> usize {
            1
        }

        fn label(&self, sample: usize) -> i64 {
            sample as i64
        }

        fn path(&self, sample: usize) -> PathBuf {
            sample.to_string().into()
        }

        fn render(&self, (): &mut (), sample: usize, _: u64, pixels: &mut [u8]) -> Result<Flips, DataError> {
            pixels[0] = sample as u8;
            Ok(Flips::default())
        }
    }

    #[test]
    fn flips_on_the_device_give_the_pixels_of_flips_on_the_host() {
        const SIDE: usize = 5;
        let preprocessing = Preprocessing::for_size(SIDE as u32);
        let input = Input::new(&preprocessing, Device::Cpu);
        let all = [(false, false), (true, false), (false, true), (true, true)];
        let flips = all.map(|(horizontal, vertical)| Flips { horizontal, vertical });
        let image: Vec<u8> = (0..SIDE * SIDE * 3).map(|value| (value * 7 % 251) as u8).collect();
        let drawn = |flips: Flips| -> Vec<u8> {
            let place = |flip: bool, at: usize| if flip { SIDE - 1 - at } else { at };
            (0..SIDE * SIDE)
                .map(|pixel| place(flips.vertical, pixel / SIDE) * SIDE + place(flips.horizontal, pixel % SIDE))
                .flat_map(|from| image[from * 3..from * 3 + 3].to_vec())
                .collect()
        };
        for chosen in [&flips[..], &flips[..1], &flips[1..2]] {
            let expected = input.tensor(&chosen.iter().flat_map(|flips| drawn(*flips)).collect::<Vec<u8>>()).unwrap();
            let images = input.flipped(&image.repeat(chosen.len()), chosen).unwrap();
            assert_eq!((images.size(), images.stride()), (expected.size(), expected.stride()));
            assert_eq!(images, expected);
        }
    }

    /// What was computed and read, in this order, of four batches of one image each; `until` is the last one that is looked at.
    fn order(ahead: usize, until: u8) -> (Vec<String>, bool) {
        let requests = (0..4).map(|sample| Request { epoch: 0, samples: vec![sample] });
        let mut loader = Loader::start(Arc::new(Numbers), requests, Options::new(1)).unwrap();
        let order = std::cell::RefCell::default();
        let done = in_turn(
            &mut loader,
            ahead,
            |batch| {
                let said: &std::cell::RefCell<Vec<String>> = &order;
                said.borrow_mut().push(format!("compute {}", batch.pixels[0]));
                let number = f32::from(batch.pixels[0]);
                rows_later(&Tensor::from_slice(&[number.ln(), (10.0 - number).ln()]).reshape([1, 2]))
            },
            |batch, rows| {
                assert!((rows[0] * 10.0 - f32::from(batch.pixels[0])).abs() < 1e-5, "{rows:?}");
                order.borrow_mut().push(format!("read {}", batch.pixels[0]));
                Ok(batch.pixels[0] < until)
            },
        );
        (order.into_inner(), done.unwrap())
    }

    #[test]
    fn answers_are_read_in_order_while_the_device_has_more_to_do() {
        let said = |ahead, until| {
            let (order, done) = order(ahead, until);
            (order.iter().map(|line| line.replace("compute ", "c").replace("read ", "r")).collect::<String>(), done)
        };
        assert_eq!(said(0, 9), ("c0r0c1r1c2r2c3r3".to_owned(), true));
        assert_eq!(said(2, 9), ("c0c1c2r0c3r1r2r3".to_owned(), true));
        assert_eq!(said(9, 9), ("c0c1c2c3r0r1r2r3".to_owned(), true));
        assert_eq!(said(1, 1), ("c0c1r0c2r1".to_owned(), false), "told to stop");
    }
}
