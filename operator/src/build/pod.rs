//! The pod of one member: environment by the contract, places by the gate, nothing that Pod Security `restricted` refuses.

mod common;
mod volumes;

use std::collections::BTreeMap;

use crds::contract::{PROGRESS_PORT, RENDEZVOUS_PORT, annotations, labels};
use crds::infrastructure::{Device, Infrastructure};
use k8s_openapi::api::core::v1::{
    Affinity, ContainerPort, EnvVar, Pod, PodAffinity, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::core::ObjectMeta;
use serde_json::Value;

pub(super) use self::common::{Common, LAST_WORDS_SECONDS};
pub use self::volumes::{Claim, MOUNTS, mounts};
use super::member::{COMMAND, Rendezvous, alone, environment};
use super::{fingerprint, names};
use crate::observe::{Job, MemberId};
use crate::placement::Placed;

/// Name of the trainer's container.
pub const CONTAINER: &str = "trainer";
/// Label of what the operator makes, for people and dashboards.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "trainyard");

/// What the pods of a job have in common.
#[derive(Clone, Debug)]
pub struct Template<'a> {
    /// The job.
    pub job: &'a Job,
    /// Where it runs, as it was asked for.
    pub infrastructure: &'a Infrastructure,
    /// Where that is, as it was decided.
    pub placed: &'a Placed,
    /// The fingerprint of that.
    pub place: u64,
    /// The spec as the trainer gets it.
    pub spec: &'a Value,
    /// The claims to mount.
    pub claims: &'a [Claim],
    /// The job as owner.
    pub owner: &'a OwnerReference,
}

impl Template<'_> {
    /// Processes of a pod.
    fn processes(&self) -> u32 {
        match self.placed.device {
            Device::Cpu => self.infrastructure.processes_per_node,
            Device::Gpu | Device::Auto => self.infrastructure.gpus_per_node,
        }
    }

    fn common(&self) -> Common<'_> {
        Common { infrastructure: self.infrastructure, placed: self.placed, claims: self.claims }
    }

    /// The pod of a member.
    pub fn pod(&self, id: MemberId) -> Pod {
        let wished = &self.infrastructure.pod;
        let name = names::pod(self.job, id);
        let mut annotations = wished.annotations.clone();
        annotations.insert(annotations::SPEC.to_owned(), fingerprint::digits(self.job.spec));
        annotations.insert(annotations::PLACE.to_owned(), fingerprint::digits(self.place));
        let multi = self.job.gang_size > 1;
        let port = |name: &str, port: u16| ContainerPort {
            name: Some(name.to_owned()),
            container_port: i32::from(port),
            ..ContainerPort::default()
        };
        let mut ports = vec![port("rendezvous", RENDEZVOUS_PORT)];
        if self.infrastructure.image.is_none() {
            // By its name a PodMonitor finds it. An image of one's own has no figures there to be looked for.
            ports.push(port("progress", PROGRESS_PORT));
        }
        let container = self.common().container(&COMMAND, self.environment(id), ports);
        Pod {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(self.job.namespace.clone()),
                labels: Some(wished.labels.clone().into_iter().chain(member_labels(self.job, id)).collect()),
                annotations: Some(annotations),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                affinity: self.affinity(),
                hostname: Some(name).filter(|_| multi),
                subdomain: multi.then(|| names::service(self.job)),
                restart_policy: Some("Never".to_owned()),
                ..self.common().spec(container)
            }),
            status: None,
        }
    }

    fn environment(&self, id: MemberId) -> Vec<EnvVar> {
        let rendezvous =
            Rendezvous { address: names::leader(self.job, id), port: RENDEZVOUS_PORT, processes: self.processes() };
        let mut variables = environment(self.job, id, self.spec, &rendezvous);
        if self.infrastructure.image.is_some() {
            variables.extend(alone(self.job, id, &rendezvous));
        }
        self.common().environment(variables)
    }

    /// What was asked for with the gate in it; and for a gang the wish to be near each other.
    fn affinity(&self) -> Option<Affinity> {
        let mut affinity = self.placed.affinity.clone().unwrap_or_default();
        if self.job.gang_size > 1 && affinity.pod_affinity.is_none() {
            affinity.pod_affinity = Some(near(self.job));
        }
        Some(affinity).filter(|affinity| *affinity != Affinity::default())
    }
}

/// Members of one gang talk to each other all the time: in one zone if there is room.
fn near(job: &Job) -> PodAffinity {
    let term = PodAffinityTerm {
        label_selector: Some(LabelSelector { match_labels: Some(job_labels(job)), ..LabelSelector::default() }),
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        ..PodAffinityTerm::default()
    };
    PodAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
            weight: 50,
            pod_affinity_term: term,
        }]),
        ..PodAffinity::default()
    }
}

/// The labels by which the pods of a job are selected.
pub fn job_labels(job: &Job) -> BTreeMap<String, String> {
    labels_of(&job.kind, &job.name)
}

/// The labels by which the pods of a resource are selected.
pub fn labels_of(kind: &str, name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(labels::JOB.to_owned(), name.to_owned()), (labels::KIND.to_owned(), kind.to_owned())])
}

fn member_labels(job: &Job, id: MemberId) -> BTreeMap<String, String> {
    let mut all = job_labels(job);
    all.insert(labels::ATTEMPT.to_owned(), id.attempt.to_string());
    all.insert(labels::MEMBER.to_owned(), id.index.to_string());
    all.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    all
}

/// The member that a pod's labels name.
pub fn member_of(labels_of_pod: &BTreeMap<String, String>) -> Option<MemberId> {
    let number = |label: &str| labels_of_pod.get(label)?.parse().ok();
    Some(MemberId { attempt: number(labels::ATTEMPT)?, index: number(labels::MEMBER)? })
}
