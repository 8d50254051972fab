//! The figures by which a model is judged, apart from how they were computed and where they are shown. No tensor and
//! no file is known here: a caller gives labels and probabilities, and reads sums that can be added across ranks.
//!
//! ```text
//!  (label, probabilities) ─► Evaluation ─ merge over ranks ─► Summary ─┐
//!                        └─► Worst ────── merge over ranks ─► report   ├─► metrics.json
//!  one entry per epoch ────► History ──────────────────────────────────┘
//! ```

mod curve;
mod evaluation;
mod history;
mod sparse;
mod summary;
#[cfg(test)]
mod tests;
mod worst;

pub use curve::{Curve, RocPoint};
pub use evaluation::{Evaluation, MetricsError};
pub use history::{Epoch, History};
pub use summary::{ClassFigures, Confusion, Summary, Threshold};
pub use worst::{Worst, WrongPrediction};
