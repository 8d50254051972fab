//! From a batch of bytes to the network's input, and from there to probabilities: the one way for training, validation,
//! scoring and serving.

use tch::{Device, Kind, Tensor};

use crate::data::{Batch, Loader, Preprocessing, Render};
use crate::fault::Fault;
use crate::torch::Autocast;
use crate::zoo::Model;

/// Turns bytes into a normalised tensor on the device.
pub struct Input {
    device: Device,
    size: i64,
    mean: Tensor,
    deviation: Tensor,
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
        }
    }

    /// Images of shape `[count, 3, size, size]`, channels last in memory. `pixels` are `count · size² · 3` bytes, NHWC:
    /// they go to the device as bytes and are normalised there.
    pub fn tensor(&self, pixels: &[u8]) -> Result<Tensor, tch::TchError> {
        let count = (pixels.len() as i64) / (self.size * self.size * 3);
        let bytes = Tensor::f_from_data_size(pixels, &[count, self.size, self.size, 3], Kind::Uint8)?;
        // A GPU takes them while the host goes on: from memory that is pinned, which libtorch keeps until it has them.
        let bytes = match self.device {
            Device::Cuda(_) => bytes.f_pin_memory(self.device)?.f_to_device_(self.device, Kind::Uint8, true, false)?,
            device => bytes.f_to(device)?,
        };
        let mut images = bytes.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
        images.f_sub_(&self.mean)?.f_div_(&self.deviation)
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
    let _no_grad = tch::no_grad_guard();
    let rows = logits.f_softmax(-1, Kind::Float)?.f_to(Device::Cpu)?.f_contiguous()?;
    Ok(Vec::try_from(&rows.f_view([-1])?)?)
}

/// What a network says of images: one row of class probabilities for each, in 0 to 1.
pub fn probabilities(model: &Model, images: &Tensor, precision: Kind) -> Result<Vec<f32>, Fault> {
    rows(&logits(model, images, precision)?)
}

/// Runs the network over all batches of a loader; `each` gets a batch with its probabilities, row by row, and says
/// whether to go on. Tells whether it went to the end.
pub fn over_batches<R: Render>(
    model: &Model,
    input: &Input,
    precision: Kind,
    loader: &mut Loader<R>,
    mut each: impl FnMut(&Batch, &[f32]) -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    while let Some(batch) = loader.next() {
        let batch = batch?;
        let rows = probabilities(model, &input.tensor(&batch.pixels)?, precision)?;
        let goes_on = each(&batch, &rows)?;
        loader.recycle(batch);
        if !goes_on {
            return Ok(false);
        }
    }
    Ok(true)
}
