//! `trainyard report`: where the report of a training or an evaluation is, and how to get at it.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use crds::status::Phase;
use crds::uri::{Scheme, Uri};
use serde_json::{Value, json};

use super::access::{Access, Format};
use super::error::PluginError;
use super::job::{Job, Kind};

/// The report in the model folder.
const REPORT: &str = "report.html";
/// The image of a pod that reads a claim.
const IMAGE: &str = "busybox:1.37";
/// The user that wrote it, which the trainer's pods run as.
const USER: i64 = 65_532;

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// The TrainingJob, such as flowers or tj/flowers, or a ScoringJob that evaluates, such as sj/flowers-new.
    job: String,
    /// How to write it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

impl Report {
    /// Says where it is, and opens it if it can; the exit code: 1 if there is none yet.
    pub(crate) fn run(&self) -> u8 {
        self.access.with_job(&self.job, async |cluster| {
            let job = cluster.find(&named(&self.job)).await?;
            if is_without(&job) {
                let text = format!("{} writes no report: its spec.evaluate is false", job.title());
                return Err(PluginError::Refused(text));
            }
            if job.status.phase != Phase::Succeeded {
                let text = format!("{} has no report yet ({}): it is written at the end", job.title(), job.phase());
                return Err(PluginError::Refused(text));
            }
            // The status may name the place within the pod; what was asked for is what a person knows.
            let folder = Uri::parse(&job.output).map_err(|fault| PluginError::Refused(fault.to_string()))?;
            let report = format!("{}/{REPORT}", job.output.trim_end_matches('/'));
            let code = self.output.print(&json!({"report": report}), || format!("{report}\n{}", how(&job, &folder)));
            if let Some(path) = folder.local_path().filter(|_| self.output.is_for_people()) {
                open(&Path::new(path).join(REPORT));
            }
            Ok(code)
        })
    }
}

/// What is typed, as one of a kind: names of TrainingJobs go without it.
fn named(typed: &str) -> String {
    if typed.contains('/') { typed.to_owned() } else { format!("tj/{typed}") }
}

/// Whether a job never writes a report.
fn is_without(job: &Job) -> bool {
    job.kind == Kind::Scoring && job.value.pointer("/spec/evaluate") != Some(&Value::Bool(true))
}

/// How to get at it, by where it is.
fn how(job: &Job, folder: &Uri) -> String {
    let path = format!("{}/{REPORT}", folder.path().trim_end_matches('/'));
    let at = folder.authority();
    match folder.scheme() {
        Scheme::File => format!(
            "A file of the pod, or of a volume that spec.infrastructure.pod mounts there: {path}. On a machine that has the same \
             folder it is there too.\n"
        ),
        Scheme::Pvc => {
            let (name, pod, image) = reader(&job.name, at, &["cat", &format!("/volume{path}")]);
            format!(
                "A file of the volume claim {at}. A pod that mounts it can read it:\n  kubectl -n {} run {name} --rm -i -q \
                 --restart=Never --image={image} --overrides='{pod}' > {REPORT}\n",
                job.namespace
            )
        }
        Scheme::S3 => format!("An object. To read it:\n  aws s3 cp s3://{at}{path} .\n"),
        Scheme::Gs => format!("An object. To read it:\n  gcloud storage cp gs://{at}{path} .\n"),
        Scheme::Az => format!(
            "A blob. To read it:\n  az storage blob download --account-name ... --container-name {at} --name {} --file {REPORT}\n",
            path.trim_start_matches('/')
        ),
        Scheme::Https => String::new(),
    }
}

/// Name, overrides and image of a pod that prints what it finds at /volume, a claim that a job wrote: as the trainer's user and under
/// Pod Security restricted.
pub(super) fn reader(job: &str, claim: &str, command: &[&str]) -> (String, Value, &'static str) {
    // kubectl names the container like the pod; one of another name would be a second one.
    let name = format!("{job}-report");
    let pod = json!({"spec": {
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": name, "image": IMAGE, "command": command,
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "volume", "mountPath": "/volume", "readOnly": true}],
        }],
        "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim, "readOnly": true}}],
    }});
    (name, pod, IMAGE)
}

/// Shows a file of this machine to whoever sits before it.
fn open(report: &Path) {
    let has_display =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !has_display || !io::stdout().is_terminal() || !report.is_file() {
        return;
    }
    let mut command = Command::new("xdg-open");
    command.arg(report).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if command.spawn().is_ok() {
        eprintln!("It opens in your browser.");
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::super::tree::tests::job;
    use super::*;

    #[test]
    fn how_to_read_it_follows_from_where_it_is() {
        let job = job(json!({}));
        for (uri, text) in [
            ("s3://bucket/flowers/", "aws s3 cp s3://bucket/flowers/report.html ."),
            ("gs://bucket/flowers", "gcloud storage cp gs://bucket/flowers/report.html ."),
            ("az://box/flowers", "--container-name box --name flowers/report.html"),
            ("file:///data/flowers", "/data/flowers/report.html"),
            ("pvc://models/flowers", r#""claimName":"models""#),
            ("pvc://models/flowers", r#""command":["cat","/volume/flowers/report.html"]"#),
            ("pvc://models", r#""command":["cat","/volume/report.html"]"#),
        ] {
            let how = how(&job, &Uri::parse(uri).expect(uri));
            assert!(how.contains(text), "{uri}: {how}");
        }
    }

    #[test]
    fn a_scoring_has_a_report_if_it_evaluates() {
        let scoring = |evaluate: bool| -> Job {
            let job = json!({
                "apiVersion": "trainyard.dev/v1alpha1", "kind": "ScoringJob", "metadata": {"name": "new"},
                "spec": {
                    "model": {"trainingJob": "flowers"}, "data": {"uri": "pvc://data/new"},
                    "output": {"uri": "pvc://models/new"}, "evaluate": evaluate,
                },
            });
            serde_json::from_value::<crds::ScoringJob>(job).expect("a job").into()
        };
        assert_eq!([true, false].map(|evaluate| is_without(&scoring(evaluate))), [false, true]);
        assert!(!is_without(&job(json!({}))));
        assert_eq!(["flowers", "sj/new"].map(named), ["tj/flowers", "sj/new"]);
    }

    #[test]
    fn a_restricted_namespace_takes_the_pod_that_reads_a_claim() {
        let how = how(&job(json!({})), &Uri::parse("pvc://models/flowers").expect("a URI"));
        let (_, rest) = how.split_once("--overrides='").expect("overrides");
        let (overrides, _) = rest.split_once("' > report.html").expect("their end");
        let pod: Pod = serde_json::from_str(overrides).expect("a pod");
        let spec = pod.spec.expect("a spec");
        let [container] = spec.containers.as_slice() else { panic!("one container: {:?}", spec.containers) };
        assert!(how.contains(&format!(" run {} ", container.name)), "kubectl would make a second container: {how}");

        // What the level restricted asks for: https://kubernetes.io/docs/concepts/security/pod-security-standards/
        let pod = spec.security_context.expect("a security context");
        assert_eq!((pod.run_as_non_root, pod.run_as_user, pod.fs_group), (Some(true), Some(65_532), Some(65_532)));
        assert_eq!(pod.seccomp_profile.map(|profile| profile.type_), Some("RuntimeDefault".to_owned()));
        let own = container.security_context.clone().expect("a security context");
        assert_eq!((own.allow_privilege_escalation, own.privileged), (Some(false), None));
        let capabilities = own.capabilities.expect("capabilities");
        assert_eq!((capabilities.drop, capabilities.add), (Some(vec!["ALL".to_owned()]), None));
        for volume in spec.volumes.expect("volumes") {
            assert!(volume.persistent_volume_claim.is_some_and(|claim| claim.read_only == Some(true)));
        }
    }
}
