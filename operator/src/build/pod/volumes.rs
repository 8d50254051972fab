//! What a pod mounts: the claims that its URIs name, room for temporary files and caches, and shared memory.

use std::collections::BTreeMap;

use crds::TrainingJobSpec;
use crds::open::Open;
use crds::uri::Uri;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PersistentVolumeClaimVolumeSource, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::Common;
use crate::build::assignment;

/// Folder under which claims are mounted, each by its name.
pub const MOUNTS: &str = "/volumes";
/// The one place that can be written to besides the claims: the root is read-only.
const SCRATCH: &str = "/tmp";
/// Where shared memory is, and the name of its volume.
const SHARED: &str = "/dev/shm";
const MEMORY: &str = "shared-memory";
/// MiB of shared memory for each of several GPUs of a pod. Where they can't reach each other's memory NCCL passes data through there:
/// up to 32 channels with buffers of some 10 MiB each. It is a bound: what nobody writes to takes no memory.
const SHARED_MIB_OF_A_GPU: u64 = 512;

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

    /// The claims that the data of a TrainingJob lies on; `inherited` are those of the job that it took its data from, if it names none
    /// of its own.
    pub fn of_data(spec: &TrainingJobSpec, inherited: &[String]) -> Vec<String> {
        let Some(data) = &spec.data else { return inherited.to_vec() };
        Claim::of(&json!({ "data": data })).into_iter().map(|claim| claim.name).collect()
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
    /// The shared memory of a pod, where it gets its own: as much as is asked for; for an image of one's own as much as the container
    /// may have, and for our trainer what NCCL takes between the GPUs of a pod. PyTorch's loaders and NCCL die of the 64 MiB that a
    /// container has without.
    fn shared_memory(&self) -> Option<EmptyDirVolumeSource> {
        let wished = &self.infrastructure.pod;
        let has_own = wished.volume_mounts.iter().any(|mount| mount.mount_path.trim_end_matches('/') == SHARED)
            || wished.volumes.iter().filter_map(Open::get).any(|volume| volume.name == MEMORY);
        let limit = || wished.resources.as_ref()?.limits.as_ref()?.get("memory").cloned();
        let gpus = self.placed.resource.as_ref().map_or(0, |(_, each)| *each);
        let size_limit = match &wished.shared_memory {
            Some(size) => Some(size.clone()),
            None if has_own => return None,
            None if self.infrastructure.image.is_some() => limit(),
            None if gpus > 1 => Some(Quantity(format!("{}Mi", u64::from(gpus) * SHARED_MIB_OF_A_GPU))),
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
    fn data_that_is_taken_from_an_earlier_job_lies_on_the_claims_of_that_one() {
        let spec = |own: Value| {
            let mut spec = json!({"output": {"uri": "pvc://models/b"}, "retrainFrom": {"trainingJob": "a"}});
            spec.as_object_mut().unwrap().extend(own.as_object().cloned().unwrap());
            serde_json::from_value::<TrainingJobSpec>(spec).expect("a spec")
        };
        let inherited = ["first".to_owned()];
        for (own, claims) in [
            (json!({}), vec!["first"]),
            (json!({"data": {"uri": "s3://b/train"}}), vec![]),
            (json!({"data": {"uri": "pvc://b/train", "validation": {"uri": "pvc://a"}}}), vec!["a", "b"]),
        ] {
            assert_eq!(Claim::of_data(&spec(own), &inherited), claims);
        }
    }

    #[test]
    fn shared_memory_is_what_is_asked_for_or_all_of_an_image_of_ones_own_or_what_several_gpus_take() {
        const GPU: &str = "nvidia.com/gpu";
        let own = json!({"image": "mine:1"});
        let limited = json!({"image": "mine:1", "pod": {"resources": {"limits": {"memory": "8Gi"}}}});
        let asked = json!({"image": "mine:1", "pod": {
            "sharedMemory": "1Gi", "resources": {"limits": {"memory": "8Gi"}},
        }});
        let mounts = json!([{"name": "mine", "mountPath": "/dev/shm/"}]);
        let mounted = json!({"image": "mine:1", "pod": {"volumeMounts": mounts}});
        let named = json!({"image": "mine:1", "pod": {"volumes": [{"name": "shared-memory", "emptyDir": {}}]}});
        let of_ours = json!({"pod": {"volumeMounts": mounts}});
        let sized = |size: &str| Some(json!({"medium": "Memory", "sizeLimit": size}));
        for (infrastructure, gpus, size) in [
            (own, 8, Some(json!({"medium": "Memory"}))),
            (limited, 8, sized("8Gi")),
            (asked, 8, sized("1Gi")),
            (mounted, 8, None),
            (named, 0, None),
            (json!({}), 0, None),
            (json!({}), 1, None),
            (json!({}), 2, sized("1024Mi")),
            (json!({}), 8, sized("4096Mi")),
            (of_ours, 8, None),
            (json!({"pod": {"sharedMemory": "1Gi"}}), 0, sized("1Gi")),
            (json!({"pod": {"sharedMemory": "1Gi"}}), 8, sized("1Gi")),
        ] {
            let wished = serde_json::from_value(infrastructure.clone()).expect("an infrastructure");
            let resource = (gpus > 0).then(|| (GPU.to_owned(), gpus));
            let placed = Placed { image: "mine:1".to_owned(), resource, ..Placed::on_cpus() };
            let common = Common { infrastructure: &wished, placed: &placed, claims: &[] };
            let ours = |volume: &Volume| Some(json!(volume.empty_dir)).filter(|it| it["medium"] == "Memory");
            assert_eq!(common.volumes().iter().find_map(ours), size, "{gpus} GPUs, {infrastructure}");
            let mount = |mount: &VolumeMount| mount.name == MEMORY && mount.mount_path == SHARED;
            assert_eq!(common.volume_mounts().iter().any(mount), size.is_some(), "{gpus} GPUs, {infrastructure}");
        }
    }
}
