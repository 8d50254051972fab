//! The way to the cluster, as kubectl's options name it, and how an answer is written.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use super::error::PluginError;
use crate::local;
use crate::shell::print;

/// Longest time that a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which cluster and namespace.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Access {
    /// The namespace; that of the kubeconfig's context if absent.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// The kubeconfig's context to use.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// The kubeconfig; that of KUBECONFIG or ~/.kube/config if absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// How long a command that has reached the cluster before waits for it to come back, and how often it tries.
const AWAY: Duration = Duration::from_secs(120);
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// A cluster, and the namespace that is meant.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl Access {
    async fn connect(&self) -> Result<Cluster, PluginError> {
        let refuse = |error: Box<dyn std::error::Error + Send + Sync>| PluginError::Kubeconfig(error);
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path).map_err(|error| refuse(error.into()))?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|error| refuse(error.into()))?
            }
            None if self.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| refuse(error.into()))?
            }
            None => Config::infer().await.map_err(|error| refuse(error.into()))?,
        };
        config.connect_timeout = Some(PATIENCE);
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Cluster { client: Client::try_from(config)?, namespace })
    }

    /// Does something with the cluster.
    pub(crate) fn find<T>(&self, work: impl AsyncFnOnce(Cluster) -> Result<T, PluginError>) -> Result<T, PluginError> {
        // Fails only where a provider was installed before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| PluginError::Refused(format!("can't start: {error}")))?;
        runtime.block_on(async { work(self.connect().await?).await })
    }

    /// Does something with the job of this name; the exit code. If the cluster can't be asked for it, or doesn't have it, what a run on
    /// this machine has left of it is told.
    pub(crate) fn with_job(&self, typed: &str, work: impl AsyncFnOnce(Cluster) -> Result<u8, PluginError>) -> u8 {
        self.find(work).unwrap_or_else(|error| {
            eprintln!("{error}");
            if error.finds_no_job() {
                let name = typed.rsplit_once('/').map_or(typed, |(_, name)| name);
                eprint!("{}", local::traces(Path::new(local::STATE), name));
            }
            error.exit_code()
        })
    }

    /// Does something with the cluster; the exit code. A fault is told on the standard error.
    pub(crate) fn with(&self, work: impl AsyncFnOnce(Cluster) -> Result<u8, PluginError>) -> u8 {
        self.find(work).unwrap_or_else(|error| {
            eprintln!("{error}");
            error.exit_code()
        })
    }
}

/// Looks at a cluster that was there a moment ago: for a while it may be away, since its API server restarts or a network changes.
pub(crate) async fn patiently<T>(look: impl AsyncFn() -> Result<T, PluginError>) -> Result<T, PluginError> {
    let mut since = None;
    loop {
        match look().await {
            Err(error @ PluginError::Unreachable { .. }) => {
                if since.is_none() {
                    eprintln!("{error} Trying for {} s", AWAY.as_secs());
                }
                if since.get_or_insert_with(Instant::now).elapsed() >= AWAY {
                    return Err(error);
                }
            }
            seen => return seen,
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For people, with more columns.
    Wide,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

impl Format {
    /// Whether people read it.
    pub(crate) fn is_for_people(self) -> bool {
        matches!(self, Format::Table | Format::Wide)
    }

    /// Prints `value`, or what `people` makes for people; the exit code.
    pub(crate) fn print(self, value: &Value, people: impl FnOnce() -> String) -> u8 {
        print(&self.text(value, people))
    }

    fn text(self, value: &Value, people: impl FnOnce() -> String) -> String {
        match self {
            Format::Table | Format::Wide => people(),
            Format::Json => format!("{value:#}\n"),
            Format::Yaml => yaml(value),
        }
    }
}

/// A value as YAML.
pub(crate) fn yaml(value: &Value) -> String {
    // A value of JSON has nothing that YAML lacks.
    serde_saphyr::to_string(value).unwrap_or_else(|fault| format!("# {fault}\n"))
}
