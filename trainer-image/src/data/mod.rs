//! From files to batches of pixels: plain bytes, without tensors, so that it builds and runs without libtorch.
//!
//! ```text
//!  dataset  what there is: classes, samples, the held-out part
//!  checks   what a person should know of it before it is trained on
//!  sampler  which sample comes when, on which rank           (pure)
//!  loader   threads that make batches ahead of time, in order
//!     └─ images   one sample: read the file or object, or take it from the cache
//!          └─ view    decode ─► crop and resize in one pass ─► augment
//!               ├─ decode         bytes ─► RGB, by content
//!               ├─ crop, augment  where to cut, how to vary   (random as a pure function of seed, epoch and sample)
//!               └─ preprocessing  what a model expects: it travels with the model
//! ```

mod archive;
mod augment;
mod batch;
mod checks;
mod crop;
mod dataset;
mod decode;
mod error;
mod images;
mod loader;
mod manifest;
pub mod operations;
mod options;
mod orientation;
mod parquet;
mod policy;
mod preprocessing;
mod random;
mod sampler;
mod split;
mod table;
#[cfg(test)]
mod tests;
mod thumbnail;
mod tree;
mod view;

pub use archive::Archive;
pub use augment::{Augmentation, Flips, RandomCrop};
pub use batch::{Batch, Failures, Request};
pub use checks::{Finding, check};
pub use dataset::{Dataset, Format, Labels, Sample, Source, names_labels, open, reopen};
pub use decode::{Decoder, MAX_PIXELS};
pub(crate) use error::TOO_MANY_BROKEN;
pub use error::{DataError, ImageFault};
pub use images::Images;
pub use loader::{Loader, Render};
pub use options::{Options, default_threads};
pub use policy::Policy;
pub use preprocessing::{Preprocessing, PreprocessingError};
pub(crate) use random::{Random, Use};
pub use sampler::{Sampler, evaluation_part};
pub use split::Split;
pub use view::{Scratch, View};
