//! What a pod mounts: the claims that its URIs name, room for temporary files and caches, and shared memory.

use std::collections::BTreeMap;

use crds::open::Open;
use crds::uri::Uri;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PersistentVolumeClaimVolumeSource, Volume, VolumeMount};
use serde_json::Value;

use super::Common;
use crate::build::assignment;

/// Folder under which claims are mounted, each by its name.
pub const MOUNTS: &str = "/volumes";
/// The one place that can be written to besides the claims: the root is read-only.
const SCRATCH: &str = "/tmp";

/// A claim that a spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Whether something is written to it.
    pub is_written: bool,
}

impl Claim {
    /// The claims that a spec names, each once.
    pub fn of(spec: &Value) -> Vec<Claim> {
        let mut found: BTreeMap<String, bool> = BTreeMap::new();
        for (path, uri) in assignment::uris(spec) {
            if let Some(claim) = uri.claim() {
                let is_written = path.starts_with("spec.output.") || (path == "spec.model.uri" && evaluates(spec));
                *found.entry(claim.to_owned()).or_default() |= is_written;
            }
        }
        found.into_iter().map(|(name, is_written)| Claim { name, is_written }).collect()
    }

    /// The claim of a model that another job has left, for a job with this spec.
    pub fn of_model(uri: &str, spec: &Value) -> Option<Claim> {
        let uri = Uri::parse(uri).ok()?;
        Some(Claim { name: uri.claim()?.to_owned(), is_written: evaluates(spec) })
    }
}

/// Whether the job judges its model, and adds to the history in the model's folder.
fn evaluates(spec: &Value) -> bool {
    spec["evaluate"] == true
}

/// The folder of each claim.
pub fn mounts(claims: &[Claim]) -> BTreeMap<String, String> {
    claims.iter().map(|claim| (claim.name.clone(), format!("{MOUNTS}/{}", claim.name))).collect()
}

/// Where programs keep what they may lose: CUDA's compiled kernels, Triton's, a home.
pub(super) fn caches() -> [(&'static str, String); 4] {
    [
        ("HOME", SCRATCH.to_owned()),
        ("TMPDIR", SCRATCH.to_owned()),
        ("CUDA_CACHE_PATH", format!("{SCRATCH}/cuda")),
        ("TRITON_CACHE_DIR", format!("{SCRATCH}/triton")),
    ]
}

impl Common<'_> {
    pub(super) fn volumes(&self) -> Vec<Volume> {
        let claim = |(number, claim): (usize, &Claim)| Volume {
            name: volume_name(number),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.name.clone(),
                read_only: (!claim.is_written).then_some(true),
            }),
            ..Volume::default()
        };
        let empty = |name: &str, source: EmptyDirVolumeSource| Volume {
            name: name.to_owned(),
            empty_dir: Some(source),
            ..Volume::default()
        };
        let wished = &self.infrastructure.pod;
        let memory = wished.shared_memory.as_ref().map(|size| {
            let source = EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: Some(size.clone()) };
            empty("shared-memory", source)
        });
        let scratch = empty("scratch", EmptyDirVolumeSource::default());
        let claims = self.claims.iter().enumerate().map(claim);
        [scratch]
            .into_iter()
            .chain(memory)
            .chain(claims)
            .chain(wished.volumes.iter().filter_map(Open::get).cloned())
            .collect()
    }

    pub(super) fn volume_mounts(&self) -> Vec<VolumeMount> {
        let at = |name: String, path: String, read_only: bool| VolumeMount {
            name,
            mount_path: path,
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        };
        let wished = &self.infrastructure.pod;
        let scratch = at("scratch".to_owned(), SCRATCH.to_owned(), false);
        let memory = wished.shared_memory.is_some().then(|| at("shared-memory".into(), "/dev/shm".into(), false));
        let claims = self
            .claims
            .iter()
            .enumerate()
            .map(|(number, claim)| at(volume_name(number), format!("{MOUNTS}/{}", claim.name), !claim.is_written));
        [scratch].into_iter().chain(memory).chain(claims).chain(wished.volume_mounts.iter().cloned()).collect()
    }
}

/// Claims may have names that are too long for a volume.
fn volume_name(number: usize) -> String {
    format!("claim-{number}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_model_s_claim_is_written_to_by_an_evaluation_alone() {
        let spec = |evaluate: bool| {
            json!({
                "model": {"uri": "pvc://models/flowers"}, "data": {"uri": "pvc://images/new"}, "evaluate": evaluate,
                "output": {"uri": "pvc://rows/new"},
            })
        };
        for evaluate in [false, true] {
            let claim = |name: &str, is_written| Claim { name: name.to_owned(), is_written };
            let expected = vec![claim("images", false), claim("models", evaluate), claim("rows", true)];
            assert_eq!(Claim::of(&spec(evaluate)), expected);
            assert_eq!(Claim::of_model("pvc://models/flowers", &spec(evaluate)), Some(claim("models", evaluate)));
        }
        assert_eq!(Claim::of_model("s3://models/flowers", &spec(true)), None);
    }
}
