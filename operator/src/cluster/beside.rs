//! What a gang of several pods has beside them: its Service and its disruption budget. Both have a name that somebody else's object may
//! have: they are made, not written over, and deleted by the UID of the one that is the job's.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::act::{ActError, Actor, FIELD_MANAGER, Holder, controller};
use crate::build::{gang, names};
use crate::observe::Job;

/// The UIDs of what a gang has beside its pods, of what this operator has made and not deleted.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    service: Option<String>,
    budget: Option<String>,
}

/// How the writes of a kind are counted and told of.
struct Verbs {
    kind: &'static str,
    create: &'static str,
    list: &'static str,
    apply: &'static str,
    delete: &'static str,
}

const SERVICE: Verbs = Verbs {
    kind: "Service",
    create: "create_service",
    list: "list_services",
    apply: "apply_service",
    delete: "delete_service",
};
const BUDGET: Verbs = Verbs {
    kind: "PodDisruptionBudget",
    create: "create_budget",
    list: "list_budgets",
    apply: "apply_budget",
    delete: "delete_budget",
};

impl Actor<'_> {
    /// The Service of a gang of several pods. It comes after the burst of pods, once one of them has a node and may soon look for
    /// the others, and before the status that says that they run.
    pub(super) async fn connect(&self, job: &Job, owner: &OwnerReference, beside: &mut Beside) -> Result<(), ActError> {
        beside.service = Some(self.make(&SERVICE, job, beside.service.take(), gang::service(job, owner)).await?);
        Ok(())
    }

    /// The disruption budget of a gang that runs. It comes after the burst of pods: until then an eviction costs nothing,
    /// and the disruption controller would write its status for every pod.
    ///
    /// Where it may not be made the gang runs without it: the answer says why.
    pub(super) async fn protect(
        &self,
        job: &Job,
        owner: &OwnerReference,
        beside: &mut Beside,
    ) -> Result<Option<String>, ActError> {
        match self.make(&BUDGET, job, beside.budget.take(), gang::disruption_budget(job, owner)).await {
            Ok(uid) => beside.budget = Some(uid),
            Err(error @ ActError::Taken { holder: Holder::Stranger, .. }) => return Ok(Some(error.to_string())),
            Err(error) if error.is_code(403) => return Ok(Some(error.to_string())),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// Deletes both: of a gang that is stopped nobody is to be found or kept. A budget that may not even be looked up is none of ours.
    pub(super) async fn disconnect(&self, job: &Job, beside: &mut Beside) -> Result<(), ActError> {
        let service = self.remove::<Service>(&SERVICE, job, beside.service.clone());
        let budget = self.remove::<PodDisruptionBudget>(&BUDGET, job, beside.budget.clone());
        let (service, budget) = futures::join!(service, budget);
        service.and(budget.or_else(|error| if error.is_code(403) { Ok(()) } else { Err(error) }))?;
        *beside = Beside::default();
        Ok(())
    }

    /// Makes an object of the job's. One that is there and is the job's is brought back to what it should be: the one of this UID, where
    /// it is known, or one that was made before a crash.
    async fn make<K>(&self, verbs: &Verbs, job: &Job, known: Option<String>, object: K) -> Result<String, ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        if let Some(known) = known {
            match self.renew(verbs, job, known, object.clone()).await {
                // It is gone, or another one has its name.
                Err(error) if [404, 409, 422].iter().any(|code| error.is_code(*code)) => {}
                renewed => return renewed,
            }
        }
        let doing = format!("create the {}", verbs.kind);
        match self.write(verbs.create, &doing, self.post(&job.namespace, &object)).await {
            Err(error) if error.is_code(409) => {}
            made => return made.map(|made| made.metadata.uid.unwrap_or_default()),
        }
        match self.holds::<K>(verbs, job).await? {
            Ok(own) => self.renew(verbs, job, own, object).await,
            Err(holder) => Err(ActError::Taken { what: format!("{} {}", verbs.kind, names::service(job)), holder }),
        }
    }

    /// Brings the object of this UID back to what it should be.
    async fn renew<K>(&self, verbs: &Verbs, job: &Job, uid: String, mut object: K) -> Result<String, ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        object.meta_mut().uid = Some(uid.clone());
        let api: Api<K> = Api::namespaced(self.client.clone(), &job.namespace);
        let (name, apply, patch) =
            (names::service(job), PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&object));
        let doing = format!("apply the {}", verbs.kind);
        let applied = self.write(verbs.apply, &doing, api.patch_metadata(&name, &apply, &patch)).await?;
        Ok(applied.metadata.uid.unwrap_or(uid))
    }

    /// Deletes an object of the job's: the one of this UID, or whichever is the job's if it is not known.
    async fn remove<K>(&self, verbs: &Verbs, job: &Job, known: Option<String>) -> Result<(), ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let uid = match known {
            Some(uid) => uid,
            None => match self.holds::<K>(verbs, job).await? {
                Ok(own) => own,
                Err(_) => return Ok(()),
            },
        };
        let preconditions = Some(Preconditions { uid: Some(uid), resource_version: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        let api: Api<K> = Api::namespaced(self.client.clone(), &job.namespace);
        let name = names::service(job);
        let deleting = api.delete(&name, &parameters);
        match self.write(verbs.delete, &format!("delete the {}", verbs.kind), deleting).await {
            // It is gone, or another one has its name.
            Err(error) if !error.is_code(404) && !error.is_code(409) => Err(error),
            _ => Ok(()),
        }
    }

    /// The UID of the object of this name if it is the job's; otherwise whose it is. One that is gone was on its way out.
    async fn holds<K>(&self, verbs: &Verbs, job: &Job) -> Result<Result<String, Holder>, ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let there = self.named::<K>(verbs.list, verbs.kind, &job.namespace, &names::service(job)).await?;
        let Some(there) = there else { return Ok(Err(Holder::Leftover)) };
        match there.uid.clone().filter(|_| controller(&there).is_some_and(|owner| owner.uid == job.uid)) {
            Some(own) => Ok(Ok(own)),
            None => Ok(Err(Holder::of(&there, &job.kind, &job.name))),
        }
    }
    /// The metadata of the object of this name, if there is one.
    pub(super) async fn named<K>(
        &self,
        verb: &'static str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        // A list by name asks for no right that the watch of the kind does not need as well.
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.write(verb, &format!("look up the {kind}"), api.list_metadata(&named)).await?;
        Ok(found.items.into_iter().next().map(|there| there.metadata))
    }
}
