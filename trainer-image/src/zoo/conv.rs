//! Convolutions of the zoo, as `torch.nn` computes them, with the batch norm and the activation that follow; and how they
//! are prepared for inference: the batch norm becomes part of the weights, and where oneDNN computes, these lie as it wants
//! them and what follows is fused.

use std::cell::{Cell, OnceCell};

use tch::{Kind, TchError, Tensor};

use super::Folding;
use super::init::Init;
use super::layers::{Activation, BatchNorm2d, NormConstants};
use super::state::State;
use crate::torch::{ConvShape, PackedConv, TorchError, to_channels_last};

/// Shape of a square convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    inputs: i64,
    outputs: i64,
    edge: i64,
    stride: i64,
    padding: i64,
    groups: i64,
}

impl Kernel {
    /// With stride 1 and the padding that keeps the image's size.
    pub(super) fn square(inputs: i64, outputs: i64, edge: i64) -> Kernel {
        Kernel { inputs, outputs, edge, stride: 1, padding: (edge - 1) / 2, groups: 1 }
    }

    /// As [`square`](Self::square) for each channel by itself.
    pub(super) fn depthwise(channels: i64, edge: i64) -> Kernel {
        Kernel { groups: channels, ..Kernel::square(channels, channels, edge) }
    }

    /// Without overlap or padding: each patch of `edge` pixels gives one.
    pub(super) fn patches(inputs: i64, outputs: i64, edge: i64) -> Kernel {
        Kernel { stride: edge, padding: 0, ..Kernel::square(inputs, outputs, edge) }
    }

    /// The same with another stride.
    pub(super) fn stride(self, stride: i64) -> Kernel {
        Kernel { stride, ..self }
    }

    /// He's distribution for it.
    pub(super) fn he(self) -> Init {
        Init::he(self.outputs, self.edge)
    }
}

/// `torch.nn.Conv2d`.
pub(super) struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    kernel: Kernel,
    packing: Option<Packing>,
}

/// The packed form of a convolution. How a weight is best laid out depends on the images' size: the first ones tell it.
struct Packing {
    /// Images at a time.
    batch: i64,
    /// Until then.
    weight: Cell<Option<Tensor>>,
    packed: OnceCell<PackedConv>,
}

impl Conv2d {
    /// Without bias.
    pub(super) fn new(state: &mut State, name: &str, kernel: Kernel, init: Init) -> Conv2d {
        let size = [kernel.outputs, kernel.inputs / kernel.groups, kernel.edge, kernel.edge];
        Conv2d { weight: state.draw(format!("{name}.weight"), &size, init), bias: None, kernel, packing: None }
    }

    /// With a bias, which starts at 0.
    pub(super) fn with_bias(state: &mut State, name: &str, kernel: Kernel, init: Init) -> Conv2d {
        let conv = Conv2d::new(state, name, kernel, init);
        let bias = state.draw(format!("{name}.bias"), &[kernel.outputs], Init::Constant(0.0));
        Conv2d { bias: Some(bias), ..conv }
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        self.forward_then(input, Activation::None)
    }

    /// With what follows.
    pub(super) fn forward_then(&self, input: &Tensor, then: Activation) -> Result<Tensor, TchError> {
        match &self.packing {
            Some(packing) => {
                let packed = packing.for_images(input, self)?;
                packed.forward(input, then.fused()).map_err(TorchError::into_tch)
            }
            None => then.apply(self.convolve(input)?),
        }
    }

    /// Added to `sum`, which may be overwritten, with what follows: nothing or a ReLU.
    fn add_to(&self, input: &Tensor, sum: &Tensor, then: Activation) -> Result<Tensor, TchError> {
        match &self.packing {
            Some(packing) => {
                let packed = packing.for_images(input, self)?;
                packed.add_to(input, sum, then.fused()).map_err(TorchError::into_tch)
            }
            None => then.apply(self.convolve(input)?.f_add_(sum)?),
        }
    }

    fn convolve(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let Kernel { stride, padding, groups, .. } = self.kernel;
        input.f_conv2d(&self.weight, self.bias.as_ref(), [stride; 2], [padding; 2], [1, 1], groups)
    }

    /// Prepares it for inference, with a batch norm after it as part of the weights, which are multiplied as doubles.
    pub(super) fn fold(&mut self, norm: Option<&BatchNorm2d>, folding: Folding) -> Result<(), TchError> {
        let mut weight = self.weight.f_to_kind(Kind::Double)?;
        let mut bias = self.bias.as_ref().map(|bias| bias.f_to_kind(Kind::Double)).transpose()?;
        if let Some(norm) = norm {
            let (factor, offset) = norm.factors()?;
            weight = weight.f_mul(&factor.f_view([-1, 1, 1, 1])?)?;
            bias = Some(match bias {
                Some(bias) => bias.f_mul(&factor)?.f_add(&offset)?,
                None => offset,
            });
        }
        let weight = to_channels_last(&weight.f_to_kind(folding.kind)?).map_err(TorchError::into_tch)?;
        self.bias = bias.map(|bias| bias.f_to_kind(folding.kind)).transpose()?;
        match folding.packed_for {
            None => self.weight = weight,
            Some(batch) => {
                // Nobody needs the plain weight any more.
                self.weight = Tensor::f_empty([0], (folding.kind, weight.device()))?;
                self.packing = Some(Packing { batch, weight: Cell::new(Some(weight)), packed: OnceCell::new() });
            }
        }
        Ok(())
    }
}

impl Packing {
    fn for_images(&self, input: &Tensor, conv: &Conv2d) -> Result<&PackedConv, TchError> {
        if let Some(weight) = self.weight.take() {
            let (_, channels, height, width) = input.size4()?;
            let Kernel { padding, stride, groups, .. } = conv.kernel;
            let size = [self.batch, channels, height, width];
            let packed = PackedConv::new(&weight, conv.bias.as_ref(), ConvShape { padding, stride, groups }, size)
                .map_err(TorchError::into_tch)?;
            return Ok(self.packed.get_or_init(|| packed));
        }
        self.packed.get().ok_or_else(|| TchError::Torch("the convolution could not be packed before".into()))
    }
}

/// A convolution, a batch norm, an activation: `torchvision.ops.Conv2dNormActivation`, and what ResNets are made of.
pub(super) struct ConvNorm {
    conv: Conv2d,
    /// None once it is part of the convolution.
    norm: Option<BatchNorm2d>,
    activation: Activation,
}

impl ConvNorm {
    /// With torchvision's names for such a block, `NAME.0` and `NAME.1`. Initialised by He.
    pub(super) fn new(
        state: &mut State,
        name: &str,
        kernel: Kernel,
        constants: NormConstants,
        activation: Activation,
    ) -> ConvNorm {
        ConvNorm::named(state, [format!("{name}.0"), format!("{name}.1")], kernel, constants, activation)
    }

    /// With names of their own for convolution and batch norm.
    pub(super) fn named(
        state: &mut State,
        [conv_name, norm_name]: [String; 2],
        kernel: Kernel,
        constants: NormConstants,
        activation: Activation,
    ) -> ConvNorm {
        let conv = Conv2d::new(state, &conv_name, kernel, kernel.he());
        let norm = BatchNorm2d::new(state, &norm_name, kernel.outputs, constants);
        ConvNorm { conv, norm: Some(norm), activation }
    }

    pub(super) fn norm(&mut self) -> Option<&mut BatchNorm2d> {
        self.norm.as_mut()
    }

    pub(super) fn forward(&self, input: &Tensor, train: bool) -> Result<Tensor, TchError> {
        match &self.norm {
            Some(norm) => self.activation.apply(norm.forward(&self.conv.forward(input)?, train)?),
            None => self.conv.forward_then(input, self.activation),
        }
    }

    /// Prepares it for inference.
    pub(super) fn fold(&mut self, folding: Folding) -> Result<(), TchError> {
        self.conv.fold(self.norm.as_ref(), folding)?;
        self.norm = None;
        Ok(())
    }

    /// Whether it is prepared for inference.
    pub(super) fn is_folded(&self) -> bool {
        self.norm.is_none()
    }

    /// Of a prepared one without an activation of its own: the result added to `sum`, which may be overwritten, with what
    /// follows, nothing or a ReLU.
    pub(super) fn add_to(&self, input: &Tensor, sum: &Tensor, then: Activation) -> Result<Tensor, TchError> {
        self.conv.add_to(input, sum, then)
    }
}
