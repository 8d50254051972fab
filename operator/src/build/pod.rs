//! The pod of one member: environment by the contract, places by the gate, nothing that Pod Security `restricted` refuses.

mod volumes;

use std::collections::BTreeMap;

use crds::contract::{PROGRESS_PORT, RENDEZVOUS_PORT, env, labels};
use crds::infrastructure::{Device, Infrastructure};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodAffinity,
    PodAffinityTerm, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, SecurityContext,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::core::ObjectMeta;
use serde_json::Value;

pub use self::volumes::{Claim, MOUNTS, mounts};
use super::member::{COMMAND, Rendezvous, environment};
use super::names;
use crate::observe::{Job, MemberId};
use crate::placement::Placed;

/// Name of the trainer's container.
pub const CONTAINER: &str = "trainer";
/// Label of what the operator makes, for people and dashboards.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "trainyard");
/// User and group of the trainer's image, as distroless images have them.
const NONROOT: i64 = 65_532;
/// Seconds between the end of the launcher's patience and that of the kubelet: the reason is still told.
const LAST_WORDS_SECONDS: u32 = 10;
/// What tells NVIDIA's container toolkit which GPUs to show.
const NVIDIA_VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";

/// What the pods of a job have in common.
#[derive(Clone, Debug)]
pub struct Template<'a> {
    /// The job.
    pub job: &'a Job,
    /// Where it runs, as it was asked for.
    pub infrastructure: &'a Infrastructure,
    /// Where that is, as it was decided.
    pub placed: &'a Placed,
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

    /// The pod of a member.
    pub fn pod(&self, id: MemberId) -> Pod {
        let wished = &self.infrastructure.pod;
        let name = names::pod(self.job, id);
        let multi = self.job.gang_size > 1;
        Pod {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(self.job.namespace.clone()),
                labels: Some(wished.labels.clone().into_iter().chain(member_labels(self.job, id)).collect()),
                annotations: Some(wished.annotations.clone()).filter(|annotations| !annotations.is_empty()),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                affinity: self.affinity(),
                automount_service_account_token: Some(false),
                containers: vec![self.container(id)],
                enable_service_links: Some(false),
                host_network: wished.host_network.then_some(true),
                dns_policy: wished.host_network.then(|| "ClusterFirstWithHostNet".to_owned()),
                hostname: Some(name).filter(|_| multi),
                subdomain: multi.then(|| names::service(self.job)),
                image_pull_secrets: Some(wished.image_pull_secrets.clone()).filter(|secrets| !secrets.is_empty()),
                node_selector: Some(wished.node_selector.clone()).filter(|labels| !labels.is_empty()),
                priority_class_name: wished.priority_class_name.clone(),
                restart_policy: Some("Never".to_owned()),
                runtime_class_name: wished.runtime_class_name.clone(),
                scheduler_name: wished.scheduler_name.clone(),
                security_context: Some(self.pod_security()),
                service_account_name: wished.service_account_name.clone(),
                termination_grace_period_seconds: Some(i64::from(wished.termination_grace_period_seconds)),
                tolerations: Some(self.placed.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
                volumes: Some(self.volumes()),
                ..PodSpec::default()
            }),
            status: None,
        }
    }

    fn container(&self, id: MemberId) -> Container {
        let own = &self.infrastructure;
        let custom = own.image.is_some();
        let port = |name: &str, port: u16| ContainerPort {
            name: Some(name.to_owned()),
            container_port: i32::from(port),
            ..ContainerPort::default()
        };
        let trainer = || COMMAND.iter().map(|word| (*word).to_owned()).collect();
        Container {
            name: CONTAINER.to_owned(),
            image: Some(self.placed.image.clone()),
            command: own.command.clone(),
            args: if custom { own.args.clone() } else { Some(trainer()) },
            env: Some(self.environment(id)),
            env_from: Some(own.pod.env_from.clone()).filter(|sources| !sources.is_empty()),
            ports: Some(vec![port("rendezvous", RENDEZVOUS_PORT), port("progress", PROGRESS_PORT)]),
            resources: Some(self.resources()),
            security_context: Some(self.container_security()),
            // A custom image that says nothing is quoted by the end of its log.
            termination_message_policy: custom.then(|| "FallbackToLogsOnError".to_owned()),
            volume_mounts: Some(self.volume_mounts()),
            ..Container::default()
        }
    }

    fn environment(&self, id: MemberId) -> Vec<EnvVar> {
        let rendezvous =
            Rendezvous { address: names::leader(self.job, id), port: RENDEZVOUS_PORT, processes: self.processes() };
        let mut variables = environment(self.job, id, self.spec, &rendezvous);
        let grace = self.infrastructure.pod.termination_grace_period_seconds;
        variables.insert(env::STOP_SECONDS, grace.saturating_sub(LAST_WORDS_SECONDS).max(1).to_string());
        if self.placed.device == Device::Cpu {
            // Without this a pod that asks for no GPU sees all of them on some nodes.
            variables.insert(NVIDIA_VISIBLE_DEVICES, "void".to_owned());
        }
        variables.extend(volumes::caches());
        let node = EnvVar {
            name: env::NODE_NAME.to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector { field_path: "spec.nodeName".to_owned(), api_version: None }),
                ..EnvVarSource::default()
            }),
            value: None,
        };
        let asked = &self.infrastructure.pod.env;
        let ours = variables
            .into_iter()
            .filter(|(name, _)| asked.iter().all(|asked| asked.name != *name))
            .map(|(name, value)| EnvVar { name: name.to_owned(), value: Some(value), value_from: None });
        // What is asked for comes last: it may refer to ours by $(NAME).
        ours.chain([node]).chain(asked.iter().cloned()).collect()
    }

    fn resources(&self) -> ResourceRequirements {
        let mut resources = self.infrastructure.pod.resources.clone().unwrap_or_default();
        if let Some((name, count)) = &self.placed.resource {
            resources.limits.get_or_insert_default().insert(name.clone(), Quantity(count.to_string()));
        }
        resources
    }

    /// What is asked for over our own. A custom image may need to run as the user that it was made for.
    fn pod_security(&self) -> PodSecurityContext {
        let custom = self.infrastructure.image.is_some();
        let asked = self.infrastructure.pod.pod_security_context.clone().unwrap_or_default();
        PodSecurityContext {
            run_as_non_root: asked.run_as_non_root.or((!custom).then_some(true)),
            run_as_user: asked.run_as_user.or((!custom).then_some(NONROOT)),
            run_as_group: asked.run_as_group.or((!custom).then_some(NONROOT)),
            fs_group: asked.fs_group.or(Some(NONROOT)),
            fs_group_change_policy: asked.fs_group_change_policy.or_else(|| Some("OnRootMismatch".to_owned())),
            seccomp_profile: asked.seccomp_profile.or_else(|| Some(runtime_default())),
            ..asked
        }
    }

    fn container_security(&self) -> SecurityContext {
        let custom = self.infrastructure.image.is_some();
        let asked = self.infrastructure.pod.security_context.clone().unwrap_or_default();
        let none = Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None };
        SecurityContext {
            allow_privilege_escalation: asked.allow_privilege_escalation.or(Some(false)),
            capabilities: asked.capabilities.or(Some(none)),
            read_only_root_filesystem: asked.read_only_root_filesystem.or((!custom).then_some(true)),
            ..asked
        }
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

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

/// The labels by which the pods of a job are selected.
pub fn job_labels(job: &Job) -> BTreeMap<String, String> {
    BTreeMap::from([(labels::JOB.to_owned(), job.name.clone()), (labels::KIND.to_owned(), job.kind.clone())])
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
