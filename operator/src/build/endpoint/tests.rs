use crds::status::ModelStatus;
use serde_json::json;

use super::*;
use crate::observe::endpoint::Choice;

/// What a pod of an endpoint on a GPU that did not have to be one is assigned. The server's tests read the same file.
const ON_A_GPU: &str = include_str!("../../../../crds/tests/endpoint-on-a-gpu.json");

/// The variables of the pods of an endpoint that wishes a device and was placed on one.
fn variables(wished: Device, placed: Device, digest: Option<&str>) -> BTreeMap<String, String> {
    let spec = json!({"model": {"trainingJob": "digits"}, "infrastructure": {"device": wished}});
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
    let pod = template.deployment(1).spec.unwrap().template.spec.unwrap();
    let variables = pod.containers[0].env.clone().unwrap();
    variables.into_iter().filter_map(|variable| Some((variable.name, variable.value?))).collect()
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
