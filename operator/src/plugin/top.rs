//! `trainyard top`: GPUs that jobs and endpoints ask for and have, by namespace and job.

use clap::Args;
use crds::contract::labels;
use crds::infrastructure::Device;
use crds::status::{ATTEMPTS_KEPT, Phase};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::access::{Access, Format};
use super::endpoint::Endpoint;
use super::job::{Job, Kind};
use super::member::{Health, Member};
use crate::build::names::ENDPOINT;
use crate::placement::Table;

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Jobs and endpoints of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Jobs that have ended as well.
    #[arg(long)]
    ended: bool,
    /// How to write it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

/// GPUs of a job or an endpoint.
#[derive(Clone, Debug, PartialEq)]
struct Use {
    namespace: String,
    job: String,
    phase: String,
    /// GPUs that it asks for.
    asked: u32,
    /// GPUs of pods that run.
    running: u32,
    /// Nodes that these are on.
    nodes: Vec<String>,
    /// GPUs times the hours that its attempts held them, as far as its status remembers attempts; of an endpoint those of the pods
    /// that it has.
    gpu_hours: f64,
    /// Whether there were more.
    is_at_least: bool,
}

impl Top {
    /// Prints it; the exit code.
    pub(crate) fn run(&self) -> u8 {
        self.access.with(async |cluster| {
            let mut jobs = cluster.jobs(self.all_namespaces).await?;
            jobs.retain(|job| self.ended || !job.status.phase.is_terminal());
            let pods = cluster.list::<Pod>(self.all_namespaces, labels::JOB).await?;
            let now = Timestamp::now();
            let mut uses: Vec<Use> = jobs.iter().map(|job| of(job, &members(job, &pods), now)).collect();
            for endpoint in cluster.endpoints(self.all_namespaces).await? {
                uses.push(of_endpoint(&endpoint, &servers(&endpoint, &pods), now));
            }
            let rows: Vec<Value> = uses.iter().map(value).collect();
            Ok(self.output.print(&json!(rows), || match uses.is_empty() {
                true => "No job is under way, and there is no endpoint\n".to_owned(),
                false => table(&uses).to_string(),
            }))
        })
    }
}

/// The members among all pods that are the job's.
fn members(job: &Job, pods: &[Pod]) -> Vec<Member> {
    let its = belonging(pods, &job.namespace, job.kind.name(), &job.name);
    its.filter_map(|pod| Member::of(pod, &job.infrastructure.gpu.resource_name)).collect()
}

/// The pods among all that are the endpoint's.
fn servers(endpoint: &Endpoint, pods: &[Pod]) -> Vec<Member> {
    let its = belonging(pods, &endpoint.namespace, ENDPOINT, &endpoint.name);
    its.filter_map(|pod| Member::of_endpoint(pod, &endpoint.resource)).collect()
}

fn belonging<'a>(pods: &'a [Pod], namespace: &str, kind: &str, name: &str) -> impl Iterator<Item = &'a Pod> {
    let label = |pod: &Pod, name: &str| pod.metadata.labels.as_ref().and_then(|all| all.get(name).cloned());
    pods.iter().filter(move |pod| {
        pod.metadata.namespace.as_deref() == Some(namespace)
            && label(pod, labels::JOB).as_deref() == Some(name)
            && label(pod, labels::KIND).as_deref() == Some(kind)
    })
}

/// GPUs of pods that run, and their nodes.
fn held(members: &[Member]) -> (u32, Vec<String>) {
    let running = || members.iter().filter(|member| member.health == Health::Running && member.gpus > 0);
    let mut nodes: Vec<String> = running().filter_map(|member| member.node.clone()).collect();
    nodes.sort();
    nodes.dedup();
    (running().map(|member| member.gpus).sum(), nodes)
}

/// One GPU for each replica. Pods that it had before are nobody's to remember.
#[expect(clippy::cast_precision_loss, reason = "seconds of pods stay far below 2^52")]
fn of_endpoint(endpoint: &Endpoint, servers: &[Member], now: Timestamp) -> Use {
    let is_on_gpus = endpoint.status.placement.as_ref().is_some_and(|placement| placement.device == Device::Gpu);
    let (running, nodes) = held(servers);
    let held = servers
        .iter()
        .filter(|server| server.health == Health::Running)
        .filter_map(|server| Some(i64::from(server.gpus) * (now.as_second() - server.started?.as_second()).max(0)));
    Use {
        namespace: endpoint.namespace.clone(),
        job: endpoint.title(),
        phase: endpoint.phase(),
        asked: if is_on_gpus { endpoint.wished } else { 0 },
        running,
        nodes,
        gpu_hours: held.sum::<i64>() as f64 / 3600.0,
        is_at_least: is_on_gpus,
    }
}

fn of(job: &Job, members: &[Member], now: Timestamp) -> Use {
    let status = &job.status;
    let (running, nodes) = held(members);
    let idle = status.phase.is_terminal() || status.phase == Phase::Suspended;
    let asked = match &status.placement {
        _ if idle => 0,
        Some(placement) => placement.gpus,
        None if job.infrastructure.device == Device::Gpu => job.members * job.infrastructure.gpus_per_node,
        None => 0,
    };
    let (gpu_hours, is_at_least) = hours(job, members, now);
    Use {
        namespace: job.namespace.clone(),
        job: job.title(),
        phase: job.phase(),
        asked,
        running,
        nodes,
        gpu_hours,
        is_at_least,
    }
}

/// GPUs times hours, and whether there were more. Each attempt is taken to have held what the newest one was given: the status
/// says it of that one alone.
#[expect(clippy::cast_precision_loss, reason = "seconds of jobs stay far below 2^52")]
fn hours(job: &Job, members: &[Member], now: Timestamp) -> (f64, bool) {
    let (status, hour) = (&job.status, 3600.0);
    let gpus = f64::from(status.placement.as_ref().map_or(0, |placement| placement.gpus));
    let ended = status.attempts.iter().filter_map(|one| Some((one.start.as_ref()?.0, one.end.as_ref()?.0)));
    let recorded = ended.map(|(start, end)| (end.as_second() - start.as_second()).max(0)).sum::<i64>() as f64;
    let since = |then: Timestamp, until: Timestamp| (until.as_second() - then.as_second()).max(0) as f64;
    if job.kind == Kind::Scoring {
        // An attempt is one of a shard, and the placement that of all shards at a time. Shards that are done have their pods, and no
        // record.
        let of_shard = gpus / f64::from(job.members.max(1));
        let held = members.iter().filter_map(|member| match member.health {
            Health::Running => Some((member.started?, now, member.gpus)),
            Health::Done => Some((member.started?, member.ended?, member.gpus)),
            Health::Waiting | Health::Failed => None,
        });
        let current: f64 = held.map(|(start, end, gpus)| since(start, end) * f64::from(gpus)).sum();
        return ((recorded * of_shard + current) / hour, status.attempts.len() >= ATTEMPTS_KEPT);
    }
    let is_recorded = status.attempts.iter().any(|one| one.number == status.attempt);
    let newest = members.iter().filter(|member| member.attempt == status.attempt);
    let began = newest.clone().filter_map(|member| member.started).min().filter(|_| !is_recorded);
    let until = match newest.clone().all(Member::has_ended) {
        true => newest.filter_map(|member| member.ended).max().unwrap_or(now),
        false => now,
    };
    let current = began.map_or(0.0, |began| since(began, until));
    let known = u32::try_from(status.attempts.len()).unwrap_or(u32::MAX) + u32::from(!is_recorded);
    (gpus * (recorded + current) / hour, status.attempt > known)
}

fn value(one: &Use) -> Value {
    json!({
        "namespace": one.namespace, "job": one.job, "phase": one.phase, "gpusAsked": one.asked,
        "gpusRunning": one.running, "nodes": one.nodes, "gpuHours": one.gpu_hours, "gpuHoursAtLeast": one.is_at_least,
    })
}

fn table(uses: &[Use]) -> Table {
    let hours = |hours: f64, is_at_least: bool| format!("{}{hours:.2}", if is_at_least { ">= " } else { "" });
    let row = |one: &Use| {
        vec![
            one.namespace.clone(),
            one.job.clone(),
            one.phase.clone(),
            one.asked.to_string(),
            one.running.to_string(),
            one.nodes.join(","),
            hours(one.gpu_hours, one.is_at_least),
        ]
    };
    let mut rows: Vec<Vec<String>> = uses.iter().map(row).collect();
    let sum = |of: fn(&Use) -> u32| uses.iter().map(of).sum::<u32>().to_string();
    let total = hours(uses.iter().map(|one| one.gpu_hours).sum(), uses.iter().any(|one| one.is_at_least));
    let (asked, running) = (sum(|one| one.asked), sum(|one| one.running));
    rows.push(vec!["total".to_owned(), String::new(), String::new(), asked, running, String::new(), total]);
    let head = ["NAMESPACE", "JOB", "PHASE", "ASKED", "RUNNING", "NODES", "GPU-HOURS"].map(str::to_owned).to_vec();
    Table { head, rows }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::job;
    use super::*;
    use crate::build::pod::CONTAINER;

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().expect("a time")
    }

    #[test]
    fn gpu_hours_are_those_of_ended_attempts_and_of_the_one_under_way() {
        let attempt =
            json!({"number": 1, "cause": "PeerLost", "start": "2026-01-01T01:00:00Z", "end": "2026-01-01T01:30:00Z"});
        let status = json!({
            "phase": "Running", "attempt": 2, "attempts": [attempt], "placement": {"device": "Gpu", "gpus": 4},
        });
        let member = |index: u32| Member {
            attempt: 2,
            index,
            gpus: 2,
            node: Some(format!("n{}", index % 2)),
            health: Health::Running,
            started: Some(at("02:00:00")),
            ..Member::default()
        };
        let mut waits = member(1);
        waits.health = Health::Waiting;
        let one = of(&job(status), &[member(0), waits], at("03:00:00"));
        assert_eq!((one.asked, one.running, one.nodes.as_slice()), (4, 2, ["n0".to_owned()].as_slice()));
        assert!((one.gpu_hours - 6.0).abs() < 1e-9, "{one:?}");
        assert!(!one.is_at_least);
        let text = table(&[one]).to_string();
        assert!(text.contains("a           tj/flowers   Running   4       2         n0      6.00"), "{text}");
        assert!(text.contains("total       -            -         4       2         -       6.00"), "{text}");
    }

    #[test]
    fn an_endpoint_has_a_gpu_for_each_replica_and_the_hours_of_the_pods_that_it_has() {
        let endpoint = |device: &str| -> Endpoint {
            let endpoint = json!({
                "apiVersion": "trainyard.dev/v1alpha1", "kind": "ModelEndpoint",
                "metadata": {"name": "flowers", "namespace": "a"},
                "spec": {"model": {"trainingJob": "flowers"}, "replicas": 3},
                "status": {"phase": "Updating", "placement": {"device": device, "gpus": 1}},
            });
            serde_json::from_value::<crds::ModelEndpoint>(endpoint).expect("an endpoint").into()
        };
        let pod = |name: &str, node: &str, state: Value| -> Pod {
            let labels = json!({labels::JOB: "flowers", labels::KIND: "ModelEndpoint", labels::ATTEMPT: "2"});
            let limits = json!({"nvidia.com/gpu": "1"});
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "a", "labels": labels},
                "spec": {"nodeName": node, "containers": [{"name": CONTAINER, "resources": {"limits": limits}}]},
                "status": {"phase": "Running", "containerStatuses": [{
                    "name": CONTAINER, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state,
                }]},
            }))
            .expect("a pod")
        };
        let runs = json!({"running": {"startedAt": "2026-01-01T01:00:00Z"}});
        let mut stranger = pod("flowers-x", "n3", runs.clone());
        stranger.metadata.namespace = Some("b".to_owned());
        let pods = [pod("flowers-a", "n1", runs.clone()), pod("flowers-b", "n0", runs), stranger];
        let on_gpus = endpoint("Gpu");
        let one = of_endpoint(&on_gpus, &servers(&on_gpus, &pods), at("03:00:00"));
        assert_eq!((one.job.as_str(), one.asked, one.running), ("me/flowers", 3, 2));
        assert_eq!(one.nodes, ["n0", "n1"]);
        assert!((one.gpu_hours - 4.0).abs() < 1e-9 && one.is_at_least, "{one:?}");
        assert_eq!(of_endpoint(&endpoint("Cpu"), &[], at("03:00:00")).asked, 0);
    }

    #[test]
    fn a_job_that_has_ended_or_is_suspended_asks_for_nothing() {
        for phase in ["Suspended", "Succeeded"] {
            let status = json!({"phase": phase, "attempt": 1, "placement": {"device": "Gpu", "gpus": 4}});
            assert_eq!(of(&job(status), &[], at("03:00:00")).asked, 0, "{phase}");
        }
    }

    #[test]
    fn a_status_that_has_forgotten_attempts_gives_a_lower_bound() {
        let status = json!({"phase": "Running", "attempt": 12, "attempts": [{"number": 1, "cause": "Storage"}]});
        assert!(of(&job(status), &[], at("03:00:00")).is_at_least);
    }
}
