//! What the acts have in common: the cluster with our images on its nodes, the namespaces, the volumes, waiting, and the figures.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::chart::Ran;
use tests::image::{Packing, Product, Programs};
use tests::node::Rig;
use tokio::runtime::Runtime;

use crate::install;

/// The namespace of the jobs.
pub(crate) const JOBS: &str = "vision";
/// The namespace of the release.
pub(crate) const RELEASE: &str = "trainyard";
/// How long an act waits for anything. Far more than it takes on a machine with nothing else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The name under which an image of ours is known on the nodes.
pub(crate) fn image(product: Product) -> String {
    format!("registry.test/trainyard/{}:e2e", product.name())
}

fn archive(product: Product) -> PathBuf {
    work().join(product.name()).with_extension("tar")
}

/// Where images are assembled, beside what cargo built.
fn work() -> PathBuf {
    built().join("rootfs")
}

/// The folder that cargo built the programs into.
fn built() -> PathBuf {
    let beside = std::env::current_exe().unwrap_or_default();
    beside.parent().and_then(Path::parent).unwrap_or(Path::new("")).to_owned()
}

/// Makes the images' archives; done where there is a network. An archive that is not older than what it is made from stays.
pub(crate) fn prepare() {
    tests::chart::checker("helm");
    tests::storage::program("versitygw").unwrap_or_else(|fault| panic!("{fault}"));
    let (built, work) = (built(), work());
    fs::create_dir_all(&work).unwrap_or_else(|fault| panic!("{}: {fault}", work.display()));
    let programs = Programs { built: &built, work: &work };
    for product in Product::ALL {
        let made =
            product.image(programs, &image(product), Packing::Plain).and_then(|made| made.write(&archive(product)));
        made.unwrap_or_else(|fault| panic!("no image of the {}: {fault}", product.name()));
    }
}

/// The cluster, and what is known of it.
pub(crate) struct Yard {
    pub(crate) rig: Rig,
    pub(crate) client: Client,
    runtime: Runtime,
    figures: Vec<(String, Duration)>,
}

impl Yard {
    /// Starts the cluster and installs the release.
    pub(crate) fn start() -> Yard {
        let began = Instant::now();
        let runtime = Runtime::new().unwrap_or_else(|fault| panic!("no runtime: {fault}"));
        let (rig, client) = runtime.block_on(async {
            let rig = Rig::start(&["a", "b"], &Product::ALL.map(archive))
                .await
                .unwrap_or_else(|fault| panic!("no nodes: {fault}"));
            let client = rig.cluster().client().await;
            (rig, client)
        });
        let mut yard = Yard { rig, client, runtime, figures: Vec::new() };
        yard.figure("from nothing to two nodes that are ready and know our images", began.elapsed());
        yard.namespace();
        install::installs(&mut yard);
        yard
    }

    /// Plays an act; if it fails, what the cluster had to say is printed.
    pub(crate) fn play(&mut self, name: &str, act: impl FnOnce(&mut Yard)) {
        let began = Instant::now();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(self)));
        self.figure(name, began.elapsed());
        if let Err(panic) = ended {
            self.print_state();
            std::panic::resume_unwind(panic);
        }
    }

    pub(crate) fn figure(&mut self, what: &str, took: Duration) {
        // Said at once as well: who waits sees how far it is.
        eprintln!("{:>7.1} s  {what}", took.as_secs_f64());
        self.figures.push((what.to_owned(), took));
    }

    pub(crate) fn print_figures(&self) {
        println!("\nseconds");
        for (what, took) in &self.figures {
            println!("{:>7.1}  {what}", took.as_secs_f64());
        }
    }

    /// Waits for what a future comes to.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Objects of a kind in the jobs' namespace.
    pub(crate) fn jobs<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), JOBS)
    }

    /// An object of the jobs' namespace once it meets a condition.
    pub(crate) fn until<K>(&self, name: &str, what: &str, mut holds: impl FnMut(&K) -> bool) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let api = self.jobs::<K>();
        let mut found = None;
        self.until_true(&format!("{name}: {what}"), || {
            found = self.wait(api.get_opt(name)).unwrap_or_default().filter(|object| holds(object));
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("{name} went"))
    }

    /// Waits until something holds. Ten times a second is asked: what is waited for is spread over many objects.
    pub(crate) fn until_true(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "in {} s it did not come about: {what}", PATIENCE.as_secs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Objects of a kind in the jobs' namespace that have a label.
    pub(crate) fn labelled<K>(&self, label: &str, value: &str) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let selector = ListParams::default().labels(&format!("{label}={value}"));
        self.wait(self.jobs::<K>().list(&selector)).map(|list| list.items).unwrap_or_default()
    }

    /// kubectl with these arguments; it must succeed.
    pub(crate) fn kubectl<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        Ran::of(&mut self.rig.kubectl(arguments)).good()
    }

    /// Applies a manifest as a user does.
    pub(crate) fn apply(&self, manifest: &Value) {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|fault| panic!("no file: {fault}"));
        fs::write(file.path(), manifest.to_string()).unwrap_or_else(|fault| panic!("no manifest: {fault}"));
        self.kubectl(["apply", "-n", JOBS, "-f", &file.path().display().to_string()]);
    }

    /// A manifest of `crds/examples`.
    pub(crate) fn example(name: &str) -> Value {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/examples")).join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
        serde_saphyr::from_str(&text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
    }

    /// The folder of a volume on this machine.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.rig.volume(name).unwrap_or_else(|fault| panic!("no volume: {fault}"))
    }

    /// The jobs' namespace: restricted, with a claim for data, which has the digits, and one for models.
    fn namespace(&self) {
        let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        for name in [JOBS, RELEASE] {
            self.apply_anywhere(&json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted},
            }));
        }
        for name in ["datasets", "models"] {
            let room = json!({"storage": "1Gi"});
            self.apply_anywhere(&json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {
                    "capacity": room, "accessModes": ["ReadWriteMany"], "storageClassName": "",
                    "hostPath": {"path": self.volume(name)}, "claimRef": {"name": name, "namespace": JOBS},
                },
            }));
            self.apply_anywhere(&json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": JOBS},
                "spec": {
                    "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": name,
                    "resources": {"requests": room},
                },
            }));
        }
        Ran::of(Command::new(env!("CARGO_BIN_EXE_digits")).arg(self.volume("datasets").join("digits"))).good();
    }

    fn apply_anywhere(&self, manifest: &Value) {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|fault| panic!("no file: {fault}"));
        fs::write(file.path(), manifest.to_string()).unwrap_or_else(|fault| panic!("no manifest: {fault}"));
        self.kubectl(["apply", "-f", &file.path().display().to_string()]);
    }

    /// What a person would look at to see why something does not come about.
    fn print_state(&self) {
        for arguments in [
            "get nodes,pods,trainingjobs,scoringjobs,modelendpoints -A -o wide",
            "get events -A --sort-by=.lastTimestamp",
            "get trainingjobs,scoringjobs,modelendpoints -A -o yaml",
            "logs -n trainyard -l app.kubernetes.io/name=trainyard --tail=40 --prefix",
            "logs -n vision -l trainyard.dev/job --tail=40 --prefix",
        ] {
            let ran = Ran::of(&mut self.rig.kubectl(arguments.split(' ')));
            eprintln!("--- kubectl {arguments}\n{}{}", ran.out, ran.err);
        }
    }
}
