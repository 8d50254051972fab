//! What one test has of the control plane: a namespace of its own, clients for it, and waiting without sleeping.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::thread;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Node, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, Request, TypeMeta};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Cluster, OWNER_LABEL, PATIENCE, Pods};

/// A namespace that is deleted, with the nodes made through it, when this is dropped; one that was there before stays.
///
/// Its methods panic where the control plane refuses or takes longer than [`PATIENCE`]: that is the test's end.
pub struct Namespace<'a> {
    pub(super) cluster: &'a Cluster,
    name: String,
    client: Client,
    /// Whether it was there before.
    stays: bool,
}

impl<'a> Namespace<'a> {
    pub(super) async fn existing(cluster: &'a Cluster, name: String) -> Namespace<'a> {
        let client = cluster.access.client(&name).await.unwrap_or_else(|fault| panic!("{fault}"));
        Namespace { cluster, name, client, stays: true }
    }

    pub(super) async fn new(cluster: &'a Cluster, name: String) -> Namespace<'a> {
        let mut namespace = Namespace::existing(cluster, name).await;
        namespace.stays = false;
        let object = json!({"metadata": {"name": namespace.name, "labels": namespace.selector()}});
        create(&Api::<NamespaceObject>::all(namespace.client()), object).await;
        namespace.wait("default", |account: Option<&ServiceAccount>| account.is_some()).await;
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An administrator's client, with this as its default namespace.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Objects of a kind in it.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), &self.name)
    }

    /// Creates an object in it from a manifest, or from the object itself.
    pub async fn create<K>(&self, manifest: impl Serialize) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
        K::DynamicType: Default,
    {
        create(&self.api(), manifest).await
    }

    /// Waits until an object meets a condition, and returns it: `None` if it is gone and that is what was waited for.
    pub async fn wait<K>(&self, name: &str, condition: impl Condition<K>) -> Option<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
        K::DynamicType: Default,
    {
        wait(self.api(), name, condition).await
    }

    /// The life of its pods.
    pub fn pods(&self) -> Pods<'_> {
        Pods::new(self)
    }

    /// The node selector by which this test's pods find this test's nodes and no others.
    pub fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(OWNER_LABEL.to_owned(), self.name.clone())])
    }
}

impl Drop for Namespace<'_> {
    /// Deletes what was made, and doesn't wait for the namespace's end. A control plane that is down keeps it.
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let (access, name) = (self.cluster.access.clone(), self.name.clone());
        let clean = async move {
            let Ok(client) = access.client(&name).await else { return };
            let own = ListParams::default().labels(&format!("{OWNER_LABEL}={name}"));
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            // It is the end: nothing is left to be done about a failure.
            let _ = Api::<NamespaceObject>::all(client.clone()).delete(&name, &now).await;
            let _ = Api::<Node>::all(client.clone()).delete_collection(&now, &own).await;
            let _ = Api::<ClusterRoleBinding>::all(client.clone()).delete_collection(&now, &own).await;
            let _ = Api::<ClusterRole>::all(client).delete_collection(&now, &own).await;
        };
        // Not on the test's runtime, which may be about to end.
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(async { timeout(Duration::from_secs(5), clean).await }))
        });
        let _ = thread.join();
    }
}

/// The way to an object of whatever kind, by its manifest: its API and its name. Where the manifest has no namespace, that
/// given is meant, if its kind has one.
///
/// # Panics
/// Where the manifest has no kind or name.
pub fn dynamic(client: &Client, namespace: &str, manifest: &Value) -> (Api<DynamicObject>, String) {
    let types: TypeMeta = TypeMeta::deserialize(manifest).unwrap_or_else(|fault| panic!("{manifest}: {fault}"));
    let kind = GroupVersionKind::try_from(&types).unwrap_or_else(|fault| panic!("{manifest}: {fault}"));
    let resource = ApiResource::from_gvk(&kind);
    let has_none = kind.kind.starts_with("Cluster") || kind.kind == "CustomResourceDefinition";
    let api = match manifest["metadata"]["namespace"].as_str() {
        Some(own) => Api::namespaced_with(client.clone(), own, &resource),
        None if has_none => Api::all_with(client.clone(), &resource),
        None => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let name = manifest["metadata"]["name"].as_str().unwrap_or_else(|| panic!("{manifest} has no name"));
    (api, name.to_owned())
}

/// Creates an object from a manifest, as it stands there: what it leaves out is left out.
pub(super) async fn create<K>(api: &Api<K>, manifest: impl Serialize) -> K
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
    K::DynamicType: Default,
{
    let mut value = serde_json::to_value(manifest).unwrap_or_else(|fault| panic!("the manifest is not JSON: {fault}"));
    let kind = K::DynamicType::default();
    value["apiVersion"] = K::api_version(&kind).into();
    value["kind"] = K::kind(&kind).into();
    let request = Request::new(api.resource_url()).create(&PostParams::default(), value.to_string().into_bytes());
    let request = request.unwrap_or_else(|fault| panic!("{value}: {fault}"));
    let created = api.clone().into_client().request(request).await;
    created.unwrap_or_else(|fault| panic!("can't create {value}: {fault}"))
}

/// Waits until an object meets a condition.
pub(super) async fn wait<K>(api: Api<K>, name: &str, condition: impl Condition<K>) -> Option<K>
where
    K: Resource + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
    K::DynamicType: Default,
{
    match timeout(PATIENCE, await_condition(api.clone(), name, condition)).await {
        Ok(Ok(object)) => object,
        Ok(Err(fault)) => panic!("can't watch {name}: {fault}"),
        Err(_) => {
            let last = match timeout(PATIENCE, api.get_opt(name)).await {
                Ok(Ok(object)) => serde_json::to_string_pretty(&object).unwrap_or_default(),
                Ok(Err(fault)) => fault.to_string(),
                Err(_) => "the API server doesn't answer".to_owned(),
            };
            panic!("{name} is not as it should be after {} s. It is: {last}", PATIENCE.as_secs())
        }
    }
}
