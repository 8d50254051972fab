//! Data and model in a real S3 server, whose key the pods have from a Secret.

use crds::TrainingJob;
use serde_json::{Map, Value, json};
use tests::chart::Ran;
use tests::node::CONTROL_PLANE;
use tests::storage::Server;

use crate::jobs::succeeds;
use crate::yard::Yard;

pub(crate) fn trains(yard: &mut Yard) {
    let server = Server::start_on(CONTROL_PLANE.into(), "vision").expect("an S3 server");
    let digits = server.bucket("vision").join("digits");
    Ran::of(std::process::Command::new("cp").arg("-r").arg(yard.volume("datasets").join("digits/train")).arg(&digits))
        .good();
    let key: Map<String, Value> =
        server.environment().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    yard.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage"}, "stringData": key}));

    let mut job = Yard::example("digits-training.yaml");
    job["metadata"]["name"] = json!("digits-store");
    job["spec"]["model"]["architecture"] = json!("mobilenet_v3_small");
    job["spec"]["training"]["epochs"] = json!(1);
    job["spec"]["data"]["uri"] = json!("s3://vision/digits");
    job["spec"]["output"]["uri"] = json!("s3://vision/model");
    job["spec"]["infrastructure"] = json!({"device": "Cpu", "pod": {"envFrom": [{"secretRef": {"name": "storage"}}]}});
    yard.apply(&job);
    let ended: TrainingJob = succeeds(yard, "digits-store");
    let model = ended.status.and_then(|status| status.model).expect("a model");
    assert_eq!(model.uri, "s3://vision/model");
    for file in ["model.safetensors", "model.json", "metrics.json", "report.html"] {
        assert!(server.bucket("vision").join("model").join(file).is_file(), "{file} is missing");
    }
    yard.kubectl(["delete", "secret", "-n", crate::yard::JOBS, "storage"]);
}
