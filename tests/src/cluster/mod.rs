//! A real Kubernetes control plane for a test binary, up in seconds: etcd, kube-apiserver, kube-controller-manager,
//! kube-scheduler, and KWOK, which plays nodes and the pods on them.
//!
//! ```text
//! programs      where the five programs are, and what builds them
//! process       a child that ends with this process, and the folder that goes with it
//! credentials   certificates, keys and tokens
//! control_plane the five processes, how they are started, killed and restarted
//! definitions   our custom resource definitions, applied
//! namespace     what one test has: a namespace, a client, waiting
//! nodes         KWOK nodes with the labels of GPU Feature Discovery, from `tests/cluster/nodes`
//! pods          the life of pods, told by the test in place of a kubelet
//! leaders       how far they are, told when the operator asks
//! user          a service account with given rights
//! ```
//!
//! Nothing that a test starts here outlives it: on a panic and on SIGKILL as well, the kernel ends the processes, and a
//! watchdog removes their folder.

mod control_plane;
mod credentials;
mod definitions;
mod leaders;
mod namespace;
mod nodes;
mod pods;
pub(crate) mod process;
pub(crate) mod programs;
mod user;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use control_plane::{Cluster, Kubelets, Ports, Settings};
pub(crate) use control_plane::{PROXY, kubelet};
pub use leaders::Leader;
pub use namespace::{Namespace, dynamic};
pub use nodes::{OWNER_LABEL, templates};
pub use pods::Pods;
pub use user::User;

/// How long anything that a test waits for may take. Far more than it takes: only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program was neither given nor could it be built.
    #[error("the control plane's programs are missing: {what}. Run tests/cluster/build.sh and see what it says")]
    Programs {
        /// What is missing or went wrong.
        what: String,
    },
    /// A program was there and could not be started.
    #[error(
        "{program} can't be started: {source}. setpriv (util-linux), sh and the programs of tests/cluster are needed"
    )]
    Spawn {
        /// Path of the program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program ended, or was not ready in time.
    #[error("{program} {what}. The end of its log:\n{log}")]
    Start {
        /// Name of the program.
        program: &'static str,
        /// What it did.
        what: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// A file of the control plane's could not be written.
    #[error("the control plane's folder can't be written: {0}")]
    Folder(#[from] io::Error),
    /// A certificate could not be made.
    #[error("a certificate can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The client could not be made.
    #[error("a client for the control plane can't be made: {0}")]
    Client(#[from] kube::Error),
    /// The client's settings make no sense.
    #[error("the control plane's kubeconfig is not usable: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
}
