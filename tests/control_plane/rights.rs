//! A user has the rights that it was given and no others.

use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Api;
use kube::api::ListParams;
use tests::cluster::Cluster;

fn rule(resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}

#[tokio::test]
async fn a_user_may_do_what_it_was_given_and_no_more() {
    let namespace = Cluster::shared().await.namespace("rights").await;
    let user = namespace.user("operator", &[rule("configmaps", &["list"])], &[rule("nodes", &["list"])]).await;
    let (client, all) = (user.client().await, ListParams::default());
    Api::<ConfigMap>::default_namespaced(client.clone()).list(&all).await.unwrap();
    Api::<Node>::all(client.clone()).list(&all).await.unwrap();
    let refused = |fault: kube::Error| matches!(fault, kube::Error::Api(status) if status.code == 403);
    assert!(refused(Api::<Secret>::default_namespaced(client.clone()).list(&all).await.unwrap_err()));
    assert!(refused(Api::<ConfigMap>::namespaced(client.clone(), "default").list(&all).await.unwrap_err()));
    assert!(refused(Api::<ConfigMap>::default_namespaced(client).get("any").await.unwrap_err()));
    assert!(user.kubeconfig().is_file());
}
