//! What the operator tells of itself: `/metrics`, `/livez` and `/readyz`. Labels are few and bounded; none is a job's or a
//! pod's name.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use crds::contract::Cause;
use crds::{ScoringJob, TrainingJob};
use jiff::Timestamp;
use kube::Resource;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

use super::context::lock;
use crate::observe::Attempt;

/// A write by what it was and what came of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Write {
    verb: &'static str,
    result: &'static str,
}

/// A look at a job of a kind, and what came of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Look {
    kind: &'static str,
    result: &'static str,
}

/// A kind of job in a phase.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Standing {
    kind: String,
    phase: String,
}

/// Why an attempt ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    kind: String,
    cause: String,
}

/// GPU time by who spent it and what came of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Spent {
    namespace: String,
    outcome: &'static str,
}

/// GPU time by who spends it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Spending {
    namespace: String,
}

/// Time of attempts by what came of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Came {
    kind: String,
    outcome: &'static str,
}

/// What comes of the seconds of attempts.
const OUTCOMES: [&str; 3] = ["completed", "kept", "lost"];
/// How long a namespace without jobs keeps its series: several times as long as Prometheus takes from one look to the next.
const RETIRED_AFTER: Duration = Duration::from_secs(900);

/// What came of the seconds of an attempt: each with its outcome.
///
/// `completed` of an attempt that was done. Of one that was interrupted, what a checkpoint saved is `kept`, and the rest is
/// `lost`: it is done again. One that ended by SIGTERM has saved all. Time without a place is no attempt's.
fn outcomes(attempt: &Attempt, saved: Option<Timestamp>) -> [(&'static str, f64); 3] {
    let [completed, retained, lost] = OUTCOMES;
    let between = |to: Timestamp| attempt.start.map_or(0, |from| (to.as_second() - from.as_second()).max(0)) as f64;
    let all = between(attempt.end);
    let preempted = Cause::Preempted.exit_code();
    let kept = match (attempt.failure.cause, attempt.failure.exit_code) {
        (Cause::Completed, _) => return [(completed, all), (retained, 0.0), (lost, 0.0)],
        (Cause::Preempted, Some(code)) if code == preempted => all,
        _ => saved.map_or(0.0, |saved| between(saved).min(all)),
    };
    [(completed, 0.0), (retained, kept), (lost, all - kept)]
}

/// The operator's own figures.
#[derive(Debug)]
pub(super) struct Telemetry {
    registry: Registry,
    writes: Family<Write, Counter>,
    write_seconds: Histogram,
    decide_seconds: Histogram,
    reconciles: Family<Look, Counter>,
    attempts: Family<Ended, Counter>,
    seconds_to_running: Histogram,
    phase_seconds: Family<Standing, Counter<f64, AtomicU64>>,
    attempt_seconds: Family<Came, Counter<f64, AtomicU64>>,
    gpu_seconds: Family<Spent, Counter<f64, AtomicU64>>,
    gpu_used_seconds: Family<Spending, Counter<f64, AtomicU64>>,
    /// When each namespace with GPU time of its own last had a job.
    spenders: Mutex<HashMap<String, Instant>>,
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        let mut registry = Registry::with_prefix("trainyard");
        let writes = Family::default();
        registry.register("writes", "Writes to the API server, by verb and result", writes.clone());
        let write_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let help = "Time that a write took, retries included";
        registry.register_with_unit("write_duration", help, Unit::Seconds, write_seconds.clone());
        let decide_seconds = Histogram::new(exponential_buckets(0.000_01, 4.0, 10));
        let help = "Time from looking at a job to knowing what to do";
        registry.register_with_unit("decide_duration", help, Unit::Seconds, decide_seconds.clone());
        let reconciles = Family::default();
        registry.register("reconciles", "Looks at a job, by kind and result", reconciles.clone());
        let attempts = Family::<Ended, Counter>::default();
        registry.register("attempts_ended", "Attempts that ended, by kind and cause", attempts.clone());
        // From 0 on: to an alert, a counter that appears with its first count has not increased.
        for kind in [TrainingJob::kind(&()), ScoringJob::kind(&())] {
            for (_, cause) in Cause::CODES {
                drop(attempts.get_or_create(&Ended { kind: kind.to_string(), cause: format!("{cause:?}") }));
            }
        }
        let seconds_to_running = Histogram::new(exponential_buckets(1.0, 2.0, 14));
        let help = "Time from the start of an attempt until all of its pods run";
        registry.register_with_unit("attempt_start", help, Unit::Seconds, seconds_to_running.clone());
        let phase_seconds = Family::default();
        let help = "Time that jobs and endpoints were in a phase, as it passes, by kind and phase";
        registry.register_with_unit("phase_time", help, Unit::Seconds, phase_seconds.clone());
        let attempt_seconds = Family::default();
        let help = "Time from the first pod's start of attempts that have ended, by kind and whether it completed a job, was kept by a checkpoint, or lost";
        registry.register_with_unit("attempt_time", help, Unit::Seconds, attempt_seconds.clone());
        let gpu_seconds = Family::default();
        let help = "The same times the GPUs of the attempt, by namespace";
        registry.register_with_unit("gpu_time", help, Unit::Seconds, gpu_seconds.clone());
        let gpu_used_seconds = Family::default();
        let help = "Time of the GPUs that pods of jobs have on their nodes, as it passes, by namespace";
        registry.register_with_unit("gpu_used", help, Unit::Seconds, gpu_used_seconds.clone());
        Telemetry {
            registry,
            writes,
            write_seconds,
            decide_seconds,
            reconciles,
            attempts,
            seconds_to_running,
            phase_seconds,
            attempt_seconds,
            gpu_seconds,
            gpu_used_seconds,
            spenders: Mutex::default(),
        }
    }
}

impl Telemetry {
    /// Counts a write.
    pub(super) fn wrote(&self, verb: &'static str, result: &'static str, took: Duration) {
        self.writes.get_or_create(&Write { verb, result }).inc();
        self.write_seconds.observe(took.as_secs_f64());
    }

    /// Counts a look at a job.
    pub(super) fn reconciled(&self, kind: &'static str, result: &'static str) {
        self.reconciles.get_or_create(&Look { kind, result }).inc();
    }

    /// Notes how long a decision took.
    pub(super) fn decided(&self, took: Duration) {
        self.decide_seconds.observe(took.as_secs_f64());
    }

    /// So many seconds have passed for one of a kind in this phase.
    pub(super) fn passed(&self, kind: &str, phase: String, seconds: f64) {
        self.phase_seconds.get_or_create(&Standing { kind: kind.to_owned(), phase }).inc_by(seconds);
    }

    /// Pods of a job had GPUs for so many seconds, times the number of GPUs.
    pub(super) fn used(&self, namespace: &str, gpu_seconds: f64) {
        if gpu_seconds > 0.0 {
            self.note_spender(namespace);
            self.gpu_used_seconds.get_or_create(&Spending { namespace: namespace.to_owned() }).inc_by(gpu_seconds);
        }
    }

    fn note_spender(&self, namespace: &str) {
        lock(&self.spenders).entry(namespace.to_owned()).or_insert_with(Instant::now);
    }

    /// Drops the GPU time of namespaces that are not among `present`, those with jobs, and have not been for so long that it was read.
    pub(super) fn retire(&self, present: &HashSet<String>, now: Instant) {
        lock(&self.spenders).retain(|namespace, last| {
            if present.contains(namespace) {
                *last = now;
            }
            let stays = now.saturating_duration_since(*last) < RETIRED_AFTER;
            if !stays {
                self.gpu_used_seconds.remove(&Spending { namespace: namespace.clone() });
                for outcome in OUTCOMES {
                    self.gpu_seconds.remove(&Spent { namespace: namespace.clone(), outcome });
                }
            }
            stays
        });
    }

    /// An attempt of a job in that namespace, with so many GPUs, has ended; `saved` is when it last told of a checkpoint.
    pub(super) fn ended(&self, kind: &str, namespace: &str, attempt: &Attempt, gpus: f64, saved: Option<Timestamp>) {
        let cause = attempt.failure.cause;
        self.attempts.get_or_create(&Ended { kind: kind.to_owned(), cause: format!("{cause:?}") }).inc();
        for (outcome, seconds) in outcomes(attempt, saved).into_iter().filter(|(_, seconds)| *seconds > 0.0) {
            self.attempt_seconds.get_or_create(&Came { kind: kind.to_owned(), outcome }).inc_by(seconds);
            if gpus > 0.0 {
                self.note_spender(namespace);
                let spent = Spent { namespace: namespace.to_owned(), outcome };
                self.gpu_seconds.get_or_create(&spent).inc_by(seconds * gpus);
            }
        }
    }

    /// All pods of an attempt run, so many seconds after it was started.
    pub(super) fn started(&self, seconds: f64) {
        self.seconds_to_running.observe(seconds);
    }

    /// All figures, as Prometheus reads them, with the kind and phase of each job and endpoint that there is.
    pub(super) fn text(&self, standing: Vec<(String, String)>) -> String {
        let jobs = Family::<Standing, Gauge>::default();
        for (kind, phase) in standing {
            jobs.get_or_create(&Standing { kind, phase }).inc();
        }
        let mut present = Registry::with_prefix("trainyard");
        present.register("jobs", "Jobs, by kind and phase", jobs);
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = encode(&mut text, [&self.registry, &present]);
        text
    }
}

fn encode(text: &mut String, registries: [&Registry; 2]) -> std::fmt::Result {
    for registry in registries {
        encode_registry(text, registry)?;
    }
    encode_eof(text)
}

/// Serves the figures, and whether the operator is alive and sees the cluster, until it is dropped.
///
/// # Errors
/// The address can't be had.
pub(super) async fn serve(
    address: SocketAddr,
    figures: impl Fn() -> String + Clone + Send + Sync + 'static,
    liveness: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
    readiness: impl Fn() -> Result<&'static str, String> + Clone + Send + Sync + 'static,
) -> io::Result<()> {
    let metrics = move || async move {
        let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        (kind, figures()).into_response()
    };
    let answer = |said: Result<&'static str, String>| match said {
        Ok(text) => (StatusCode::OK, text.to_owned()),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    };
    let livez = move || async move { answer(liveness().map(|()| "ok")) };
    let readyz = move || async move { answer(readiness()) };
    let router =
        Router::new().route("/metrics", get(metrics)).route("/livez", get(livez)).route("/readyz", get(readyz));
    let listener = listen(address, TcpListener::bind::<SocketAddr>).await?;
    axum::serve(listener, router).await
}

/// Listens at an address; where that is every one of IPv6, which takes IPv4 in as well, and the machine has no IPv6, at every one
/// of IPv4.
async fn listen<T>(address: SocketAddr, bind: impl AsyncFn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != io::ErrorKind::AddrInUse => {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())).await
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Failure;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[tokio::test]
    async fn a_machine_without_ipv6_is_listened_at_by_ipv4() {
        use io::ErrorKind::{AddrInUse, Unsupported};
        let listens = async |address: &str, refusal: io::ErrorKind| {
            let bind = async |address: SocketAddr| match address.is_ipv6() {
                true => Err(io::Error::from(refusal)),
                false => Ok(address.to_string()),
            };
            listen(address.parse().unwrap(), bind).await.map_err(|error| error.kind())
        };
        assert_eq!(listens("[::]:8080", Unsupported).await, Ok("0.0.0.0:8080".to_owned()));
        assert_eq!(listens("[::]:8080", AddrInUse).await, Err(AddrInUse));
        assert_eq!(listens("[::1]:8080", Unsupported).await, Err(Unsupported), "that one was asked for");
    }

    #[test]
    fn time_that_passes_is_counted_by_phase_and_that_of_gpus_by_namespace() {
        let telemetry = Telemetry::default();
        for seconds in [7.5, 2.5] {
            telemetry.passed("TrainingJob", "Starting".to_owned(), seconds);
            telemetry.used("a", 6.0 * seconds);
            telemetry.used("b", 0.0);
        }
        let text = telemetry.text(Vec::new());
        for figure in [
            r#"trainyard_phase_time_seconds_total{kind="TrainingJob",phase="Starting"} 10.0"#,
            r#"trainyard_gpu_used_seconds_total{namespace="a"} 60.0"#,
        ] {
            assert!(text.contains(figure), "{figure}: {text}");
        }
        assert!(!text.contains(r#"namespace="b""#), "who has no GPUs has no series: {text}");
    }

    #[test]
    fn a_namespace_keeps_its_figures_until_it_has_had_no_job_for_a_while() {
        let telemetry = Telemetry::default();
        let begin = Instant::now();
        let failure = Failure { cause: Cause::Storage, ..Failure::of_job() };
        let attempt = Attempt { number: 1, shard: None, start: Some(at(100)), end: at(160), failure };
        for namespace in ["a", "b"] {
            telemetry.used(namespace, 60.0);
            telemetry.ended("TrainingJob", namespace, &attempt, 2.0, Some(at(130)));
        }
        telemetry.ended("TrainingJob", "c", &attempt, 0.0, None);
        let series = |namespace: &str| {
            let of = format!("namespace=\"{namespace}\"");
            telemetry.text(Vec::new()).lines().filter(|line| line.contains(&of)).count()
        };
        let counts = || ["a", "b", "c"].map(series);
        let present = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let after = |times: u32| begin + RETIRED_AFTER * times;
        telemetry.retire(&present(&["a"]), begin);
        assert_eq!(counts(), [3, 3, 0], "who has no GPUs has no series");
        telemetry.retire(&present(&["a", "b"]), after(2));
        assert_eq!(counts(), [3, 3, 0], "it has jobs again");
        telemetry.retire(&present(&["a"]), after(3) - Duration::from_secs(1));
        assert_eq!(counts(), [3, 3, 0], "its last figures may not have been read yet");
        telemetry.retire(&present(&["a"]), after(3));
        assert_eq!(counts(), [3, 0, 0]);
    }

    #[test]
    fn jobs_are_counted_by_kind_and_phase_as_they_are_now() {
        let telemetry = Telemetry::default();
        let job = |phase: &str| ("TrainingJob".to_owned(), phase.to_owned());
        let figures = |text: String| {
            let lines = text.lines().filter(|line| line.starts_with("trainyard_jobs{"));
            let mut lines: Vec<String> = lines.map(str::to_owned).collect();
            lines.sort();
            assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
            lines
        };
        let running = r#"trainyard_jobs{kind="TrainingJob",phase="Running"}"#;
        let pending = r#"trainyard_jobs{kind="TrainingJob",phase="Pending"}"#;
        let first = telemetry.text(vec![job("Running"), job("Pending"), job("Running")]);
        assert_eq!(figures(first), [format!("{pending} 1"), format!("{running} 2")]);
        assert_eq!(figures(telemetry.text(vec![job("Running")])), [format!("{running} 1")]);
    }

    #[test]
    fn of_an_attempt_that_was_interrupted_what_a_checkpoint_saved_is_kept() {
        let attempt = |cause, exit_code| Attempt {
            number: 1,
            shard: None,
            start: Some(at(100)),
            end: at(160),
            failure: Failure { cause, exit_code, ..Failure::of_job() },
        };
        for (attempt, saved, expected) in [
            (attempt(Cause::Completed, Some(0)), Some(at(150)), [60.0, 0.0, 0.0]),
            (attempt(Cause::Storage, Some(162)), None, [0.0, 0.0, 60.0]),
            (attempt(Cause::Storage, Some(162)), Some(at(145)), [0.0, 45.0, 15.0]),
            (attempt(Cause::Preempted, Some(143)), None, [0.0, 60.0, 0.0]),
            // Evicted without a word.
            (attempt(Cause::Preempted, None), Some(at(130)), [0.0, 30.0, 30.0]),
            // Clocks differ.
            (attempt(Cause::NodeFault, None), Some(at(170)), [0.0, 60.0, 0.0]),
            (attempt(Cause::NodeFault, None), Some(at(90)), [0.0, 0.0, 60.0]),
            // No pod of it ever had a node.
            (Attempt { start: None, ..attempt(Cause::Preempted, None) }, None, [0.0, 0.0, 0.0]),
        ] {
            let outcomes = outcomes(&attempt, saved);
            assert_eq!(outcomes.map(|(outcome, _)| outcome), ["completed", "kept", "lost"]);
            assert_eq!(outcomes.map(|(_, seconds)| seconds), expected, "{attempt:?}, saved {saved:?}");
        }
    }
}
