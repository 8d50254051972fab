//! A moving average of a model's tensors, which validates and is saved in their place: torch's `AveragedModel` with
//! `get_ema_multi_avg_fn` and `use_buffers`.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::torch::{self, TorchError};

/// The average of a model's weights and running statistics over the optimizer's steps.
pub struct Ema {
    decay: f64,
    tensors: Vec<Averaged>,
    started: bool,
}

struct Averaged {
    name: String,
    /// The model's own, which training goes on with.
    source: Tensor,
    average: Tensor,
}

impl Ema {
    /// An average that has seen no step, of a model's tensors by name. Put them on their device and in their memory
    /// format first.
    pub fn new(decay: f64, tensors: Vec<(String, Tensor)>) -> Ema {
        let averaged = |(name, source): (String, Tensor)| {
            let average = source.detach().zeros_like();
            Averaged { name, source, average }
        };
        Ema { decay, tensors: tensors.into_iter().map(averaged).collect(), started: false }
    }

    /// Takes in the model after an optimizer step: `average += (1 - decay) · (weight - average)`. The first step is the
    /// average; counters are copied.
    ///
    /// # Errors
    /// Memory ran out. So below.
    pub fn update(&mut self) -> Result<(), TorchError> {
        let _no_grad = tch::no_grad_guard();
        let started = std::mem::replace(&mut self.started, true);
        let (mut averages, mut sources) = (Vec::new(), Vec::new());
        for tensor in &self.tensors {
            if started && tensor.source.kind() == Kind::Float {
                averages.push(&tensor.average);
                sources.push(&tensor.source);
            } else {
                tensor.average.shallow_clone().f_copy_(&tensor.source)?;
            }
        }
        torch::lerp(&averages, &sources, 1.0 - self.decay)
    }

    /// Puts the average in the model's place, and the model in the average's; once more, and all is as before. Before the
    /// first step both are the same.
    pub fn swap(&self) -> Result<(), TorchError> {
        if !self.started {
            return Ok(());
        }
        let _no_grad = tch::no_grad_guard();
        for Averaged { source, average, .. } in &self.tensors {
            let mut kept = source.f_empty_like()?;
            kept.f_copy_(source)?;
            source.shallow_clone().f_copy_(average)?;
            average.shallow_clone().f_copy_(&kept)?;
        }
        Ok(())
    }

    /// The average by name, where it is; nothing before the first step.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let tensors = self.tensors.iter().filter(|_| self.started);
        tensors.map(|tensor| (tensor.name.clone(), tensor.average.shallow_clone())).collect()
    }

    /// Goes on from a copy of its [`tensors`](Self::tensors).
    ///
    /// # Errors
    /// The name of a tensor that is missing or has another shape.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<(), String> {
        let _no_grad = tch::no_grad_guard();
        self.started = !tensors.is_empty();
        for Averaged { name, average, .. } in self.tensors.iter().filter(|_| !tensors.is_empty()) {
            match tensors.get(name) {
                Some(source) if source.size() == average.size() => average.shallow_clone().copy_(source),
                _ => return Err(name.clone()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::kind;

    use super::*;

    #[test]
    fn an_average_swaps_places_with_the_model_and_goes_on_from_a_snapshot() {
        let weight = Tensor::from_slice(&[1.0_f32, 5.0]).set_requires_grad(true);
        let named = || vec![("w".to_owned(), weight.shallow_clone())];
        let values = || Vec::<f32>::try_from(&weight.detach()).unwrap();
        let set = |to: [f32; 2]| tch::no_grad(|| weight.shallow_clone().copy_(&Tensor::from_slice(&to)));
        let mut ema = Ema::new(0.75, named());
        ema.swap().unwrap();
        assert_eq!(values(), [1.0, 5.0], "nothing to swap yet");
        ema.update().unwrap();
        set([5.0, 9.0]);
        ema.update().unwrap();
        ema.swap().unwrap();
        assert_eq!(values(), [2.0, 6.0]);
        ema.swap().unwrap();
        assert_eq!(values(), [5.0, 9.0]);

        let mut other = Ema::new(0.75, named());
        other.restore(&ema.tensors().into_iter().collect()).unwrap();
        for average in [&mut ema, &mut other] {
            average.update().unwrap();
        }
        assert_eq!(ema.tensors(), other.tensors());
        let wrong = BTreeMap::from([("w".to_owned(), Tensor::zeros([3], kind::FLOAT_CPU))]);
        assert_eq!(other.restore(&wrong), Err("w".to_owned()));
    }
}
