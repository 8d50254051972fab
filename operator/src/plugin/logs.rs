//! `trainyard logs`: what all pods of a job or an endpoint wrote, and write, across attempts and revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use crds::status::Phase;
use futures::{AsyncBufReadExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinHandle;

use super::access::{Access, Cluster, patiently};
use super::error::PluginError;
use super::job::Kind;
use super::lines::{Line, merge};
use super::member::Member;
use super::subject::Subject;
use crate::build::pod::CONTAINER;
use crate::shell::print;

/// Time between two looks for pods.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The job or endpoint, such as flowers, tj/flowers, sj/flowers or me/flowers.
    job: String,
    /// Go on with what is written, also by later attempts, until the job has ended; the exit code says how. An endpoint's go on
    /// until they are interrupted.
    #[arg(short, long)]
    follow: bool,
    /// Only this process, from 0; of a ScoringJob, the pod of this shard.
    #[arg(long, value_name = "N")]
    rank: Option<u32>,
    /// Only this attempt, or this revision of an endpoint, from 1.
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Only what is newer than this, such as 90s, 10m or 2h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    since: Option<i64>,
    /// Only so many last lines of each pod.
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(i64).range(0..))]
    tail: Option<i64>,
    #[command(flatten)]
    access: Access,
}

/// Seconds of a span such as `90s`, `10m` or `2h30m`.
pub(crate) fn seconds(text: &str) -> Result<i64, String> {
    let refuse = || format!("{text:?} is no span of time: write 90s, 10m, 2h or 1h30m");
    let (mut sum, mut number) = (0_i64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(refuse()),
        };
        let count: i64 = std::mem::take(&mut number).parse().map_err(|_| refuse())?;
        sum = count.checked_mul(unit).and_then(|part| sum.checked_add(part)).ok_or_else(refuse)?;
    }
    match number.as_str() {
        "" if !text.is_empty() => Ok(sum),
        // Seconds, as timeout(1) takes them.
        plain if plain == text => plain.parse().map_err(|_| refuse()),
        _ => Err(refuse()),
    }
}

impl Logs {
    /// Prints them; the exit code: with --follow 1 if the job failed.
    pub(crate) fn run(&self) -> u8 {
        self.access.with_job(&self.job, async |cluster| {
            let subject = Subject::find(&cluster, &self.job).await?;
            if let (Subject::Endpoint(_), Some(_)) = (&subject, self.rank) {
                let text = format!("{}: an endpoint's pods have no ranks: leave --rank out", subject.title());
                return Err(PluginError::Usage(text));
            }
            if self.follow { self.follow(&cluster, subject).await } else { self.once(&cluster, &subject).await }
        })
    }

    /// Whether a pod was asked for.
    fn wants(&self, subject: &Subject, member: &Member) -> bool {
        let pod = match (subject, self.rank) {
            (Subject::Job(job), Some(rank)) => Some(pod_of(job.kind, rank, job.processes())),
            _ => None,
        };
        self.attempt.is_none_or(|attempt| attempt == member.attempt) && pod.is_none_or(|pod| pod == member.index)
    }

    /// Whether a line was asked for, of a pod that was.
    fn wants_line(&self, subject: &Subject, line: &Line) -> bool {
        match (subject, self.rank) {
            // Lines of an image of one's own are not marked by rank: those of its pod are all there is.
            (Subject::Job(job), Some(rank)) if job.kind == Kind::Training && job.infrastructure.image.is_none() => {
                line.is_of(rank, job.processes())
            }
            _ => true,
        }
    }

    async fn members(&self, cluster: &Cluster, subject: &Subject) -> Result<Vec<Member>, PluginError> {
        let mut members = subject.members(cluster).await?;
        members.retain(|member| self.wants(subject, member));
        Ok(members)
    }

    /// Whether nothing more will be written that was asked for.
    fn is_over(&self, subject: &Subject) -> bool {
        let newest = |newest: u32| self.attempt.is_some_and(|one| one < newest);
        match subject {
            Subject::Job(job) => job.status.phase.is_terminal() || newest(job.status.attempt),
            Subject::Endpoint(endpoint) => newest(endpoint.status.revision),
        }
    }

    async fn once(&self, cluster: &Cluster, subject: &Subject) -> Result<u8, PluginError> {
        let members = self.members(cluster, subject).await?;
        if members.is_empty() {
            eprintln!("{} has no pods that were asked for: {}", subject.title(), subject.standing());
            return Ok(0);
        }
        let mut pods = Vec::new();
        for member in &members {
            let params = self.params(None);
            match cluster.api::<Pod>().logs(&member.pod, &params).await {
                Ok(text) => {
                    let mut before = Timestamp::UNIX_EPOCH;
                    let mut lines = Vec::new();
                    for raw in text.lines() {
                        let line = Line::parse(&member.mark, raw, before);
                        before = line.at;
                        lines.push(line);
                    }
                    lines.retain(|line| self.wants_line(subject, line));
                    pods.push(lines);
                }
                Err(error) => eprintln!("[{}] no log: {}", member.mark, why_not(member, error)?),
            }
        }
        Ok(print(&merge(pods).iter().map(Line::text).collect::<String>()))
    }

    fn params(&self, after: Option<Timestamp>) -> LogParams {
        LogParams {
            container: Some(CONTAINER.to_owned()),
            timestamps: true,
            // The API takes one of the two.
            since_seconds: if after.is_some() { None } else { self.since },
            since_time: after,
            tail_lines: if after.is_some() { None } else { self.tail },
            ..LogParams::default()
        }
    }

    async fn follow(&self, cluster: &Cluster, mut subject: Subject) -> Result<u8, PluginError> {
        let (sender, mut lines) = mpsc::unbounded_channel::<Line>();
        let mut readers: BTreeMap<String, JoinHandle<Read>> = BTreeMap::new();
        let mut newest: BTreeMap<String, Timestamp> = BTreeMap::new();
        let (mut done, mut told) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let over = self.is_over(&subject);
            for member in patiently(async || self.members(cluster, &subject).await).await? {
                // What has not started has no log yet; a finished job's pods end, or are gone.
                let has_begun = member.started.is_some() || member.has_ended();
                if !has_begun || done.contains(&member.pod) || readers.contains_key(&member.pod) {
                    continue;
                }
                let params = LogParams { follow: true, ..self.params(newest.get(&member.pod).copied()) };
                let reader = read(cluster.api(), member.clone(), params, sender.clone());
                readers.insert(member.pod, tokio::spawn(reader));
            }
            // Lines are printed as they come, until it is time to look for pods again.
            let look = tokio::time::sleep(EVERY);
            tokio::pin!(look);
            loop {
                tokio::select! {
                    Some(line) = lines.recv() => if !self.pass_on(&subject, &line) { return Ok(0) },
                    () = &mut look => break,
                }
            }
            let ended: Vec<String> =
                readers.iter().filter(|(_, reader)| reader.is_finished()).map(|(pod, _)| pod.clone()).collect();
            for pod in ended {
                let Some(reader) = readers.remove(&pod) else { continue };
                // A reader neither panics nor is cancelled.
                let Ok(read) = reader.await else { continue };
                if let Some(at) = read.newest {
                    newest.insert(pod.clone(), at);
                }
                if let Some(why) = read.refused.filter(|_| told.insert(pod.clone())) {
                    eprintln!("{why}");
                }
                if read.is_all {
                    done.insert(pod);
                }
            }
            // What was read before the last look is printed before the end is told.
            while let Ok(line) = lines.try_recv() {
                if !self.pass_on(&subject, &line) {
                    return Ok(0);
                }
            }
            if over && readers.is_empty() {
                eprintln!("{}", subject.line());
                let failed = matches!(&subject, Subject::Job(job) if job.status.phase == Phase::Failed);
                return Ok(u8::from(failed));
            }
            subject = match patiently(async || subject.again(cluster).await).await? {
                Some(subject) => subject,
                None => return Err(PluginError::Refused(format!("{} was deleted", subject.title()))),
            };
        }
    }

    /// Prints a line that was asked for; whether anybody reads.
    fn pass_on(&self, subject: &Subject, line: &Line) -> bool {
        let mut out = io::stdout();
        !self.wants_line(subject, line) || out.write_all(line.text().as_bytes()).and_then(|()| out.flush()).is_ok()
    }
}

/// What came of reading a pod's log.
struct Read {
    /// Time of the last line.
    newest: Option<Timestamp>,
    /// Why there is none.
    refused: Option<String>,
    /// Whether nothing more will come.
    is_all: bool,
}

/// Reads a pod's log to its end. Lines as old as the newest one that is known are left out: the API's bound is whole seconds.
async fn read(api: Api<Pod>, member: Member, params: LogParams, to: UnboundedSender<Line>) -> Read {
    let known = params.since_time;
    let mut newest = known;
    let stream = match api.log_stream(&member.pod, &params).await {
        Ok(stream) => stream,
        Err(error) => {
            let why = why_not(&member, error).unwrap_or_else(|error| error.to_string());
            let refused = Some(format!("[{}] no log: {why}", member.mark));
            return Read { newest, refused, is_all: member.has_ended() };
        }
    };
    let mut raw = stream.lines();
    let mut is_whole = true;
    loop {
        match raw.try_next().await {
            Ok(Some(raw)) => {
                let line = Line::parse(&member.mark, &raw, newest.unwrap_or(Timestamp::UNIX_EPOCH));
                if known.is_some_and(|known| line.at <= known) {
                    continue;
                }
                newest = Some(line.at);
                // Nobody listens any more only when the command ends.
                let _ = to.send(line);
            }
            Ok(None) => break,
            Err(_) => {
                is_whole = false;
                break;
            }
        }
    }
    // A stream that ends while the pod runs was cut off; it is opened again after the last line.
    Read { newest, refused: None, is_all: is_whole && member.has_ended() }
}

/// Why a pod has no log, in words; an error that concerns the whole command stays one.
fn why_not(member: &Member, error: kube::Error) -> Result<String, PluginError> {
    match PluginError::from(error) {
        error @ (PluginError::Forbidden { .. } | PluginError::Unauthorized | PluginError::Unreachable { .. }) => {
            Err(error)
        }
        PluginError::Api(status) if status.code == 404 => Ok("the pod is gone".to_owned()),
        _ if member.started.is_none() && !member.has_ended() => {
            Ok(format!("it has not started yet ({}{})", member.state, dash(&member.why)))
        }
        PluginError::Api(status) => Ok(status.message),
        error => Ok(error.to_string()),
    }
}

fn dash(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

/// The pod in which a process of this rank runs: that of a TrainingJob's node, that of a ScoringJob's shard.
fn pod_of(kind: Kind, rank: u32, processes: u32) -> u32 {
    match kind {
        Kind::Training => rank / processes.max(1),
        Kind::Scoring => rank,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_of_time_is_typed_as_kubectl_takes_it() {
        for (text, value) in [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("45", 45)] {
            assert_eq!(seconds(text), Ok(value), "{text}");
        }
        for text in ["", "x", "10x", "5m3", "-4s", "99999999999999999999s"] {
            assert!(seconds(text).is_err_and(|why| why.contains("write 90s")), "{text}");
        }
    }

    #[test]
    fn a_rank_is_in_the_pod_of_its_node_or_shard() {
        assert_eq!([0, 7, 8, 15].map(|rank| pod_of(Kind::Training, rank, 8)), [0, 0, 1, 1]);
        assert_eq!(pod_of(Kind::Scoring, 3, 2), 3);
    }
}
