//! Control plane, nodes and the cluster's DNS, together.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::wait::{Condition, await_condition};
use tokio::time::timeout;

use super::files::CONTROL_PLANE;
use super::machine::{self, Machine, START};
use super::program;
use crate::cluster::process::Process;
use crate::cluster::{Cluster, Error, Kubelets, Settings};

/// A cluster with real nodes. All of it ends when this is dropped.
pub struct Rig {
    // Fields are dropped in this order.
    nodes: Vec<Machine>,
    _dns: Process,
    cluster: Cluster,
}

impl Rig {
    /// Starts control plane, DNS and nodes, which know the images of some archives, and returns when the nodes are ready for pods.
    ///
    /// # Errors
    /// Where a part of it does not start; the text has the end of its log.
    pub async fn start(names: &[&str], images: &[PathBuf]) -> Result<Rig, Error> {
        machine::network()?;
        let address = Ipv4Addr::from(CONTROL_PLANE);
        let kubelets = Kubelets { address, names: names.iter().map(|name| (*name).to_owned()).collect() };
        let settings = Settings { kubelets: Some(kubelets), ..Settings::default() };
        let cluster = Cluster::start_with(&settings).await?;
        let dns = dns(&cluster, address)?;
        let mut rig = Rig { nodes: Vec::new(), _dns: dns, cluster };
        for (name, number) in names.iter().zip(1..) {
            let first = rig.nodes.first();
            let node = Machine::start(&rig.cluster, name, number, first)?;
            if first.is_none() {
                node.import(&machine::pause(rig.cluster.folder())?)?;
                images.iter().try_for_each(|image| node.import(image))?;
            }
            rig.nodes.push(node);
        }
        rig.nodes.iter_mut().try_for_each(Machine::join)?;
        for name in names {
            rig.ready(name).await?;
        }
        Ok(rig)
    }

    /// Its control plane.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its nodes.
    pub fn nodes(&mut self) -> &mut [Machine] {
        &mut self.nodes
    }

    /// A node by its name.
    ///
    /// # Panics
    /// Where there is none of this name.
    pub fn node(&mut self, name: &str) -> &mut Machine {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// A folder of the machine, made for a volume that pods of our images may write to, whichever node they are on.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn volume(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.cluster.folder().join("volumes").join(name);
        fs::create_dir_all(&folder)?;
        std::os::unix::fs::chown(&folder, Some(65_532), Some(65_532))?;
        Ok(folder)
    }

    /// Waits until a node is ready for pods.
    ///
    /// # Errors
    /// Where a part of it ends or it is not ready in time; the text has the end of a log.
    pub async fn ready(&mut self, name: &str) -> Result<(), Error> {
        let api = Api::<Node>::all(self.cluster.client().await);
        let began = Instant::now();
        loop {
            let waited = timeout(Duration::from_secs(1), await_condition(api.clone(), name, is_ready())).await;
            if matches!(waited, Ok(Ok(_))) {
                return Ok(());
            }
            let node = self.node(name);
            if let Some(fault) = node.broken() {
                return Err(fault);
            }
            if began.elapsed() > START {
                let what = format!("did not get node {name} ready in {} s", START.as_secs());
                return Err(Error::Start { program: "kubelet", what, log: node.log("kubelet") });
            }
        }
    }

    /// kubectl with these arguments, as an administrator.
    pub fn kubectl<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new("kubectl");
        command.args(arguments).env("KUBECONFIG", self.cluster.kubeconfig());
        command
    }
}

/// A node that is ready and takes pods.
fn is_ready() -> impl Condition<Node> {
    |node: Option<&Node>| {
        let Some(node) = node else { return false };
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = |condition: &k8s_openapi::api::core::v1::NodeCondition| {
            condition.type_ == "Ready" && condition.status == "True"
        };
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        conditions.into_iter().flatten().any(ready) && taints.is_none_or(Vec::is_empty)
    }
}

/// Starts CoreDNS where pods ask: it knows services and pods, and says of all other names that there are none.
fn dns(cluster: &Cluster, address: Ipv4Addr) -> Result<Process, Error> {
    let corefile = format!(
        "cluster.local:53 in-addr.arpa:53 {{
    bind {address}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {} test
        pods insecure
        ttl 0
    }}
}}
.:53 {{
    bind {address}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
",
        cluster.kubeconfig().display()
    );
    let path = cluster.folder().join("Corefile");
    fs::write(&path, corefile)?;
    let arguments = vec!["-conf".into(), path.display().to_string()];
    Process::start("coredns", program("coredns")?, arguments, cluster.folder())
}
