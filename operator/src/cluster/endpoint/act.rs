//! Carries a plan for an endpoint out, in this order: parts, the Deployment, removals, one status write, events. Each write but the
//! last is idempotent, and the number of a revision goes with the Deployment, so that a crash between any two of them leads
//! to the same end.

use std::fmt::Debug;

use crds::status::ModelEndpointStatus;
use crds::{ModelEndpoint, contract};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{PartialObjectMeta, Request};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::act::{ActError, Actor, FIELD_MANAGER, Holder, controller};
use super::super::pods::Owner;
use super::cache::Cache;
use super::{Seen, seen};
use crate::build::endpoint::{Template, autoscaler, budget, service};
use crate::build::names;
use crate::decide::endpoint::{Name, Plan, Size};
use crate::observe::endpoint::Rollout;
use crate::placement::Placed;

/// What the API server says of a Service where somebody has changed the number of one of our ports: an apply merges ports by their
/// numbers, so that ours comes to stand beside the other one of its name.
const TWO_OF_A_NAME: &str = "Duplicate value";

impl Actor<'_> {
    /// Carries out what a plan wants of what belongs to an endpoint.
    ///
    /// # Errors
    /// The first write that failed; what was done stays done.
    pub(super) async fn endpoint(
        &self,
        seen: &Seen,
        plan: &Plan,
        placed: Option<&Placed>,
        endpoint: &ModelEndpoint,
        owner: &Owner,
    ) -> Result<(), ActError> {
        let Some(reference) = endpoint.controller_owner_ref(&()) else { return Ok(()) };
        for name in &plan.apply {
            self.part(seen, *name, endpoint, &reference, owner).await?;
        }
        if let (Some(record), Some(placed)) = (&plan.roll, placed) {
            let template = Template { endpoint, record, placed, owner: &reference };
            let deployment = template.deployment(endpoint.spec.replicas);
            let known = seen.rollouts.get(&owner.uid).map(|known| known.uid);
            let applied = self.apply("apply_deployment", "apply the Deployment", known, deployment, owner).await?;
            seen.rollouts.learn(&applied, Rollout::of);
        }
        if let Some(size) = plan.resize {
            self.resize(seen, size, owner).await?;
        }
        for name in &plan.remove {
            // Nothing else is ever removed.
            if *name == Name::Autoscaler {
                self.remove_autoscaler(seen, owner).await?;
            }
        }
        Ok(())
    }

    async fn part(
        &self,
        seen: &Seen,
        name: Name,
        endpoint: &ModelEndpoint,
        reference: &OwnerReference,
        owner: &Owner,
    ) -> Result<(), ActError> {
        match name {
            Name::Service => {
                let service = service(endpoint, reference);
                let (verb, doing) = ("apply_service", "apply the Service");
                match self.keep(&seen.services, verb, doing, &service, owner).await {
                    Err(error) if error.invalid().is_some_and(|why| why.contains(TWO_OF_A_NAME)) => {
                        self.replace_ports(&seen.services, &service, owner).await?;
                        self.keep(&seen.services, verb, doing, &service, owner).await
                    }
                    kept => kept,
                }
            }
            Name::Budget => {
                let budget = budget(endpoint, reference);
                self.keep(&seen.budgets, "apply_budget", "apply the PodDisruptionBudget", &budget, owner).await
            }
            Name::Autoscaler => {
                let Some(autoscaler) = autoscaler(endpoint, reference) else { return Ok(()) };
                let doing = "apply the HorizontalPodAutoscaler";
                self.keep(&seen.autoscalers, "apply_autoscaler", doing, &autoscaler, owner).await
            }
        }
    }

    async fn keep<K>(
        &self,
        cache: &Cache<Value>,
        verb: &'static str,
        doing: &str,
        object: &K,
        owner: &Owner,
    ) -> Result<(), ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let known = cache.get(&owner.uid).map(|known| known.uid);
        match self.apply(verb, doing, known, object.clone(), owner).await {
            Ok(applied) => cache.learn(&applied, seen),
            Err(error) => {
                // The one that was known may be gone: whose the name is now is asked for.
                if error.is_code(404) || error.is_code(409) {
                    cache.forget(&owner.uid);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Applies an object: over the one of this UID, where it is known, or over one of the endpoint's own that is found by its name.
    /// One that is somebody else's is left as it is.
    async fn apply<K>(
        &self,
        verb: &'static str,
        doing: &str,
        known: Option<String>,
        mut object: K,
        owner: &Owner,
    ) -> Result<K, ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let name = names::of_endpoint(&owner.name);
        let own = match known {
            Some(known) => Some(known),
            None => self.own::<K>(&name, owner).await?,
        };
        // Another one that has come to the name meanwhile has another UID. Where there was none, what somebody has made meanwhile is not
        // taken by force.
        let apply = PatchParams::apply(FIELD_MANAGER);
        let apply = if own.is_some() { apply.force() } else { apply };
        object.meta_mut().uid = own;
        let api: Api<K> = Api::namespaced(self.client.clone(), &owner.namespace);
        self.write(verb, doing, api.patch(&name, &apply, &Patch::Apply(&object))).await
    }

    /// The UID of the object of this name if it is the endpoint's; `None` if there is none.
    async fn own<K>(&self, name: &str, owner: &Owner) -> Result<Option<String>, ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let kind = K::kind(&());
        let Some(there) = self.named::<K>("list_parts", &kind, &owner.namespace, name).await? else { return Ok(None) };
        if controller(&there).is_some_and(|by| by.uid == owner.uid) {
            return Ok(there.uid);
        }
        // It may be one that an earlier endpoint has left, and soon be gone.
        let holder = Holder::of(&there, &owner.kind, &owner.name);
        Err(ActError::Taken { what: format!("{kind} {name}"), holder })
    }

    /// Whether the object of the endpoint's name is the one of this UID.
    async fn is_there<K>(&self, uid: &str, owner: &Owner) -> Result<bool, ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let name = names::of_endpoint(&owner.name);
        let there = self.named::<K>("list_parts", &K::kind(&()), &owner.namespace, &name).await?;
        Ok(there.is_some_and(|there| there.uid.as_deref() == Some(uid)))
    }

    /// Puts the ports of a Service in the place of those that it has.
    async fn replace_ports(&self, cache: &Cache<Value>, service: &Service, owner: &Owner) -> Result<(), ActError> {
        let Some(known) = cache.get(&owner.uid) else { return Ok(()) };
        let api: Api<Service> = Api::namespaced(self.client.clone(), &owner.namespace);
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
        // The UID keeps it off another Service of this name.
        let patch = Patch::Merge(json!({"metadata": {"uid": known.uid}, "spec": {"ports": ports}}));
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let name = names::of_endpoint(&owner.name);
        let write = api.patch(&name, &parameters, &patch);
        self.write("patch_service", "put the Service's ports right", write).await.map(drop)
    }

    /// Changes the number of pods, and nothing about them.
    async fn resize(&self, seen: &Seen, size: Size, owner: &Owner) -> Result<(), ActError> {
        let Some(known) = seen.rollouts.get(&owner.uid) else { return Ok(()) };
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &owner.namespace);
        let patch = json!({
            // The UID keeps it off another Deployment of this name.
            "metadata": {"uid": known.uid},
            "spec": {"replicas": size.replicas, "progressDeadlineSeconds": size.deadline_seconds},
        });
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let (name, patch) = (names::of_endpoint(&owner.name), Patch::Merge(&patch));
        let write = api.patch(&name, &parameters, &patch);
        match self.write("patch_deployment", "change the size of the Deployment", write).await {
            Ok(applied) => {
                seen.rollouts.learn(&applied, Rollout::of);
                Ok(())
            }
            // It has gone, or another one has its name: the next look makes one.
            Err(error) if error.is_code(404) || error.is_code(409) => {
                self.rollout(seen, owner).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn remove_autoscaler(&self, seen: &Seen, owner: &Owner) -> Result<(), ActError> {
        let Some(known) = seen.autoscalers.get(&owner.uid) else { return Ok(()) };
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), &owner.namespace);
        let preconditions = Preconditions { uid: Some(known.uid.clone()), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let (name, doing) = (names::of_endpoint(&owner.name), "delete the HorizontalPodAutoscaler");
        let deleted = self.write("delete_autoscaler", doing, api.delete(&name, &parameters)).await;
        let is_there = match &deleted {
            Err(error) if error.is_code(404) => false,
            // Another one may have its name.
            Err(error) if error.is_code(409) => self.is_there::<HorizontalPodAutoscaler>(&known.uid, owner).await?,
            deleted => deleted.is_err(),
        };
        if is_there {
            return deleted.map(drop);
        }
        seen.autoscalers.forget(&owner.uid);
        Ok(())
    }

    /// The endpoint's Deployment by the API server's own word: the watch may lag behind, and a revision is made but once.
    pub(super) async fn rollout(&self, seen: &Seen, owner: &Owner) -> Result<Option<Rollout>, ActError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &owner.namespace);
        let name = names::of_endpoint(&owner.name);
        match self.write("get_deployment", "read the Deployment", api.get_opt(&name)).await? {
            Some(deployment) if controller(&deployment.metadata).is_some_and(|by| by.uid == owner.uid) => {
                seen.rollouts.learn(&deployment, Rollout::of);
            }
            _ => seen.rollouts.forget(&owner.uid),
        }
        Ok(seen.rollouts.get(&owner.uid).map(|known| known.facts))
    }

    /// Writes the one status over the version that was seen or written last; returns the new version.
    pub(super) async fn endpoint_status(
        &self,
        status: &ModelEndpointStatus,
        version: Option<&String>,
        owner: &Owner,
    ) -> Result<Option<String>, ActError> {
        let api: Api<ModelEndpoint> = Api::namespaced(self.client.clone(), &owner.namespace);
        let body = json!({
            "apiVersion": format!("{}/{}", contract::GROUP, contract::VERSION), "kind": super::KIND,
            // The version keeps the status of an endpoint that is gone off another one of its name.
            "metadata": {"name": owner.name, "namespace": owner.namespace, "resourceVersion": version},
            "status": status,
        });
        let (apply, body) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&body));
        let request = Request::new(api.resource_url()).patch_subresource("status", &owner.name, &apply, &body);
        let write = self.brief::<PartialObjectMeta<ModelEndpoint>>(request);
        Ok(self.write("patch_status", "write the status", write).await?.metadata.resource_version)
    }

    /// The endpoint as the API server has it now, if it is still there.
    pub(super) async fn read_endpoint(&self, owner: &Owner) -> Result<Option<ModelEndpoint>, ActError> {
        let api: Api<ModelEndpoint> = Api::namespaced(self.client.clone(), &owner.namespace);
        let read = self.write("get_endpoint", "read the endpoint", api.get_opt(&owner.name)).await?;
        Ok(read.filter(|endpoint| endpoint.metadata.uid.as_ref() == Some(&owner.uid)))
    }
}
