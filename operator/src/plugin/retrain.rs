//! `trainyard retrain`: a TrainingJob that goes on from the model of another one, on other hardware if asked.

use clap::{Args, ValueEnum};
use crds::check::Resource;
use crds::status::Phase;
use crds::{TrainingJob, infrastructure};
use kube::api::PostParams;
use serde_json::{Value, json};

use super::access::{Access, Cluster, Format, yaml};
use super::error::PluginError;
use super::job::Job;
use super::tree::count;
use crate::manifest::{File, Setting};
use crate::shell::Device;

/// Longest name of a job: its pods' names are host names.
const NAME_BYTES: usize = 48;
/// Names that are tried before the user is asked for one.
const TRIES: u32 = 1000;

#[derive(Debug, Args)]
pub(crate) struct Retrain {
    /// The TrainingJob whose model is trained on, such as flowers or tj/flowers.
    job: String,
    /// Name of the new job; the old one's with the next number if absent.
    #[arg(long, value_name = "NEW")]
    name: Option<String>,
    /// What computes; as before if absent.
    #[arg(long, value_name = "DEVICE", ignore_case = true)]
    device: Option<Device>,
    /// GPUs of each node, one process each; as before if absent. Without --device it means GPUs, whatever the old job ran on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    gpus: Option<u32>,
    /// Nodes, one pod each; as before if absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    nodes: Option<u32>,
    /// Change any other field, such as spec.training.epochs=3 or spec.output.uri=s3://models/new.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    settings: Vec<String>,
    /// Make nothing: only print what would be made.
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    dry_run: Option<DryRun>,
    /// How to write the new job.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

/// Who checks what is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DryRun {
    /// This command.
    Client,
    /// The API server as well.
    Server,
}

/// What is to be another way than before.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    device: Option<Device>,
    gpus: Option<u32>,
    nodes: Option<u32>,
}

impl Wish {
    /// Refuses what contradicts itself.
    fn check(self) -> Result<Wish, PluginError> {
        match (self.device, self.gpus) {
            (Some(Device::Cpu), Some(gpus)) => Err(PluginError::Usage(format!(
                "--gpus {gpus} has no effect with --device Cpu: leave one of them out. Processes on CPUs are \
                 --set spec.infrastructure.processesPerNode={gpus}"
            ))),
            _ => Ok(self),
        }
    }

    /// Who asks for GPUs in number means GPUs.
    fn device(self) -> Option<Device> {
        self.device.or(self.gpus.map(|_| Device::Gpu))
    }
}

impl Retrain {
    /// Makes it; the exit code.
    pub(crate) fn run(&self) -> u8 {
        self.access.with(async |cluster| {
            let wish = Wish { device: self.device, gpus: self.gpus, nodes: self.nodes }.check()?;
            let old = cluster.find_training(&self.job).await?;
            if old.status.phase == Phase::Failed {
                let text = format!("{} has failed: there is no model to train on from", old.title());
                return Err(PluginError::Refused(text));
            }
            let name = match &self.name {
                Some(name) => name.clone(),
                None => free_name(&cluster, &old.name).await?,
            };
            let (value, job) = checked(&manifest(&old, &name, wish), &self.settings)?;
            if self.dry_run == Some(DryRun::Client) {
                return Ok(self.output.print(&value, || yaml(&value)));
            }
            let params = PostParams { dry_run: self.dry_run.is_some(), ..PostParams::default() };
            let made = cluster.api::<TrainingJob>().create(&params, &job).await;
            let made: Job = made.map_err(|error| taken(error, &name, &cluster.namespace))?.into();
            let verb = if self.dry_run.is_some() { "would be made" } else { "is made" };
            Ok(self.output.print(&made.value, || {
                let waits = if old.status.phase == Phase::Succeeded { "" } else { ", once that has one" };
                format!(
                    "{} {verb}: it trains on from the model of {}{waits}\n{}\nnext: trainyard status {}\n",
                    made.title(),
                    old.title(),
                    summary(&made),
                    made.title()
                )
            }))
        })
    }
}

/// What differs from job to job: where it runs, and where the model goes.
fn summary(job: &Job) -> String {
    let infrastructure = &job.infrastructure;
    let gpus = count(infrastructure.gpus_per_node, "GPU");
    let processes = match infrastructure.processes_per_node {
        1 => "1 process".to_owned(),
        number => format!("{number} processes"),
    };
    let each = match infrastructure.device {
        infrastructure::Device::Gpu => gpus,
        infrastructure::Device::Cpu => processes,
        infrastructure::Device::Auto => format!("{gpus}, or {processes} on CPUs,"),
    };
    format!(
        "  device {:?}, {} with {each} each\n  output {}",
        infrastructure.device,
        count(infrastructure.nodes, "node"),
        job.output
    )
}

fn taken(error: kube::Error, name: &str, namespace: &str) -> PluginError {
    match PluginError::from(error) {
        PluginError::Api(status) if status.code == 409 => PluginError::Refused(format!(
            "there is a TrainingJob {name} in the namespace {namespace} already: give another --name"
        )),
        error => error,
    }
}

/// The first name after `old` that no job has.
async fn free_name(cluster: &Cluster, old: &str) -> Result<String, PluginError> {
    let api = cluster.api::<TrainingJob>();
    for name in names(old).take(TRIES as usize) {
        if api.get_opt(&name).await?.is_none() {
            return Ok(name);
        }
    }
    Err(PluginError::Usage(format!("there are very many jobs named after {old}: give a --name")))
}

/// `flowers-2`, `flowers-3` after `flowers`; `flowers-5` after `flowers-4`. Never longer than a name may be.
fn names(old: &str) -> impl Iterator<Item = String> {
    let numbered = old.rsplit_once('-').and_then(|(base, number)| Some((base, number.parse::<u32>().ok()?)));
    let (base, number) = numbered.unwrap_or((old, 1));
    (1..).map(move |more: u32| {
        let ending = format!("-{}", number.saturating_add(more));
        let room = base.len().min(NAME_BYTES - ending.len());
        format!("{}{ending}", base.get(..room).unwrap_or(base).trim_end_matches('-'))
    })
}

/// The new job: data, settings and infrastructure of the old one, its model as the first weights, another output.
fn manifest(old: &Job, name: &str, wish: Wish) -> Value {
    let mut spec = old.value["spec"].clone();
    spec["retrainFrom"] = json!({"trainingJob": old.name});
    spec["output"]["uri"] = output(&old.output, &old.name, name).into();
    place(&mut spec["infrastructure"], old, wish);
    if let Some(model) = spec.get_mut("model").and_then(Value::as_object_mut) {
        // The first weights are those of the old job's model.
        model.remove("initialWeights");
    }
    if let Some(policy) = spec.get_mut("runPolicy").and_then(Value::as_object_mut) {
        policy.remove("suspend");
    }
    let kind = (&old.value["apiVersion"], &old.value["kind"]);
    json!({"apiVersion": kind.0, "kind": kind.1, "metadata": {"name": name, "namespace": old.namespace}, "spec": spec})
}

/// Changes the infrastructure as wished. What says how to use the other device would have no effect: it is left out.
fn place(infrastructure: &mut Value, old: &Job, wish: Wish) {
    let Some(fields) = infrastructure.as_object_mut() else { return };
    if let Some(device) = wish.device() {
        let was = old.status.placement.as_ref().map_or(old.infrastructure.device, |placement| placement.device);
        let (elsewhere, without_effect): (_, &[&str]) = match device {
            Device::Gpu => (was == infrastructure::Device::Cpu, &["processesPerNode"]),
            Device::Cpu => (was == infrastructure::Device::Gpu, &["gpusPerNode", "gpu"]),
            Device::Auto => (false, &[]),
        };
        fields.retain(|name, _| !(without_effect.contains(&name.as_str()) || elsewhere && name == "runtime"));
        fields.insert("device".to_owned(), format!("{device:?}").into());
    }
    for (name, number) in [("gpusPerNode", wish.gpus), ("nodes", wish.nodes)] {
        if let Some(number) = number {
            fields.insert(name.to_owned(), number.into());
        }
    }
}

/// Where the new model goes: beside the old one. A folder belongs to the first job that writes to it.
fn output(uri: &str, old: &str, new: &str) -> String {
    let trimmed = uri.trim_end_matches('/');
    let start = trimmed.find("://").map_or(0, |at| at + 3);
    match trimmed[start..].rfind('/') {
        // The whole claim or bucket: a folder in it.
        None => format!("{trimmed}/{new}"),
        Some(slash) => {
            let (parent, last) = trimmed.split_at(start + slash + 1);
            if last == old { format!("{parent}{new}") } else { format!("{parent}{last}-{new}") }
        }
    }
}

/// The manifest with the settings that were typed, checked as `trainyard validate` checks.
fn checked(manifest: &Value, settings: &[String]) -> Result<(Value, TrainingJob), PluginError> {
    let refuse = |fault: &dyn std::fmt::Display| PluginError::Usage(fault.to_string());
    let settings: Result<Vec<Setting>, _> = settings.iter().map(|text| Setting::parse(text)).collect();
    let settings = settings.map_err(|fault| refuse(&fault))?;
    let mut file = File::parse("the new job", &yaml(manifest)).map_err(|fault| refuse(&fault))?;
    file.set(&settings).map_err(|fault| refuse(&fault))?;
    let checked = file.check().map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        PluginError::Usage(faults.join("\n"))
    })?;
    match checked.into_iter().next() {
        Some(manifest) => match manifest.resource {
            Resource::TrainingJob(job) => Ok((manifest.value, *job)),
            _ => Err(PluginError::Usage("--set has made another kind of it".to_owned())),
        },
        None => Err(PluginError::Usage("nothing is left of it".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(spec: Value) -> Job {
        let mut job = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "flowers", "namespace": "a"},
            "spec": {
                "data": {"uri": "pvc://data/flowers"}, "output": {"uri": "pvc://models/flowers"},
                "training": {"epochs": 7}, "runPolicy": {"suspend": true, "backoffLimit": 9},
                "model": {"architecture": "resnet18", "initialWeights": {"uri": "pvc://models/first"}},
                "infrastructure": {"device": "Cpu"},
            },
        });
        if let (Some(into), Value::Object(spec)) = (job["spec"].as_object_mut(), spec) {
            into.extend(spec);
        }
        serde_json::from_value::<TrainingJob>(job).expect("a job").into()
    }

    #[test]
    fn the_new_job_takes_all_of_the_old_one_but_weights_output_and_suspension() {
        let (_, job) = checked(&manifest(&old(json!({})), "flowers-2", Wish::default()), &[]).expect("a job");
        let spec = job.spec;
        assert_eq!(job.metadata.name.as_deref(), Some("flowers-2"));
        assert_eq!(spec.retrain_from.and_then(|from| from.training_job).as_deref(), Some("flowers"));
        assert_eq!(spec.output.uri, "pvc://models/flowers-2");
        assert_eq!(spec.training.map(|training| training.epochs), Some(7));
        assert_eq!((spec.run_policy.suspend, spec.run_policy.backoff_limit), (false, 9));
        assert!(spec.model.is_some_and(|model| model.initial_weights.is_none()));
    }

    #[test]
    fn blocks_that_the_old_job_does_not_give_are_left_out() {
        let mut old = old(json!({}));
        let spec = old.value["spec"].as_object_mut().expect("a spec");
        for block in ["model", "data", "training"] {
            spec.remove(block);
        }
        let (value, _) = checked(&manifest(&old, "b", Wish::default()), &[]).expect("a job");
        assert_eq!((value["spec"].get("model"), value["spec"].get("data")), (None, None));
    }

    #[test]
    fn it_runs_elsewhere_if_asked() {
        let wish = |device, gpus, nodes| Wish { device, gpus, nodes };
        for (before, wish, expected) in [
            (json!({"device": "Cpu"}), wish(None, None, None), json!({"device": "Cpu"})),
            (
                json!({"device": "Auto"}),
                wish(None, Some(8), Some(2)),
                json!({"device": "Gpu", "gpusPerNode": 8, "nodes": 2}),
            ),
            (
                json!({"device": "Cpu"}),
                wish(Some(Device::Auto), Some(8), None),
                json!({"device": "Auto", "gpusPerNode": 8}),
            ),
            (
                json!({"device": "Gpu", "gpusPerNode": 4}),
                wish(None, None, Some(3)),
                json!({"device": "Gpu", "gpusPerNode": 4, "nodes": 3}),
            ),
            // What says how to use the other device goes, and the runtime for it.
            (
                json!({"device": "Cpu", "processesPerNode": 4, "runtime": "cpu"}),
                wish(Some(Device::Gpu), None, None),
                json!({"device": "Gpu"}),
            ),
            (
                json!({"device": "Gpu", "gpusPerNode": 8, "gpu": {"products": ["NVIDIA-H200"]}, "runtime": "cuda-13.0"}),
                wish(Some(Device::Cpu), None, None),
                json!({"device": "Cpu"}),
            ),
            (
                json!({"device": "Auto", "processesPerNode": 4, "runtime": "cuda-12.8"}),
                wish(None, Some(2), None),
                json!({"device": "Gpu", "gpusPerNode": 2, "runtime": "cuda-12.8"}),
            ),
        ] {
            let value = manifest(&old(json!({"infrastructure": before})), "b", wish.check().expect("a wish"));
            let (_, job) = checked(&value, &[]).expect("a job");
            let expected: infrastructure::Infrastructure = serde_json::from_value(expected).expect("an infrastructure");
            assert_eq!(job.spec.infrastructure, expected, "{before} and {wish:?}");
        }
    }

    #[test]
    fn what_a_job_ran_on_counts_where_it_left_that_open() {
        let mut old = old(json!({"infrastructure": {"device": "Auto", "runtime": "cpu"}}));
        let placement = json!({"device": "Cpu", "gpus": 0, "reason": "no node has a GPU"});
        old.status.placement = serde_json::from_value(placement).expect("a placement");
        let value = manifest(&old, "b", Wish { gpus: Some(1), ..Wish::default() });
        assert_eq!(value["spec"]["infrastructure"].get("runtime"), None);
    }

    #[test]
    fn gpus_on_cpus_are_refused() {
        let error = Wish { device: Some(Device::Cpu), gpus: Some(2), nodes: None }.check().expect_err("no such thing");
        assert!(error.to_string().contains("--set spec.infrastructure.processesPerNode=2"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn the_summary_tells_processes_as_the_device_has_them() {
        for (infrastructure, expected) in [
            (json!({"device": "Gpu", "gpusPerNode": 8, "nodes": 2}), "  device Gpu, 2 nodes with 8 GPUs each\n"),
            (json!({"device": "Cpu", "processesPerNode": 4}), "  device Cpu, 1 node with 4 processes each\n"),
            (json!({}), "  device Auto, 1 node with 1 GPU, or 1 process on CPUs, each\n"),
        ] {
            let told = summary(&old(json!({"infrastructure": infrastructure})));
            assert!(told.starts_with(expected), "{told}");
        }
    }

    #[test]
    fn a_field_is_set_and_checked_as_in_a_manifest() {
        let value = manifest(&old(json!({})), "b", Wish::default());
        let (_, job) = checked(&value, &["spec.training.epochs=3".to_owned()]).expect("a job");
        assert_eq!(job.spec.training.map(|training| training.epochs), Some(3));
        for (setting, text) in [
            ("spec.training.epochs=none", "spec.training.epochs"),
            ("spec.training.epocs=3", "Did you mean"),
            ("nonsense", "write a field and its value"),
        ] {
            let error = checked(&value, &[setting.to_owned()]).expect_err(setting);
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn the_output_lies_beside_the_old_one() {
        for (uri, new) in [
            ("pvc://models/flowers", "pvc://models/b"),
            ("s3://bucket/all/flowers/", "s3://bucket/all/b"),
            ("s3://bucket/all/best", "s3://bucket/all/best-b"),
            ("gs://bucket/all/flowers", "gs://bucket/all/b"),
            ("az://box/flowers/", "az://box/b"),
            ("pvc://models", "pvc://models/b"),
            ("file:///data/flowers", "file:///data/b"),
        ] {
            assert_eq!(output(uri, "flowers", "b"), new);
        }
    }

    #[test]
    fn the_next_name_has_the_next_number_and_is_never_too_long() {
        let first = |old: &str| names(old).take(2).collect::<Vec<_>>();
        assert_eq!(first("flowers"), ["flowers-2", "flowers-3"]);
        assert_eq!(first("flowers-9"), ["flowers-10", "flowers-11"]);
        let long = "a".repeat(NAME_BYTES);
        assert_eq!(first(&long)[0], format!("{}-2", "a".repeat(NAME_BYTES - 2)));
    }
}
