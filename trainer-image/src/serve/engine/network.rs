//! The network behind the server: one struct, so that what computes can change without the server noticing.

use crds::contract::Cause;
use crds::training::Precision;
use tch::{Device, Kind, Tensor};

use crate::data::Preprocessing;
use crate::fault::Fault;
use crate::inference::{Classifier, Settings, as_trained};
use crate::model::Saved;
use crate::torch::to_channels_last;
use crate::zoo::{HeatMap, Model};

/// An image as the network takes it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serve) enum Row {
    /// As drawn by a [`View`](crate::data::View): rows of pixels of 3 bytes.
    Pixels(Vec<u8>),
    /// Normalised by the client: three planes of `size` rows of `size` values, red, green, blue.
    Values(Vec<f32>),
}

/// What the network says of an image.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serve) struct Answer {
    /// One value for each class.
    pub(in crate::serve) logits: Vec<f32>,
    /// Their softmax.
    pub(in crate::serve) probabilities: Vec<f32>,
}

/// What the network says of an image, and where it sees it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serve) struct Explained {
    pub(in crate::serve) answer: Answer,
    /// The class whose place is shown.
    pub(in crate::serve) class: usize,
    /// `size²` values of 0 to 1: see [`HeatMap`].
    pub(in crate::serve) map: Vec<f32>,
    /// The image as the network saw it: `size²` pixels of 3 bytes.
    pub(in crate::serve) pixels: Vec<u8>,
}

/// A network with its weights, on its device.
pub(in crate::serve) struct Network {
    classifier: Classifier,
    /// The network as trained, through which gradients flow back: only where heat maps are asked for.
    trained: Option<Model>,
}

impl Network {
    /// Prepares the network of a model folder for so many images at a time.
    ///
    /// # Errors
    /// The weights are not those of the architecture, or memory ran out.
    pub(in crate::serve) fn new(
        saved: &Saved,
        device: Device,
        precision: Precision,
        most: usize,
        explains: bool,
    ) -> Result<Network, Fault> {
        let classes = saved.card.classes.len() as i64;
        // Before memory is taken for it: a card may name a million classes that the weights know nothing of.
        if classes == 0 || !saved.weights.values().any(|tensor| tensor.size().first() == Some(&classes)) {
            return Err(Fault::new(
                Cause::BadData,
                format!("model.json names {classes} classes, and no layer of the weights has as many outputs"),
            ));
        }
        let classifier = Classifier::prepare(saved, Settings::new(device, precision, most))?;
        tracing::info!(network = classifier.how(), "the model is prepared");
        let trained = explains.then(|| as_trained(saved, device)).transpose()?;
        Ok(Network { classifier, trained })
    }

    fn preprocessing(&self) -> &Preprocessing {
        &self.classifier.card().preprocessing
    }

    /// One answer for each row, in their order.
    pub(in crate::serve) fn answer(&self, rows: &[Row]) -> Result<Vec<Answer>, Fault> {
        let _no_grad = tch::no_grad_guard();
        let (images, order) = self.images(rows)?;
        let logits = self.classifier.logits(&images)?;
        let probabilities = logits.f_softmax(-1, Kind::Float)?;
        let (logits, probabilities) = (values(&logits)?, values(&probabilities)?);
        let classes = logits.len() / rows.len();
        let answer = |place: usize| Answer {
            logits: logits[place * classes..][..classes].to_vec(),
            probabilities: probabilities[place * classes..][..classes].to_vec(),
        };
        Ok(order.into_iter().map(answer).collect())
    }

    /// Answers and shows where the network sees a class, or the class that `choose` takes by the probabilities.
    pub(in crate::serve) fn explain(
        &self,
        row: &Row,
        class: Option<usize>,
        choose: impl FnOnce(&[f32]) -> usize,
    ) -> Result<Explained, Fault> {
        let Some(trained) = &self.trained else {
            return Err(Fault::new(Cause::Bug, "a heat map is asked for and the network was not prepared for any"));
        };
        let (image, _) = self.images(std::slice::from_ref(row))?;
        let mut probabilities = Vec::new();
        let HeatMap { logits, class, values: map } = trained.heat_map(&image, |logits| {
            probabilities = softmax(logits);
            class.unwrap_or_else(|| choose(&probabilities))
        })?;
        let pixels = match row {
            Row::Pixels(pixels) => pixels.clone(),
            Row::Values(values) => self.pixels_of(values),
        };
        Ok(Explained { answer: Answer { logits, probabilities }, class, map, pixels })
    }

    /// The pixels of an image that a client has normalised, to be looked at.
    fn pixels_of(&self, values: &[f32]) -> Vec<u8> {
        let plane = values.len() / 3;
        let Preprocessing { mean, standard_deviation, .. } = self.preprocessing();
        let byte = |place: usize, channel: usize| {
            let value = values[channel * plane + place] * standard_deviation[channel] + mean[channel];
            (value * 255.0).round() as u8
        };
        (0..plane).flat_map(|place| [0, 1, 2].map(|channel| byte(place, channel))).collect()
    }

    /// Computes batches of these sizes once, so that the first request doesn't pay for what is made at first use.
    pub(in crate::serve) fn warm_up(&self, batches: &[usize]) -> Result<(), Fault> {
        for images in batches {
            self.answer(&vec![Row::Pixels(vec![0; self.preprocessing().image_bytes()]); *images])?;
        }
        Ok(())
    }

    /// The images as one tensor, and where in it each row has come to lie: pixels first.
    fn images(&self, rows: &[Row]) -> Result<(Tensor, Vec<usize>), Fault> {
        let (mut pixels, mut floats) = (Vec::new(), Vec::new());
        let drawn = rows.iter().filter(|row| matches!(row, Row::Pixels(_))).count();
        let (mut next_pixels, mut next_floats) = (0, drawn);
        let mut order = Vec::with_capacity(rows.len());
        for row in rows {
            let next = match row {
                Row::Pixels(row) => {
                    pixels.extend_from_slice(row);
                    &mut next_pixels
                }
                Row::Values(row) => {
                    floats.extend_from_slice(row);
                    &mut next_floats
                }
            };
            order.push(*next);
            *next += 1;
        }
        let mut parts = Vec::new();
        if !pixels.is_empty() {
            parts.push(self.classifier.tensor(&pixels)?);
        }
        if !floats.is_empty() {
            let size = i64::from(self.preprocessing().crop_size);
            let shape = [(rows.len() - drawn) as i64, 3, size, size];
            let values = Tensor::from_slice(&floats).f_view(shape)?.f_to(self.classifier.device())?;
            parts.push(to_channels_last(&values)?);
        }
        let images = match parts.len() {
            1 => parts.swap_remove(0),
            _ => to_channels_last(&Tensor::f_cat(&parts, 0)?)?,
        };
        Ok((images, order))
    }
}

/// As libtorch computes it, for one row.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let row = Tensor::from_slice(logits).softmax(-1, Kind::Float);
    (0..logits.len()).map(|class| row.double_value(&[class as i64]) as f32).collect()
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, Fault> {
    Ok(Vec::try_from(&tensor.f_to(Device::Cpu)?.f_contiguous()?.f_view([-1])?)?)
}
