//! What is typed to a cluster about nodes and places: `operator` and `why`.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::log::Log;
use crate::cluster::{self, Leadership, Settings};
use crate::observe::Backoff;
use crate::placement::Catalogue;
use crate::plugin::about;
use crate::plugin::access::{Access, Format};

#[derive(Debug, Args)]
pub(super) struct Operator {
    /// Work in this namespace alone; in all of them if absent.
    #[arg(short, long, value_name = "NAMESPACE", env = "TRAINYARD_NAMESPACE")]
    namespace: Option<String>,
    /// Read no nodes, as a Role without a ClusterRole allows: pods check driver and GPU themselves. A job with device Auto takes
    /// CPUs then.
    #[arg(long, env = "TRAINYARD_NO_NODES", value_parser = BoolishValueParser::new())]
    no_nodes: bool,
    /// An autoscaler adds nodes for pods that wait: where no node fits a job with device Gpu, make its pods all the same.
    #[arg(long, env = "TRAINYARD_AUTOSCALED", value_parser = BoolishValueParser::new())]
    autoscaled: bool,
    #[command(flatten)]
    catalogue: CatalogueFile,
    /// Where to serve /metrics, /livez and /readyz.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8080", env = "TRAINYARD_LISTEN")]
    listen: SocketAddr,
    #[command(flatten)]
    lease: LeaseOptions,
    /// Seconds before the first restart of a job; doubled for each failure in a row without progress, 300 at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    backoff_seconds: u64,
    /// Seconds between two questions for the progress of a job.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    poll_seconds: u64,
    /// How to write the log. What to write is set by RUST_LOG; where traces go, by OTEL_EXPORTER_OTLP_ENDPOINT.
    #[arg(long, value_enum, default_value_t, env = "TRAINYARD_LOG")]
    log: Log,
}

#[derive(Debug, Args)]
struct LeaseOptions {
    /// Namespace of the lease that the operator holds while it writes; if absent that of -n, or the operator's own.
    #[arg(long, value_name = "NAMESPACE", env = "TRAINYARD_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Seconds after which another operator takes over from one that is not heard of.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=300))]
    lease_seconds: u32,
    /// Hold no lease: you see to it that no other operator works in the same namespaces.
    #[arg(long, conflicts_with_all = ["lease_namespace", "lease_seconds"])]
    no_lease: bool,
}

impl LeaseOptions {
    /// The part in the lease of an operator that works in `namespace` and has a client that defaults to `own`.
    fn leadership(&self, namespace: Option<&str>, own: &str) -> Option<Leadership> {
        let namespace = self.lease_namespace.as_deref().or(namespace).unwrap_or(own);
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        (!self.no_lease).then(|| Leadership {
            namespace: namespace.to_owned(),
            identity: cluster::identity(host.as_deref().unwrap_or("operator")),
            seconds: self.lease_seconds,
        })
    }
}

#[derive(Debug, Args)]
struct CatalogueFile {
    /// The runtime catalogue, a YAML file. If absent, the one that this version has of itself; to judge what an operator does, that
    /// operator's own.
    #[arg(long = "catalogue", value_name = "FILE", env = "TRAINYARD_CATALOGUE")]
    path: Option<PathBuf>,
}

impl CatalogueFile {
    /// The one that is given, if one is.
    fn read(&self) -> Result<Option<Catalogue>, Box<dyn Error>> {
        let Some(path) = &self.path else { return Ok(None) };
        let text = fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
        Ok(Some(Catalogue::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?))
    }
}

#[derive(Debug, Args)]
pub(super) struct Why {
    /// The job or endpoint, such as digits, tj/digits, sj/digits or me/digits.
    job: String,
    /// How to write it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    catalogue: CatalogueFile,
    #[command(flatten)]
    access: Access,
}

/// Threads of the operator at most.
const THREADS: usize = 4;

impl Operator {
    /// Runs the operator; the exit code.
    pub(super) fn run(&self) -> u8 {
        match operate(self) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error}");
                1
            }
        }
    }
}

impl Why {
    /// Prints the answer; the exit code.
    pub(super) fn run(&self) -> u8 {
        about::why(&self.access, &self.job, self.output, || self.catalogue.read())
    }
}

/// Runs the operator until SIGTERM or Ctrl-C.
fn operate(typed: &Operator) -> Result<(), Box<dyn Error>> {
    let catalogue = typed.catalogue.read()?.unwrap_or_else(Catalogue::built_in);
    let _traces = typed.log.start()?;
    encrypt();
    // It waits for the API server most of the time: on a large machine more threads would only take more memory.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().min(THREADS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                // Without a way to listen for Ctrl-C, SIGTERM still stops it.
                Ok(()) = tokio::signal::ctrl_c() => {}
            }
        };
        let client = cluster::connect().await?;
        let settings = Settings {
            namespace: typed.namespace.clone(),
            reads_nodes: !typed.no_nodes,
            autoscaled: typed.autoscaled,
            catalogue,
            backoff: Backoff { first_seconds: typed.backoff_seconds, most_seconds: 300 },
            poll_every: Duration::from_secs(typed.poll_seconds),
            leadership: typed.lease.leadership(typed.namespace.as_deref(), client.default_namespace()),
            listen: typed.listen,
        };
        Ok(cluster::run(client, settings, Box::pin(stop)).await?)
    })
}

/// Says what TLS is made with.
fn encrypt() {
    // Fails only where a provider was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
