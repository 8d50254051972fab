//! What the server is told, in two stages: what was typed or assigned, and what it means.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use crds::ModelEndpointSpec;
use crds::contract::{self, Assignment, Cause, env};
use crds::infrastructure::Device;
use crds::model_endpoint::{Batching, RequestLimits};
use crds::training::Precision;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::fault::Fault;
use crate::storage::path_of;
use crate::work;

/// The command line of `trainer serve`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Models to serve: folders or URIs, each with a name before it where the last part of its path is not to be its name.
    /// Without any, the assignment of the environment says what to serve and how
    #[arg(value_name = "[NAME=]MODEL")]
    models: Vec<String>,
    /// Port of REST, of the page for people, and of /metrics; 0: any free one
    #[arg(long, default_value_t = contract::SERVE_PORT)]
    port: u16,
    /// Port of gRPC; 0: any free one
    #[arg(long, default_value_t = contract::SERVE_GRPC_PORT)]
    grpc_port: u16,
    /// Address to listen at; all of this machine if it is not given
    #[arg(long)]
    address: Option<IpAddr>,
    /// What computes: Auto, Gpu or Cpu
    #[arg(long, default_value = "Auto", value_parser = named::<Device>)]
    device: Device,
    /// Number format of convolutions and matrix products: Float32, BFloat16 or Float16
    #[arg(long, default_value = "Float32", value_parser = named::<Precision>)]
    precision: Precision,
    /// Most images that go through the network at a time
    #[arg(long, default_value_t = Batching::default().max_batch_size, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_batch_size: u32,
    /// Milliseconds that the first image of a batch waits for others at most
    #[arg(long, default_value_t = Batching::default().max_delay_milliseconds, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    max_delay_milliseconds: u32,
    /// Images of a model that may wait; what comes beyond is refused with 429
    #[arg(long, default_value_t = Batching::default().max_queue, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_queue: u32,
    /// Largest body of a request, in bytes; larger ones are refused with 413
    #[arg(long, default_value_t = RequestLimits::default().max_request_bytes, value_parser = clap::value_parser!(u32).range(1024..=1_073_741_824))]
    max_request_bytes: u32,
    /// Largest image, in pixels; larger ones are refused with 413
    #[arg(long, default_value_t = RequestLimits::default().max_pixels, value_parser = clap::value_parser!(u32).range(1024..=1_000_000_000))]
    max_pixels: u32,
    /// Seconds that a request may take; longer ones are ended with 504
    #[arg(long, default_value_t = RequestLimits::default().timeout_seconds, value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout_seconds: u32,
    /// Seconds within which a client sends the head of a request, for which the body may pause, and for which the client may
    /// take nothing of the answer; it is cut off otherwise
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    header_timeout_seconds: u32,
    /// Connections at a time, for each protocol; beyond them, one that is silent makes room for a new one
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// File with the token that requests must bear; it is read again when it changes
    #[arg(long, env = env::TOKEN_FILE)]
    token_file: Option<PathBuf>,
    /// Answer /explain with heat maps
    #[arg(long)]
    explain: bool,
    /// Look for a new version of each model every so many seconds; 0: never
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    watch_seconds: u32,
    /// Seconds for which requests are still taken in after SIGTERM; 5 in a pod and 0 elsewhere if it is not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=3600))]
    drain_seconds: Option<u32>,
}

/// A value of the API by its name there.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

/// A model to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its name in requests.
    pub(super) name: String,
    /// Its folder.
    pub(super) folder: PathBuf,
    /// Digest that it must have, if no other will do.
    pub(super) digest: Option<String>,
}

/// What it means.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) models: Vec<Source>,
    /// Number of the endpoint's revision; 0 by hand.
    pub(super) revision: u32,
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) grpc_port: u16,
    pub(super) device: Device,
    pub(super) precision: Precision,
    pub(super) batching: Batching,
    pub(super) limits: RequestLimits,
    pub(super) header_timeout: Duration,
    pub(super) max_connections: usize,
    pub(super) token_file: Option<PathBuf>,
    pub(super) explain: bool,
    /// How often to look for new versions of the models.
    pub(super) watch: Option<Duration>,
    /// How long requests are taken in after the request to stop.
    pub(super) drain: Duration,
    /// How long the whole stop may take.
    pub(super) stop_within: Duration,
}

impl Settings {
    /// Reads the command line and, where it names no model, the assignment of the environment.
    ///
    /// # Errors
    /// [`Cause::BadSpec`]: no model, or one of the settings is none.
    pub(super) fn new(options: &Options, lookup: impl Fn(&str) -> Option<String>) -> Result<Settings, Fault> {
        let stop_within = match lookup(env::STOP_SECONDS) {
            None => contract::STOP_SECONDS,
            Some(text) => text.trim().parse().map_err(|_| {
                Fault::new(Cause::BadSpec, format!("{} is {text:?}, not a number of seconds", env::STOP_SECONDS))
            })?,
        };
        let seconds = |count: u32| Duration::from_secs(count.into());
        let settings = Settings {
            models: Vec::new(),
            revision: 0,
            address: options.address,
            port: options.port,
            grpc_port: options.grpc_port,
            device: options.device,
            precision: options.precision,
            batching: Batching {
                max_batch_size: options.max_batch_size,
                max_delay_milliseconds: options.max_delay_milliseconds,
                max_queue: options.max_queue,
            },
            limits: RequestLimits {
                max_request_bytes: options.max_request_bytes,
                max_pixels: options.max_pixels,
                timeout_seconds: options.timeout_seconds,
            },
            header_timeout: seconds(options.header_timeout_seconds),
            max_connections: options.max_connections as usize,
            token_file: options.token_file.clone(),
            explain: options.explain,
            watch: (options.watch_seconds > 0).then(|| seconds(options.watch_seconds)),
            drain: seconds(options.drain_seconds.unwrap_or(0)),
            stop_within: Duration::from_secs(stop_within),
        };
        if options.models.is_empty() {
            let text = lookup(env::ASSIGNMENT).ok_or_else(|| {
                Fault::new(Cause::BadSpec, "there is no model to serve")
                    .hint("name a model folder: trainer serve DIR, or trainer serve NAME=URI")
            })?;
            let drain = seconds(options.drain_seconds.unwrap_or(contract::SERVE_DRAIN_SECONDS));
            return Settings { drain, ..settings }.assigned(work::parse(&text)?, lookup(env::MODEL_DIGEST));
        }
        let models = options.models.iter().map(|text| source(text)).collect::<Result<Vec<_>, _>>()?;
        let mut names = BTreeSet::new();
        match models.iter().find(|model| !names.insert(&model.name)) {
            Some(twice) => Err(Fault::new(Cause::BadSpec, format!("two models are called {}", twice.name))
                .hint("give them names: trainer serve FIRST=URI SECOND=URI")),
            None => Ok(Settings { models, ..settings }),
        }
    }

    /// As an endpoint's spec says, with the digest of its revision's model where that is known.
    fn assigned(self, job: Assignment<ModelEndpointSpec>, digest: Option<String>) -> Result<Settings, Fault> {
        const KIND: &str = "ModelEndpoint";
        if job.kind != KIND {
            let text = format!("the assignment is a {}, and only a {KIND} is served", job.kind);
            return Err(Fault::new(Cause::BadSpec, text));
        }
        let spec = job.spec;
        work::check(spec.meaning())?;
        let uri = spec.model.uri.as_deref().ok_or_else(|| {
            Fault::new(Cause::Bug, "the assignment names a model by its job: the operator resolves it to a URI")
        })?;
        Ok(Settings {
            models: vec![Source { name: job.name, folder: path_of(uri)?, digest }],
            revision: job.attempt,
            device: spec.infrastructure.device,
            precision: spec.precision,
            batching: spec.batching,
            limits: spec.limits,
            explain: spec.explain,
            ..self
        })
    }
}

/// A model by what was typed: a folder of this machine or a URI, perhaps with a name before it.
fn source(text: &str) -> Result<Source, Fault> {
    let bad = |what: String| Fault::new(Cause::BadSpec, what);
    let (name, place) = match text.split_once('=') {
        // An equals sign may also stand in a path.
        Some((name, place)) if is_name(name) => (Some(name.to_owned()), place),
        _ => (None, text),
    };
    let folder = if place.contains("://") {
        path_of(place)?
    } else {
        std::path::absolute(place).map_err(|error| Fault::io(format_args!("find {place}"), error))?
    };
    let last = folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let name = name.or(last).filter(|name| is_name(name)).ok_or_else(|| {
        bad(format!("{}: its last part is no name for a model", Path::new(place).display()))
            .hint("give a name of letters, digits, points, underscores and hyphens before it: NAME=URI")
    })?;
    Ok(Source { name, folder, digest: None })
}

/// Whether a text can stand in an address as it is.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(plain) && text != "." && text != ".."
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// What a command line and variables mean.
    pub(in crate::serve) fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Settings, Fault> {
        let line = Line::parse_from(std::iter::once(&"serve").chain(arguments));
        let lookup =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        Settings::new(&line.options, lookup)
    }

    fn models(settings: &Settings) -> Vec<(&str, &str)> {
        settings.models.iter().map(|model| (model.name.as_str(), model.folder.to_str().unwrap())).collect()
    }

    #[test]
    fn models_are_named_by_the_last_part_of_their_path_or_as_told() {
        let settings = read(&["/models/digits", "other=file:///models/digits", "a=s3://bucket/x=y/"], &[]).unwrap();
        let expected = [("digits", "/models/digits"), ("other", "/models/digits"), ("a", "s3://bucket/x=y")];
        assert_eq!(models(&settings), expected);
        for (arguments, message) in [
            (vec!["/a/x", "/b/x"], "two models are called x"),
            (vec!["/a/b c"], "/a/b c: its last part is no name for a model"),
            (vec![], "there is no model to serve"),
        ] {
            let fault = read(&arguments, &[]).unwrap_err();
            assert_eq!((fault.cause(), fault.to_string().as_str()), (Cause::BadSpec, message));
        }
    }

    #[test]
    fn an_assignment_says_what_to_serve_and_how() {
        let assignment = |kind: &str| {
            serde_json::json!({
                "contractVersion": 1, "kind": kind, "name": "digits", "namespace": "a", "uid": "u", "attempt": 3,
                "member": 0, "members": 1,
                "spec": {
                    "model": {"uri": "file:///models/digits"}, "explain": true, "precision": "BFloat16",
                    "batching": {"maxBatchSize": 4, "maxDelayMilliseconds": 7, "maxQueue": 9},
                    "limits": {"timeoutSeconds": 11}, "infrastructure": {"device": "Cpu"},
                },
            })
            .to_string()
        };
        let (good, bad) = (assignment("ModelEndpoint"), assignment("ScoringJob"));
        let pinned = [(env::ASSIGNMENT, good.as_str()), (env::MODEL_DIGEST, "sha256:ab")];
        assert_eq!(read(&[], &pinned).unwrap().models[0].digest.as_deref(), Some("sha256:ab"));
        let settings = read(&[], &[(env::ASSIGNMENT, &good), (env::STOP_SECONDS, "50")]).unwrap();
        assert_eq!(settings.models[0].digest, None);
        assert_eq!(models(&settings), [("digits", "/models/digits")]);
        let batching = Batching { max_batch_size: 4, max_delay_milliseconds: 7, max_queue: 9 };
        let limits = RequestLimits { timeout_seconds: 11, ..RequestLimits::default() };
        assert_eq!((settings.batching, settings.limits), (batching, limits));
        assert_eq!((settings.device, settings.precision), (Device::Cpu, Precision::BFloat16));
        assert_eq!((settings.revision, settings.explain, settings.port), (3, true, contract::SERVE_PORT));
        assert_eq!((settings.drain.as_secs(), settings.stop_within.as_secs()), (5, 50));
        let fault = read(&[], &[(env::ASSIGNMENT, &bad)]).unwrap_err();
        assert_eq!(fault.to_string(), "the assignment is a ScoringJob, and only a ModelEndpoint is served");
    }
}
