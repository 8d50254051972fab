//! A job as users' commands see it, whatever its kind: found by its name, with its pods.

use crds::contract::{Diagnostic, GROUP, VERSION, labels};
use crds::infrastructure::{Device, Infrastructure};
use crds::status::{JobStatus, ModelStatus, RowCounts};
use crds::{ScoringJob, TrainingJob};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};

use super::access::Cluster;
use super::error::PluginError;

/// Objects that one answer of the API server holds at most.
const PAGE: u32 = 500;
/// Names that are offered where one was not found.
const NEAR: usize = 3;
/// How like two names must be for one to be offered for the other, from 0 to 1.
const LIKE: f64 = 0.7;

/// A kind of job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Training,
    Scoring,
}

impl Kind {
    /// Its name in manifests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Training => "TrainingJob",
            Kind::Scoring => "ScoringJob",
        }
    }

    /// Its short name.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Kind::Training => "tj",
            Kind::Scoring => "sj",
        }
    }
}

/// A job.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) created: Option<Timestamp>,
    pub(crate) suspended: bool,
    pub(crate) infrastructure: Infrastructure,
    /// Pods of its gang: nodes of a TrainingJob, shards at a time of a ScoringJob.
    pub(crate) members: u32,
    /// Where the model or the rows go.
    pub(crate) output: String,
    pub(crate) status: JobStatus,
    /// What was found in its data.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// What was committed.
    pub(crate) result: Option<ModelStatus>,
    pub(crate) rows: Option<RowCounts>,
    /// The whole object.
    pub(crate) value: Value,
}

impl Job {
    /// Its kind and name as commands take them: `tj/flowers`.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.kind.short(), self.name)
    }

    /// Its phase in a word.
    pub(crate) fn phase(&self) -> String {
        format!("{:?}", self.status.phase)
    }

    /// Whether it runs on GPUs, as far as that has been decided.
    pub(crate) fn is_on_gpus(&self) -> bool {
        self.status.placement.as_ref().map_or(self.infrastructure.device, |placement| placement.device) == Device::Gpu
    }

    /// Processes of each pod.
    pub(crate) fn processes(&self) -> u32 {
        match self.is_on_gpus() {
            true => self.infrastructure.gpus_per_node,
            false => self.infrastructure.processes_per_node,
        }
    }
}

impl From<TrainingJob> for Job {
    fn from(job: TrainingJob) -> Job {
        let status = job.status.clone().unwrap_or_default();
        Job {
            kind: Kind::Training,
            value: value(&job, Kind::Training),
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
            created: job.metadata.creation_timestamp.map(|time| time.0),
            suspended: job.spec.run_policy.suspend,
            members: job.spec.infrastructure.nodes,
            infrastructure: job.spec.infrastructure,
            output: job.spec.output.uri,
            status: status.job,
            diagnostics: status.diagnostics,
            result: status.model,
            rows: None,
        }
    }
}

impl From<ScoringJob> for Job {
    fn from(job: ScoringJob) -> Job {
        let status = job.status.clone().unwrap_or_default();
        Job {
            kind: Kind::Scoring,
            value: value(&job, Kind::Scoring),
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
            created: job.metadata.creation_timestamp.map(|time| time.0),
            suspended: job.spec.run_policy.suspend,
            members: job.spec.parallelism.unwrap_or(job.spec.shards),
            infrastructure: job.spec.infrastructure,
            output: job.spec.output.uri,
            status: status.job,
            diagnostics: Vec::new(),
            result: status.output,
            rows: status.rows,
        }
    }
}

/// The object as it is printed: without what only servers read.
fn value(job: &impl Serialize, kind: Kind) -> Value {
    let mut value = json!(job);
    value["apiVersion"] = format!("{GROUP}/{VERSION}").into();
    value["kind"] = kind.name().into();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    value
}

/// Whether what was typed is a job by its kind and name, such as `tj/flowers`.
pub(super) fn is_named_by_kind(typed: &str) -> bool {
    matches!(parse(typed), Ok((Some(_), _)))
}

/// Kind, if one was typed, and name.
fn parse(typed: &str) -> Result<(Option<Kind>, &str), PluginError> {
    let Some((kind, name)) = typed.split_once('/') else { return Ok((None, typed)) };
    let kind = match kind.to_ascii_lowercase().as_str() {
        "tj" | "trainingjob" | "trainingjobs" => Kind::Training,
        "sj" | "scoringjob" | "scoringjobs" => Kind::Scoring,
        _ => {
            let text = match super::endpoint::named(typed) {
                Some(_) => format!("{typed}: an endpoint is no job: this is for tj/{name} or sj/{name}"),
                None => format!("{typed}: {kind} is no kind of job: write tj/{name} or sj/{name}"),
            };
            return Err(PluginError::Usage(text));
        }
    };
    Ok((Some(kind), name))
}

impl Cluster {
    /// Objects of a kind in the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The job that `typed` names: `tj/flowers`, `trainingjob/flowers`, or `flowers` if only one kind has it.
    pub(crate) async fn find(&self, typed: &str) -> Result<Job, PluginError> {
        let (kind, name) = parse(typed)?;
        if name.is_empty() {
            return Err(PluginError::Usage(format!("{typed}: there is no name after the slash")));
        }
        let (training, scoring) = match kind {
            Some(kind) => (kind == Kind::Training, kind == Kind::Scoring),
            None => (true, true),
        };
        let training = if training { self.api::<TrainingJob>().get_opt(name).await? } else { None };
        let scoring = if scoring { self.api::<ScoringJob>().get_opt(name).await? } else { None };
        match (training, scoring) {
            (Some(_), Some(_)) => Err(PluginError::TwoKinds(name.to_owned())),
            (Some(job), None) => Ok(job.into()),
            (None, Some(job)) => Ok(job.into()),
            (None, None) => {
                let known: Vec<String> = match self.jobs(false).await {
                    Ok(jobs) => jobs.iter().map(Job::title).collect(),
                    // Whoever may not list the jobs, or finds no kinds, is told so.
                    Err(error @ PluginError::NoKinds) => return Err(error),
                    Err(_) => Vec::new(),
                };
                let what = if kind.is_some() { format!("job {typed}") } else { format!("job {name}") };
                Err(PluginError::NoJob { what, namespace: self.namespace.clone(), hint: near(name, &known) })
            }
        }
    }

    /// The TrainingJob that `typed` names.
    pub(crate) async fn find_training(&self, typed: &str) -> Result<Job, PluginError> {
        let typed = if typed.contains('/') { typed.to_owned() } else { format!("tj/{typed}") };
        match parse(&typed)? {
            (Some(Kind::Training), _) => self.find(&typed).await,
            _ => Err(PluginError::Usage(format!("{typed} is no TrainingJob: only these have models"))),
        }
    }

    /// Its newest state; `None` if it is gone.
    pub(crate) async fn again(&self, job: &Job) -> Result<Option<Job>, PluginError> {
        Ok(match job.kind {
            Kind::Training => self.api::<TrainingJob>().get_opt(&job.name).await?.map(Job::from),
            Kind::Scoring => self.api::<ScoringJob>().get_opt(&job.name).await?.map(Job::from),
        })
    }

    /// The jobs of the namespace, or of all, by namespace, kind and name.
    pub(crate) async fn jobs(&self, everywhere: bool) -> Result<Vec<Job>, PluginError> {
        let mut jobs: Vec<Job> = self.list::<TrainingJob>(everywhere, "").await?.into_iter().map(Job::from).collect();
        jobs.extend(self.list::<ScoringJob>(everywhere, "").await?.into_iter().map(Job::from));
        jobs.sort_by(|a, b| (&a.namespace, a.kind, &a.name).cmp(&(&b.namespace, b.kind, &b.name)));
        Ok(jobs)
    }

    /// The job's pods.
    pub(crate) async fn pods(&self, job: &Job) -> Result<Vec<Pod>, PluginError> {
        let selector = format!("{}={},{}={}", labels::JOB, job.name, labels::KIND, job.kind.name());
        let found = self.api::<Pod>().list(&ListParams::default().labels(&selector)).await?;
        Ok(found.items)
    }

    /// All objects of a kind with these labels.
    pub(crate) async fn list<K>(&self, everywhere: bool, labels: &str) -> Result<Vec<K>, PluginError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api = if everywhere { Api::all(self.client.clone()) } else { self.api() };
        all(&api, labels).await
    }
}

/// All that an interface has, a page at a time.
pub(crate) async fn all<K>(api: &Api<K>, labels: &str) -> Result<Vec<K>, PluginError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut page = ListParams::default().limit(PAGE).labels(labels);
    let mut found = Vec::new();
    loop {
        let list = api.list(&page).await?;
        found.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// The names that may have been meant.
fn near(name: &str, known: &[String]) -> String {
    let likeness = |title: &String| strsim::jaro_winkler(name, title.split_once('/').map_or("", |(_, name)| name));
    let mut like: Vec<(f64, &String)> = known.iter().map(|title| (likeness(title), title)).collect();
    like.retain(|(likeness, _)| *likeness >= LIKE);
    like.sort_by(|a, b| b.0.total_cmp(&a.0));
    let like: Vec<&str> = like.into_iter().take(NEAR).map(|(_, title)| title.as_str()).collect();
    match like.as_slice() {
        [] => ". trainyard status lists what there is; -n names another namespace".to_owned(),
        near => format!(". Did you mean {}?", near.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_by_kind_and_name_or_by_its_name_alone() {
        for (typed, kind, name) in [
            ("flowers", None, "flowers"),
            ("tj/flowers", Some(Kind::Training), "flowers"),
            ("TrainingJob/flowers", Some(Kind::Training), "flowers"),
            ("scoringjobs/flowers", Some(Kind::Scoring), "flowers"),
        ] {
            assert_eq!(parse(typed).expect(typed), (kind, name));
        }
        assert!(is_named_by_kind("tj/flowers") && !is_named_by_kind("models/flowers") && !is_named_by_kind("flowers"));
        let error = parse("pod/flowers").expect_err("no job");
        assert_eq!(error.to_string(), "pod/flowers: pod is no kind of job: write tj/flowers or sj/flowers");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn what_was_not_found_offers_names_that_are_near() {
        let known = ["tj/flowers", "sj/flowers-new", "tj/digits"].map(str::to_owned);
        assert_eq!(near("flower", &known), ". Did you mean tj/flowers, sj/flowers-new?");
        assert_eq!(near("zzz", &known), ". trainyard status lists what there is; -n names another namespace");
    }
}
