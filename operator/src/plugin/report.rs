//! `trainyard report`: where a training's report is, and how to get at it.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use crds::status::Phase;
use crds::uri::{Scheme, Uri};
use serde_json::json;

use super::access::{Access, Format};
use super::error::PluginError;
use super::job::Job;

/// The report in the model folder.
const REPORT: &str = "report.html";

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// The TrainingJob, such as flowers or tj/flowers.
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
            let job = cluster.find_training(&self.job).await?;
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
            // kubectl names the container like the pod; one of another name would be a second one.
            let name = format!("{}-report", job.name);
            let pod = json!({"spec": {
                "containers": [{
                    "name": name, "image": "busybox", "command": ["cat", format!("/volume{path}")],
                    "volumeMounts": [{"name": "volume", "mountPath": "/volume", "readOnly": true}],
                }],
                "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": at, "readOnly": true}}],
            }});
            format!(
                "A file of the volume claim {at}. A pod that mounts it can read it:\n  kubectl -n {} run {name} --rm -i -q \
                 --restart=Never --image=busybox --overrides='{pod}' > {REPORT}\n",
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
}
