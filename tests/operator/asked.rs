//! What a person asks the cluster: `trainyard why` and `trainyard nodes`.

use operator::cluster::{self, Judging, OperatorError};
use operator::placement::Catalogue;
use serde_json::json;

use crate::yard::Yard;

async fn why(yard: &Yard, job: &str) -> Result<String, OperatorError> {
    let (client, catalogue) = (yard.namespace.client(), Catalogue::built_in());
    cluster::why(&client, Some(yard.namespace.name()), job, Judging { catalogue: &catalogue, autoscaled: false }).await
}

#[tokio::test]
async fn why_says_what_each_node_has_and_lacks_for_a_job() {
    let yard = Yard::new("why", &["h200-580", "a100-470", "cpu"]).await;
    yard.train("fits", json!({"infrastructure": {"device": "Gpu"}})).await;
    yard.train("wants", json!({"infrastructure": {"device": "Gpu", "gpusPerNode": 64}})).await;
    yard.score("scores", json!({})).await;
    yard.until("fits", |status| status.attempt == 1).await;
    yard.until("wants", |status| !status.message.is_empty()).await;

    let fits = why(&yard, "fits").await.expect("an answer");
    assert!(fits.contains("An attempt now would go to Gpu"), "{fits}");
    assert!(fits.contains("470"), "the driver that is too old is in the table: {fits}");
    let wants = why(&yard, "tj/wants").await.expect("an answer");
    assert!(wants.contains("Phase: Pending") && wants.contains("An attempt now has no place"), "{wants}");
    assert!(why(&yard, "sj/scores").await.expect("an answer").contains("An attempt now would go to Cpu"));

    let (client, catalogue) = (yard.namespace.client(), Catalogue::built_in());
    let grows = Judging { catalogue: &catalogue, autoscaled: true };
    let comes = cluster::why(&client, Some(yard.namespace.name()), "tj/wants", grows).await.expect("an answer");
    assert!(comes.contains("An attempt now would go to Gpu"), "nodes that are to come may have 64: {comes}");

    let none = why(&yard, "sj/fits").await.expect_err("there is none");
    assert!(matches!(none, OperatorError::NoJob { .. }), "{none}");
    assert!(none.to_string().contains("there is no job sj/fits"), "{none}");

    let nodes = cluster::nodes(&yard.namespace.client()).await.expect("an answer");
    for text in ["H200", "580", "470"] {
        assert!(nodes.contains(text), "{text}: {nodes}");
    }
}
