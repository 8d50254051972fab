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
/// Where shared memory is, and the name of its volume.
const SHARED: &str = "/dev/shm";
const MEMORY: &str = "shared-memory";

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
    /// The shared memory of a pod, where it gets its own: as much as is asked for, or for an image of one's own as much as the
    /// container may have. PyTorch's loaders and NCCL die of the 64 MiB that a container has without.
    fn shared_memory(&self) -> Option<EmptyDirVolumeSource> {
        let wished = &self.infrastructure.pod;
        let has_own = wished.volume_mounts.iter().any(|mount| mount.mount_path.trim_end_matches('/') == SHARED)
            || wished.volumes.iter().filter_map(Open::get).any(|volume| volume.name == MEMORY);
        let limit = || wished.resources.as_ref()?.limits.as_ref()?.get("memory").cloned();
        let size_limit = match &wished.shared_memory {
            Some(size) => Some(size.clone()),
            None if self.infrastructure.image.is_some() && !has_own => limit(),
            None => return None,
        };
        Some(EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit })
    }

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
        let memory = self.shared_memory().map(|source| empty(MEMORY, source));
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
        let memory = self.shared_memory().map(|_| at(MEMORY.to_owned(), SHARED.to_owned(), false));
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
    use crate::placement::Placed;

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

    #[test]
    fn an_image_of_ones_own_has_all_the_shared_memory_that_its_limit_allows() {
        let own = json!({"image": "mine:1"});
        let limited = json!({"image": "mine:1", "pod": {"resources": {"limits": {"memory": "8Gi"}}}});
        let asked = json!({"image": "mine:1", "pod": {
            "sharedMemory": "1Gi", "resources": {"limits": {"memory": "8Gi"}},
        }});
        let mounts = json!([{"name": "mine", "mountPath": "/dev/shm/"}]);
        let mounted = json!({"image": "mine:1", "pod": {"volumeMounts": mounts}});
        let named = json!({"image": "mine:1", "pod": {"volumes": [{"name": "shared-memory", "emptyDir": {}}]}});
        for (infrastructure, size) in [
            (own, Some(json!({"medium": "Memory"}))),
            (limited, Some(json!({"medium": "Memory", "sizeLimit": "8Gi"}))),
            (asked, Some(json!({"medium": "Memory", "sizeLimit": "1Gi"}))),
            (mounted, None),
            (named, None),
            (json!({}), None),
            (json!({"pod": {"sharedMemory": "1Gi"}}), Some(json!({"medium": "Memory", "sizeLimit": "1Gi"}))),
        ] {
            let wished = serde_json::from_value(infrastructure.clone()).expect("an infrastructure");
            let placed = Placed { image: "mine:1".to_owned(), ..Placed::on_cpus() };
            let common = Common { infrastructure: &wished, placed: &placed, claims: &[] };
            let ours = |volume: &Volume| Some(json!(volume.empty_dir)).filter(|it| it["medium"] == "Memory");
            assert_eq!(common.volumes().iter().find_map(ours), size, "{infrastructure}");
            let mount = |mount: &VolumeMount| mount.name == MEMORY && mount.mount_path == SHARED;
            assert_eq!(common.volume_mounts().iter().any(mount), size.is_some(), "{infrastructure}");
        }
    }
}
