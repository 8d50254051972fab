//! Reads a manifest as the API server would, without one: schema, then types, then CEL rules. What a manifest means beyond
//! that is [`meaning`](crate::meaning)'s.

use std::sync::LazyLock;

use kube::CustomResourceExt;
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::contract::{GROUP, VERSION};
use crate::fault::Fault;
use crate::{ModelEndpoint, ScoringJob, TrainingJob, manifest, structural};

/// A manifest that the API server would take, of one of the three kinds.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A TrainingJob.
    TrainingJob(Box<TrainingJob>),
    /// A ScoringJob.
    ScoringJob(Box<ScoringJob>),
    /// A ModelEndpoint.
    ModelEndpoint(Box<ModelEndpoint>),
}

impl Resource {
    /// Name of the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Resource::TrainingJob(_) => "TrainingJob",
            Resource::ScoringJob(_) => "ScoringJob",
            Resource::ModelEndpoint(_) => "ModelEndpoint",
        }
    }

    /// Name of the resource.
    pub fn name(&self) -> &str {
        let metadata = match self {
            Resource::TrainingJob(job) => &job.metadata,
            Resource::ScoringJob(job) => &job.metadata,
            Resource::ModelEndpoint(endpoint) => &endpoint.metadata,
        };
        metadata.name.as_deref().unwrap_or_default()
    }

    /// What neither schema nor CEL can say about it: see [`crate::meaning`].
    pub fn meaning(&self) -> Vec<Fault> {
        match self {
            Resource::TrainingJob(job) => job.spec.meaning(),
            Resource::ScoringJob(job) => job.spec.meaning(),
            Resource::ModelEndpoint(endpoint) => endpoint.spec.meaning(),
        }
    }
}

/// Reads a manifest: one document of a YAML file.
///
/// # Errors
/// All faults of the first of these steps that finds any: group and kind, schema and name, CEL.
pub fn read(manifest: &Value) -> Result<Resource, Vec<Fault>> {
    judge(None, manifest)
}

/// Reads a manifest that takes the place of `old`, an object with its status: what can't change is checked too.
///
/// # Errors
/// As [`read`].
pub fn read_update(old: &Value, manifest: &Value) -> Result<Resource, Vec<Fault>> {
    judge(Some(old), manifest)
}

fn judge(old: Option<&Value>, manifest: &Value) -> Result<Resource, Vec<Fault>> {
    static TRAINING_JOB: LazyLock<Judge> = LazyLock::new(Judge::of::<TrainingJob>);
    static SCORING_JOB: LazyLock<Judge> = LazyLock::new(Judge::of::<ScoringJob>);
    static MODEL_ENDPOINT: LazyLock<Judge> = LazyLock::new(Judge::of::<ModelEndpoint>);
    match kind(manifest)? {
        "TrainingJob" => TRAINING_JOB.read(manifest, old).map(Resource::TrainingJob),
        "ScoringJob" => SCORING_JOB.read(manifest, old).map(Resource::ScoringJob),
        _ => MODEL_ENDPOINT.read(manifest, old).map(Resource::ModelEndpoint),
    }
}

fn kind(manifest: &Value) -> Result<&str, Vec<Fault>> {
    const KINDS: [&str; 3] = ["TrainingJob", "ScoringJob", "ModelEndpoint"];
    let text = |field: &str| manifest.get(field).and_then(Value::as_str).unwrap_or_default();
    let api = format!("{GROUP}/{VERSION}");
    let mut faults = Vec::new();
    if text("apiVersion") != api {
        let message = if text("apiVersion").is_empty() {
            "is missing".into()
        } else {
            format!("{:?} is not ours", text("apiVersion"))
        };
        faults.push(Fault::error("apiVersion", message, format!("Write {api}")));
    }
    if !KINDS.contains(&text("kind")) {
        let message = if text("kind").is_empty() {
            "is missing".into()
        } else {
            format!("{:?} is not one of ours", text("kind"))
        };
        faults.push(Fault::error("kind", message, format!("There are {}", KINDS.join(", "))));
    }
    if faults.is_empty() { Ok(text("kind")) } else { Err(faults) }
}

/// What a kind's manifests are judged by. Made once: deriving a schema and compiling its rules takes longer than using them.
struct Judge {
    schema: Value,
    rules: CompiledSchema,
}

impl Judge {
    fn of<K: CustomResourceExt>() -> Judge {
        let schema = manifest::schema::<K>();
        Judge { rules: compile_schema(&schema), schema: with_type_meta(schema) }
    }

    fn read<K: Serialize + DeserializeOwned>(
        &self,
        manifest: &Value,
        old: Option<&Value>,
    ) -> Result<Box<K>, Vec<Fault>> {
        let mut faults = Vec::new();
        if manifest.pointer("/metadata/name").and_then(Value::as_str).is_none_or(str::is_empty) {
            faults.push(Fault::error("metadata.name", "is missing", "Names have a-z, 0-9 and -"));
        }
        structural::check(&self.schema, manifest, "", &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let resource: K = parse(manifest)?;
        let old = old.map(parse::<K>).transpose()?;
        let (value, old) = (json(&resource)?, old.as_ref().map(json).transpose()?);
        match Validator::new().validate_compiled(&self.rules, &value, old.as_ref()) {
            Ok(()) => Ok(Box::new(resource)),
            Err(broken) => {
                Err(broken.into_vec().into_iter().map(|rule| Fault::error(rule.field_path, rule.message, "")).collect())
            }
        }
    }
}

fn with_type_meta(mut schema: Value) -> Value {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("apiVersion".into(), serde_json::json!({"type": "string"}));
        properties.insert("kind".into(), serde_json::json!({"type": "string"}));
        properties["metadata"]["x-kubernetes-preserve-unknown-fields"] = Value::Bool(true);
    }
    schema
}

fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Fault>> {
    T::deserialize(value).map_err(|fault| vec![Fault::error("", fault.to_string(), "")])
}

fn json<T: Serialize>(value: &T) -> Result<Value, Vec<Fault>> {
    serde_json::to_value(value).map_err(|fault| vec![Fault::error("", fault.to_string(), "")])
}
