//! What breaks: a process, a pod, the operator, a kubelet, a node; and what is stopped and goes on. One job lives through all of it.

use std::process::Command;
use std::time::{Duration, Instant};

use crds::TrainingJob;
use crds::contract::labels::{ATTEMPT, JOB};
use crds::status::Phase;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::json;

use crate::follow::Followed;
use crate::jobs::{phase, step, two_pods, until};
use crate::yard::{JOBS, RELEASE, Yard};

/// The name that the README has: what it says of logs is typed.
const NAME: &str = "flowers";

fn attempt(job: &TrainingJob) -> u32 {
    job.status.as_ref().map(|status| status.job.attempt).unwrap_or_default()
}

/// The job once it works at its attempt of this number, and has come further than it was.
fn works(yard: &Yard, number: u32, beyond: i64) -> TrainingJob {
    until(yard, NAME, &format!("it works at attempt {number}, beyond step {beyond}"), |job| {
        phase(job) == Phase::Running && attempt(job) == number && step(job) > beyond
    })
}

/// The pod of a member of the newest attempt, and its node.
fn pod(yard: &Yard, number: u32, member: u32) -> (String, String) {
    let name = format!("{NAME}-t{number}-{member}");
    let pod =
        yard.until(&name, "it has a node", |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
    (name, pod.spec.and_then(|spec| spec.node_name).unwrap_or_default())
}

/// Kills processes of a node's containers.
fn kill(yard: &mut Yard, node: &str, text: &str) {
    let processes = yard.rig.node(node).processes(text);
    let process = processes.first().unwrap_or_else(|| panic!("no process on {node} has {text:?} in its command line"));
    let killed = Command::new("kill").args(["-KILL", &process.to_string()]).status();
    assert!(killed.is_ok_and(|killed| killed.success()), "process {process} can't be killed");
}

fn node_is(yard: &Yard, name: &str, ready: &str) {
    let api = Api::<Node>::all(yard.client.clone());
    yard.until_true(&format!("node {name} is ready: {ready}"), || {
        let node = yard.wait(api.get(name)).ok().and_then(|node| node.status);
        let conditions = node.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == ready)
    });
}

pub(crate) fn outlives(yard: &mut Yard) {
    let mut job = Yard::example("digits-training.yaml");
    job["metadata"]["name"] = json!(NAME);
    // A small network, whose steps are short, and more of them than there is time for.
    job["spec"]["model"]["architecture"] = json!("mobilenet_v3_small");
    (job["spec"]["training"]["epochs"], job["spec"]["training"]["batchSize"]) = (json!(1000), json!(8));
    job["spec"]["infrastructure"] = two_pods("Cpu");
    job["spec"]["output"] = json!({"uri": "pvc://models/digits-long", "checkpoint": {"everySteps": 5}});
    yard.apply(&job);
    let mut at = step(&works(yard, 1, 5));
    let followed = Followed::start(yard);
    followed.has_both_of(yard, 1);

    at = step(&a_rank_is_killed(yard, at));
    followed.has_both_of(yard, 2);
    at = step(&a_pod_is_deleted(yard, at));
    followed.has_both_of(yard, 3);
    at = step(&the_operator_is_killed(yard, at));
    at = step(&a_kubelet_is_away(yard, at));
    at = step(&it_is_suspended(yard, at));
    followed.has_both_of(yard, 4);
    a_node_loses_power(yard, at);
    followed.has_both_of(yard, 5);
    let tree = followed.plugin("status flowers");
    assert!(tree.starts_with("tj/flowers   Running   attempt 5"), "{tree}");
}

fn a_rank_is_killed(yard: &mut Yard, at: i64) -> TrainingJob {
    let (_, node) = pod(yard, 1, 1);
    let began = Instant::now();
    kill(yard, &node, "trainer worker");
    let job = works(yard, 2, at);
    yard.figure("a rank is killed, to the next attempt beyond where it was", began.elapsed());
    job
}

fn a_pod_is_deleted(yard: &mut Yard, at: i64) -> TrainingJob {
    let (name, _) = pod(yard, 2, 0);
    let began = Instant::now();
    yard.kubectl(["delete", "pod", "-n", JOBS, &name, "--wait=false"]);
    let job = works(yard, 3, at);
    yard.figure("a pod is deleted, to the next attempt beyond where it was", began.elapsed());
    job
}

fn the_operator_is_killed(yard: &mut Yard, at: i64) -> TrainingJob {
    let began = Instant::now();
    let restarts = |yard: &Yard| -> i32 {
        let pods = Api::<Pod>::namespaced(yard.client.clone(), RELEASE);
        let pods = yard.wait(pods.list(&Default::default())).map(|pods| pods.items).unwrap_or_default();
        let statuses = pods.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten();
        statuses.filter(|status| status.name == "operator").map(|status| status.restart_count).sum()
    };
    let before = restarts(yard);
    let node = ["a", "b"].into_iter().find(|node| !yard.rig.node(node).processes("trainyard operator").is_empty());
    kill(yard, node.unwrap_or_else(|| panic!("no node has the operator")), "trainyard operator");
    yard.until_true("the operator's container is started again", || restarts(yard) > before);
    yard.until_true("the operator is ready", || operator_is_ready(yard));
    // The job has not noticed.
    let job = works(yard, 3, at);
    yard.figure("the operator is killed, to the job's progress told again", began.elapsed());
    job
}

fn operator_is_ready(yard: &Yard) -> bool {
    let deployments = Api::<Deployment>::namespaced(yard.client.clone(), RELEASE);
    let found = yard.wait(deployments.get("trainyard")).ok().and_then(|found| found.status);
    found.and_then(|status| status.available_replicas) == Some(1)
}

/// Moves the operator off a node: of one that is lost with its node Kubernetes makes another one after five minutes.
fn the_operator_leaves(yard: &Yard, node: &str) {
    let is_there = |yard: &Yard| {
        let pods = Api::<Pod>::namespaced(yard.client.clone(), RELEASE);
        let pods = yard.wait(pods.list(&Default::default())).map(|pods| pods.items).unwrap_or_default();
        pods.into_iter().filter_map(|pod| pod.spec?.node_name).any(|of_pod| of_pod == node)
    };
    if is_there(yard) {
        yard.kubectl(["cordon", node]);
        yard.kubectl(["delete", "pod", "-n", RELEASE, "-l", "app.kubernetes.io/name=trainyard"]);
        yard.until_true("the operator is ready elsewhere", || !is_there(yard) && operator_is_ready(yard));
        yard.kubectl(["uncordon", node]);
    }
}

fn a_kubelet_is_away(yard: &mut Yard, at: i64) -> TrainingJob {
    let (_, node) = pod(yard, 3, 1);
    yard.rig.node(&node).stop_kubelet();
    // Longer than a node may be silent, shorter than the operator waits before it gives it up.
    node_is(yard, &node, "Unknown");
    std::thread::sleep(Duration::from_secs(2));
    yard.rig.node(&node).start_kubelet().expect("a kubelet");
    node_is(yard, &node, "True");
    works(yard, 3, at)
}

fn it_is_suspended(yard: &mut Yard, at: i64) -> TrainingJob {
    let suspend = |yard: &Yard, suspend: bool| {
        let patch = json!({"spec": {"runPolicy": {"suspend": suspend}}}).to_string();
        yard.kubectl(["patch", "trainingjob", "-n", JOBS, NAME, "--type=merge", "-p", &patch]);
    };
    suspend(yard, true);
    until(yard, NAME, "it is suspended", |job| phase(job) == Phase::Suspended);
    yard.until_true("it has no pods", || {
        yard.labelled::<Pod>(JOB, NAME).iter().all(|pod| {
            pod.status.as_ref().is_some_and(|status| matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")))
        })
    });
    suspend(yard, false);
    works(yard, 4, at)
}

fn a_node_loses_power(yard: &mut Yard, at: i64) {
    let (name, node) = pod(yard, 4, 1);
    the_operator_leaves(yard, &node);
    let began = Instant::now();
    yard.rig.node(&node).cut_power();
    works(yard, 5, at);
    yard.figure("a node loses power, to the next attempt beyond where it was", began.elapsed());
    let elsewhere = yard.labelled::<Pod>(ATTEMPT, "5").into_iter().filter_map(|pod| pod.spec?.node_name);
    assert!(elsewhere.into_iter().all(|other| other != node), "nothing runs on a node without power");
    yard.rig.node(&node).power_on().expect("power");
    node_is(yard, &node, "True");
    yard.until_true("the pod that was lost is gone", || {
        yard.wait(yard.jobs::<Pod>().get_opt(&name)).is_ok_and(|found| found.is_none())
    });
}
