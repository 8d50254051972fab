//! What a job reads and writes, on this machine: claims as folders, jobs as their models; and whether it is there.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crds::contract::Cause;
use crds::fault::Fault;
use crds::status::{JobStatus, Phase, TrainingJobStatus};
use nix::unistd::{AccessFlags, access};
use serde_json::Value;

use super::error::RunError;
use super::folder;
use crate::build::assignment;
use crate::manifest::Manifest;

/// What the names in a manifest stand for on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// The folder of each claim.
    pub(crate) mounts: BTreeMap<String, String>,
    /// The URI of the model of each job that is named.
    pub(crate) models: BTreeMap<String, String>,
}

/// Finds what a manifest names. Folders of claims are made if they are not there.
///
/// # Errors
/// [`RunError::Missing`] with every URI of a local file, and every job, that is not there.
pub(crate) fn find(
    manifest: &Manifest,
    namespace: &str,
    state: &Path,
    volumes: &BTreeMap<String, PathBuf>,
) -> Result<Inputs, RunError> {
    let mut inputs = Inputs::default();
    let mut faults = Vec::new();
    let spec = &manifest.value["spec"];
    for block in ["model", "retrainFrom"] {
        let Some(name) = spec.pointer(&format!("/{block}/trainingJob")).and_then(Value::as_str) else { continue };
        match model_of(state, namespace, name)? {
            Ok(uri) => {
                inputs.models.insert(name.to_owned(), uri);
            }
            Err(message) => {
                let hint = "Run it first, to its end, with the same --state";
                faults.push(Fault::error(format!("spec.{block}.trainingJob"), message, hint));
            }
        }
    }
    for (path, uri) in assignment::uris(spec) {
        if let Some(claim) = uri.claim() {
            let folder = match volumes.get(claim) {
                Some(folder) => folder.clone(),
                None => state.join("volumes").join(claim),
            };
            fs::create_dir_all(&folder).map_err(RunError::io("make the folder", &folder))?;
            let folder = fs::canonicalize(&folder).map_err(RunError::io("find", &folder))?;
            inputs.mounts.insert(claim.to_owned(), folder.to_string_lossy().into_owned());
        }
        let mounted = assignment::mounted(&uri, &inputs.mounts);
        let local = mounted.as_deref().and_then(|uri| uri.strip_prefix("file://")).or_else(|| uri.local_path());
        let Some(local) = local else { continue };
        if !path.starts_with("spec.output.") && !Path::new(local).exists() {
            let hint = match uri.claim() {
                Some(claim) => format!("Put it there, or name the folder of the claim by --volume {claim}=DIR"),
                None => String::new(),
            };
            faults.push(Fault::error(path, format!("{local} is not there"), hint));
        }
    }
    if faults.is_empty() {
        return Ok(inputs);
    }
    Err(RunError::Missing(faults.into_iter().map(|fault| manifest.locate(fault)).collect()))
}

/// The URI of the model that a job of this machine has trained, or why there is none.
fn model_of(state: &Path, namespace: &str, name: &str) -> Result<Result<String, String>, RunError> {
    let path = folder::path_of(state, namespace, "TrainingJob", name);
    let status: Option<TrainingJobStatus> = folder::read_status(&path)?;
    Ok(match status {
        None => Err(format!("the TrainingJob {name} was not run here ({} is not there)", path.display())),
        Some(TrainingJobStatus { job: JobStatus { phase: Phase::Succeeded, .. }, model: Some(model), .. }) => {
            Ok(model.uri)
        }
        Some(status) => Err(format!("the TrainingJob {name} has no model: it is {:?}", status.job.phase)),
    })
}

/// Makes the folder on this machine that a job writes to, if it writes to one. Where it can't be made or written now, the next
/// attempt could not either.
///
/// # Errors
/// [`RunError::Output`].
pub(crate) fn make_output(manifest: &Manifest, mounts: &BTreeMap<String, String>) -> Result<(), RunError> {
    let Some(folder) = output_folder(&manifest.value["spec"], mounts) else { return Ok(()) };
    let usable = AccessFlags::W_OK | AccessFlags::X_OK;
    let made = fs::create_dir_all(&folder).and_then(|()| access(&folder, usable).map_err(Into::into));
    made.map_err(|source| {
        let cause = match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Cause::Permission,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Cause::Storage,
            _ => Cause::BadSpec,
        };
        let message = format!("can't write to the folder {}: {source}", folder.display());
        let fault = Fault::error("spec.output.uri", message, "Give a folder that you may write to");
        RunError::Output { cause, fault: Box::new(manifest.locate(fault)) }
    })
}

/// The folder on this machine that a job writes to, if it writes to one.
pub(crate) fn output_folder(spec: &Value, mounts: &BTreeMap<String, String>) -> Option<PathBuf> {
    let (_, uri) = assignment::uris(spec).into_iter().find(|(path, _)| path == "spec.output.uri")?;
    let mounted = assignment::mounted(&uri, mounts);
    let local = mounted.as_deref().and_then(|uri| uri.strip_prefix("file://")).or_else(|| uri.local_path())?;
    Some(PathBuf::from(local))
}
