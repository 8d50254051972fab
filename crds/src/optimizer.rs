//! The optimizer: what a manifest may say, and what it comes to. The words and the defaults are PyTorch's, but for SGD,
//! whose defaults (0.02, momentum 0.9, weight decay 1e-4) train a network from scratch at batches of 32 to 128 images.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The optimizer and its hyperparameters. What is absent takes the optimizer's own default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default = "Optimizer::default")]
#[x_kube(validation = Rule::new("!has(self.nesterov) || !self.nesterov || !has(self.momentum) || self.momentum > 0.0")
    .message("nesterov needs a momentum above 0").field_path(".nesterov"))]
pub struct Optimizer {
    /// Name of the algorithm.
    pub name: OptimizerName,
    /// Learning rate after the warm-up; it isn't scaled with the number of processes. If absent: Sgd 0.02; Adam, AdamW
    /// 0.001; RmsProp, Adagrad 0.01; Adamax 0.002; Adadelta 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1e-12, max = 100.0))]
    pub learning_rate: Option<f64>,
    /// L2 penalty (AdamW: decoupled decay). If absent: Sgd 0.0001, AdamW 0.01, others 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: Option<f64>,
    /// Momentum of Sgd (0.9 if absent) and RmsProp (0 if absent).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.9999))]
    pub momentum: Option<f64>,
    /// Nesterov's variant of the momentum of Sgd; false if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// Decay of the mean of gradients of Adam, AdamW and Adamax; 0.9 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub beta1: Option<f64>,
    /// Decay of the mean of squared gradients of Adam and AdamW, of the norm of Adamax; 0.999 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.999_999_9))]
    pub beta2: Option<f64>,
    /// Added to denominators, by all but Sgd. If absent: Adam, AdamW, RmsProp, Adamax 1e-8; Adagrad 1e-10; Adadelta 1e-6.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1e-20, max = 1.0))]
    pub epsilon: Option<f64>,
    /// Decay of the mean of squared gradients of RmsProp; 0.99 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub alpha: Option<f64>,
    /// Decay of the mean of squared gradients of Adadelta; 0.9 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub rho: Option<f64>,
    /// Decay of the learning rate of Adagrad; 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub learning_rate_decay: Option<f64>,
}

/// Name of an algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "each variant is the class of that name in torch.optim")]
pub enum OptimizerName {
    #[default]
    Sgd,
    Adam,
    AdamW,
    RmsProp,
    Adamax,
    Adagrad,
    Adadelta,
}

/// What an [`Optimizer`] comes to: the algorithm with the values of its own hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerSettings {
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// L2 penalty, or decoupled decay of AdamW.
    pub weight_decay: f64,
    /// The algorithm with what is its own.
    pub algorithm: Algorithm,
}

/// An algorithm with what is its own, as in `torch.optim`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are the arguments of the class of that name in torch.optim")]
pub enum Algorithm {
    Sgd { momentum: f64, nesterov: bool },
    Adam { beta1: f64, beta2: f64, epsilon: f64 },
    AdamW { beta1: f64, beta2: f64, epsilon: f64 },
    RmsProp { alpha: f64, epsilon: f64, momentum: f64 },
    Adamax { beta1: f64, beta2: f64, epsilon: f64 },
    Adagrad { learning_rate_decay: f64, epsilon: f64 },
    Adadelta { rho: f64, epsilon: f64 },
}

impl Optimizer {
    /// The values that are used: what the manifest says, else the algorithm's defaults.
    pub fn settings(&self) -> OptimizerSettings {
        let (learning_rate, weight_decay, epsilon) = match self.name {
            OptimizerName::Sgd => (0.02, 1e-4, 0.0),
            OptimizerName::Adam => (1e-3, 0.0, 1e-8),
            OptimizerName::AdamW => (1e-3, 1e-2, 1e-8),
            OptimizerName::RmsProp => (1e-2, 0.0, 1e-8),
            OptimizerName::Adamax => (2e-3, 0.0, 1e-8),
            OptimizerName::Adagrad => (1e-2, 0.0, 1e-10),
            OptimizerName::Adadelta => (1.0, 0.0, 1e-6),
        };
        let epsilon = self.epsilon.unwrap_or(epsilon);
        let (beta1, beta2) = (self.beta1.unwrap_or(0.9), self.beta2.unwrap_or(0.999));
        let algorithm = match self.name {
            OptimizerName::Sgd => {
                Algorithm::Sgd { momentum: self.momentum.unwrap_or(0.9), nesterov: self.nesterov.unwrap_or(false) }
            }
            OptimizerName::Adam => Algorithm::Adam { beta1, beta2, epsilon },
            OptimizerName::AdamW => Algorithm::AdamW { beta1, beta2, epsilon },
            OptimizerName::RmsProp => Algorithm::RmsProp {
                alpha: self.alpha.unwrap_or(0.99),
                epsilon,
                momentum: self.momentum.unwrap_or(0.0),
            },
            OptimizerName::Adamax => Algorithm::Adamax { beta1, beta2, epsilon },
            OptimizerName::Adagrad => {
                Algorithm::Adagrad { learning_rate_decay: self.learning_rate_decay.unwrap_or(0.0), epsilon }
            }
            OptimizerName::Adadelta => Algorithm::Adadelta { rho: self.rho.unwrap_or(0.9), epsilon },
        };
        OptimizerSettings {
            learning_rate: self.learning_rate.unwrap_or(learning_rate),
            weight_decay: self.weight_decay.unwrap_or(weight_decay),
            algorithm,
        }
    }
}
