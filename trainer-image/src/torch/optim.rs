//! What an optimizer does with all parameters at once: clear, unscale and clip gradients, the steps of `torch.optim`'s
//! algorithms. The state of a parameter without a gradient is left alone, as there.

use std::borrow::Borrow;

use tch::Tensor;

use super::TorchError;
use super::ffi::{self, check, pointer, pointers};

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

/// Settings of one Adagrad step, by `torch.optim.Adagrad`'s meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdagradStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the learning rate.
    pub learning_rate_decay: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// L2 penalty.
    pub weight_decay: f64,
}

/// Settings of one RMSprop step, by `torch.optim.RMSprop`'s meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsPropStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the mean square.
    pub alpha: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Momentum; 0 for none.
    pub momentum: f64,
}

/// Settings of one Adadelta step, by `torch.optim.Adadelta`'s meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdadeltaStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the mean squares.
    pub rho: f64,
    /// Added to both of them.
    pub epsilon: f64,
    /// L2 penalty.
    pub weight_decay: f64,
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

fn same_lengths(parameters: usize, states: &[(&str, usize)]) -> Result<(), TorchError> {
    states.iter().try_for_each(|(what, length)| same_length(what, *length, parameters))
}

/// What a device is told by a tensor of its own, so that the same call, recorded, does for every step.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnDevice<'t> {
    /// The learning rate, a float scalar; it counts in place of the step's.
    pub learning_rate: Option<&'t Tensor>,
    /// Whether gradients are not to be used, a float scalar: 1 if so, 0 if not.
    pub overflowed: Option<&'t Tensor>,
}

impl OnDevice<'_> {
    fn pointers(&self) -> ffi::OnDevice {
        let or_null = |tensor: Option<&Tensor>| tensor.map_or(std::ptr::null_mut(), pointer);
        ffi::OnDevice { learning_rate: or_null(self.learning_rate), overflowed: or_null(self.overflowed) }
    }
}

/// One step of SGD. `momentum_buffers` has a tensor like each parameter, or is empty without momentum.
///
/// # Errors
/// Numbers, shapes or kinds don't fit.
pub fn fused_sgd(
    parameters: &[impl Borrow<Tensor>],
    momentum_buffers: &[impl Borrow<Tensor>],
    step: &SgdStep,
    on_device: OnDevice<'_>,
) -> Result<(), TorchError> {
    let SgdStep { learning_rate, momentum, dampening, weight_decay, nesterov, first_step } = *step;
    if momentum != 0.0 {
        same_length("momentum", momentum_buffers.len(), parameters.len())?;
    }
    let (parameters, buffers) = (pointers(parameters), pointers(momentum_buffers));
    let buffers = if momentum == 0.0 { std::ptr::null() } else { buffers.as_ptr() };
    let options = ffi::Sgd { learning_rate, momentum, dampening, weight_decay, nesterov, first_step };
    // SAFETY: as above; each array that is not null has as many entries as there are parameters.
    check(unsafe { ffi::ty_fused_sgd(parameters.as_ptr(), buffers, parameters.len(), options, on_device.pointers()) })
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
    on_device: OnDevice<'_>,
) -> Result<(), TorchError> {
    let AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled } = *step;
    let amsgrad = !max_squares.is_empty();
    same_lengths(parameters.len(), &[("means", means.len()), ("squares", squares.len()), ("steps", steps.len())])?;
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
            on_device.pointers(),
        )
    })
}

/// One step of Adagrad by libtorch's fused kernel. `sums` has a tensor like each parameter, `steps` a float scalar for
/// each on its device, which this call increments.
///
/// # Errors
/// Numbers, shapes or kinds don't fit. So below.
pub fn fused_adagrad(
    parameters: &[impl Borrow<Tensor>],
    sums: &[impl Borrow<Tensor>],
    steps: &[impl Borrow<Tensor>],
    step: &AdagradStep,
) -> Result<(), TorchError> {
    let AdagradStep { learning_rate, learning_rate_decay, epsilon, weight_decay } = *step;
    same_lengths(parameters.len(), &[("sums", sums.len()), ("steps", steps.len())])?;
    let (parameters, sums, steps) = (pointers(parameters), pointers(sums), pointers(steps));
    let options = ffi::Adagrad { learning_rate, learning_rate_decay, weight_decay, epsilon };
    // SAFETY: as above; each array has as many entries as there are parameters. So below.
    check(unsafe {
        ffi::ty_fused_adagrad(parameters.as_ptr(), sums.as_ptr(), steps.as_ptr(), parameters.len(), options)
    })
}

/// One step of RMSprop. `squares` has a tensor like each parameter, `momentum_buffers` too or is empty without momentum,
/// `steps` a float scalar for each on the host, which this call increments.
///
/// # Errors
/// As above.
pub fn rmsprop(
    parameters: &[impl Borrow<Tensor>],
    squares: &[impl Borrow<Tensor>],
    momentum_buffers: &[impl Borrow<Tensor>],
    steps: &[impl Borrow<Tensor>],
    step: &RmsPropStep,
) -> Result<(), TorchError> {
    let RmsPropStep { learning_rate, alpha, epsilon, weight_decay, momentum } = *step;
    same_lengths(parameters.len(), &[("squares", squares.len()), ("steps", steps.len())])?;
    if momentum != 0.0 {
        same_length("momentum", momentum_buffers.len(), parameters.len())?;
    }
    let (parameters, squares, steps) = (pointers(parameters), pointers(squares), pointers(steps));
    let buffers = pointers(momentum_buffers);
    let buffers = if momentum == 0.0 { std::ptr::null() } else { buffers.as_ptr() };
    let options = ffi::RmsProp { learning_rate, alpha, epsilon, weight_decay, momentum };
    // SAFETY: as above; `buffers` may be null.
    check(unsafe {
        ffi::ty_rmsprop(parameters.as_ptr(), squares.as_ptr(), buffers, steps.as_ptr(), parameters.len(), options)
    })
}

/// One step of Adamax. `means` and `norms` have a tensor like each parameter, `steps` a float scalar for each on the
/// host, which this call increments. [`AdamStep::decoupled`] means nothing.
///
/// # Errors
/// As above.
pub fn adamax(
    parameters: &[impl Borrow<Tensor>],
    means: &[impl Borrow<Tensor>],
    norms: &[impl Borrow<Tensor>],
    steps: &[impl Borrow<Tensor>],
    step: &AdamStep,
) -> Result<(), TorchError> {
    let AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled } = *step;
    same_lengths(parameters.len(), &[("means", means.len()), ("norms", norms.len()), ("steps", steps.len())])?;
    let (parameters, means) = (pointers(parameters), pointers(means));
    let (norms, steps) = (pointers(norms), pointers(steps));
    let options = ffi::Adam { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled, amsgrad: false };
    // SAFETY: as above.
    check(unsafe {
        let count = parameters.len();
        ffi::ty_adamax(parameters.as_ptr(), means.as_ptr(), norms.as_ptr(), steps.as_ptr(), count, options)
    })
}

/// One step of Adadelta. `squares` and `deltas` have a tensor like each parameter, `steps` a float scalar for each on
/// the host, which this call increments.
///
/// # Errors
/// As above.
pub fn adadelta(
    parameters: &[impl Borrow<Tensor>],
    squares: &[impl Borrow<Tensor>],
    deltas: &[impl Borrow<Tensor>],
    steps: &[impl Borrow<Tensor>],
    step: &AdadeltaStep,
) -> Result<(), TorchError> {
    let AdadeltaStep { learning_rate, rho, epsilon, weight_decay } = *step;
    same_lengths(parameters.len(), &[("squares", squares.len()), ("deltas", deltas.len()), ("steps", steps.len())])?;
    let (parameters, squares) = (pointers(parameters), pointers(squares));
    let (deltas, steps) = (pointers(deltas), pointers(steps));
    let options = ffi::Adadelta { learning_rate, rho, epsilon, weight_decay };
    // SAFETY: as above.
    check(unsafe {
        let count = parameters.len();
        ffi::ty_adadelta(parameters.as_ptr(), squares.as_ptr(), deltas.as_ptr(), steps.as_ptr(), count, options)
    })
}

/// Multiplies the gradients of all parameters by `inverse`; tells whether one of them was infinite or not a number.
///
/// # Errors
/// None is known.
pub fn unscale_gradients(parameters: &[impl Borrow<Tensor>], inverse: f32) -> Result<bool, TorchError> {
    let parameters = pointers(parameters);
    let mut overflowed = false;
    // SAFETY: the tensors and the out value live through the call.
    check(unsafe { ffi::ty_unscale_gradients(parameters.as_ptr(), parameters.len(), inverse, &raw mut overflowed) })?;
    Ok(overflowed)
}

/// The same where a GPU is to know it by itself: `inverse` is a float scalar of its own, and so is `overflowed`, which becomes 1
/// or 0.
///
/// # Errors
/// They are of another kind or device. So below.
pub fn unscale_gradients_there(
    parameters: &[impl Borrow<Tensor>],
    inverse: &Tensor,
    overflowed: &Tensor,
) -> Result<(), TorchError> {
    let parameters = pointers(parameters);
    let (inverse, overflowed) = (pointer(inverse), pointer(overflowed));
    // SAFETY: the tensors live through the call. So below.
    check(unsafe { ffi::ty_unscale_gradients_there(parameters.as_ptr(), parameters.len(), inverse, overflowed) })
}

/// How a scale of gradients changes after a step: the arguments of `torch.amp.GradScaler`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaleChange {
    /// What it is multiplied by after `interval` good steps in a row.
    pub growth: f64,
    /// What it is multiplied by after a step whose gradients overflowed.
    pub backoff: f64,
    /// See `growth`.
    pub interval: u32,
}

/// Changes a scale, a float scalar, and the number of good steps in a row, a scalar of 32 bits, after a step that `overflowed` or
/// did not.
///
/// # Errors
/// As above.
pub fn update_scale(
    scale: &Tensor,
    good_steps: &Tensor,
    overflowed: &Tensor,
    change: ScaleChange,
) -> Result<(), TorchError> {
    let ScaleChange { growth, backoff, interval } = change;
    let (scale, good_steps, overflowed) = (pointer(scale), pointer(good_steps), pointer(overflowed));
    // SAFETY: as above.
    check(unsafe { ffi::ty_update_scale(scale, good_steps, overflowed, growth, backoff, i64::from(interval)) })
}

/// Moves each target towards its source by the share `weight` of their difference, in place.
///
/// # Errors
/// Numbers, shapes or kinds don't fit.
pub fn lerp(targets: &[impl Borrow<Tensor>], sources: &[impl Borrow<Tensor>], weight: f64) -> Result<(), TorchError> {
    same_length("sources", sources.len(), targets.len())?;
    let (targets, sources) = (pointers(targets), pointers(sources));
    // SAFETY: the tensors live through the call; both arrays have the length that is told.
    check(unsafe { ffi::ty_lerp(targets.as_ptr(), sources.as_ptr(), targets.len(), weight) })
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
        fused_sgd(&[&used, &unused], &NONE, &SGD, OnDevice::default()).unwrap();
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
        let error = fused_sgd(&[parameter()], &NONE, &step, OnDevice::default()).unwrap_err();
        assert_eq!(error.to_string(), "libtorch: 0 tensors of momentum for 1 parameters");
    }
}
