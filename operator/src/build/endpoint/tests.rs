use crds::status::ModelStatus;
use serde_json::json;

use super::*;
use crate::observe::endpoint::Choice;

/// What a pod of an endpoint on a GPU that did not have to be one is assigned. The server's tests read the same file.
const ON_A_GPU: &str = include_str!("../../../../crds/tests/endpoint-on-a-gpu.json");

/// The variables of the pods of an endpoint that wishes a device and was placed on one.
fn variables(wished: Device, placed: Device, digest: Option<&str>) -> BTreeMap<String, String> {
    variables_of(&pod(json!({"infrastructure": {"device": wished}}), placed, digest))
}

fn variables_of(pod: &PodSpec) -> BTreeMap<String, String> {
    let variables = pod.containers[0].env.iter().flatten();
    variables.filter_map(|variable| Some((variable.name.clone(), variable.value.clone()?))).collect()
}

/// The pods of an endpoint with this in its spec that was placed on a device.
fn pod(mut spec: Value, placed: Device, digest: Option<&str>) -> PodSpec {
    spec["model"] = json!({"trainingJob": "digits"});
    let mut endpoint = ModelEndpoint::new("digits", serde_json::from_value(spec).unwrap());
    endpoint.metadata.namespace = Some("a".to_owned());
    endpoint.metadata.uid = Some("u".to_owned());
    let digest = digest.map(str::to_owned);
    let model = ModelStatus { uri: "pvc://models/digits".to_owned(), digest, ..ModelStatus::default() };
    let place = Choice { device: placed, ..Choice::default() };
    let record = Record { number: 3, fingerprint: String::new(), training_job: None, model, place };
    let placed = Placed {
        device: placed,
        runtime: None,
        image: "trainer".to_owned(),
        resource: None,
        gpus: 0,
        affinity: None,
        tolerations: Vec::new(),
        reason: String::new(),
    };
    let owner = OwnerReference::default();
    let template = Template { endpoint: &endpoint, record: &record, placed: &placed, owner: &owner };
    template.deployment(1).spec.unwrap().template.spec.unwrap()
}

#[test]
fn pods_are_spread_over_nodes_unless_it_is_asked_for_otherwise() {
    let spread = |constraints: Value| {
        let wished = json!({"infrastructure": {"pod": {"topologySpreadConstraints": constraints}}});
        json!(pod(wished, Device::Cpu, None).topology_spread_constraints)
    };
    let asked = json!([{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]);
    assert_eq!(spread(asked.clone()), asked);
    assert_eq!(spread(json!([]))[0]["topologyKey"], "kubernetes.io/hostname");
}

#[test]
fn a_pod_that_ends_has_the_time_of_a_request_that_it_just_took_in() {
    for (timeout, wished, grace) in [(30, None, 60), (600, None, 615), (600, Some(900), 900)] {
        let mut spec = json!({"limits": {"timeoutSeconds": timeout}});
        if let Some(wished) = wished {
            spec["infrastructure"] = json!({"pod": {"terminationGracePeriodSeconds": wished}});
        }
        let pod = pod(spec, Device::Cpu, None);
        let told = variables_of(&pod).remove(env::STOP_SECONDS);
        assert_eq!((pod.termination_grace_period_seconds, told), (Some(grace), Some((grace - 10).to_string())));
    }
}

#[test]
fn a_server_may_fall_back_where_no_device_was_asked_for() {
    for (wished, placed, told) in [
        (Device::Auto, Device::Gpu, Device::Auto),
        (Device::Auto, Device::Cpu, Device::Cpu),
        (Device::Gpu, Device::Gpu, Device::Gpu),
        (Device::Cpu, Device::Cpu, Device::Cpu),
    ] {
        let assignment: Value = serde_json::from_str(&variables(wished, placed, None)[env::ASSIGNMENT]).unwrap();
        assert_eq!(assignment["spec"]["infrastructure"]["device"], json!(told), "{wished:?} on {placed:?}");
    }
    let read = |text: &str| serde_json::from_str::<Assignment<ModelEndpointSpec>>(text).unwrap();
    assert_eq!(read(&variables(Device::Auto, Device::Gpu, None)[env::ASSIGNMENT]), read(ON_A_GPU));
}

#[test]
fn a_server_is_told_which_model_its_revision_has_where_that_is_known() {
    let told = |digest| variables(Device::Cpu, Device::Cpu, digest).get(env::MODEL_DIGEST).cloned();
    assert_eq!(told(Some("sha256:ab")), Some("sha256:ab".to_owned()));
    assert_eq!(told(None), None);
}
