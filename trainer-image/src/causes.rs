//! What each module's error means for the end of the process: the cause, and what to do.

use crds::contract::Cause;

use crate::data::{DataError, PreprocessingError};
use crate::ddp::DdpError;
use crate::fault::Fault;
use crate::metrics::MetricsError;
use crate::torch::TorchError;
use crate::zoo::WeightsError;

impl From<DdpError> for Fault {
    fn from(error: DdpError) -> Fault {
        Fault::new(error.cause(), error.to_string())
    }
}

impl From<TorchError> for Fault {
    fn from(error: TorchError) -> Fault {
        Fault::new(error.cause(), error.to_string())
    }
}

impl From<tch::TchError> for Fault {
    fn from(error: tch::TchError) -> Fault {
        TorchError::from(error).into()
    }
}

impl From<DataError> for Fault {
    fn from(error: DataError) -> Fault {
        Fault::new(error.cause(), error.to_string()).hint(error.hint())
    }
}

impl From<PreprocessingError> for Fault {
    fn from(error: PreprocessingError) -> Fault {
        Fault::new(Cause::BadSpec, error.to_string())
    }
}

/// What to do about a training that has come to values that are no numbers.
pub(crate) const DIVERGED: &str =
    "lower the learning rate, lengthen the warm-up or set gradientClipNorm; the last checkpoint is kept";

impl From<MetricsError> for Fault {
    fn from(error: MetricsError) -> Fault {
        let fault = Fault::new(Cause::NotFinite, error.to_string());
        match error {
            MetricsError::Probability { .. } => fault.hint(DIVERGED),
            MetricsError::Label { .. } | MetricsError::Classes { .. } => fault,
        }
    }
}

impl From<WeightsError> for Fault {
    fn from(error: WeightsError) -> Fault {
        match error {
            WeightsError::Torch(error) => error.into(),
            WeightsError::Mismatch(_) => Fault::new(Cause::BadSpec, error.to_string())
                .hint("give weights of the same architecture, with the names of torchvision or timm"),
            WeightsError::Unknown | WeightsError::Format(_) | WeightsError::Pth(_) => {
                Fault::new(Cause::BadData, error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_that_diverges_is_told_what_to_do_wherever_it_shows() {
        let fault = Fault::from(MetricsError::Probability { class: 0, value: f32::NAN });
        assert_eq!((fault.cause(), fault.advice()), (Cause::NotFinite, DIVERGED));
    }
}
