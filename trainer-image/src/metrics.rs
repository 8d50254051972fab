//! The figures by which a model is judged, apart from how they were computed and where they are shown. No tensor and
//! no file is known here: a caller gives labels and probabilities, and reads sums that can be added across ranks.
//!
//! ```text
//!  (label, probabilities) ─► Evaluation ─ merge over ranks ─► Summary ─┐
//!                        └─► Worst ────── merge over ranks ─► report   ├─► metrics.json
//!  one entry per epoch ────► History ──────────────────────────────────┘
//! ```

mod calibration;
mod curve;
mod evaluation;
mod exact;
mod history;
mod phases;
mod sparse;
mod summary;
#[cfg(test)]
mod tests;
mod threshold;
mod worst;

pub use calibration::{CALIBRATION_BINS, ReliabilityPoint};
pub use curve::{Curve, RocPoint};
pub use evaluation::{Evaluation, MetricsError};
pub use exact::{Scores, areas};
pub use history::{Epoch, History};
pub use phases::{Phase, Phases, Stopwatch};
pub use summary::{Averages, ClassFigures, Confusion, Summary};
pub use threshold::{Threshold, best_of};
pub use worst::{Worst, WrongPrediction};
