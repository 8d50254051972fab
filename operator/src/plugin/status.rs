//! `trainyard status`: all jobs and endpoints as tables, or one of them as a tree.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use crds::status::Phase;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::access::{Access, Cluster, Format, patiently};
use super::endpoint;
use super::error::PluginError;
use super::job::Job;
use super::member::Member;
use super::paint::{Paint, span};
use super::tree::{Scene, tree};
use crate::placement::Table;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// Clears a terminal: to the upper left corner, and empty from there.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The job or endpoint, such as flowers, tj/flowers, sj/flowers or me/flowers; all of the namespace if absent.
    job: Option<String>,
    /// Those of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["job", "namespace"])]
    all_namespaces: bool,
    /// Look again every 2 seconds: draw anew on a terminal, otherwise print the lines that changed. Ends with the job.
    #[arg(short, long)]
    watch: bool,
    /// How to write it; wide shows more columns, and every condition of a job.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

/// What one look has found.
struct Seen {
    value: Value,
    text: String,
    /// The phase, if it is about one job that has ended.
    end: Option<Phase>,
}

impl Status {
    /// Prints it; the exit code: 1 if the one job that was asked for has failed.
    pub(crate) fn run(&self) -> u8 {
        self.access.with_job(self.job.as_deref().unwrap_or_default(), async |cluster| {
            if self.watch && !self.output.is_for_people() {
                return Err(PluginError::Usage("--watch is for people: leave out -o json and -o yaml".to_owned()));
            }
            if self.watch { self.watch(&cluster).await } else { self.once(&cluster).await }
        })
    }

    async fn once(&self, cluster: &Cluster) -> Result<u8, PluginError> {
        let seen = self.look(cluster, true).await?;
        let code = self.output.print(&seen.value, || seen.text);
        Ok(if seen.end == Some(Phase::Failed) { 1 } else { code })
    }

    async fn watch(&self, cluster: &Cluster) -> Result<u8, PluginError> {
        let is_terminal = io::stdout().is_terminal();
        let mut before = String::new();
        loop {
            let look = async || self.look(cluster, is_terminal).await;
            let seen = if before.is_empty() { look().await? } else { patiently(look).await? };
            let text = if is_terminal { format!("{CLEAR}{}", seen.text) } else { changed(&before, &seen.text) };
            let mut out = io::stdout();
            if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
                return Ok(0); // The reader has gone.
            }
            if let Some(phase) = seen.end {
                return Ok(u8::from(phase == Phase::Failed));
            }
            before = seen.text;
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn look(&self, cluster: &Cluster, with_ages: bool) -> Result<Seen, PluginError> {
        let (now, wide) = (with_ages.then(Timestamp::now), self.output == Format::Wide);
        let Some(typed) = &self.job else {
            let (jobs, everywhere) = (cluster.jobs(self.all_namespaces).await?, self.all_namespaces);
            let endpoints = cluster.endpoints(everywhere).await?;
            let jobs_and_endpoints = jobs.iter().map(|job| &job.value).chain(endpoints.iter().map(|one| &one.value));
            let items: Vec<&Value> = jobs_and_endpoints.collect();
            let value = json!({"apiVersion": "v1", "kind": "List", "items": items});
            let tables = [
                (!jobs.is_empty()).then(|| table(&jobs, everywhere, wide, now).to_string()),
                (!endpoints.is_empty()).then(|| endpoint::table(&endpoints, everywhere, wide, now).to_string()),
            ];
            let text = match tables.into_iter().flatten().collect::<Vec<_>>().join("\n") {
                none if none.is_empty() && everywhere => "There are no jobs and no endpoints\n".to_owned(),
                none if none.is_empty() => {
                    format!("There are no jobs and no endpoints in the namespace {}\n", cluster.namespace)
                }
                text => text,
            };
            return Ok(Seen { value, text, end: None });
        };
        if let Some(endpoint) = cluster.meant(typed).await? {
            let servers = cluster.servers(&endpoint).await?;
            let text = endpoint::tree(&endpoint, &servers, now, wide, Paint::of_stdout());
            // An endpoint has no end: what has failed may be put right.
            return Ok(Seen { value: endpoint.value, text, end: None });
        }
        let job = cluster.find(typed).await?;
        let pods = cluster.pods(&job).await?;
        let members = Member::all(&pods, &job.infrastructure.gpu.resource_name);
        let text = tree(&Scene { job: &job, members: &members, now, wide, paint: Paint::of_stdout() });
        let end = Some(job.status.phase).filter(|phase| phase.is_terminal());
        Ok(Seen { end, value: job.value, text })
    }
}

/// The lines that were not there before.
fn changed(before: &str, now: &str) -> String {
    let before: BTreeSet<&str> = before.lines().collect();
    now.lines().filter(|line| !before.contains(line)).fold(String::new(), |text, line| text + line + "\n")
}

/// Jobs, one a row.
fn table(jobs: &[Job], everywhere: bool, wide: bool, now: Option<Timestamp>) -> Table {
    let mut head = vec!["NAME", "PHASE", "PROGRESS", "ETA", "LOSS", "GPUS", "RESTARTS"];
    if now.is_some() {
        head.push("AGE");
    }
    if wide {
        head.extend(["RUNTIME", "NODE", "MESSAGE"]);
    }
    if everywhere {
        head.insert(0, "NAMESPACE");
    }
    let row = |job: &Job| {
        let (progress, placement) = (job.status.progress.as_ref(), job.status.placement.as_ref());
        let text = |value: Option<String>| value.unwrap_or_default();
        let mut row = vec![
            job.title(),
            job.phase(),
            text(progress.map(|progress| format!("{} %", progress.percent))),
            text(progress.and_then(|progress| progress.eta_seconds).map(span)),
            text(progress.and_then(|progress| progress.loss).map(|loss| format!("{loss:.4}"))),
            text(placement.map(|placement| placement.gpus.to_string())),
            job.status.restarts.to_string(),
        ];
        if let Some(now) = now {
            row.push(text(job.created.map(|created| span(now.as_second() - created.as_second()))));
        }
        if wide {
            row.push(text(placement.and_then(|placement| placement.runtime.clone())));
            row.push(text(placement.and_then(|placement| placement.node.clone())));
            row.push(job.status.message.clone());
        }
        if everywhere {
            row.insert(0, job.namespace.clone());
        }
        row
    };
    Table { head: head.into_iter().map(str::to_owned).collect(), rows: jobs.iter().map(row).collect() }
}

#[cfg(test)]
mod tests {
    use crds::{ScoringJob, TrainingJob};

    use super::*;

    fn jobs() -> Vec<Job> {
        let metadata =
            |name: &str| json!({"name": name, "namespace": "a", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let training = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": metadata("flowers"),
            "spec": {"data": {"uri": "pvc://data/flowers"}, "output": {"uri": "pvc://models/flowers"}},
            "status": {
                "phase": "Running", "restarts": 1, "message": "2 of 2 pods run",
                "progress": {"percent": 30, "loss": 0.5, "etaSeconds": 200},
                "placement": {"device": "Gpu", "gpus": 2, "runtime": "cuda-13.0", "node": "n1"},
            },
        });
        let scoring = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ScoringJob", "metadata": metadata("new"),
            "spec": {"model": {"trainingJob": "flowers"}, "data": {"uri": "pvc://data/new"}, "output": {"uri": "pvc://models/new"}},
        });
        let training: TrainingJob = serde_json::from_value(training).expect("a job");
        let scoring: ScoringJob = serde_json::from_value(scoring).expect("a job");
        vec![training.into(), scoring.into()]
    }

    #[test]
    fn all_jobs_are_a_table() {
        let now = "2026-01-01T02:05:00Z".parse().ok();
        assert_eq!(
            table(&jobs(), false, false, now).to_string(),
            "\
NAME         PHASE     PROGRESS   ETA     LOSS     GPUS   RESTARTS   AGE
tj/flowers   Running   30 %       3m20s   0.5000   2      1          2h5m
sj/new       Pending   -          -       -        -      0          2h5m
"
        );
        let wide = table(&jobs(), true, true, None).to_string();
        assert!(wide.starts_with("NAMESPACE   NAME"), "{wide}");
        assert!(wide.contains("cuda-13.0   n1     2 of 2 pods run"), "{wide}");
    }

    #[test]
    fn a_watch_without_a_terminal_prints_the_lines_that_changed() {
        assert_eq!(changed("", "a\nb\n"), "a\nb\n");
        assert_eq!(changed("a\nb\n", "a\nc\n"), "c\n");
        assert_eq!(changed("a\n", "a\n"), "");
    }
}
