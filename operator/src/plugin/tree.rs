//! One job as a tree: attempts, their pods, how far it is, why it doesn't run, what came out, what to do next.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crds::status::{AttemptRecord, ModelStatus, Placement, ProgressStatus};
use jiff::Timestamp;

use super::advice;
use super::job::{Job, Kind};
use super::member::{Health, Member};
use super::paint::{Paint, bar, span};

/// What the tree shows.
pub(crate) struct Scene<'a> {
    pub(crate) job: &'a Job,
    pub(crate) members: &'a [Member],
    /// The time by which ages are told; without it none are, so that a text changes only if something happened.
    pub(crate) now: Option<Timestamp>,
    /// Whether conditions that are as they should be are told too.
    pub(crate) wide: bool,
    pub(crate) paint: Paint,
}

/// The text, each line with its end.
pub(crate) fn tree(scene: &Scene<'_>) -> String {
    let (job, paint) = (scene.job, scene.paint);
    let status = &job.status;
    let mut text = head(scene);
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {name:<9} {value}");
        }
    };
    field("message", &status.message);
    if let Some(progress) = &status.progress {
        field("progress", &progress_line(job.kind, progress));
    }
    if let Some(rows) = &job.rows {
        field("rows", &format!("{} of {} written, {} with an error", rows.written, rows.found, rows.failed));
    }
    field("placed", &status.placement.as_ref().map(placed).unwrap_or_default());
    for diagnostic in &job.diagnostics {
        field("data", &format!("{}: {}", diagnostic.check, diagnostic.text));
    }
    field("left out", &status.excluded_nodes.join(", "));
    text += &attempts(scene);
    text += &conditions(scene);
    if let Some(result) = &job.result {
        let _ = writeln!(text, "  {:<9} {}", "result", result_line(result));
    }
    let _ = writeln!(text, "  {:<9} {}", "next", paint.strong(&advice::next(job)));
    text
}

/// Where something runs, and why there.
pub(crate) fn placed(placement: &Placement) -> String {
    let mut place = format!("{:?}", placement.device);
    if placement.gpus > 0 {
        let _ = write!(place, ", {}", count(placement.gpus, "GPU"));
    }
    if let Some(runtime) = &placement.runtime {
        let _ = write!(place, ", {runtime}");
    }
    if !placement.reason.is_empty() {
        let _ = write!(place, ": {}", placement.reason);
    }
    place
}

fn head(scene: &Scene<'_>) -> String {
    let (job, status) = (scene.job, &scene.job.status);
    let mut line = format!("{}   {}", scene.paint.strong(&job.title()), scene.paint.phase(&job.phase()));
    if status.attempt > 0 {
        let _ = write!(line, "   attempt {}, {}", status.attempt, count(status.restarts, "restart"));
    }
    if let (Some(now), Some(created)) = (scene.now, job.created) {
        let _ = write!(line, "   {} old", span(now.as_second() - created.as_second()));
    }
    line + "\n"
}

fn progress_line(kind: Kind, progress: &ProgressStatus) -> String {
    let mut line = format!("{} {:>3} %", bar(progress.percent), progress.percent);
    let unit = if kind == Kind::Training { "step" } else { "row" };
    let _ = write!(line, "   {unit} {} of {}", progress.step, progress.total_steps);
    if kind == Kind::Training && progress.epoch > 0 {
        let _ = write!(line, ", epoch {}", progress.epoch);
    }
    if let Some(loss) = progress.loss {
        let _ = write!(line, ", loss {loss:.4}");
    }
    if let Some(metric) = progress.metric {
        let _ = write!(line, ", validation {metric:.4}");
    }
    if progress.images_per_second > 0.0 {
        let _ = write!(line, ", {:.0} images/s", progress.images_per_second);
    }
    if let Some(eta) = progress.eta_seconds {
        let _ = write!(line, ", {} left", span(eta));
    }
    line
}

pub(crate) fn result_line(result: &ModelStatus) -> String {
    match (&result.metric_name, result.metric) {
        (name, Some(metric)) => format!("{}   {} {metric:.4}", result.uri, name.as_deref().unwrap_or("metric")),
        _ => result.uri.clone(),
    }
}

/// The attempts with their pods, the newest one last.
fn attempts(scene: &Scene<'_>) -> String {
    let mut attempts: BTreeMap<u32, (Option<&AttemptRecord>, Vec<&Member>)> = BTreeMap::new();
    let (shards, whole): (Vec<_>, Vec<_>) = scene.job.status.attempts.iter().partition(|record| record.shard.is_some());
    for record in &shards {
        attempts.entry(record.number).or_default();
    }
    for record in whole {
        attempts.entry(record.number).or_default().0 = Some(record);
    }
    for member in scene.members {
        attempts.entry(member.attempt).or_default().1.push(member);
    }
    let last = attempts.keys().next_back().copied();
    let mut text = String::new();
    for (number, (record, members)) in attempts {
        let (branch, stem) = if Some(number) == last { ("└─", "   ") } else { ("├─", "│  ") };
        let _ = writeln!(text, "{branch} attempt {number}   {}", attempt(scene, number, record, &members));
        if let Some(record) = record.filter(|record| !record.message.is_empty()) {
            let _ = writeln!(text, "{stem}   {}", record.message);
        }
        for record in shards.iter().filter(|record| record.number == number) {
            let shard = record.shard.unwrap_or_default();
            let _ = writeln!(text, "{stem}   shard {shard}: {}", ended(scene, record));
            if !record.message.is_empty() {
                let _ = writeln!(text, "{stem}      {}", record.message);
            }
        }
        let width = members.iter().map(|member| member.pod.len()).max().unwrap_or(0);
        for (index, member) in members.iter().enumerate() {
            let branch = if index + 1 == members.len() { "└─" } else { "├─" };
            let _ = writeln!(text, "{stem}{branch} {:width$}   {}", member.pod, pod(scene, member));
        }
    }
    text
}

fn attempt(scene: &Scene<'_>, number: u32, record: Option<&AttemptRecord>, members: &[&Member]) -> String {
    let Some(record) = record else {
        return match members.iter().all(|member| member.has_ended()) && !members.is_empty() {
            true => "ended".to_owned(),
            false if number == scene.job.status.attempt => "under way".to_owned(),
            false if members.is_empty() => "ended".to_owned(),
            false => "pods are left of it".to_owned(),
        };
    };
    ended(scene, record)
}

/// How an attempt ended.
fn ended(scene: &Scene<'_>, record: &AttemptRecord) -> String {
    let paint = scene.paint;
    let mut line = match record.exit_code {
        Some(code) => format!("{:?} ({code})", record.cause),
        None => format!("{:?}", record.cause),
    };
    line = if record.exit_code == Some(0) { paint.good(&line) } else { paint.bad(&line) };
    if let Some(node) = &record.node {
        let _ = write!(line, " on {node}");
    }
    if let Some(rank) = record.rank {
        let _ = write!(line, ", rank {rank}");
    }
    if let Some(step) = record.step {
        let _ = write!(line, ", at step {step}");
    }
    if let (Some(start), Some(end)) = (&record.start, &record.end) {
        let _ = write!(line, ", after {}", span(end.0.as_second() - start.0.as_second()));
    }
    line
}

fn pod(scene: &Scene<'_>, member: &Member) -> String {
    let paint = scene.paint;
    let state = match member.health {
        Health::Running | Health::Done => paint.good(&member.state),
        Health::Waiting => paint.odd(&member.state),
        Health::Failed => paint.bad(&member.state),
    };
    let mut line = format!("{state}   {}", member.node.as_deref().unwrap_or("no node yet"));
    if let (Some(now), Some(started), Health::Running) = (scene.now, member.started, member.health) {
        let _ = write!(line, "   for {}", span(now.as_second() - started.as_second()));
    }
    if !member.why.is_empty() {
        let _ = write!(line, "   {}", member.why);
    }
    line
}

/// Conditions: those that speak against the job, and the others where all are asked for.
fn conditions(scene: &Scene<'_>) -> String {
    use crds::reasons::condition::{COMPLETE, RUNNING, SCHEDULABLE, VALID};
    let mut text = String::new();
    for one in &scene.job.status.conditions {
        let should_hold = [VALID, SCHEDULABLE, RUNNING, COMPLETE].contains(&one.type_.as_str());
        let speaks_against = match one.status.as_str() {
            "True" => !should_hold,
            // What doesn't run or isn't complete yet is said by the phase.
            _ => one.type_ == VALID || one.type_ == SCHEDULABLE,
        };
        if !scene.wide && !speaks_against {
            continue;
        }
        let told = one.message == scene.job.status.message || one.message.is_empty();
        let message = if told { String::new() } else { format!(": {}", one.message) };
        let line = format!("{} {}, {}{message}", one.type_, one.status, one.reason);
        let line = if speaks_against { scene.paint.odd(&line) } else { line };
        let _ = writeln!(text, "  {:<9} {line}", "condition");
    }
    text
}

/// A number and what it counts.
pub(crate) fn count(number: u32, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
pub(crate) mod tests {
    use crds::TrainingJob;
    use serde_json::{Value, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "tests write the status in place")]
    pub(crate) fn job(status: Value) -> Job {
        let job = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": "flowers", "namespace": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"data": {"uri": "pvc://data/flowers"}, "output": {"uri": "pvc://models/flowers"}},
            "status": status,
        });
        serde_json::from_value::<TrainingJob>(job).expect("a job").into()
    }

    fn shown(status: Value, members: &[Member]) -> String {
        let now = "2026-01-01T00:12:00Z".parse().ok();
        tree(&Scene { job: &job(status), members, now, wide: false, paint: Paint::PLAIN })
    }

    fn member(attempt: u32, index: u32, state: &str, health: Health) -> Member {
        let node = (health != Health::Waiting).then(|| format!("node-{index}"));
        let pod = format!("flowers-t{attempt}-{index}");
        Member { pod, attempt, index, node, state: state.to_owned(), health, ..Member::default() }
    }

    #[test]
    fn a_job_that_restarted_shows_why_and_what_waits() {
        let attempt = json!({
            "number": 1, "cause": "NodeFault", "exitCode": 160, "node": "node-1", "rank": 3, "step": 40,
            "start": "2026-01-01T00:01:00Z", "end": "2026-01-01T00:04:20Z", "message": "Xid 79: the GPU is gone.",
        });
        let status = json!({
            "phase": "Starting", "message": "1 of 2 pods run", "attempt": 2, "restarts": 1, "attempts": [attempt],
            "excludedNodes": ["node-1"],
            "diagnostics": [{"check": "classes", "text": "3 have fewer than 10 images"}],
            "progress": {"epoch": 2, "step": 120, "totalSteps": 400, "percent": 30, "loss": 0.5, "imagesPerSecond": 310.4, "etaSeconds": 200},
            "placement": {"device": "Gpu", "gpus": 16, "runtime": "cuda-13.0", "reason": "3 nodes fit"},
        });
        let mut waits = member(2, 1, "Pending", Health::Waiting);
        waits.why = "0/3 nodes are available".to_owned();
        let members =
            [member(1, 1, "NodeFault (160)", Health::Failed), member(2, 0, "Running", Health::Running), waits];
        assert_eq!(
            shown(status, &members),
            "\
tj/flowers   Starting   attempt 2, 1 restart   12m0s old
  message   1 of 2 pods run
  progress  [######..............]  30 %   step 120 of 400, epoch 2, loss 0.5000, 310 images/s, 3m20s left
  placed    Gpu, 16 GPUs, cuda-13.0: 3 nodes fit
  data      classes: 3 have fewer than 10 images
  left out  node-1
├─ attempt 1   NodeFault (160) on node-1, rank 3, at step 40, after 3m20s
│     Xid 79: the GPU is gone.
│  └─ flowers-t1-1   NodeFault (160)   node-1
└─ attempt 2   under way
   ├─ flowers-t2-0   Running   node-0
   └─ flowers-t2-1   Pending   no node yet   0/3 nodes are available
  next      trainyard events tj/flowers, and trainyard why tj/flowers if it lasts
"
        );
    }

    #[test]
    fn what_to_do_next_follows_from_how_it_ended() {
        let condition = |type_: &str, reason: &str| json!([{"type": type_, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let unplaced = json!([{"type": "Schedulable", "status": "False", "reason": "NoFittingNode", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let ended = |cause: &str| json!([{"number": 1, "cause": cause}]);
        let conditions = [condition("Failed", "DeadlineExceeded"), unplaced, json!([])];
        let [late, unplaced, none] = conditions;
        for (phase, conditions, attempts, text) in [
            ("Succeeded", &none, json!([]), "trainyard report tj/flowers; train on from it: trainyard retrain flowers"),
            ("Suspended", &none, json!([]), "trainyard resume tj/flowers"),
            ("Pending", &unplaced, json!([]), "trainyard why tj/flowers says what each node lacks"),
            (
                "Failed",
                &late,
                ended("PeerLost"),
                "raise runPolicy.activeDeadlineSeconds, delete the job and apply it anew: it goes on from its newest checkpoint",
            ),
            ("Failed", &none, ended("GpuMemory"), "lower batchSize or imageSize"),
            (
                "Failed",
                &none,
                ended("Storage"),
                "see to the storage or its credentials, delete the job and apply it anew: it goes on from its newest checkpoint; \
                 trainyard logs tj/flowers --attempt 1",
            ),
            (
                "Failed",
                &none,
                json!([{"number": 1, "cause": "Storage", "message": "ImagePullBackOff: no such tag"}]),
                "check the image's name",
            ),
            ("Failed", &none, json!([]), "trainyard validate"),
            (
                "Restarting",
                &none,
                ended("Storage"),
                "nothing: it restarts by itself. What went before: trainyard logs tj/flowers --attempt 1",
            ),
        ] {
            let status = json!({"phase": phase, "attempt": 1, "conditions": conditions, "attempts": attempts});
            let next = advice::next(&job(status));
            assert!(next.starts_with(text), "{phase}: {next}");
        }
    }

    #[test]
    fn without_a_clock_the_text_changes_only_when_something_happens() {
        let job = job(json!({"phase": "Pending"}));
        let text = tree(&Scene { job: &job, members: &[], now: None, wide: false, paint: Paint::PLAIN });
        assert!(text.starts_with("tj/flowers   Pending\n"), "{text}");
    }
}
