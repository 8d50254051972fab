//! What the tests that cross crates have in common.
//!
//! ```text
//! cluster    a Kubernetes control plane of a test binary's own, with nodes that are played
//! chart      the Helm chart as Helm renders it
//! node       nodes with kubelets and containers of their own, on one machine
//! image      our images, made without a container engine
//! program    the operator's program as a child process
//! storage    an S3 server of a test binary's own, over a folder; Google's storage; Azure's; a web server
//! told       commands of the README that a real node is needed for
//! bin/digits the images that the examples train on
//! ```

pub mod chart;
pub mod cluster;
pub mod image;
pub mod node;
pub mod program;
pub mod storage;
pub mod told;
