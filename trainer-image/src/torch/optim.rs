//! What an optimizer does with all parameters at once: clear and clip gradients, fused SGD and Adam steps. The state of
//! a parameter without a gradient is left alone, as `torch.optim` does.

use std::borrow::Borrow;

use tch::Tensor;

use super::TorchError;
use super::ffi::{self, check, pointers};

/// Settings of one SGD step, by `torch.optim.SGD`'s meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Momentum; 0 for none.
    pub momentum: f64,
    /// Dampening of momentum.
    pub dampening: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Whether momentum is Nesterov's.
    pub nesterov: bool,
    /// Whether this is the first step: buffers are overwritten, not read.
    pub first_step: bool,
}

/// Settings of one Adam step, by `torch.optim.Adam`'s meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the mean.
    pub beta1: f64,
    /// Decay of the mean square.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Whether weight decay is decoupled from the gradient: AdamW.
    pub decoupled: bool,
}

/// Forgets the gradients of parameters, as `optimizer.zero_grad()`: the next backward writes them anew, which saves
/// clearing them and adding to them, and a reducer makes them views of its buckets again.
///
/// # Errors
/// None is known.
pub fn clear_gradients(parameters: &[impl Borrow<Tensor>]) -> Result<(), TorchError> {
    let parameters = pointers(parameters);
    // SAFETY: the tensors live through the call. So below.
    check(unsafe { ffi::ty_clear_gradients(parameters.as_ptr(), parameters.len()) })
}

/// Scales the gradients of all parameters so that their norm is at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_`. Returns the norm that they had: a scalar tensor, so that nobody has to wait for a
/// GPU. Where it is not finite, the gradients are of no use.
///
/// # Errors
/// No parameter has a gradient.
pub fn clip_gradients(parameters: &[impl Borrow<Tensor>], max_norm: f64) -> Result<Tensor, TorchError> {
    let parameters = pointers(parameters);
    // SAFETY: as above.
    ffi::new_tensor(|out| unsafe { ffi::ty_clip_gradients(parameters.as_ptr(), parameters.len(), max_norm, out) })
}

fn same_length(what: &str, state: usize, parameters: usize) -> Result<(), TorchError> {
    if state == parameters {
        return Ok(());
    }
    Err(TorchError::Other(format!("{state} tensors of {what} for {parameters} parameters")))
}

/// One step of SGD. `momentum_buffers` has a tensor like each parameter, or is empty without momentum.
///
/// # Errors
/// Numbers, shapes or kinds don't fit.
pub fn fused_sgd(
    parameters: &[impl Borrow<Tensor>],
    momentum_buffers: &[impl Borrow<Tensor>],
    step: &SgdStep,
) -> Result<(), TorchError> {
    let SgdStep { learning_rate, momentum, dampening, weight_decay, nesterov, first_step } = *step;
    if momentum != 0.0 {
        same_length("momentum", momentum_buffers.len(), parameters.len())?;
    }
    let (parameters, buffers) = (pointers(parameters), pointers(momentum_buffers));
    let buffers = if momentum == 0.0 { std::ptr::null() } else { buffers.as_ptr() };
    let options = ffi::Sgd { learning_rate, momentum, dampening, weight_decay, nesterov, first_step };
    // SAFETY: as above; each array that is not null has as many entries as there are parameters.
    check(unsafe { ffi::ty_fused_sgd(parameters.as_ptr(), buffers, parameters.len(), options) })
}

/// One step of Adam or AdamW. `means` and `squares` have a tensor like each parameter, `steps` a float scalar for each,
/// which this call increments; `max_squares` is like `squares` for the AMSGrad variant, or empty.
///
/// # Errors
/// Numbers, shapes or kinds don't fit.
pub fn fused_adam(
    parameters: &[impl Borrow<Tensor>],
    means: &[impl Borrow<Tensor>],
    squares: &[impl Borrow<Tensor>],
    max_squares: &[impl Borrow<Tensor>],
    steps: &[impl Borrow<Tensor>],
    step: &AdamStep,
) -> Result<(), TorchError> {
    let AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled } = *step;
    let amsgrad = !max_squares.is_empty();
    for (what, length) in [("means", means.len()), ("squares", squares.len()), ("steps", steps.len())] {
        same_length(what, length, parameters.len())?;
    }
    if amsgrad {
        same_length("largest squares", max_squares.len(), parameters.len())?;
    }
    let (parameters, means, squares) = (pointers(parameters), pointers(means), pointers(squares));
    let (max_squares, steps) = (pointers(max_squares), pointers(steps));
    let max_squares = if amsgrad { max_squares.as_ptr() } else { std::ptr::null() };
    let options = ffi::Adam { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled, amsgrad };
    // SAFETY: as above; each array that is not null has as many entries as there are parameters.
    check(unsafe {
        ffi::ty_fused_adam(
            parameters.as_ptr(),
            means.as_ptr(),
            squares.as_ptr(),
            max_squares,
            steps.as_ptr(),
            parameters.len(),
            options,
        )
    })
}

#[cfg(test)]
mod tests {
    use tch::kind;

    use super::*;

    const SGD: SgdStep = SgdStep {
        learning_rate: 0.5,
        momentum: 0.0,
        dampening: 0.0,
        weight_decay: 0.0,
        nesterov: false,
        first_step: true,
    };
    const NONE: [Tensor; 0] = [];

    fn parameter() -> Tensor {
        Tensor::ones([2], kind::FLOAT_CPU).set_requires_grad(true)
    }

    #[test]
    fn sgd_moves_against_the_gradient_and_skips_what_has_none() {
        let (used, unused) = (parameter(), parameter());
        super::super::backward(&(&used * 3.0).sum(tch::Kind::Float)).unwrap();
        fused_sgd(&[&used, &unused], &NONE, &SGD).unwrap();
        assert_eq!(Vec::<f32>::try_from(&used.detach()).unwrap(), [-0.5, -0.5]);
        assert_eq!(Vec::<f32>::try_from(&unused.detach()).unwrap(), [1.0, 1.0]);
    }

    #[test]
    fn clipping_returns_the_norm_before() {
        let used = parameter();
        super::super::backward(&(&used * 3.0).sum(tch::Kind::Float)).unwrap();
        let norm = clip_gradients(&[&used], 1.0).unwrap();
        assert!((norm.double_value(&[]) - 18f64.sqrt()).abs() < 1e-6);
        assert!((used.grad().norm().double_value(&[]) - 1.0).abs() < 1e-5);
        clear_gradients(&[&used]).unwrap();
        assert!(!used.grad().defined());
        assert_eq!(clip_gradients(&[&used], 1.0).unwrap_err().category(), "other");
    }

    #[test]
    fn state_of_another_length_is_refused() {
        let step = SgdStep { momentum: 0.9, ..SGD };
        let error = fused_sgd(&[parameter()], &NONE, &step).unwrap_err();
        assert_eq!(error.to_string(), "libtorch: 0 tensors of momentum for 1 parameters");
    }
}
