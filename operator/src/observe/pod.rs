//! A member out of its pod: how it fares, and how its end is to be understood.
//!
//! The exit code decides. Where there is none (the kubelet refused the pod, evicted it, lost it), the platform's reason
//! does, by the table below.

#[cfg(test)]
mod tests;
mod unstarted;

use crds::contract::{Cause, TerminationMessage, annotations};
use crds::xid::Xid;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::unstarted::NEVER_RAN;
use super::xid::blame;
use super::{End, Job, Member, MemberId, MemberState};
use crate::build::fingerprint;
use crate::build::pod::{CONTAINER, member_of};

/// What a pod's `status.reason` says of its end when no exit code does. A reason that is not here is worth a retry.
#[rustfmt::skip]
const REASONS: [(&str, Cause, &str); 11] = [
    ("Evicted",                  Cause::OtherRetryable, "the node ran short of a resource and evicted it"),
    ("DeadlineExceeded",         Cause::OtherPermanent, "its pod's own activeDeadlineSeconds passed"),
    ("UnexpectedAdmissionError", Cause::NodeFault,      "the node refused it: a device was no longer free"),
    ("OutOfcpu",                 Cause::OtherRetryable, "the node refused it: no CPU was left"),
    ("OutOfmemory",              Cause::OtherRetryable, "the node refused it: no memory was left"),
    ("OutOfpods",                Cause::OtherRetryable, "the node refused it: it has as many pods as it may"),
    ("NodeAffinity",             Cause::OtherRetryable, "the node refused it: its labels have changed"),
    ("Preempting",               Cause::Preempted,      "a pod of a higher priority took its place"),
    ("Terminated",               Cause::Preempted,      "its node was shut down"),
    ("NodeShutdown",             Cause::Preempted,      "its node was shut down"),
    ("NodeLost",                 Cause::NodeFault,      "its node was lost"),
];

/// Seconds that a container may take to start where waiting may mend what keeps it from it; then its pod counts as failed.
const STUCK_SECONDS: i64 = 300;
/// Seconds that a node may take to get a pod ready before that is told of.
pub const PREPARING_SECONDS: i64 = 180;
/// What is said of a process that ended as if it had been asked to.
const UNASKED: &str = "it ended as by SIGTERM, and nobody had asked for its pod to stop";
/// Seconds beyond its grace period after which a pod that is being deleted and still there counts as lost with its node.
const LOST_SECONDS: i64 = 30;

/// What a decision needs to know of a pod's node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeState {
    /// Whether it can't be reached.
    pub is_lost: bool,
    /// Whether there is no such node any more.
    pub is_gone: bool,
    /// What it reports of its GPUs.
    pub xid: Option<Xid>,
}

/// What a decision needs to know of a pod.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// Which member it is.
    pub id: MemberId,
    /// Its UID.
    pub uid: String,
    /// Its resource version. Those of pods grow, whichever pod has changed.
    pub version: u128,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// Its address, once it has one.
    pub address: Option<String>,
    /// Whether it was removed since.
    pub is_gone: bool,
    /// End of the grace period, and its length in seconds, if it is being deleted.
    deletion: Option<(Timestamp, i64)>,
    stage: Stage,
    /// When its node took it.
    started: Option<Timestamp>,
    /// Fingerprint of the spec that it was made for.
    spec: Option<u64>,
    /// Fingerprint of the place that it was made for.
    place: Option<u64>,
    /// What is not routine about it.
    news: Option<Box<News>>,
}

/// Where a pod stands, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// What a pod's status tells beyond its stage. Of ten thousand pods that run, none has any.
#[derive(Clone, Debug, Default, PartialEq)]
struct News {
    reason: Option<String>,
    message: Option<String>,
    /// Why the scheduler finds no node for it.
    unplaced: Option<String>,
    /// Whether its node has not made its volumes and its network ready.
    is_unprepared: bool,
    /// Why the cluster takes its place away.
    disrupted: Option<String>,
    /// Reason and message of what its container waits for.
    waits: Option<(String, String)>,
    /// How its container ended.
    terminated: Option<ContainerStateTerminated>,
    /// Whether a container beside it runs on after that.
    is_outlived: bool,
}

/// End and length in seconds of the grace period of what is being deleted.
fn deletion(metadata: &ObjectMeta) -> Option<(Timestamp, i64)> {
    let end = metadata.deletion_timestamp.as_ref()?;
    Some((end.0, metadata.deletion_grace_period_seconds.unwrap_or(0)))
}

impl PodFacts {
    /// Takes in the answer to the request to delete this pod. One that tells of no deletion, or of an older version, changes nothing.
    pub fn learn_deletion(&mut self, answer: &ObjectMeta) {
        let version = answer.resource_version.as_ref().and_then(|version| version.parse().ok());
        if let (Some(version), Some(deletion)) = (version, deletion(answer))
            && version > self.version
            && answer.uid.as_ref() == Some(&self.uid)
        {
            (self.version, self.deletion) = (version, Some(deletion));
        }
    }

    /// The facts of a pod; `None` if its labels don't say which member it is.
    pub fn of(pod: &Pod) -> Option<PodFacts> {
        let status = pod.status.as_ref();
        let stage = match status.and_then(|status| status.phase.as_deref()) {
            Some("Running") => Stage::Running,
            Some("Succeeded") => Stage::Succeeded,
            Some("Failed") => Stage::Failed,
            _ => Stage::Pending,
        };
        let noted = |note: &str| fingerprint::parse(pod.metadata.annotations.as_ref()?.get(note)?);
        Some(PodFacts {
            id: member_of(pod.metadata.labels.as_ref()?)?,
            uid: pod.metadata.uid.clone()?,
            version: pod.metadata.resource_version.as_ref()?.parse().ok()?,
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            address: status.and_then(|status| status.pod_ip.clone()),
            is_gone: false,
            deletion: deletion(&pod.metadata),
            stage,
            started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            spec: noted(annotations::SPEC),
            place: noted(annotations::PLACE),
            news: status.map(News::of).filter(|news| *news != News::default()).map(Box::new),
        })
    }

    /// Whether it was made for another spec than the job has.
    pub fn is_outdated(&self, job: &Job) -> bool {
        self.spec.is_some_and(|spec| spec != job.spec)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.end(Timestamp::UNIX_EPOCH).is_some()
    }

    /// The member that it is, on a node that is known by this.
    pub fn member(&self, node: NodeState, now: Timestamp) -> Member {
        // The timestamp of a deletion is the end of the grace period.
        let overdue = self.deletion.is_some_and(|(end, _)| now.as_second() > end.as_second() + LOST_SECONDS);
        let (state, mut waiting) = match self.end(now) {
            Some(end) => (MemberState::Ended(blame(end, node.xid)), String::new()),
            None if node.is_gone => (MemberState::Gone, String::new()),
            None if node.is_lost || overdue => (MemberState::Unreachable, String::new()),
            None => self.alive(now),
        };
        let prepares = self.prepares(now).filter(|_| state == MemberState::Pending && waiting.is_empty());
        if let Some(why) = prepares {
            why.clone_into(&mut waiting);
        }
        let stopping_since =
            self.deletion.map(|(end, grace)| end.checked_sub(SignedDuration::from_secs(grace)).unwrap_or(end));
        Member {
            id: self.id,
            uid: self.uid.clone(),
            state,
            stopping_since,
            node: self.node.clone(),
            started: self.started,
            spec: self.spec,
            place: self.place,
            preparing: prepares.is_some(),
            unplaced: self.node.is_none() && self.news.as_ref().is_some_and(|news| news.unplaced.is_some()),
            waiting,
        }
    }

    /// What its node has been at for long, before a container of the pod could start.
    fn prepares(&self, now: Timestamp) -> Option<&'static str> {
        let since = self.started.filter(|_| self.node.is_some())?;
        let (news, long) = (self.news.as_deref(), now.as_second() - since.as_second() >= PREPARING_SECONDS);
        match news?.waits.as_ref().map(|(reason, _)| reason.as_str()) {
            _ if !long => None,
            _ if news?.is_unprepared => Some("its volumes or its network are not ready"),
            Some("ContainerCreating") => Some("an image is being pulled, or a container made"),
            // Containers that run before the trainer's may take their time.
            _ => None,
        }
    }

    /// How it ended, if it has.
    fn end(&self, now: Timestamp) -> Option<End> {
        let news = self.news.as_deref();
        let by_platform = news.and_then(|news| news.reason.as_deref()).is_some_and(is_reason);
        let mut end = match (news.and_then(|news| news.terminated.as_ref()), self.stage) {
            // Why it was killed is what the pod says: its container can't.
            (Some(terminated), Stage::Failed) if by_platform && said(terminated).is_none() => {
                End { exit_code: Some(terminated.exit_code), ..refused(news, now) }
            }
            (Some(terminated), stage) => End {
                lingers: stage == Stage::Running && news.is_some_and(|news| news.is_outlived),
                ..exited(terminated, now)
            },
            (None, Stage::Succeeded) => End::from_exit(0, None, now),
            (None, Stage::Failed) => refused(news, now),
            (None, Stage::Pending | Stage::Running) => return None,
        };
        // torchrun exits with 1 when it is terminated, and 1 is no code of the contract.
        let may_be_that = end.cause.is_retryable() || end.cause == Cause::OtherPermanent;
        if let Some(why) = news.and_then(|news| news.disrupted.as_ref()).filter(|_| may_be_that) {
            end.cause = Cause::Preempted;
            end.message = format!("the cluster took its place: {why}");
        } else if end.cause == Cause::Preempted && !by_platform && self.deletion.is_none() {
            // Whoever deletes or evicts a pod marks it before its processes are told.
            end.cause = Cause::OtherRetryable;
            end.message = match end.message.as_str() {
                "" => UNASKED.to_owned(),
                said => format!("{UNASKED}: {said}"),
            };
        }
        Some(end)
    }

    /// A pod that has not ended: whether it runs, and why not.
    fn alive(&self, now: Timestamp) -> (MemberState, String) {
        let news = self.news.as_deref();
        if let Some((reason, said)) = news.and_then(|news| news.waits.as_ref()) {
            let started = self.started.unwrap_or(now);
            let patience = now.as_second() - started.as_second() < STUCK_SECONDS;
            let known = unstarted::of(reason, said);
            if let Some(stuck) = known.filter(|it| !it.may_pass || !patience) {
                return (MemberState::Stuck(stuck.end(now)), String::new());
            }
            let routine = is_routine(reason);
            let text = if said.is_empty() { reason.clone() } else { format!("{reason}: {said}") };
            return (MemberState::Pending, if routine { String::new() } else { text });
        }
        match self.stage {
            Stage::Running => (MemberState::Running, String::new()),
            _ => (MemberState::Pending, news.and_then(|news| news.unplaced.clone()).unwrap_or_default()),
        }
    }
}

impl News {
    fn of(status: &PodStatus) -> News {
        let condition = |kind: &str, holds: &str| {
            status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == holds)
        };
        let said = |condition: &PodCondition| {
            let reason = condition.reason.as_deref().unwrap_or_default();
            format!("{reason}: {}", condition.message.as_deref().unwrap_or_default())
        };
        let why = |condition: &PodCondition| condition.message.clone().or_else(|| condition.reason.clone());
        // Of a pod that has ended its node takes away again what it had prepared.
        let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let containers = || status.container_statuses.iter().flatten();
        let trainer = containers().find(|container| container.name == CONTAINER).and_then(|one| one.state.as_ref());
        let waits = |state: &ContainerState| {
            let waits = state.waiting.as_ref()?;
            Some((waits.reason.clone().unwrap_or_default(), waits.message.clone().unwrap_or_default()))
        };
        // Until the trainer's has started, it waits for those before and beside it.
        let is_yet_to_start = trainer.is_none_or(|state| state.waiting.is_some());
        let others = || {
            let before = status.init_container_statuses.iter().flatten();
            before.chain(containers()).filter(|other| other.name != CONTAINER).filter(|_| is_yet_to_start)
        };
        let blocks = others().find_map(|other| {
            let (reason, said) = other.state.as_ref().and_then(waits).filter(|(reason, _)| !is_routine(reason))?;
            let what = format!("container {}", other.name);
            Some((reason, if said.is_empty() { what } else { format!("{what}: {said}") }))
        });
        let failed = others().find_map(|other| {
            let end = other.state.as_ref()?.terminated.as_ref().filter(|end| end.exit_code != 0)?;
            let said = end.message.as_deref().unwrap_or_default().trim();
            let said = said.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
            Some(format!("container {} ended with exit code {}{said}", other.name, end.exit_code))
        });
        News {
            reason: status.reason.clone(),
            message: status.message.clone().or(failed),
            unplaced: condition("PodScheduled", "False").map(said),
            is_unprepared: condition("PodReadyToStartContainers", "False").is_some() && !has_ended,
            disrupted: condition("DisruptionTarget", "True").map(|it| why(it).unwrap_or_default()),
            waits: blocks.or_else(|| trainer.and_then(waits)),
            terminated: trainer.and_then(|state| state.terminated.clone()),
            is_outlived: trainer.is_some_and(|state| state.terminated.is_some())
                && containers().any(|one| one.state.as_ref().is_some_and(|state| state.running.is_some())),
        }
    }
}

/// Whether every container waits for this before it starts.
fn is_routine(reason: &str) -> bool {
    matches!(reason, "ContainerCreating" | "PodInitializing" | "")
}

fn is_reason(reason: &str) -> bool {
    REASONS.iter().any(|(name, _, _)| *name == reason)
}

/// What our trainer said of its end.
fn said(terminated: &ContainerStateTerminated) -> Option<TerminationMessage> {
    serde_json::from_str(terminated.message.as_deref().unwrap_or_default().trim()).ok()
}

fn exited(terminated: &ContainerStateTerminated, now: Timestamp) -> End {
    let at = terminated.finished_at.as_ref().map_or(now, |time| time.0);
    let text = terminated.message.as_deref().unwrap_or_default().trim();
    let said = said(terminated);
    let reason = terminated.reason.as_deref().unwrap_or_default();
    if let Some(unstarted) = unstarted::of(reason, text).filter(|_| NEVER_RAN.contains(&reason)) {
        return unstarted.end(at);
    }
    let mut end = End::from_exit(terminated.exit_code, said.clone(), at);
    if said.is_none() && !text.is_empty() && end.cause != Cause::Completed {
        // The end of a custom image's log: its last line tells most.
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(text);
        last.clone_into(&mut end.message);
    }
    if reason == "OOMKilled" && end.cause != Cause::Completed {
        end.cause = Cause::HostMemory;
        "the container took more memory than its limit allows".clone_into(&mut end.message);
        "raise pod.resources.limits.memory, or make batchSize smaller".clone_into(&mut end.hint);
    }
    end
}

/// The end of a pod by what the platform says of it.
fn refused(news: Option<&News>, now: Timestamp) -> End {
    let reason = news.and_then(|news| news.reason.as_deref()).unwrap_or("Failed");
    let said = news.and_then(|news| news.message.as_deref()).unwrap_or_default();
    let known = REASONS.iter().find(|(name, _, _)| *name == reason);
    let (cause, what) = known.map_or((Cause::OtherRetryable, ""), |(_, cause, what)| (*cause, *what));
    let message = [what, said].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(": ");
    End {
        cause,
        exit_code: None,
        message: if message.is_empty() { format!("its pod failed: {reason}") } else { message },
        ..End::from_exit(255, None, now)
    }
}
