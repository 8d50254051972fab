//! `trainyard support-bundle`: what somebody else needs to understand a namespace, in one file without anything secret.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;
use crds::contract::labels;
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Api;
use kube::api::LogParams;
use serde::Serialize;
use serde_json::{Value, json};

use super::access::{Access, Cluster, yaml};
use super::error::PluginError;
use super::job::all;
use super::redact::{self, redact};

/// How what the chart has installed of the operator is found.
pub(super) const OPERATOR: &str = "app.kubernetes.io/name=trainyard";
/// Lines of each operator's log.
const LINES: i64 = 5000;

#[derive(Debug, Args)]
pub(crate) struct SupportBundle {
    /// The file; trainyard-support-NAMESPACE-TIME.tar.gz here if absent.
    #[arg(short, long, value_name = "FILE.tar.gz")]
    output: Option<PathBuf>,
    /// Namespace of the operator; where its pods are if absent.
    #[arg(long, value_name = "NAMESPACE")]
    operator_namespace: Option<String>,
    #[command(flatten)]
    access: Access,
}

/// Files of a bundle, and what could not be read.
#[derive(Default)]
struct Contents {
    files: Vec<(String, String)>,
    missing: Vec<String>,
}

impl Contents {
    /// Adds a text without what may be secret, or why it is missing.
    fn text(&mut self, name: &str, text: Result<String, impl Display>) {
        self.file(name, text.map(|text| redact::text(&text)));
    }

    fn file(&mut self, name: &str, text: Result<String, impl Display>) {
        match text {
            Ok(text) => self.files.push((name.to_owned(), text)),
            Err(fault) => self.missing.push(format!("{name}: {}", redact::text(&fault.to_string()))),
        }
    }

    /// Adds objects without what may be secret.
    fn objects<T: Serialize>(&mut self, name: &str, objects: Result<Vec<T>, PluginError>) {
        let text = objects.map(|objects| {
            let mut list: Vec<Value> = objects.iter().map(|one| json!(one)).collect();
            list.iter_mut().for_each(redact);
            list.iter().fold(String::new(), |text, one| text + "---\n" + &yaml(one))
        });
        // Not as a text: names of fields, such as a toleration's key, are no names of secrets.
        self.file(name, text);
    }

    /// The archive: one folder with all files.
    fn archive(&self, folder: &str, now: Timestamp) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        let missing = self.missing.iter().fold(String::new(), |text, line| text + line + "\n");
        let missing = ("missing.txt".to_owned(), missing);
        for (name, text) in self.files.iter().chain((!self.missing.is_empty()).then_some(&missing)) {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(now.as_second().unsigned_abs());
            archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
        }
        archive.into_inner()?.finish()
    }
}

impl SupportBundle {
    /// Writes it; the exit code.
    pub(crate) fn run(&self) -> u8 {
        self.access.with(async |cluster| {
            let now = Timestamp::now();
            let folder = format!("trainyard-support-{}-{}", cluster.namespace, now.strftime("%Y%m%d-%H%M%S"));
            let path = self.output.clone().unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
            let contents = self.gather(&cluster).await?;
            let fault = |source| PluginError::Write { path: path.display().to_string(), source };
            let bytes = contents.archive(&folder, now).map_err(fault)?;
            // For the owner alone: names of buckets and images are nobody else's business.
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
            file.and_then(|mut file| file.write_all(&bytes)).map_err(fault)?;
            println!("{}", fs::canonicalize(&path).unwrap_or(path).display());
            for (name, _) in &contents.files {
                eprintln!("  {name}");
            }
            for missing in &contents.missing {
                eprintln!("  missing: {missing}");
            }
            eprintln!(
                "Secrets and values of environment variables are not in it. Look through it before you hand it on."
            );
            Ok(0)
        })
    }

    async fn gather(&self, cluster: &Cluster) -> Result<Contents, PluginError> {
        let mut contents = Contents::default();
        let server = cluster.client.apiserver_version().await?;
        let versions = format!("trainyard {}\nkubernetes {}\n", env!("CARGO_PKG_VERSION"), server.git_version);
        contents.text("versions.txt", Ok::<_, PluginError>(versions));
        contents.objects("trainingjobs.yaml", cluster.list::<TrainingJob>(false, "").await);
        contents.objects("scoringjobs.yaml", cluster.list::<ScoringJob>(false, "").await);
        contents.objects("modelendpoints.yaml", cluster.list::<ModelEndpoint>(false, "").await);
        contents.objects("pods.yaml", cluster.list::<Pod>(false, labels::JOB).await);
        contents.objects("events.yaml", cluster.list::<Event>(false, "").await);
        let nodes = all(&Api::<Node>::all(cluster.client.clone()), "").await;
        contents.objects("nodes.yaml", nodes.map(|nodes| nodes.iter().map(facts).collect::<Vec<_>>()));
        self.operators(cluster, &mut contents).await;
        Ok(contents)
    }

    /// The operator's pods and the ends of their logs.
    async fn operators(&self, cluster: &Cluster, contents: &mut Contents) {
        let pods = match &self.operator_namespace {
            Some(namespace) => all(&Api::<Pod>::namespaced(cluster.client.clone(), namespace), OPERATOR).await,
            None => match all(&Api::<Pod>::all(cluster.client.clone()), OPERATOR).await {
                // It may be in the namespace that the jobs are in.
                Err(PluginError::Forbidden { .. }) => cluster.list(false, OPERATOR).await,
                pods => pods,
            },
        };
        let found: Vec<Pod> = pods.as_ref().map(Clone::clone).unwrap_or_default();
        let none = found.is_empty() && pods.is_ok();
        contents.objects("operator/pods.yaml", pods);
        if none {
            let fault = format!("no pod with the label {OPERATOR}: name its namespace by --operator-namespace");
            contents.text("operator/*.log", Err(fault));
        }
        for pod in found {
            let (Some(name), Some(namespace)) = (&pod.metadata.name, &pod.metadata.namespace) else { continue };
            let params = LogParams { tail_lines: Some(LINES), timestamps: true, ..LogParams::default() };
            let log = Api::<Pod>::namespaced(cluster.client.clone(), namespace).logs(name, &params).await;
            contents.text(&format!("operator/{name}.log"), log.map_err(PluginError::from));
        }
    }
}

/// What a node offers, without its addresses and images.
fn facts(node: &Node) -> Value {
    let status = node.status.as_ref();
    json!({
        "name": node.metadata.name, "labels": node.metadata.labels,
        "unschedulable": node.spec.as_ref().and_then(|spec| spec.unschedulable),
        "taints": node.spec.as_ref().and_then(|spec| spec.taints.as_ref()),
        "capacity": status.and_then(|status| status.capacity.as_ref()),
        "allocatable": status.and_then(|status| status.allocatable.as_ref()),
        "conditions": status.and_then(|status| status.conditions.as_ref()),
        "kubelet": status.and_then(|status| status.node_info.as_ref()).map(|info| &info.kubelet_version),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_bundle_is_an_archive_that_names_what_is_missing() {
        let mut contents = Contents::default();
        contents.objects("jobs.yaml", Ok(vec![json!({"env": [{"name": "A", "value": "hush"}]})]));
        contents.objects::<Value>("pods.yaml", Err(PluginError::Unauthorized));
        contents.text("a.log", Ok::<_, PluginError>("read https://host/a?sig=hush with KEY=hush\n".to_owned()));
        let bytes = contents.archive("bundle", Timestamp::UNIX_EPOCH).expect("an archive");
        let mut archive = tar::Archive::new(GzDecoder::new(bytes.as_slice()));
        let read = |entry: io::Result<tar::Entry<'_, GzDecoder<&[u8]>>>| {
            let mut entry = entry.expect("an entry");
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            (entry.path().expect("a path").display().to_string(), text)
        };
        let files: Vec<(String, String)> = archive.entries().expect("entries").map(read).collect();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["bundle/jobs.yaml", "bundle/a.log", "bundle/missing.txt"]);
        assert!(files.iter().all(|(_, text)| !text.contains("hush")), "{files:?}");
        assert!(files[2].1.starts_with("pods.yaml: the cluster doesn't take your credentials"), "{files:?}");
    }
}
