//! What a gang of several pods needs beside them: a headless Service to find each other, and a disruption budget.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;

use super::{names, pod};
use crate::observe::Job;

fn metadata(job: &Job, owner: &OwnerReference) -> ObjectMeta {
    ObjectMeta {
        name: Some(names::service(job)),
        namespace: Some(job.namespace.clone()),
        labels: Some(pod::job_labels(job)),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The Service that gives each pod of a gang a name. Pods have it before they are ready: they have to meet to get ready.
pub fn service(job: &Job, owner: &OwnerReference) -> Service {
    let port = |name: &str, port: u16| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(job, owner),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(pod::job_labels(job)),
            ports: Some(vec![port("rendezvous", crds::contract::RENDEZVOUS_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The budget of a gang that runs: losing one pod restarts all of it, so a drain takes one at a time. While it restarts there is
/// none: what does not run loses nothing.
pub fn disruption_budget(job: &Job, owner: &OwnerReference) -> PodDisruptionBudget {
    // A count, not maxUnavailable: that works only for controllers that have a scale.
    let least = i32::try_from(job.gang_size.saturating_sub(1)).unwrap_or(i32::MAX);
    PodDisruptionBudget {
        metadata: metadata(job, owner),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(least)),
            selector: Some(LabelSelector { match_labels: Some(pod::job_labels(job)), ..LabelSelector::default() }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
