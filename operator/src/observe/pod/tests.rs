//! What a pod's status comes to.

use crds::contract::Cause;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{NodeState, PodFacts};
use crate::observe::{Member, MemberState};

fn noon() -> Timestamp {
    "2026-07-01T12:00:00Z".parse().unwrap()
}

fn pod(status: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "a-t2-1", "uid": "u", "resourceVersion": "7",
            "labels": {"trainyard.dev/attempt": "2", "trainyard.dev/member": "1"},
        },
        "spec": {"nodeName": "n", "containers": []},
        "status": status,
    }))
    .unwrap()
}

fn member(status: &Value) -> Member {
    PodFacts::of(&pod(status)).unwrap().member(NodeState::default(), noon())
}

fn terminated(code: i32, reason: &str, message: &str) -> Value {
    json!({"name": "trainer", "state": {"terminated": {"exitCode": code, "reason": reason, "message": message}}})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"name": "trainer", "state": {"waiting": {"reason": reason, "message": message}}})
}

#[test]
fn each_end_that_the_platform_tells_of_has_its_cause() {
    let target = json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
    let said = json!({"contractVersion": 1, "cause": "BadData", "message": "cat/7.jpg is truncated"}).to_string();
    let ended = |container: Value| json!({"phase": "Failed", "containerStatuses": [container]});
    let refused = |reason: &str| json!({"phase": "Failed", "reason": reason, "message": "said so"});
    let mut preempted = ended(terminated(137, "Error", ""));
    preempted["conditions"] = target.clone();
    let mut broken = ended(terminated(65, "Error", &said));
    broken["conditions"] = target.clone();
    // torchrun exits with 1 when it is terminated.
    let mut drained = ended(terminated(1, "Error", "torch.distributed.elastic.multiprocessing.api.SignalException"));
    drained["conditions"] = target;
    let mut evicted = ended(terminated(137, "Error", ""));
    evicted["reason"] = json!("Evicted");
    evicted["message"] = json!("Usage of EmptyDir volume \"shared-memory\" exceeds the limit \"1Gi\". ");
    let mut told = ended(terminated(65, "Error", &said));
    told["reason"] = json!("Evicted");
    let table = [
        (json!({"phase": "Succeeded"}), Cause::Completed, ""),
        (ended(terminated(0, "Completed", "")), Cause::Completed, ""),
        (ended(terminated(65, "Error", &said)), Cause::BadData, "cat/7.jpg is truncated"),
        (ended(terminated(137, "OOMKilled", "")), Cause::HostMemory, "more memory than its limit"),
        (ended(terminated(3, "Error", "one\nKeyError: 'x'\n")), Cause::OtherPermanent, "KeyError: 'x'"),
        (preempted, Cause::Preempted, "PreemptionByScheduler"),
        // A permanent cause stays what it is, also on a node that is drained.
        (broken, Cause::BadData, "cat/7.jpg is truncated"),
        (drained, Cause::Preempted, "PreemptionByScheduler"),
        (evicted, Cause::OtherRetryable, "evicted it: Usage of EmptyDir volume"),
        (told, Cause::BadData, "cat/7.jpg is truncated"),
        (refused("Evicted"), Cause::OtherRetryable, "said so"),
        // The node looks empty, and would be chosen again.
        (refused("UnexpectedAdmissionError"), Cause::NodeFault, "a device was no longer free: said so"),
        (refused("Preempting"), Cause::Preempted, "higher priority"),
        (refused("DeadlineExceeded"), Cause::OtherPermanent, "activeDeadlineSeconds"),
        (refused("NodeShutdown"), Cause::Preempted, "shut down"),
        (
            ended(terminated(
                128,
                "StartError",
                "unable to start container process: exec: \"pyhton\": executable file not found in $PATH",
            )),
            Cause::BadSpec,
            "pyhton",
        ),
        (
            ended(terminated(
                128,
                "StartError",
                "failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=0",
            )),
            Cause::NodeFault,
            "unresolvable CDI devices",
        ),
        (refused("SomethingNew"), Cause::OtherRetryable, "said so"),
    ];
    for (status, cause, says) in table {
        let member = member(&status);
        let end = member.end().unwrap_or_else(|| panic!("{status} has not ended"));
        assert_eq!(end.cause, cause, "{status}");
        assert!(end.message.contains(says), "{status}: {}", end.message);
    }
}

#[test]
fn a_pod_that_waits_says_why_and_is_given_up_where_waiting_cannot_help() {
    let pending = |container: Value, started: &str| json!({"phase": "Pending", "startTime": started, "containerStatuses": [container]});
    let (now, long_ago) = ("2026-07-01T11:59:00Z", "2026-07-01T11:00:00Z");
    let table = [
        (pending(waiting("ContainerCreating", ""), now), None, ""),
        (pending(waiting("ImagePullBackOff", "no such tag"), now), None, "ImagePullBackOff: no such tag"),
        (pending(waiting("CreateContainerConfigError", "secret \"s\" not found"), now), None, "secret \"s\" not found"),
        (pending(waiting("CreateContainerConfigError", "secret \"s\" not found"), long_ago), Some(Cause::BadSpec), ""),
        (pending(waiting("CreateContainerError", "nvidia-container-cli: no driver"), now), None, "no driver"),
        (
            pending(waiting("CreateContainerError", "nvidia-container-cli: no driver"), long_ago),
            Some(Cause::NodeFault),
            "",
        ),
        (pending(waiting("RunContainerError", "context deadline exceeded"), long_ago), Some(Cause::NodeFault), ""),
        (pending(waiting("ImagePullBackOff", "no such tag"), long_ago), Some(Cause::Storage), ""),
        (pending(waiting("InvalidImageName", "a b"), now), Some(Cause::BadSpec), ""),
        (
            json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}),
            None,
            "Unschedulable: 0/3 nodes",
        ),
    ];
    for (status, given_up, says) in table {
        let member = member(&status);
        assert!(member.is_live(), "{status}");
        match (member.state, given_up) {
            (MemberState::Pending, None) => assert!(member.waiting.contains(says), "{}", member.waiting),
            (MemberState::Stuck(end), Some(cause)) => {
                assert_eq!((end.cause, end.exit_code), (cause, None), "{status}");
                assert!(!end.hint.is_empty(), "{status}");
            }
            (state, _) => panic!("{status} comes to {state:?}"),
        }
    }
}

#[test]
fn a_pod_waits_for_the_containers_before_and_beside_the_trainer_until_that_has_started() {
    let other = |name: &str, state: Value| json!({"name": name, "state": state});
    let stuck = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}});
    let running = json!({"name": "trainer", "state": {"running": {}}});
    let before = |state: Value| {
        json!({
            "phase": "Pending", "startTime": "2026-07-01T11:59:00Z", "initContainerStatuses": [other("fetch", state)],
            "containerStatuses": [waiting("PodInitializing", "")],
        })
    };
    let beside =
        |trainer: Value| json!({"phase": "Running", "containerStatuses": [other("proxy", stuck.clone()), trainer]});
    let fetch = "ImagePullBackOff: container fetch: no such tag";
    for (status, state, says) in [
        (before(stuck.clone()), MemberState::Pending, fetch),
        (before(json!({"running": {}})), MemberState::Pending, ""),
        (
            beside(waiting("ContainerCreating", "")),
            MemberState::Pending,
            "ImagePullBackOff: container proxy: no such tag",
        ),
        (beside(running), MemberState::Running, ""),
    ] {
        let member = member(&status);
        assert_eq!((member.state, member.waiting.as_str()), (state, says), "{status}");
    }
    let mut failed = before(json!({"terminated": {"exitCode": 2, "message": "fetching\nno such bucket\n"}}));
    failed["phase"] = json!("Failed");
    let member = member(&failed);
    assert_eq!(
        member.end().map(|end| end.message.as_str()),
        Some("container fetch ended with exit code 2: no such bucket")
    );
}

#[test]
fn a_pod_lingers_where_a_container_beside_the_trainer_runs_on() {
    let proxy = |state: Value| json!({"name": "proxy", "state": state});
    let status = |phase: &str, other: Value| json!({"phase": phase, "containerStatuses": [terminated(0, "Completed", ""), other]});
    let (runs, ended) = (proxy(json!({"running": {}})), proxy(json!({"terminated": {"exitCode": 0}})));
    for (status, lingers) in [
        (status("Running", runs.clone()), true),
        (status("Running", ended.clone()), false),
        (status("Succeeded", ended), false),
        (json!({"phase": "Running", "containerStatuses": [runs]}), false),
    ] {
        assert_eq!(member(&status).lingers(), lingers, "{status}");
    }
}

#[test]
fn what_runs_on_a_lost_node_or_outlives_its_grace_is_out_of_reach() {
    let running = json!({"phase": "Running"});
    let facts = PodFacts::of(&pod(&running)).unwrap();
    assert_eq!(facts.member(NodeState::default(), noon()).state, MemberState::Running);
    let lost = NodeState { is_lost: true, ..NodeState::default() };
    assert_eq!(facts.member(lost, noon()).state, MemberState::Unreachable);
    let gone = NodeState { is_gone: true, ..NodeState::default() };
    assert_eq!(facts.member(gone, noon()).state, MemberState::Gone);
    let mut deleted = pod(&running);
    let end: Timestamp = "2026-07-01T11:59:50Z".parse().unwrap();
    deleted.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(end));
    deleted.metadata.deletion_grace_period_seconds = Some(60);
    let facts = PodFacts::of(&deleted).unwrap();
    let member = facts.member(NodeState::default(), noon());
    assert_eq!(member.state, MemberState::Running, "it has a little longer than its grace");
    assert_eq!(member.stopping_since.unwrap().to_string(), "2026-07-01T11:58:50Z");
    let later = "2026-07-01T12:00:30Z".parse().unwrap();
    assert_eq!(facts.member(NodeState::default(), later).state, MemberState::Unreachable);
}

#[test]
fn a_process_that_ends_as_if_it_were_asked_to_has_to_have_been_asked() {
    let said = json!({"contractVersion": 1, "cause": "Preempted", "message": "a checkpoint is committed"}).to_string();
    let ended = json!({"phase": "Failed", "containerStatuses": [terminated(143, "Error", &said)]});
    let (mut shut_down, mut disrupted) = (ended.clone(), ended.clone());
    shut_down["reason"] = json!("Terminated");
    disrupted["conditions"] =
        json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]);
    let mut deleted = pod(&ended);
    deleted.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(noon()));
    for (pod, cause) in [
        (pod(&ended), Cause::OtherRetryable),
        (pod(&shut_down), Cause::Preempted),
        (pod(&disrupted), Cause::Preempted),
        (deleted, Cause::Preempted),
    ] {
        let member = PodFacts::of(&pod).unwrap().member(NodeState::default(), noon());
        let end = member.end().expect("it has ended");
        assert_eq!((end.cause, end.exit_code), (cause, Some(143)), "{:?}", pod.status);
        let tells = end.message.contains("nobody had asked") && end.message.contains("a checkpoint is committed");
        assert_eq!(tells, cause == Cause::OtherRetryable, "{}", end.message);
    }
}

#[test]
fn a_pod_that_is_not_of_a_job_is_none_of_ours() {
    let mut foreign = pod(&json!({"phase": "Running"}));
    foreign.metadata.labels = None;
    assert!(PodFacts::of(&foreign).is_none());
}

#[test]
fn what_a_node_is_at_for_long_before_a_pod_starts_is_told() {
    let pending = |reason: &str, prepared: Option<&str>, started: &str| {
        let condition = |status| json!([{"type": "PodReadyToStartContainers", "status": status}]);
        let conditions = prepared.map_or(json!([]), condition);
        let statuses = match reason {
            "" => json!([]),
            reason => json!([waiting(reason, "")]),
        };
        json!({"phase": "Pending", "startTime": started, "conditions": conditions, "containerStatuses": statuses})
    };
    let (creating, unprepared) = ("ContainerCreating", Some("False"));
    let (soon, late) = ("2026-07-01T11:57:01Z", "2026-07-01T11:57:00Z");
    let (volumes, image) =
        ("its volumes or its network are not ready", "an image is being pulled, or a container made");
    for (status, says) in [
        (pending(creating, unprepared, soon), ""),
        (pending(creating, unprepared, late), volumes),
        (pending("", unprepared, late), volumes),
        (pending("PodInitializing", unprepared, late), volumes),
        (pending(creating, Some("True"), late), image),
        (pending(creating, None, late), image),
        // Containers that run before it may take their time.
        (pending("PodInitializing", Some("True"), late), ""),
        (pending("", None, late), ""),
        (pending("ErrImagePull", unprepared, late), "ErrImagePull"),
    ] {
        let member = member(&status);
        assert_eq!((member.state, member.waiting.as_str()), (MemberState::Pending, says), "{status}");
        assert_eq!(member.preparing, !says.is_empty() && says != "ErrImagePull", "{status}");
    }
    let mut runs = pending("", unprepared, late);
    runs["phase"] = json!("Running");
    assert_eq!((member(&runs).state, member(&runs).preparing), (MemberState::Running, false));
}
