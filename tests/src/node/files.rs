//! What a node's parts read: the kubelet's settings, containerd's with its network plug-ins', and the proxy's. JSON is YAML too.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

/// Range of the pods' addresses.
pub(super) const PODS: &str = "10.245.0.0/16";
/// Range of the services' addresses.
pub(super) const SERVICES: &str = "10.251.0.0/16";
/// The address of the control plane and the cluster's DNS.
pub const CONTROL_PLANE: [u8; 4] = [10, 250, 0, 1];
/// The image that holds a pod's namespaces, as containerd gets it imported.
pub(super) const PAUSE: &str = "trainyard.test/pause:1";
/// Where containerd listens, inside of a node.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";

/// A node's place in the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Counted from 1.
    pub(super) number: u8,
}

impl Place {
    /// Its own address.
    pub(super) fn address(self) -> String {
        format!("10.250.0.{}", 10 + self.number)
    }

    /// Range of its pods' addresses.
    pub(super) fn pods(self) -> String {
        format!("10.245.{}.0/24", self.number)
    }
}

/// What the files are made from.
pub(super) struct Parts<'a> {
    pub(super) name: &'a str,
    pub(super) place: Place,
    pub(super) folder: &'a Path,
    pub(super) control_group: &'a Path,
    pub(super) authority: &'a Path,
    pub(super) proxy_access: &'a Path,
}

impl Parts<'_> {
    /// Writes them into the node's folder.
    pub(super) fn write(&self) -> io::Result<()> {
        let write = |name: &str, value: Value| fs::write(self.folder.join(name), format!("{value:#}"));
        write("kubelet.yaml", self.kubelet())?;
        write("proxy.yaml", self.proxy())?;
        fs::write(self.folder.join("containerd.toml"), self.containerd())?;
        fs::create_dir_all(self.folder.join("networks"))?;
        write("networks/pods.conflist", self.network())
    }

    fn kubelet(&self) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.place.address(),
            "authentication": {"webhook": {"enabled": true}, "x509": {"clientCAFile": self.authority}},
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": Path::new("/").join(self.control_group),
            "failCgroupV1": false,
            "clusterDNS": [CONTROL_PLANE.map(|part| part.to_string()).join(".")],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "50Mi"},
            "failSwapOn": false,
            "healthzPort": 0,
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": false,
            // As often as is useful: tests wait for what nodes say.
            "nodeStatusUpdateFrequency": "1s",
            "syncFrequency": "10s",
            "oomScoreAdj": 0,
            "registerNode": true,
            "resolvConf": "",
            "volumePluginDir": self.folder.join("volume-plugins"),
        })
    }

    fn proxy(&self) -> Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": self.proxy_access},
            "clusterCIDR": PODS,
            // The limits of connections are the machine's, and one process may not lower its own score.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "detectLocalMode": "ClusterCIDR",
            "healthzBindAddress": "",
            "hostnameOverride": self.name,
            "metricsBindAddress": "127.0.0.1:10249",
            "mode": "nftables",
            "nftables": {"minSyncPeriod": "100ms"},
            "oomScoreAdj": 0,
        })
    }

    fn containerd(&self) -> String {
        let folder = self.folder.display();
        format!(
            r#"version = 2
root = "{folder}/disk/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/networks"
"#
        )
    }

    /// Each pod has a link of its own to its node, which routes: what a service answers with comes back the way that it went.
    fn network(&self) -> Value {
        let addresses = json!({"type": "host-local", "subnet": self.place.pods(), "routes": [{"dst": "0.0.0.0/0"}]});
        json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{"type": "ptp", "ipMasq": false, "ipam": addresses}],
        })
    }
}
