//! An endpoint's Deployment, and what belongs to it: a Service, a disruption budget and, if asked for, an autoscaler.

mod parts;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crds::contract::{
    Assignment, CONTRACT_VERSION, SERVE_COMMAND, SERVE_DRAIN_SECONDS, SERVE_GRPC_PORT, SERVE_PORT, annotations, env,
    labels, paths,
};
use crds::infrastructure::Device;
use crds::{ModelEndpoint, ModelEndpointSpec};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, HTTPGetAction, KeyToPath, PodSpec, PodTemplateSpec, Probe, SecretVolumeSource,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;
use serde_json::Value;

pub use self::parts::{autoscaler, budget, service};
use super::names::ENDPOINT;
use super::pod::{Claim, Common, LAST_WORDS_SECONDS, MANAGED_BY, labels_of, mounts};
use super::{assignment, names};
use crate::observe::endpoint::{Record, for_pods};
use crate::placement::Placed;

/// Folder and file of the bearer token. It is no subPath, so that a new token is seen without a restart.
const TOKEN: (&str, &str) = ("/run/trainyard", "token");
/// Revisions whose ReplicaSets are kept besides the newest one.
const HISTORY: i32 = 2;
/// Seconds that a server may take from its start until it listens: a model is read from a store meanwhile.
const STARTUP_SECONDS: i32 = 1800;

/// What makes an endpoint's Deployment.
#[derive(Clone, Debug)]
pub struct Template<'a> {
    /// The endpoint.
    pub endpoint: &'a ModelEndpoint,
    /// The revision that it becomes.
    pub record: &'a Record,
    /// Where that runs.
    pub placed: &'a Placed,
    /// The endpoint as owner.
    pub owner: &'a OwnerReference,
}

/// The label selector of an endpoint's pods, as text.
pub fn selector(name: &str) -> String {
    labels_of(ENDPOINT, name).iter().map(|(label, value)| format!("{label}={value}")).collect::<Vec<_>>().join(",")
}

/// The metadata of what belongs to an endpoint.
fn metadata(endpoint: &ModelEndpoint, owner: &OwnerReference) -> ObjectMeta {
    let name = name_of(endpoint);
    let mut labels = labels_of(ENDPOINT, name);
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    ObjectMeta {
        name: Some(names::of_endpoint(name)),
        namespace: endpoint.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn name_of(endpoint: &ModelEndpoint) -> &str {
    endpoint.metadata.name.as_deref().unwrap_or_default()
}

fn pods_of(endpoint: &ModelEndpoint) -> LabelSelector {
    LabelSelector { match_labels: Some(labels_of(ENDPOINT, name_of(endpoint))), ..LabelSelector::default() }
}

impl Template<'_> {
    /// The Deployment with this many pods. It takes no pod of the old revision away before one of the new one answers, and is
    /// thereby held by a revision that never does.
    pub fn deployment(&self, replicas: u32) -> Deployment {
        let spec = &self.endpoint.spec;
        let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        Deployment {
            metadata: metadata(self.endpoint, self.owner),
            spec: Some(DeploymentSpec {
                replicas: Some(number(replicas)),
                progress_deadline_seconds: Some(number(spec.progress_deadline_seconds)),
                revision_history_limit: Some(HISTORY),
                selector: pods_of(self.endpoint),
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".to_owned()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(IntOrString::Int(1)),
                        max_unavailable: Some(IntOrString::Int(0)),
                    }),
                }),
                template: PodTemplateSpec { metadata: Some(self.pod_metadata()), spec: Some(self.pod()) },
                ..DeploymentSpec::default()
            }),
            status: None,
        }
    }

    fn pod_metadata(&self) -> ObjectMeta {
        let wished = &self.endpoint.spec.infrastructure.pod;
        let mut labels = wished.labels.clone();
        labels.extend(metadata(self.endpoint, self.owner).labels.unwrap_or_default());
        labels.insert(labels::ATTEMPT.to_owned(), self.record.number.to_string());
        let mut notes = wished.annotations.clone();
        // Writing plain data as JSON can't fail.
        notes.insert(annotations::REVISION.to_owned(), serde_json::to_string(self.record).unwrap_or_default());
        ObjectMeta { labels: Some(labels), annotations: Some(notes), ..ObjectMeta::default() }
    }

    fn pod(&self) -> PodSpec {
        let spec = &self.endpoint.spec;
        // A server writes nothing into its model.
        let claims: Vec<Claim> = Claim::of_model(&self.record.model.uri, &Value::Null).into_iter().collect();
        let mut infrastructure = spec.infrastructure.clone();
        let grace = &mut infrastructure.pod.termination_grace_period_seconds;
        // What it took in until others knew of its end is answered.
        *grace = spec.limits.timeout_seconds.saturating_add(SERVE_DRAIN_SECONDS + LAST_WORDS_SECONDS).max(*grace);
        let common = Common { infrastructure: &infrastructure, placed: self.placed, claims: &claims };
        let mut pod = common.spec(self.container(&common));
        // Unless asked for otherwise on different nodes, if there are such: the loss of one takes few.
        pod.topology_spread_constraints.get_or_insert_with(|| {
            vec![TopologySpreadConstraint {
                label_selector: Some(pods_of(self.endpoint)),
                match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
                max_skew: 1,
                topology_key: "kubernetes.io/hostname".to_owned(),
                when_unsatisfiable: "ScheduleAnyway".to_owned(),
                ..TopologySpreadConstraint::default()
            }]
        });
        if let Some(secret) = spec.authentication.as_ref().map(|given| &given.bearer_token) {
            let key = KeyToPath { key: secret.key.clone(), path: TOKEN.1.to_owned(), mode: None };
            pod.volumes.get_or_insert_default().push(Volume {
                name: TOKEN.1.to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(secret.name.clone()),
                    items: Some(vec![key]),
                    default_mode: Some(0o440),
                    optional: None,
                }),
                ..Volume::default()
            });
        }
        pod
    }

    fn container(&self, common: &Common<'_>) -> Container {
        let port = |name: &str, port: u16| ContainerPort {
            name: Some(name.to_owned()),
            container_port: i32::from(port),
            ..ContainerPort::default()
        };
        let ports = vec![port("http", SERVE_PORT), port("grpc", SERVE_GRPC_PORT)];
        let mut variables = BTreeMap::from([(env::ASSIGNMENT, self.assignment(common.claims))]);
        if let Some(digest) = &self.record.model.digest {
            variables.insert(env::MODEL_DIGEST, digest.clone());
        }
        let mut token = None;
        if self.endpoint.spec.authentication.is_some() {
            variables.insert(env::TOKEN_FILE, format!("{}/{}", TOKEN.0, TOKEN.1));
            token = Some(VolumeMount {
                name: TOKEN.1.to_owned(),
                mount_path: TOKEN.0.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            });
        }
        let mut container = common.container(&[SERVE_COMMAND], common.environment(variables), ports);
        container.volume_mounts.get_or_insert_default().extend(token);
        container.readiness_probe = Some(probe(paths::READY, 2, 2));
        container.liveness_probe = Some(probe(paths::LIVE, 10, 6));
        container.startup_probe = Some(probe(paths::LIVE, 2, STARTUP_SECONDS / 2));
        container
    }

    /// What the server is told: the spec without what is none of its business, with the model as a folder that it can open.
    fn assignment(&self, claims: &[Claim]) -> String {
        let device = match (self.endpoint.spec.infrastructure.device, self.placed.device) {
            // The server goes on without a GPU that fails only where none was asked for by name.
            (Device::Auto, Device::Gpu) => Device::Auto,
            (_, Device::Gpu) => Device::Gpu,
            _ => Device::Cpu,
        };
        let metadata = &self.endpoint.metadata;
        let assignment = Assignment {
            contract_version: CONTRACT_VERSION,
            kind: ENDPOINT.to_owned(),
            name: name_of(self.endpoint).to_owned(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            created: None,
            attempt: self.record.number,
            member: 0,
            members: 1,
            spec: spec_for(&self.endpoint.spec, &self.record.model.uri, device, claims),
        };
        serde_json::to_string(&assignment).unwrap_or_default()
    }
}

fn spec_for(spec: &ModelEndpointSpec, uri: &str, device: Device, claims: &[Claim]) -> Value {
    let mut spec = for_pods(spec);
    spec["model"] = serde_json::json!({ "uri": uri });
    assignment::resolve(&spec, device, &mounts(claims), &BTreeMap::new())
}

/// A probe that fails after so many failures, so many seconds apart.
fn probe(path: &str, seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}
