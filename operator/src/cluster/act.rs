//! Carries a plan out, in this order: objects, deletions, one status write. A crash between any two of these leads to the same
//! end, since names are deterministic and deletions have preconditions. Events come after it ([`news`](super::news)).

mod error;

use std::future::Future;
use std::time::Duration;

use futures::stream::{self, TryStreamExt};
use http::HeaderValue;
use http::header::{ACCEPT, CONTENT_TYPE};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{PartialObjectMeta, Request};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::Instrument;

pub(super) use self::error::{ActError, Holder, controller};
use super::context::Written;
use super::kind::Kind;
use super::lanes::{Lanes, PODS};
use super::lease::Fence;
use super::pods::{Owner, Pods};
use super::telemetry::Telemetry;
use crate::build::names;
use crate::build::pod::Template;
use crate::decide::{How, Plan};
use crate::observe::pod::PodFacts;
use crate::observe::{Ledger, MemberId};

/// Name under which we write.
pub(super) const FIELD_MANAGER: &str = "trainyard";
/// Asks for the metadata of an object alone.
const METADATA_ALONE: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Longest time that one write may take, retries of the client included.
const PATIENCE: Duration = Duration::from_secs(30);

/// What carries plans out.
#[derive(Clone)]
pub(super) struct Actor<'a> {
    pub(super) client: &'a Client,
    pub(super) pods: &'a Pods,
    pub(super) lanes: &'a Lanes,
    pub(super) fence: &'a Fence,
    pub(super) telemetry: &'a Telemetry,
}

impl Actor<'_> {
    /// Carries out what a plan wants of pods and what belongs to them.
    ///
    /// # Errors
    /// The first write that failed; what was done stays done.
    pub(super) async fn members(
        &self,
        plan: &Plan,
        template: Option<&Template<'_>>,
        owner: &Owner,
    ) -> Result<(), ActError> {
        if let (Some(template), false) = (template, plan.start.is_empty()) {
            // The first one alone: if it is refused, so will the others be. Those of a later attempt have been taken before.
            let alone = usize::from(plan.start.first().is_some_and(|first| first.attempt == 1));
            for (ids, at_once) in [(&plan.start[..alone], 1), (&plan.start[alone..], PODS)] {
                let made = stream::iter(ids.iter().map(Ok))
                    .try_for_each_concurrent(at_once, |id| self.create(template, *id))
                    .await;
                // Of the others that were asked for with the first that failed, no answer is waited for.
                made.inspect_err(|_| self.pods.doubt(owner))?;
            }
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &owner.namespace);
        stream::iter(plan.stop.iter().map(Ok))
            .try_for_each_concurrent(PODS, |stop| {
                let api = &api;
                async move {
                    let name = names::pod_of(&owner.kind, &owner.name, stop.id);
                    let grace = (stop.how == How::ByForce).then_some(0);
                    let preconditions = Preconditions { uid: Some(stop.uid.clone()), resource_version: None };
                    let parameters = DeleteParams {
                        grace_period_seconds: grace,
                        preconditions: Some(preconditions),
                        ..DeleteParams::default()
                    };
                    let doing = format!("delete pod {name}");
                    let delete = Request::new(api.resource_url()).delete(&name, &parameters);
                    let deleted = self.write("delete_pod", &doing, self.brief::<PartialObjectMeta<Pod>>(delete)).await;
                    match deleted {
                        Ok(PartialObjectMeta { metadata, .. }) => {
                            self.pods.learn_deletion(owner, stop.id, &metadata);
                            Ok(())
                        }
                        // It is gone, or another one has its name: either way this one is no more.
                        Err(error) if error.is_code(404) || error.is_code(409) => {
                            self.pods.forget(owner, stop.id, &stop.uid, error.is_code(404));
                            Ok(())
                        }
                        Err(error) => Err(error),
                    }
                }
            })
            .await
    }

    async fn create(&self, template: &Template<'_>, id: MemberId) -> Result<(), ActError> {
        let pod = template.pod(id);
        let name = names::pod(template.job, id);
        let doing = format!("create pod {name}");
        match self.write("create_pod", &doing, self.post(&template.job.namespace, &pod)).await {
            Ok(PartialObjectMeta { metadata, .. }) => {
                self.pods.learn(&Pod { metadata, ..Pod::default() });
                Ok(())
            }
            // Made before a crash, or by a retry of the client whose first try got through.
            Err(error) if error.is_code(409) => {
                let api: Api<Pod> = Api::namespaced(self.client.clone(), &template.job.namespace);
                let there = self.write("get_pod", &format!("read pod {name}"), api.get_opt(&name)).await?;
                let is_ours = |pod: &Pod| Owner::of(pod).is_some_and(|owner| owner.uid == template.job.uid);
                match there {
                    Some(pod) if is_ours(&pod) => {
                        self.pods.learn(&pod);
                        // One that was made before the spec was changed is not what was asked for: the next look sees to it.
                        if PodFacts::of(&pod).is_some_and(|facts| facts.is_outdated(template.job)) {
                            return Err(ActError::Taken { what: format!("pod {name}"), holder: Holder::Leftover });
                        }
                        Ok(())
                    }
                    there => {
                        // One that is gone by now was on its way out.
                        let holder = there.map_or(Holder::Leftover, |pod| {
                            Holder::of(&pod.metadata, &template.job.kind, &template.job.name)
                        });
                        Err(ActError::Taken { what: format!("pod {name}"), holder })
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The job as the API server has it now, if it is still there.
    pub(super) async fn read<K: Kind>(&self, owner: &Owner) -> Result<Option<K>, ActError> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &owner.namespace);
        let read = self.write("get_job", "read the job", api.get_opt(&owner.name)).await?;
        Ok(read.filter(|job| job.meta().uid.as_ref() == Some(&owner.uid)))
    }

    /// Writes the one status over the version that was seen or written last; returns what was written.
    pub(super) async fn status<K: Kind>(
        &self,
        job: &K,
        owner: &Owner,
        ledger: &Ledger,
        before: &Written,
        now: Timestamp,
    ) -> Result<Written, ActError> {
        let status = job.status_json(ledger, &before.conditions, now);
        let conditions = serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), &owner.namespace);
        let body = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            // The version keeps the status of a job that is gone off another one of its name: the API server looks at no
            // UID when a status is applied.
            "metadata": {"name": owner.name, "namespace": owner.namespace, "resourceVersion": before.version},
            "status": status,
        });
        let (apply, body) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&body));
        let patch = Request::new(api.resource_url()).patch_subresource("status", &owner.name, &apply, &body);
        let write = self.brief::<PartialObjectMeta<K>>(patch);
        let written = self.write("patch_status", "write the status", write).await?;
        Ok(Written { conditions, version: written.metadata.resource_version })
    }

    /// Publishes an event.
    pub(super) async fn publish(&self, event: &Event) -> Result<(), ActError> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        self.write("publish_event", "publish an event", self.post(namespace, event)).await.map(drop)
    }

    /// Deletes a finished job whose time is over. One that is not as it was seen last may have been given more time: the watch will
    /// tell.
    pub(super) async fn expire<K: Kind>(&self, owner: &Owner, version: Option<&String>) -> Result<(), ActError> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &owner.namespace);
        let preconditions = Preconditions { uid: Some(owner.uid.clone()), resource_version: version.cloned() };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match self.write("delete_job", "delete the finished job", api.delete(&owner.name, &parameters)).await {
            Err(error) if !error.is_code(404) && !error.is_code(409) => Err(error),
            _ => Ok(()),
        }
    }

    /// Creates an object.
    pub(super) async fn post<K>(&self, namespace: &str, object: &K) -> kube::Result<PartialObjectMeta<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
    {
        let path = K::url_path(&(), Some(namespace));
        // What we write has types: to look for fields that are unknown or there twice would cost time for nothing.
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&fieldValidation=Ignore");
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = http::Request::post(path).header(CONTENT_TYPE, "application/json").body(body);
        self.brief(request.map_err(kube::core::request::Error::BuildRequest)).await
    }

    /// Sends a write whose answer is the metadata of what was written. Nothing else of it is read, and to write the whole
    /// object out costs the API server as much time as the rest of a write.
    pub(super) async fn brief<T: DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> kube::Result<T> {
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ALONE));
        self.client.request(request).await
    }

    /// One write of the operator that leads: bounded in time, timed, counted.
    pub(super) async fn write<T>(
        &self,
        verb: &'static str,
        doing: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ActError> {
        let _room = self.lanes.enter(verb).await;
        let start = std::time::Instant::now();
        let doing = || doing.to_owned();
        let result = match self.fence.left().map(|left| PATIENCE.min(left)) {
            None => Err(ActError::NotLeading { doing: doing() }),
            Some(patience) => {
                match tokio::time::timeout(patience, call.instrument(tracing::info_span!("write", verb))).await {
                    Ok(Ok(done)) => Ok(done),
                    Ok(Err(source)) => Err(ActError::Api { verb, doing: doing(), source: Box::new(source) }),
                    Err(_) => Err(ActError::Timeout { doing: doing(), patience }),
                }
            }
        };
        self.telemetry.wrote(verb, result.as_ref().err().map_or("ok", ActError::category), start.elapsed());
        result
    }
}
