//! The five processes of a control plane: their arguments, the order in which they start, and what tests do to them.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use super::credentials::{Access, Credentials};
use super::process::{Folder, Process};
use super::programs::{Programs, module};
use super::{Error, Namespace};

/// How long the API server may take to be ready: it takes 2 s on a machine with nothing else to do.
const START: Duration = Duration::from_secs(120);
/// How often a start is tried with other ports, when somebody was quicker to take one.
const TRIES: usize = 5;

/// Ports on the loopback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// etcd's, for clients.
    pub etcd: u16,
    /// The API server's.
    pub apiserver: u16,
}

impl Ports {
    /// Two that are free now.
    fn free() -> io::Result<Ports> {
        let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        Ok(Ports { etcd: one.local_addr()?.port(), apiserver: other.local_addr()?.port() })
    }
}

/// What a control plane is started with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Feature gates of all parts, as in `GenericWorkload=true`.
    pub feature_gates: Vec<String>,
    /// APIs that are off by default, as in `scheduling.k8s.io/v1beta1=true`.
    pub runtime_config: Vec<String>,
    /// Ports to try first. Where they are taken, or without them, free ones are found.
    pub ports: Option<Ports>,
    /// Nodes with kubelets that will join; without them KWOK plays nodes.
    pub kubelets: Option<Kubelets>,
}

/// Nodes that join a control plane with a kubelet of their own.
#[derive(Clone, Debug)]
pub struct Kubelets {
    /// The address of this machine by which nodes and pods reach the API server.
    pub address: Ipv4Addr,
    /// Names of the nodes.
    pub names: Vec<String>,
}

/// The name by which nodes' proxies are known to the API server.
pub(crate) const PROXY: &str = "system:kube-proxy";

/// The name by which a node's kubelet is known to the API server.
pub(crate) fn kubelet(node: &str) -> String {
    format!("system:node:{node}")
}

/// A running control plane. It stops when this is dropped, and with this process at the latest.
pub struct Cluster {
    // Fields are dropped in this order: the processes end before their folder goes.
    parts: Mutex<Vec<Process>>,
    pub(super) access: Access,
    server: String,
    credentials: Credentials,
    folder: Folder,
    namespaces: AtomicU32,
}

impl Cluster {
    /// The control plane that all tests of a binary share, started by the first that asks for it.
    ///
    /// # Panics
    /// Where it can't be started; the text says why.
    pub async fn shared() -> &'static Cluster {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        let start = async || Cluster::start().await.unwrap_or_else(|fault| panic!("no control plane: {fault}"));
        SHARED.get_or_init(start).await
    }

    /// Starts one.
    ///
    /// # Errors
    /// Where a program is missing, can't be started or is not ready in time.
    pub async fn start() -> Result<Cluster, Error> {
        Cluster::start_with(&Settings::default()).await
    }

    /// Starts one with other settings than usual.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_with(settings: &Settings) -> Result<Cluster, Error> {
        let mut ports = settings.ports;
        for _ in 1..TRIES {
            match Cluster::try_start(settings, ports.take()).await {
                Err(Error::Start { log, .. }) if log.contains("address already in use") => {}
                done => return done,
            }
        }
        Cluster::try_start(settings, None).await
    }

    async fn try_start(settings: &Settings, ports: Option<Ports>) -> Result<Cluster, Error> {
        let ports = ports.map_or_else(Ports::free, Ok)?;
        let programs = Programs::default();
        let folder = Folder::new()?;
        let credentials = Credentials::write(folder.path(), settings.kubelets.as_ref())?;
        let address = settings.kubelets.as_ref().map_or(Ipv4Addr::LOCALHOST, |kubelets| kubelets.address);
        let server = format!("https://{address}:{}", ports.apiserver);
        let path = folder.path().join("kubeconfig");
        let access = Access::write(path, &server, &credentials.authority, &credentials.token, "default")?;
        let start = |name: &'static str, arguments: Vec<String>| {
            Process::start(name, programs.find(name)?, arguments, folder.path())
        };
        let parts =
            vec![start("etcd", etcd(ports))?, start("kube-apiserver", apiserver(ports, &credentials, settings))?];
        let kubeconfig = access.path.display().to_string();
        let mut others = vec![
            ("kube-controller-manager", controller_manager(&kubeconfig, &credentials, settings)),
            ("kube-scheduler", scheduler(&kubeconfig, settings)),
        ];
        if settings.kubelets.is_none() {
            others.push(("kwok", kwok(&kubeconfig)));
        }
        let namespaces = AtomicU32::new(0);
        let cluster = Cluster { parts: Mutex::new(parts), access, server, credentials, folder, namespaces };
        cluster.ready().await?;
        for (name, arguments) in others {
            let process = Process::start(name, programs.find(name)?, arguments, cluster.folder.path())?;
            cluster.parts.lock().unwrap_or_else(PoisonError::into_inner).push(process);
        }
        Ok(cluster)
    }

    /// A kubeconfig of an administrator, for a child process.
    pub fn kubeconfig(&self) -> &Path {
        &self.access.path
    }

    /// The folder of the control plane's files and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An administrator's client. It belongs to the async runtime that it is made on: each test needs its own.
    ///
    /// # Panics
    /// Where the kubeconfig that was written can't be used.
    pub async fn client(&self) -> Client {
        self.access.client("default").await.unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// A fresh namespace, with its default service account there. Its name starts with `name`. It goes, with the nodes
    /// that were made through it, when the test is over.
    ///
    /// # Panics
    /// Where the control plane refuses.
    pub async fn namespace(&self, name: &str) -> Namespace<'_> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        Namespace::new(self, format!("{name}-{number}")).await
    }

    /// A namespace that is there already, such as one that Helm made. It stays.
    ///
    /// # Panics
    /// Where no client for it can be made.
    pub async fn existing_namespace(&self, name: &str) -> Namespace<'_> {
        Namespace::existing(self, name.to_owned()).await
    }

    /// Kills the API server as a power cut would. Watches break off, and requests find nobody.
    pub fn kill_apiserver(&self) {
        self.with("kube-apiserver", Process::kill);
    }

    /// Starts the API server that was killed, on the same port, and waits until it is ready.
    ///
    /// # Panics
    /// Where it doesn't come up.
    pub async fn start_apiserver(&self) {
        self.with("kube-apiserver", Process::run).unwrap_or_else(|fault| panic!("{fault}"));
        self.ready().await.unwrap_or_else(|fault| panic!("{fault}"));
    }

    /// Kills the API server and starts it anew.
    ///
    /// # Panics
    /// Where it doesn't come up.
    pub async fn restart_apiserver(&self) {
        self.kill_apiserver();
        self.start_apiserver().await;
    }

    /// The authority that clients' certificates are signed by.
    pub(crate) fn authority(&self) -> &Path {
        &self.credentials.authority
    }

    /// Writes the kubeconfig of a node's kubelet or of the nodes' proxies, by its name.
    pub(crate) fn write_part_access(&self, part: &str) -> Result<PathBuf, Error> {
        let token = self.credentials.parts.iter().find(|(name, _)| name == part).map(|(_, token)| token.as_str());
        let token = token.unwrap_or_else(|| panic!("the control plane knows no {part}"));
        Ok(self.write_access(&part.replace(':', "-"), token, "default")?.path)
    }

    /// Writes a kubeconfig for the holder of a token.
    pub(super) fn write_access(&self, name: &str, token: &str, namespace: &str) -> Result<Access, Error> {
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        Access::write(path, &self.server, &self.credentials.authority, token, namespace)
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Process) -> T) -> T {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let process = parts.iter_mut().find(|process| process.name == name);
        act(process.unwrap_or_else(|| panic!("the control plane has no {name}")))
    }

    /// Waits until the API server says that it is ready. There is nothing to watch before it is.
    async fn ready(&self) -> Result<(), Error> {
        let client = self.access.client("default").await?;
        let began = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError)?;
            if let Ok(Ok(_)) = timeout(Duration::from_secs(2), client.request_text(request)).await {
                return Ok(());
            }
            if let Some(fault) = self.broken(began.elapsed() > START) {
                return Err(fault);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The first process that has ended; the API server also where it is late.
    fn broken(&self, late: bool) -> Option<Error> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter_mut().find_map(|process| {
            let what = match process.ended() {
                Some(status) => format!("ended with {status}"),
                None if late && process.name == "kube-apiserver" => format!("is not ready after {} s", START.as_secs()),
                None => return None,
            };
            Some(Error::Start { program: process.name, what, log: process.last_words() })
        })
    }
}

fn etcd(ports: Ports) -> Vec<String> {
    let clients = format!("http://127.0.0.1:{}", ports.etcd);
    vec![
        "--data-dir=etcd".into(),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        "--listen-peer-urls=http://127.0.0.1:0".into(),
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

fn apiserver(ports: Ports, credentials: &Credentials, settings: &Settings) -> Vec<String> {
    let mut arguments = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
        format!("--secure-port={}", ports.apiserver),
        "--service-cluster-ip-range=10.251.0.0/16".into(),
        "--allow-privileged=true".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--cert-dir=.".into(),
    ];
    for (flag, path) in [
        ("tls-cert-file", &credentials.certificate),
        ("tls-private-key-file", &credentials.key),
        ("token-auth-file", &credentials.tokens),
        ("service-account-key-file", &credentials.service_accounts_public),
        ("service-account-signing-key-file", &credentials.service_accounts),
    ] {
        arguments.push(format!("--{flag}={}", path.display()));
    }
    match &settings.kubelets {
        // Pods that are played reach no API server, and loopback is no address for an endpoint.
        None => arguments.extend(
            ["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none", "--authorization-mode=RBAC"]
                .map(str::to_owned),
        ),
        Some(Kubelets { address, .. }) => arguments.extend([
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            format!("--kubelet-client-certificate={}", credentials.kubelet_client.display()),
            format!("--kubelet-client-key={}", credentials.kubelet_client_key.display()),
        ]),
    }
    if !settings.runtime_config.is_empty() {
        arguments.push(format!("--runtime-config={}", settings.runtime_config.join(",")));
    }
    with_gates(arguments, settings)
}

fn controller_manager(kubeconfig: &str, credentials: &Credentials, settings: &Settings) -> Vec<String> {
    let mut arguments = vec![
        format!("--kubeconfig={kubeconfig}"),
        "--secure-port=0".into(),
        "--leader-elect=false".into(),
        // With the defaults a namespace's service account takes seconds when many are made.
        "--kube-api-qps=1000".into(),
        "--kube-api-burst=2000".into(),
        "--node-monitor-period=1s".into(),
        format!("--root-ca-file={}", credentials.authority.display()),
        format!("--service-account-private-key-file={}", credentials.service_accounts.display()),
    ];
    if settings.kubelets.is_some() {
        // A node that is heard of no more is told so within seconds.
        arguments.push("--node-monitor-grace-period=8s".into());
    }
    with_gates(arguments, settings)
}

fn scheduler(kubeconfig: &str, settings: &Settings) -> Vec<String> {
    let arguments = vec![
        format!("--kubeconfig={kubeconfig}"),
        "--secure-port=0".into(),
        "--leader-elect=false".into(),
        "--kube-api-qps=1000".into(),
        "--kube-api-burst=2000".into(),
    ];
    with_gates(arguments, settings)
}

fn with_gates(mut arguments: Vec<String>, settings: &Settings) -> Vec<String> {
    if !settings.feature_gates.is_empty() {
        arguments.push(format!("--feature-gates={}", settings.feature_gates.join(",")));
    }
    arguments
}

fn kwok(kubeconfig: &str) -> Vec<String> {
    let mut arguments = vec![
        format!("--kubeconfig={kubeconfig}"),
        "--manage-all-nodes=false".into(),
        // By label and not by annotation: KWOK never hears that a node lost an annotation, and would go on to play it.
        "--manage-nodes-with-label-selector=kwok.x-k8s.io/node=fake".into(),
        "--node-lease-duration-seconds=40".into(),
        format!("--config={}", module().join("kwok.yaml").display()),
    ];
    for stage in ["node-initialize", "pod-ready", "pod-complete", "pod-delete"] {
        arguments.push(format!("--config={}", module().join("stages").join(stage).with_extension("yaml").display()));
    }
    arguments
}
