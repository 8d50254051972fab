//! What the operator asks of a kind that it controls, and of a kind of job, so that one reconciler serves both.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use crds::fault::Fault;
use crds::infrastructure::Infrastructure;
use crds::model::ModelRef;
use crds::run_policy::RunPolicy;
use crds::status::JobStatus;
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use futures::future::{BoxFuture, FutureExt};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::controller::Action;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::act::ActError;
use super::context::Context;
use super::pods::Owner;
use super::{endpoint, reconcile};
use crate::build::status;
use crate::observe::{Job, Ledger, Setting};

/// A kind that the operator controls.
pub(super) trait Controlled:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
where
    Self::DynamicType: Default + Eq + Hash + Clone,
{
    /// Looks at one of its objects, and does what there is to do.
    fn reconcile(object: Arc<Self>, context: Arc<Context>) -> BoxFuture<'static, Result<Action, ActError>>;
    /// When to look again after an error.
    fn after_error(object: &Arc<Self>, error: &ActError, context: &Arc<Context>) -> Action;
    /// Forgets one that is gone.
    fn forget(context: &Context, owner: &Owner);
    /// Those that are remembered.
    fn remembered(context: &Context) -> Vec<Owner>;
    /// Whether what a look rests on is there: the first lists of the watches.
    fn is_ready(context: &Context) -> bool;
    /// Who has waited for this object, as it is now.
    fn awaited_by(&self, _context: &Context) -> Vec<Owner> {
        Vec::new()
    }
}

/// A kind of job.
pub(super) trait Kind: Controlled {
    /// The job as `decide` sees it.
    fn wishes(&self, setting: Setting) -> Job;
    /// Where it runs.
    fn infrastructure(&self) -> &Infrastructure;
    /// How long, how often and when.
    fn run_policy(&self) -> &RunPolicy;
    /// The controller it was given to, if it is not us.
    fn managed_by(&self) -> Option<&str>;
    /// The model that it starts from, if it names one.
    fn model(&self) -> Option<&ModelRef>;
    /// The spec as JSON.
    fn spec_json(&self) -> Value;
    /// What neither schema nor CEL can say about it.
    fn faults(&self) -> Vec<Fault>;
    /// What its status tells; `None` before the first one.
    fn status(&self) -> Option<&JobStatus>;
    /// Its status to be written.
    fn status_json(&self, ledger: &Ledger, before: &[Condition], now: Timestamp) -> Value;
}

impl Controlled for TrainingJob {
    fn reconcile(job: Arc<TrainingJob>, context: Arc<Context>) -> BoxFuture<'static, Result<Action, ActError>> {
        reconcile::reconcile(job, context).boxed()
    }
    fn after_error(job: &Arc<TrainingJob>, error: &ActError, context: &Arc<Context>) -> Action {
        reconcile::after_error(job, error, context)
    }
    fn forget(context: &Context, owner: &Owner) {
        context.forget(owner);
    }
    fn remembered(context: &Context) -> Vec<Owner> {
        context.remembered(&Self::kind(&()))
    }
    fn is_ready(context: &Context) -> bool {
        context.is_ready()
    }
    fn awaited_by(&self, context: &Context) -> Vec<Owner> {
        let is_done = self.status.as_ref().is_some_and(|status| status.job.phase.is_terminal());
        if is_done { context.awaiting(&Owner::named(self)) } else { Vec::new() }
    }
}

impl Kind for TrainingJob {
    fn wishes(&self, setting: Setting) -> Job {
        Job::of_training(self, setting)
    }
    fn infrastructure(&self) -> &Infrastructure {
        &self.spec.infrastructure
    }
    fn run_policy(&self) -> &RunPolicy {
        &self.spec.run_policy
    }
    fn managed_by(&self) -> Option<&str> {
        self.spec.managed_by.as_deref()
    }
    fn model(&self) -> Option<&ModelRef> {
        self.spec.retrain_from.as_ref()
    }
    fn spec_json(&self) -> Value {
        json!(self.spec)
    }
    fn faults(&self) -> Vec<Fault> {
        self.spec.meaning()
    }
    fn status(&self) -> Option<&JobStatus> {
        self.status.as_ref().map(|status| &status.job)
    }
    fn status_json(&self, ledger: &Ledger, before: &[Condition], now: Timestamp) -> Value {
        json!(status::training(ledger, Some(&self.spec.output.uri), before, now))
    }
}

impl Controlled for ScoringJob {
    fn reconcile(job: Arc<ScoringJob>, context: Arc<Context>) -> BoxFuture<'static, Result<Action, ActError>> {
        reconcile::reconcile(job, context).boxed()
    }
    fn after_error(job: &Arc<ScoringJob>, error: &ActError, context: &Arc<Context>) -> Action {
        reconcile::after_error(job, error, context)
    }
    fn forget(context: &Context, owner: &Owner) {
        context.forget(owner);
    }
    fn remembered(context: &Context) -> Vec<Owner> {
        context.remembered(&Self::kind(&()))
    }
    fn is_ready(context: &Context) -> bool {
        context.is_ready()
    }
}

impl Kind for ScoringJob {
    fn wishes(&self, setting: Setting) -> Job {
        Job::of_scoring(self, setting)
    }
    fn infrastructure(&self) -> &Infrastructure {
        &self.spec.infrastructure
    }
    fn run_policy(&self) -> &RunPolicy {
        &self.spec.run_policy
    }
    fn managed_by(&self) -> Option<&str> {
        self.spec.managed_by.as_deref()
    }
    fn model(&self) -> Option<&ModelRef> {
        Some(&self.spec.model)
    }
    fn spec_json(&self) -> Value {
        json!(self.spec)
    }
    fn faults(&self) -> Vec<Fault> {
        self.spec.meaning()
    }
    fn status(&self) -> Option<&JobStatus> {
        self.status.as_ref().map(|status| &status.job)
    }
    fn status_json(&self, ledger: &Ledger, before: &[Condition], now: Timestamp) -> Value {
        json!(status::scoring(ledger, Some(&self.spec.output.uri), before, now))
    }
}

impl Controlled for ModelEndpoint {
    fn reconcile(object: Arc<ModelEndpoint>, context: Arc<Context>) -> BoxFuture<'static, Result<Action, ActError>> {
        endpoint::reconcile(object, context).boxed()
    }
    fn after_error(object: &Arc<ModelEndpoint>, error: &ActError, context: &Arc<Context>) -> Action {
        endpoint::after_error(object, error, context)
    }
    fn forget(context: &Context, owner: &Owner) {
        context.forget_endpoint(owner);
    }
    fn remembered(context: &Context) -> Vec<Owner> {
        context.endpoints.remembered()
    }
    fn is_ready(context: &Context) -> bool {
        context.is_ready() && context.endpoints.is_ready()
    }
}
