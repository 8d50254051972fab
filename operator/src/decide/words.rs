//! What people are told of an attempt: clauses for messages and events.

use crds::contract::JobResult;
use crds::reasons::reason;

use super::Draft;
use crate::observe::pod::PREPARING_SECONDS;
use crate::observe::{Failure, Member, Stage};

/// Names in a sentence; of more than this many the others are counted.
const NAMES: usize = 5;

/// What became of an attempt, in a clause.
pub(super) fn what_happened(attempt: u32, shard: Option<u32>, failure: &Failure) -> String {
    let (of, cause, place) = (of_shard(shard), failure.cause, place(failure));
    match failure.message.as_str() {
        "" => format!("Attempt {attempt}{of} ended by {cause:?}{place}"),
        message => format!("Attempt {attempt}{of} ended by {cause:?}{place}: {}", message.trim_end_matches('.')),
    }
}

/// ` of shard 7`, where there are several.
pub(super) fn of_shard(shard: Option<u32>) -> String {
    shard.map(|shard| format!(" of shard {shard}")).unwrap_or_default()
}

/// Where and when a failure was, in brackets after a space, as far as it is known and its message doesn't say it.
pub(super) fn place(failure: &Failure) -> String {
    let step = failure.step.map(|step| format!("step {step}")).filter(|step| !failure.message.contains(step.as_str()));
    let known = [
        failure.node.as_ref().map(|node| format!("node {node}")),
        failure.rank.map(|rank| format!("rank {rank}")),
        step,
    ];
    match known.into_iter().flatten().collect::<Vec<_>>().join(", ").as_str() {
        "" => String::new(),
        known => format!(" ({known})"),
    }
}

/// What went wrong, and what to do about it.
pub(super) fn with_hint(failure: &Failure) -> String {
    match (failure.message.trim_end_matches('.'), failure.hint.as_str()) {
        (_, "") => failure.message.clone(),
        ("", hint) => hint.to_owned(),
        (message, hint) => format!("{message}. {hint}"),
    }
}

/// Names as a sentence has them: `a, b and 3 more`.
pub(super) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(NAMES);
    names.truncate(NAMES);
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}

impl Draft<'_> {
    /// What a job that is done has come to: its figure, where its model or rows are, and what else a person should know.
    pub(super) fn done(&self) -> String {
        let Some(result) = &self.ledger.result else { return "Done".to_owned() };
        let figure = match result {
            JobResult { metric_name: Some(name), metric: Some(metric), .. } => format!(": {name} {metric:.4}"),
            _ => String::new(),
        };
        let job = &self.world.job;
        let what = if job.kind == "TrainingJob" { "the model is" } else { "the rows are" };
        let note = result.note.as_deref().map(|note| format!(". {note}")).unwrap_or_default();
        format!("Done{figure}; {what} in {}{note}", job.output)
    }

    /// Why a member does not run yet. What keeps a node from getting a pod ready stands in the pod's own events alone, which
    /// the operator does not read.
    pub(super) fn why_it_waits(&self, member: &Member) -> String {
        if !member.preparing {
            return member.waiting.clone();
        }
        let (pod, namespace) = (crate::build::names::pod(&self.world.job, member.id), &self.world.job.namespace);
        let (node, why) = (member.node.as_deref().unwrap_or("its node"), &member.waiting);
        let minutes = PREPARING_SECONDS / 60;
        format!(
            "node {node} has been preparing pod {pod} for more than {minutes} min: {why}; `kubectl describe pod {pod} -n {namespace}` says more"
        )
    }

    /// Tells once for each attempt that a member of it does not start, and why.
    pub(super) fn tell_waiting(&mut self) {
        let attempt = self.ledger.attempt;
        if self.ledger.waits_told >= attempt || self.world.job.suspend || self.ledger.phase.is_terminal() {
            return;
        }
        let starts = |index: u32, attempt: u32| {
            let gang = self.ledger.gangs.get(&self.world.job.gang_of(index));
            gang.is_some_and(|gang| gang.attempt == attempt && gang.stage == Stage::Starting)
        };
        let members = self.world.members.iter();
        let mut waiting =
            members.filter(|member| !member.waiting.is_empty() && starts(member.id.index, member.id.attempt));
        let Some(member) = waiting.next() else { return };
        // What a queue holds back is as it should be.
        let (why, warning) = (self.why_it_waits(member), !member.is_gated());
        self.ledger.waits_told = attempt;
        self.tell(warning, reason::POD_NOT_STARTING, format!("Attempt {attempt} does not start yet: {why}"));
    }
}
