//! `trainyard evaluations tj/NAME` and `sj/NAME`: how a model has done, as far as the ScoringJobs of the cluster tell in their status.
//! The whole history lies in the model's folder, which is not read from here: how to get at it is said.

use crds::status::Phase;
use crds::uri::{Scheme, Uri};
use serde_json::{Value, json};

use super::access::Cluster;
use super::error::PluginError;
use super::evaluations::fetching;
use super::job::{Job, Kind};
use super::report::reader;
use crate::placement::Table;

/// A model that a job has made or reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    /// Its folder.
    uri: String,
    /// The TrainingJob that makes it, if it is known by that.
    training: Option<String>,
    /// Its digest, if it is known.
    digest: Option<String>,
}

/// The model that `typed` names, and the ScoringJobs of the namespace that have judged it, the oldest first.
pub(super) async fn of(cluster: &Cluster, typed: &str) -> Result<(Model, Vec<Job>), PluginError> {
    let job = cluster.find(typed).await?;
    let model = match (job.kind, named(&job)) {
        (Kind::Training, _) => made(&job)?,
        (Kind::Scoring, Named::Uri(uri)) => Model { uri, ..Model::default() },
        (Kind::Scoring, Named::Training(name)) => made(&cluster.find_training(&name).await?)?,
    };
    let jobs = cluster.jobs(false).await?;
    Ok((model.clone(), judges(&model, jobs)))
}

/// What a ScoringJob's manifest names as its model.
enum Named {
    Uri(String),
    Training(String),
}

fn named(job: &Job) -> Named {
    let model = &job.value["spec"]["model"];
    match model["trainingJob"].as_str() {
        Some(name) => Named::Training(name.to_owned()),
        None => Named::Uri(model["uri"].as_str().unwrap_or_default().to_owned()),
    }
}

/// The model that a TrainingJob has made.
fn made(job: &Job) -> Result<Model, PluginError> {
    if job.status.phase != Phase::Succeeded {
        let text =
            format!("{} has no model yet ({}): it is there once the job has succeeded", job.title(), job.phase());
        return Err(PluginError::Refused(text));
    }
    // The status may name the place within the pod; what was asked for is what a person knows.
    let digest = job.result.as_ref().and_then(|result| result.digest.clone());
    Ok(Model { uri: job.output.clone(), training: Some(job.name.clone()), digest })
}

/// Those of the jobs that have judged the model, in the order in which they ended.
fn judges(model: &Model, mut jobs: Vec<Job>) -> Vec<Job> {
    let folder = |uri: &str| uri.trim_end_matches('/').to_owned();
    jobs.retain(|job| {
        let is_its = match named(job) {
            Named::Training(name) => model.training.as_ref() == Some(&name),
            Named::Uri(uri) => folder(&uri) == folder(&model.uri),
        };
        job.kind == Kind::Scoring && is_its && job.result.as_ref().is_some_and(|result| result.metric.is_some())
    });
    jobs.sort_by_key(|job| (job.status.completion_time.as_ref().map(|time| time.0), job.name.clone()));
    jobs
}

/// When a job ended.
fn ended(job: &Job) -> String {
    job.status.completion_time.as_ref().map(|time| time.0.to_string()).unwrap_or_default()
}

/// For programs.
pub(super) fn value(model: &Model, judges: &[Job]) -> Value {
    let judged = judges.iter().map(|job| {
        let result = job.result.clone().unwrap_or_default();
        json!({
            "job": job.title(), "evaluated": ended(job), "images": job.rows.as_ref().map(|rows| rows.written),
            "metricName": result.metric_name, "metric": result.metric, "data": job.value["spec"]["data"]["uri"],
        })
    });
    json!({"model": {"uri": model.uri, "digest": model.digest}, "evaluations": judged.collect::<Vec<_>>()})
}

/// For people.
pub(super) fn text(model: &Model, judges: &[Job], namespace: &str, wide: bool) -> String {
    let shown = if judges.is_empty() {
        format!(
            "No ScoringJob of the namespace {namespace} that has evaluate has judged it, or none is left that did.\n"
        )
    } else {
        table(judges, wide).to_string()
    };
    let by = model.training.as_ref().map(|name| format!(", by tj/{name}")).unwrap_or_default();
    format!("{}{by}\n\n{shown}\n{}", model.uri, whole(model, namespace))
}

fn table(judges: &[Job], wide: bool) -> Table {
    let mut head = vec!["EVALUATED", "JOB", "IMAGES", "FIGURE", "VALUE"];
    if wide {
        head.push("DATA");
    }
    let row = |job: &Job| {
        let result = job.result.clone().unwrap_or_default();
        let mut row = vec![
            ended(job),
            job.title(),
            job.rows.as_ref().map(|rows| rows.written.to_string()).unwrap_or_default(),
            result.metric_name.unwrap_or_default(),
            result.metric.map(|metric| format!("{metric:.4}")).unwrap_or_default(),
        ];
        if wide {
            row.push(job.value["spec"]["data"]["uri"].as_str().unwrap_or_default().to_owned());
        }
        row
    };
    Table { head: head.into_iter().map(str::to_owned).collect(), rows: judges.iter().map(row).collect() }
}

/// Where the whole history is, and how to get at it.
fn whole(model: &Model, namespace: &str) -> String {
    let what = "The whole history, with drift since the training, lies in the model's folder";
    let Ok(uri) = Uri::parse(&model.uri) else { return format!("{what}.\n") };
    match uri.scheme() {
        Scheme::S3 | Scheme::Gs | Scheme::Az => format!("{what}. To see it:\n{}\n", fetching(&uri)),
        Scheme::Pvc => {
            let folder = format!("/volume{}", uri.path().trim_end_matches('/'));
            let name = model.training.as_deref().unwrap_or("model");
            let (name, pod, image) =
                reader(name, uri.authority(), &["tar", "-c", "-C", &folder, crds::evaluation::FOLDER]);
            format!(
                "{what}. To see it:\n  mkdir -p model\n  kubectl -n {namespace} run {name} --rm -i -q --restart=Never \
                 --image={image} --overrides='{pod}' | tar -x -C model\n  trainyard evaluations model\n"
            )
        }
        Scheme::File | Scheme::Https => format!(
            "{what}: copy its folder {}, and name the folder that you have \
             copied it into.\n",
            crds::evaluation::FOLDER
        ),
    }
}

#[cfg(test)]
mod tests {
    use crds::{ScoringJob, TrainingJob};

    use super::*;

    fn training(status: &Value) -> Job {
        let job = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "flowers", "namespace": "a"},
            "spec": {"data": {"uri": "pvc://data/flowers"}, "output": {"uri": "pvc://models/flowers"}}, "status": status,
        });
        serde_json::from_value::<TrainingJob>(job).expect("a job").into()
    }

    fn scoring(name: &str, model: &Value, status: &Value) -> Job {
        let job = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ScoringJob", "metadata": {"name": name, "namespace": "a"},
            "spec": {
                "model": model, "data": {"uri": "pvc://data/new"}, "evaluate": true, "output": {"uri": "pvc://models/out"},
            },
            "status": status,
        });
        serde_json::from_value::<ScoringJob>(job).expect("a job").into()
    }

    fn judged(day: u32, accuracy: f64) -> Value {
        json!({
            "phase": "Succeeded", "completionTime": format!("2026-11-{day:02}T08:00:00Z"),
            "rows": {"found": 40, "written": 40, "failed": 0},
            "output": {"uri": "pvc://models/out", "metricName": "accuracy", "metric": accuracy},
        })
    }

    fn jobs() -> Vec<Job> {
        let flowers = json!({"trainingJob": "flowers"});
        vec![
            scoring("later", &flowers, &judged(2, 0.75)),
            scoring("first", &json!({"uri": "pvc://models/flowers/"}), &judged(1, 0.9)),
            scoring("other", &json!({"trainingJob": "trees"}), &judged(1, 0.1)),
            scoring("runs", &flowers, &json!({"phase": "Running"})),
            training(&json!({"phase": "Succeeded"})),
        ]
    }

    #[test]
    fn the_jobs_that_judged_a_model_are_those_that_name_it_or_its_training() {
        let model = made(&training(&json!({"phase": "Succeeded"}))).expect("a model");
        let judges = judges(&model, jobs());
        let names: Vec<&str> = judges.iter().map(|job| job.name.as_str()).collect();
        assert_eq!(names, ["first", "later"]);
        let shown = text(&model, &judges, "a", false);
        let expected = "\
pvc://models/flowers, by tj/flowers

EVALUATED              JOB        IMAGES   FIGURE     VALUE
2026-11-01T08:00:00Z   sj/first   40       accuracy   0.9000
2026-11-02T08:00:00Z   sj/later   40       accuracy   0.7500

";
        assert!(shown.starts_with(expected), "{shown}");
        let first = &value(&model, &judges)["evaluations"][0];
        assert_eq!(
            (&first["job"], &first["metric"], &first["data"]),
            (&json!("sj/first"), &json!(0.9), &json!("pvc://data/new"))
        );
    }

    #[test]
    fn how_to_get_at_the_whole_history_follows_from_where_it_is() {
        for (uri, said) in [
            ("s3://bucket/a", "aws s3 cp --recursive s3://bucket/a/evaluations model/evaluations"),
            ("pvc://models/a", r#""command":["tar","-c","-C","/volume/a","evaluations"]"#),
            ("pvc://models/a", "| tar -x -C model\n  trainyard evaluations model\n"),
            ("file:///data/a", "copy its folder evaluations"),
        ] {
            let model = Model { uri: uri.to_owned(), ..Model::default() };
            let shown = text(&model, &[], "a", false);
            assert!(shown.contains(said) && shown.contains("No ScoringJob of the namespace a"), "{uri}: {shown}");
        }
    }

    #[test]
    fn a_training_that_has_no_model_yet_says_so() {
        let fault = made(&training(&json!({"phase": "Running"}))).expect_err("no model");
        assert_eq!(fault.to_string(), "tj/flowers has no model yet (Running): it is there once the job has succeeded");
    }
}
