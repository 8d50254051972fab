//! The layers of the zoo: convolution, batch norm and linear, as `torch.nn` computes and initialises them.

use tch::{Kind, Tensor};

use super::state::State;

/// `torch.nn.Conv2d` without bias.
pub(super) struct Conv2d {
    weight: Tensor,
    stride: i64,
    padding: i64,
}

impl Conv2d {
    /// A square kernel, initialised as torchvision's ResNet does: normal with the standard deviation
    /// `sqrt(2 / (outputs * kernel²))` (He et al. 2015, fan-out, ReLU).
    pub(super) fn new(
        state: &mut State,
        name: &str,
        inputs: i64,
        outputs: i64,
        kernel: i64,
        stride: i64,
        padding: i64,
    ) -> Conv2d {
        let deviation = (2.0 / (outputs * kernel * kernel) as f64).sqrt();
        let mut weight = Tensor::empty([outputs, inputs, kernel, kernel], (Kind::Float, state.device()));
        let _ = weight.normal_(0.0, deviation);
        Conv2d { weight: state.parameter(format!("{name}.weight"), &weight), stride, padding }
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, tch::TchError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        input.f_conv2d(&self.weight, None::<&Tensor>, stride, padding, [1, 1], 1)
    }
}

/// `torch.nn.BatchNorm2d` with its default constants.
pub(super) struct BatchNorm2d {
    name: String,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor,
    frozen: bool,
}

impl BatchNorm2d {
    const MOMENTUM: f64 = 0.1;
    const EPSILON: f64 = 1e-5;

    pub(super) fn new(state: &mut State, name: &str, features: i64) -> BatchNorm2d {
        let options = (Kind::Float, state.device());
        let counter = (Kind::Int64, state.device());
        BatchNorm2d {
            weight: state.parameter(format!("{name}.weight"), &Tensor::ones([features], options)),
            bias: state.parameter(format!("{name}.bias"), &Tensor::zeros([features], options)),
            running_mean: state.buffer(format!("{name}.running_mean"), Tensor::zeros([features], options)),
            running_var: state.buffer(format!("{name}.running_var"), Tensor::ones([features], options)),
            batches: state.buffer(format!("{name}.num_batches_tracked"), Tensor::zeros([0_i64; 0], counter)),
            name: name.to_owned(),
            frozen: false,
        }
    }

    pub(super) fn freeze(&mut self, prefixes: &[String]) {
        self.frozen |= prefixes.iter().any(|prefix| {
            self.name.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
    }

    pub(super) fn forward(&self, input: &Tensor, train: bool) -> Result<Tensor, tch::TchError> {
        let train = train && !self.frozen;
        if train {
            let _no_grad = tch::no_grad_guard();
            let _ = self.batches.shallow_clone().f_add_scalar_(1)?;
        }
        input.f_batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            train,
            Self::MOMENTUM,
            Self::EPSILON,
            true,
        )
    }
}

/// `torch.nn.Linear` with bias.
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Weight and bias uniform in ±1/√inputs, PyTorch's default.
    pub(super) fn new(state: &mut State, name: &str, inputs: i64, outputs: i64) -> Linear {
        let bound = 1.0 / (inputs as f64).sqrt();
        let draw = |size: &[i64]| Tensor::empty(size, (Kind::Float, state.device())).uniform_(-bound, bound);
        let (weight, bias) = (draw(&[outputs, inputs]), draw(&[outputs]));
        Linear {
            weight: state.parameter(format!("{name}.weight"), &weight),
            bias: state.parameter(format!("{name}.bias"), &bias),
        }
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, tch::TchError> {
        input.f_linear(&self.weight, Some(&self.bias))
    }
}
