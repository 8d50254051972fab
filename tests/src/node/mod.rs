//! Real Kubernetes nodes on one machine: each is a set of namespaces with a containerd, a kubelet and a kube-proxy of its own, so that
//! pods of tests have processes, networks, volumes and ends.
//!
//! ```text
//! needs    what a machine must have for this, and what it lacks
//! entry    the throw-away namespaces in which all of it happens: the test binary starts itself anew in them
//! cgroups  the control groups that kubelets put pods into, made and removed
//! files    what kubelet, containerd, network plug-ins and proxy read
//! machine  one node: its life, its faults, its images
//! rig      control plane, nodes and the cluster's DNS, together
//! ```
//!
//! Nothing outlives the test, however it ends: its processes, mounts and networks go with the namespaces, files and control groups
//! by a watchdog outside of them.

mod cgroups;
mod entry;
mod files;
mod machine;
mod needs;
mod rig;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use entry::{Entry, enter};
pub use files::CONTROL_PLANE;
pub use machine::Machine;
pub use rig::Rig;

use crate::cluster::Error;
use crate::cluster::programs::build;

/// The folder of what nodes are made of.
fn module() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/node"))
}

/// A program that `tests/node/build.sh` builds.
fn program(name: &str) -> Result<PathBuf, Error> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = match BUILT.get() {
        Some(folder) => folder,
        None => {
            let folder = build(module())?;
            BUILT.get_or_init(|| folder)
        }
    };
    Ok(folder.join(name))
}
