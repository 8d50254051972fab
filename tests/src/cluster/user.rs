//! A service account with given rights: the identity that an operator under test has.

use std::path::Path;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::credentials::Access;
use super::namespace::create;
use super::{Namespace, PATIENCE};

/// A service account's access.
#[derive(Clone, Debug)]
pub struct User {
    access: Access,
    namespace: String,
}

impl User {
    /// Its kubeconfig, for a child process.
    pub fn kubeconfig(&self) -> &Path {
        &self.access.path
    }

    /// Its client. It belongs to the async runtime that it is made on.
    ///
    /// # Panics
    /// Where the kubeconfig that was written can't be used.
    pub async fn client(&self) -> Client {
        self.access.client(&self.namespace).await.unwrap_or_else(|fault| panic!("{fault}"))
    }
}

impl Namespace<'_> {
    /// Creates a service account that may do what `rules` say in this namespace, and what `cluster_rules` say in the
    /// whole cluster, and nothing else. Returns when the API server knows.
    pub async fn user(&self, name: &str, rules: &[PolicyRule], cluster_rules: &[PolicyRule]) -> User {
        self.create::<ServiceAccount>(json!({"metadata": {"name": name}})).await;
        let subjects = json!([{"kind": "ServiceAccount", "name": name, "namespace": self.name()}]);
        let role =
            |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        let metadata = json!({"name": name});
        if !rules.is_empty() {
            self.create::<Role>(json!({"metadata": metadata, "rules": rules})).await;
            let binding = json!({"metadata": metadata, "roleRef": role("Role", name), "subjects": subjects});
            self.create::<RoleBinding>(binding).await;
        }
        if !cluster_rules.is_empty() {
            let wide = format!("{}-{name}", self.name());
            let metadata = json!({"name": wide, "labels": self.selector()});
            let roles = Api::<ClusterRole>::all(self.client());
            create(&roles, json!({"metadata": metadata, "rules": cluster_rules})).await;
            let bindings = Api::<ClusterRoleBinding>::all(self.client());
            let binding = json!({"metadata": metadata, "roleRef": role("ClusterRole", &wide), "subjects": subjects});
            create(&bindings, binding).await;
        }
        let user = self.user_of(name).await;
        for rule in [rules.last(), cluster_rules.last()].into_iter().flatten() {
            self.allowed(&user, rule).await;
        }
        user
    }

    /// The access of a service account that is there already, such as a chart's.
    pub async fn user_of(&self, service_account: &str) -> User {
        let request = json!({"metadata": {}, "spec": {"audiences": [], "expirationSeconds": 86_400}});
        let request: TokenRequest = serde_json::from_value(request).unwrap_or_default();
        let api = self.api::<ServiceAccount>();
        let answer = api.create_token_request(service_account, &PostParams::default(), &request).await;
        let answer = answer.unwrap_or_else(|fault| panic!("no token for {service_account}: {fault}"));
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        let file = format!("{}-{service_account}", self.name());
        let access = self.cluster.write_access(&file, &token, self.name()).unwrap_or_else(|fault| panic!("{fault}"));
        User { access, namespace: self.name().to_owned() }
    }

    /// Waits until the authorizer, which hears of roles by a watch of its own, lets a user do what a rule says.
    async fn allowed(&self, user: &User, rule: &PolicyRule) {
        let first = |values: &Option<Vec<String>>| values.as_ref().and_then(|values| values.first().cloned());
        let Some(resource) = first(&rule.resources) else { return };
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), Value::from(subresource)),
            None => (resource, Value::Null),
        };
        let attributes = json!({
            "namespace": self.name(), "verb": rule.verbs.first(), "group": first(&rule.api_groups), "resource": resource,
            "subresource": subresource, "name": first(&rule.resource_names),
        });
        let reviews = Api::<SelfSubjectAccessReview>::all(user.client().await);
        let deadline = Instant::now() + PATIENCE;
        // There is nothing to watch: the review is computed anew each time.
        while !create(&reviews, json!({"metadata": {}, "spec": {"resourceAttributes": attributes}}))
            .await
            .status
            .is_some_and(|status| status.allowed)
        {
            assert!(Instant::now() < deadline, "the rule {rule:?} is not in force after {} s", PATIENCE.as_secs());
            sleep(Duration::from_millis(20)).await;
        }
    }
}
