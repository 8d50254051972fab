//! What the operator is compared with: JobSet, and Kubeflow Trainer, which makes JobSets. Each is the manager of its own
//! release, with its own definitions and webhooks. A manager runs for its turn alone, because it watches every pod.

use std::error::Error;
use std::fmt::Debug;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::runtime::wait::{await_condition, conditions::is_crd_established};
use kube::{Api, Client, Resource, ResourceExt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::cluster::Cluster;

use crate::peer_load;
use crate::process::Running;

/// What Kubeflow Trainer looks for in a cluster.
const NAMESPACE: &str = "kubeflow-system";
const SECRET: &str = "kubeflow-trainer-webhook-cert";
const SERVICE: &str = "kubeflow-trainer-controller-manager";
/// Kubeflow Trainer waits until its certificate is here. It reads it from the folder for temporary files.
const MOUNTED: &str = "/tmp/k8s-webhook-server/serving-certs/tls.crt";
/// Where the managers look for their certificate in the folder for temporary files.
const SERVING: &str = "k8s-webhook-server/serving-certs";

/// A manager's ports on the loopback interface.
#[derive(Clone, Copy)]
struct Ports {
    webhooks: u16,
    health: u16,
}

/// The peers, installed.
pub(crate) struct Peers {
    built: PathBuf,
    folder: TempDir,
    kubeconfig: PathBuf,
    client: Client,
    jobset: Ports,
    trainer: Ports,
}

impl Peers {
    /// Builds the peers where they are not built yet, and installs their definitions and webhooks.
    pub(crate) async fn install(cluster: &Cluster) -> Result<Peers, Box<dyn Error>> {
        let client = cluster.client().await;
        let peers = Peers {
            built: build()?,
            folder: TempDir::new()?,
            kubeconfig: cluster.kubeconfig().to_owned(),
            client: client.clone(),
            jobset: Ports::free()?,
            trainer: Ports::free()?,
        };
        let authority = ByteString(peers.certificate()?.into_bytes());
        let (jobset, trainer) = (peers.built.join("jobset"), peers.built.join("trainer"));
        definitions(&client, &jobset.join("definitions")).await?;
        definitions(&client, &trainer.join("definitions")).await?;
        webhooks(
            &client,
            &jobset,
            |path| json!({"url": format!("https://127.0.0.1:{}{path}", peers.jobset.webhooks), "caBundle": authority}),
        )
        .await?;
        webhooks(&client, &trainer, |path| {
            let port = peers.trainer.webhooks;
            json!({"service": {"name": SERVICE, "namespace": NAMESPACE, "path": path, "port": port}})
        })
        .await?;
        peers.mount(&client).await?;
        Ok(peers)
    }

    /// Starts JobSet's manager.
    pub(crate) async fn jobset(&self) -> Result<Running, Box<dyn Error>> {
        let configuration = self.folder.path().join("jobset.json");
        let text = json!({
            "apiVersion": "config.jobset.x-k8s.io/v1alpha1", "kind": "Configuration",
            "webhook": {"host": "127.0.0.1", "port": self.jobset.webhooks, "certDir": self.folder.path().join("jobset")},
            "health": {"healthProbeBindAddress": format!("127.0.0.1:{}", self.jobset.health)},
            "metrics": {"bindAddress": "0"},
            "leaderElection": {"leaderElect": false},
            "internalCertManagement": {"enable": false},
            "clientConnection": {"qps": 100_000, "burst": 100_000},
        });
        fs::write(&configuration, text.to_string())?;
        let process = self.ready("jobset", self.jobset, &[format!("--config={}", configuration.display())]).await?;
        self.admitted().await?;
        Ok(process)
    }

    /// Waits until JobSet's webhooks answer: it registers them after it has said that it is ready.
    async fn admitted(&self) -> Result<(), Box<dyn Error>> {
        let sets = peer_load::api(self.client.clone(), "default", peer_load::JOB_SET);
        let pod = json!({"containers": [{"name": "a", "image": "a"}], "restartPolicy": "Never"});
        let asked = serde_json::from_value(peer_load::jobset(0, 1, &pod))?;
        let (dry, start) = (PostParams { dry_run: true, ..PostParams::default() }, Instant::now());
        while let Err(fault) = sets.create(&dry, &asked).await {
            if start.elapsed() > Duration::from_secs(60) {
                return Err(fault.into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Starts Kubeflow Trainer's manager.
    pub(crate) async fn trainer(&self) -> Result<Running, Box<dyn Error>> {
        self.ready("trainer", self.trainer, &self.trainer_arguments()).await
    }

    fn trainer_arguments(&self) -> [String; 2] {
        [
            format!("--webhook-server-port={}", self.trainer.webhooks),
            format!("--health-probe-bind-address=127.0.0.1:{}", self.trainer.health),
        ]
    }

    /// Starts a manager and waits until it is ready.
    async fn ready(&self, name: &str, ports: Ports, arguments: &[String]) -> Result<Running, Box<dyn Error>> {
        let mut process = self.start(name, arguments)?;
        let (ready, start) = (format!("http://127.0.0.1:{}/readyz", ports.health), Instant::now());
        while ureq::get(&ready).call().is_err() {
            if process.ended() || start.elapsed() > Duration::from_secs(60) {
                return Err(format!("{name} doesn't get ready: {}", fs::read_to_string(self.log(name))?).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(process)
    }

    fn start(&self, name: &str, arguments: &[String]) -> Result<Running, Box<dyn Error>> {
        let log = File::create(self.log(name))?;
        Running::start(&self.built.join(name).join("manager"), |command| {
            command.args(arguments).arg("--zap-log-level=error").stderr(log);
            command.env("KUBECONFIG", &self.kubeconfig).env("TMPDIR", self.folder.path());
        })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).with_extension("log")
    }

    /// Makes JobSet's certificate. Returns the authority's.
    fn certificate(&self) -> Result<String, Box<dyn Error>> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let (authority_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let authority = params.self_signed(&authority_key)?.pem();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?
            .signed_by(&key, &Issuer::new(params, authority_key))?
            .pem();
        let folder = self.folder.path().join("jobset");
        fs::create_dir(&folder)?;
        fs::write(folder.join("tls.crt"), certificate)?;
        fs::write(folder.join("tls.key"), key.serialize_pem())?;
        Ok(authority)
    }

    /// Lets Kubeflow Trainer, which takes no certificate but its own, make one, and mounts it as a kubelet would. The API
    /// server finds the manager by a Service that stands for this machine.
    async fn mount(&self, client: &Client) -> Result<(), Box<dyn Error>> {
        create::<Namespace>(&Api::all(client.clone()), json!({"metadata": {"name": NAMESPACE}})).await?;
        let service = json!({
            "metadata": {"name": SERVICE},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": self.trainer.webhooks}]},
        });
        create::<Service>(&Api::namespaced(client.clone(), NAMESPACE), service).await?;
        let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
        create(&secrets, json!({"metadata": {"name": SECRET}})).await?;
        let _manager = self.start("trainer", &self.trainer_arguments())?;
        let made = |secret: Option<&Secret>| secret.is_some_and(|secret| secret.data.is_some());
        let patience = Duration::from_secs(60);
        let secret = tokio::time::timeout(patience, await_condition(secrets, SECRET, made)).await??;
        let (folder, mounted) = (self.folder.path().join(SERVING), Path::new(MOUNTED));
        fs::create_dir_all(&folder)?;
        for (name, pem) in secret.and_then(|secret| secret.data).unwrap_or_default() {
            fs::write(folder.join(name), pem.0)?;
        }
        fs::create_dir_all(mounted.parent().unwrap_or(mounted))?;
        File::options().create(true).append(true).open(mounted)?;
        Ok(())
    }
}

impl Ports {
    /// Two that are free now.
    fn free() -> Result<Ports, Box<dyn Error>> {
        let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        Ok(Ports { webhooks: one.local_addr()?.port(), health: other.local_addr()?.port() })
    }
}

/// Runs the script, which is quick once the programs are there.
fn build() -> Result<PathBuf, Box<dyn Error>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/peers/build.sh");
    let output =
        Command::new(script).stderr(Stdio::inherit()).output().map_err(|fault| format!("{script}: {fault}"))?;
    match String::from_utf8(output.stdout)?.lines().last() {
        Some(folder) if output.status.success() => Ok(folder.into()),
        _ => Err(format!("{script} ended with {}", output.status).into()),
    }
}

/// Creates the definitions in a folder, and waits until they are served.
async fn definitions(client: &Client, folder: &Path) -> Result<(), Box<dyn Error>> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for file in fs::read_dir(folder)? {
        let text = fs::read_to_string(file?.path())?;
        let name = create(&api, serde_saphyr::from_str(&text)?).await?.name_any();
        let served = await_condition(api.clone(), &name, is_crd_established());
        tokio::time::timeout(Duration::from_secs(60), served).await??;
    }
    Ok(())
}

/// A line of a JSON patch; all that the peers' have is to replace.
#[derive(Deserialize)]
struct Replace {
    path: String,
    value: Value,
}

/// Registers the webhooks in a folder as its patches have them. `place` says where a path is called.
async fn webhooks(client: &Client, folder: &Path, place: impl Fn(&str) -> Value) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(folder.join("webhooks.yaml"))?;
    for mut configuration in serde_saphyr::from_multiple::<Value>(&text)? {
        let kind = configuration["kind"].as_str().unwrap_or_default().to_owned();
        let patch = fs::read_to_string(folder.join(&kind).with_extension("yaml"))?;
        for replace in serde_saphyr::from_str::<Vec<Replace>>(&patch)? {
            let old = configuration.pointer_mut(&replace.path);
            *old.ok_or_else(|| format!("{kind} has no {}", replace.path))? = replace.value;
        }
        for webhook in configuration["webhooks"].as_array_mut().into_iter().flatten() {
            let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap_or_default();
            webhook["clientConfig"] = place(path);
        }
        match kind.as_str() {
            "MutatingWebhookConfiguration" => {
                drop(create::<MutatingWebhookConfiguration>(&Api::all(client.clone()), configuration).await?);
            }
            _ => drop(create::<ValidatingWebhookConfiguration>(&Api::all(client.clone()), configuration).await?),
        }
    }
    Ok(())
}

async fn create<K>(api: &Api<K>, manifest: Value) -> Result<K, Box<dyn Error>>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    Ok(api.create(&PostParams::default(), &serde_json::from_value(manifest)?).await?)
}
