//! What a training minimises: cross-entropy with smoothed labels, weighted classes, blended batches.

mod blend;

pub use blend::{Blend, Mixture};

use crds::training::{ClassWeighting, ClassWeights};
use tch::{Device, Kind, Reduction, TchError, Tensor};

/// Weights for classes that there are not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("classWeights names {}, and the data has the classes {}", .unknown.join(", "), .classes.join(", "))]
pub struct UnknownClasses {
    /// Names that the data doesn't have.
    pub unknown: Vec<String>,
    /// The classes of the data, the first ten.
    pub classes: Vec<String>,
}

/// The weight of each class, or none where all count alike. Balanced: images / (classes · images of the class), as
/// scikit-learn's `class_weight="balanced"`; a class without images has weight 0, which nothing asks for.
///
/// # Errors
/// A weight is given for a class that is not in `classes`.
pub fn class_weights(
    settings: &ClassWeights,
    classes: &[String],
    counts: &[usize],
) -> Result<Option<Vec<f32>>, UnknownClasses> {
    match settings.mode {
        ClassWeighting::None => Ok(None),
        ClassWeighting::Balanced => {
            let all: usize = counts.iter().sum();
            let weight = |&count: &usize| match count {
                0 => 0.0,
                count => all as f64 / (counts.len() as f64 * count as f64),
            };
            Ok(Some(counts.iter().map(|count| weight(count) as f32).collect()))
        }
        ClassWeighting::Given => {
            let unknown: Vec<String> =
                settings.weights.keys().filter(|name| !classes.contains(name)).cloned().collect();
            if !unknown.is_empty() {
                return Err(UnknownClasses { unknown, classes: classes.iter().take(10).cloned().collect() });
            }
            Ok(Some(
                classes.iter().map(|name| settings.weights.get(name).map_or(1.0, |weight| *weight as f32)).collect(),
            ))
        }
    }
}

/// What an image is to be taken for.
#[derive(Debug)]
pub enum Targets {
    /// A class: int64, shape `[batch]`.
    Classes(Tensor),
    /// Shares of classes that add up to 1: float, shape `[batch, classes]`.
    Shares(Tensor),
}

impl Targets {
    /// The class with the largest share: int64, shape `[batch]`.
    pub fn classes(&self) -> Result<Tensor, TchError> {
        match self {
            Targets::Classes(classes) => Ok(classes.shallow_clone()),
            Targets::Shares(shares) => shares.f_argmax(-1, false),
        }
    }

    fn tensor(&self) -> &Tensor {
        match self {
            Targets::Classes(tensor) | Targets::Shares(tensor) => tensor,
        }
    }

    /// The first so many of them.
    pub(crate) fn first(&self, count: i64) -> Result<Targets, TchError> {
        Ok(match self {
            Targets::Classes(classes) => Targets::Classes(classes.f_narrow(0, 0, count)?),
            Targets::Shares(shares) => Targets::Shares(shares.f_narrow(0, 0, count)?),
        })
    }

    /// Room for others like these.
    pub(crate) fn empty_like(&self) -> Result<Targets, TchError> {
        Ok(match self {
            Targets::Classes(classes) => Targets::Classes(classes.f_empty_like()?),
            Targets::Shares(shares) => Targets::Shares(shares.f_empty_like()?),
        })
    }

    /// Takes the values of others like these.
    pub(crate) fn copy_from(&self, others: &Targets) -> Result<(), TchError> {
        self.tensor().shallow_clone().f_copy_(others.tensor()).map(drop)
    }
}

/// `torch.nn.CrossEntropyLoss` with its reduction `mean`.
#[derive(Debug)]
pub struct Criterion {
    label_smoothing: f64,
    weights: Option<(Vec<f32>, Tensor)>,
}

impl Criterion {
    /// A loss on `device`. `label_smoothing` is the share of a target that is spread over all classes.
    pub fn new(label_smoothing: f64, weights: Option<Vec<f32>>, device: Device) -> Criterion {
        let weights = weights.map(|weights| {
            let tensor = Tensor::from_slice(&weights).to_device(device);
            (weights, tensor)
        });
        Criterion { label_smoothing, weights }
    }

    /// The mean loss of logits of shape `[batch, classes]`. As torch has it: over classes it is the mean weighted by the
    /// classes' weights, over shares the sum of weighted losses divided by the number of images.
    ///
    /// # Errors
    /// Shapes don't fit, or memory ran out.
    pub fn mean(&self, logits: &Tensor, targets: &Targets) -> Result<Tensor, TchError> {
        let weights = self.weights.as_ref().map(|(_, tensor)| tensor);
        if let (Some(weights), Targets::Classes(classes)) = (weights, targets)
            && self.label_smoothing > 0.0
        {
            return self.smoothed(&logits.f_to_kind(Kind::Float)?, classes, weights);
        }
        logits.f_to_kind(Kind::Float)?.f_cross_entropy_loss(
            targets.tensor(),
            weights,
            Reduction::Mean,
            -100,
            self.label_smoothing,
        )
    }

    /// libtorch's `cross_entropy_loss_label_smoothing` in its order of operations, but for its selection of the images that are
    /// not to be ignored: there are none, and a GPU would have to be waited for in each step.
    fn smoothed(&self, logits: &Tensor, classes: &Tensor, weights: &Tensor) -> Result<Tensor, TchError> {
        let logs = logits.f_log_softmax(1, Kind::Float)?;
        let own = logs.f_nll_loss(classes, Some(weights), Reduction::Mean, -100)?;
        let all = logs.f_mul(&weights.f_view([1, -1])?)?.f_sum_dim_intlist(1, false, None)?.f_neg()?;
        let all = all.f_sum(None)?.f_div(&weights.f_gather(0, classes, false)?.f_sum(None)?)?;
        let share = self.label_smoothing;
        own.f_mul_scalar(1.0 - share)?.f_add(&all.f_mul_scalar(share / logits.size()[1] as f64)?)
    }

    /// What [`mean`](Self::mean) divides by for images of these classes, so that the means of parts of a batch add up to
    /// the mean of the whole.
    pub fn divisor(&self, labels: &[i64], blended: bool) -> f64 {
        match &self.weights {
            Some((weights, _)) if !blended => labels.iter().map(|label| f64::from(weights[*label as usize])).sum(),
            _ => labels.len() as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn rare_classes_weigh_more_where_balance_is_asked_for() {
        let classes = ["a", "b", "c"].map(str::to_owned);
        let with = |mode, weights: &[(&str, f64)]| {
            let weights: BTreeMap<_, _> = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
            class_weights(&ClassWeights { mode, weights }, &classes, &[6, 2, 1])
        };
        assert_eq!(with(ClassWeighting::None, &[]), Ok(None));
        assert_eq!(with(ClassWeighting::Balanced, &[]), Ok(Some(vec![0.5, 1.5, 3.0])));
        assert_eq!(with(ClassWeighting::Given, &[("b", 2.5)]), Ok(Some(vec![1.0, 2.5, 1.0])));
        let error = with(ClassWeighting::Given, &[("b", 2.5), ("d", 1.0)]).unwrap_err();
        assert_eq!(error.to_string(), "classWeights names d, and the data has the classes a, b, c");
    }

    #[test]
    fn weighted_and_smoothed_it_is_libtorchs_own_to_the_last_bit() {
        let classes = Tensor::from_slice(&(0..64_i64).map(|image| image * image % 5).collect::<Vec<_>>());
        let weights = vec![0.3, 2.0, 1.0, 0.7, 5.5];
        let loss_and_gradient = |of: &dyn Fn(&Tensor) -> Tensor| {
            let logits = (Tensor::arange(320, (Kind::Float, Device::Cpu)).sin() * 3.0).view([64, 5]);
            let logits = logits.set_requires_grad(true);
            let loss = of(&logits);
            loss.backward();
            [loss.detach(), logits.grad()].map(|tensor| Vec::<f32>::try_from(tensor.view([-1])).unwrap())
        };
        let criterion = Criterion::new(0.1, Some(weights.clone()), Device::Cpu);
        let ours =
            loss_and_gradient(&|logits| criterion.mean(logits, &Targets::Classes(classes.shallow_clone())).unwrap());
        let weights = Tensor::from_slice(&weights);
        let theirs = loss_and_gradient(&|logits| {
            logits.cross_entropy_loss(&classes, Some(&weights), Reduction::Mean, -100, 0.1)
        });
        assert_eq!(ours, theirs);
    }

    #[test]
    fn the_parts_of_a_batch_add_up_to_the_whole() {
        let logits = Tensor::from_slice(&[0.5_f32, -1.0, 2.0, 0.25, 1.5, -0.5]).reshape([3, 2]);
        let labels = [0_i64, 1, 1];
        for weights in [None, Some(vec![0.3, 2.0])] {
            let criterion = Criterion::new(0.1, weights, Device::Cpu);
            let mean = |range: std::ops::Range<usize>| {
                let targets = Targets::Classes(Tensor::from_slice(&labels[range.clone()]));
                let part = logits.narrow(0, range.start as i64, range.len() as i64);
                let mean = criterion.mean(&part, &targets).unwrap().double_value(&[]);
                mean * criterion.divisor(&labels[range], false) / criterion.divisor(&labels, false)
            };
            assert!((mean(0..1) + mean(1..3) - mean(0..3)).abs() < 1e-6);
        }
    }
}
