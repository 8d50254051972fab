//! What belongs to an endpoint besides its Deployment. Each has the fingerprint of what was wished, so that a part from which
//! something is to go is told from one that is as it should be.

use crds::ModelEndpoint;
use crds::contract::{GROUP, VERSION, annotations, metrics};
use crds::model_endpoint::{Autoscaling, ScaleMetric, ServiceType};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec,
    MetricTarget, PodsMetricSource,
};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use serde::Serialize;
use serde_json::json;

use super::{metadata, name_of, pods_of};
use crate::build::fingerprint::fingerprint;
use crate::build::names::ENDPOINT;
use crate::build::pod::labels_of;

/// The Service by which requests come. It stays while the endpoint is suspended.
pub fn service(endpoint: &ModelEndpoint, owner: &OwnerReference) -> Service {
    let wished = &endpoint.spec.service;
    let port = |name: &str, port: u16, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        target_port: Some(IntOrString::String(name.to_owned())),
        app_protocol: Some(protocol.to_owned()),
        ..ServicePort::default()
    };
    let kind = match wished.kind {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let mut service = Service {
        metadata: metadata(endpoint, owner),
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            selector: Some(labels_of(ENDPOINT, name_of(endpoint))),
            ports: Some(vec![port("http", wished.port, "http"), port("grpc", wished.grpc_port, "kubernetes.io/h2c")]),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    service.metadata.annotations = Some(wished.annotations.clone());
    marked(service)
}

/// The disruption budget: a drain takes one pod at a time, and any that does not answer.
pub fn budget(endpoint: &ModelEndpoint, owner: &OwnerReference) -> PodDisruptionBudget {
    marked(PodDisruptionBudget {
        metadata: metadata(endpoint, owner),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(pods_of(endpoint)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}

/// The autoscaler, if one is wished. It scales the endpoint itself, so that `spec.replicas` is the one number of pods whoever
/// sets it.
pub fn autoscaler(endpoint: &ModelEndpoint, owner: &OwnerReference) -> Option<HorizontalPodAutoscaler> {
    let wished = endpoint.spec.autoscaling.as_ref()?;
    Some(marked(HorizontalPodAutoscaler {
        metadata: metadata(endpoint, owner),
        spec: Some(HorizontalPodAutoscalerSpec {
            min_replicas: i32::try_from(wished.min_replicas).ok(),
            max_replicas: i32::try_from(wished.max_replicas).unwrap_or(i32::MAX),
            metrics: Some(vec![metric(wished)]),
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some(format!("{GROUP}/{VERSION}")),
                kind: ENDPOINT.to_owned(),
                name: name_of(endpoint).to_owned(),
            },
            ..HorizontalPodAutoscalerSpec::default()
        }),
        status: None,
    }))
}

fn metric(wished: &Autoscaling) -> MetricSpec {
    let name = match wished.scale_metric {
        ScaleMetric::QueueMilliseconds => metrics::QUEUE_MILLISECONDS,
        ScaleMetric::RequestsPerSecond => metrics::REQUESTS_PER_SECOND,
    };
    MetricSpec {
        type_: "Pods".to_owned(),
        pods: Some(PodsMetricSource {
            metric: MetricIdentifier { name: name.to_owned(), selector: None },
            target: MetricTarget {
                type_: "AverageValue".to_owned(),
                average_value: Some(Quantity(wished.scale_target.to_string())),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

/// The object with the fingerprint of itself.
fn marked<K: Resource + Serialize>(mut object: K) -> K {
    let print = fingerprint(&json!(object));
    object.meta_mut().annotations.get_or_insert_default().insert(annotations::APPLIED.to_owned(), print);
    object
}
