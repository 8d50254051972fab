//! `trainyard suspend` and `resume`: one field of a job or an endpoint.

use clap::Args;
use crds::{ScoringJob, TrainingJob};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::access::{Access, Cluster, Format};
use super::endpoint::Endpoint;
use super::error::PluginError;
use super::job::{Job, Kind};
use super::subject::Subject;

#[derive(Debug, Args)]
pub(crate) struct Suspend {
    /// The job or endpoint, such as flowers, tj/flowers, sj/flowers or me/flowers.
    job: String,
    /// How to write the job afterwards.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

impl Suspend {
    /// Suspends the job, or lets it go on; the exit code.
    pub(crate) fn run(&self, suspend: bool) -> u8 {
        self.access.with(async |cluster| {
            let job = match Subject::find(&cluster, &self.job).await? {
                Subject::Endpoint(endpoint) => return self.change_endpoint(&cluster, &endpoint, suspend).await,
                Subject::Job(job) => job,
            };
            let (title, verb) = (job.title(), if suspend { "suspended" } else { "resumed" });
            if job.status.phase.is_terminal() {
                let text = format!("{title} has ended ({}): it can't be {verb} any more", job.phase());
                return Err(PluginError::Refused(text));
            }
            let already = job.suspended == suspend;
            let job = if already { job } else { patched(&cluster, &job, suspend).await? };
            Ok(self.output.print(&job.value, || match (already, suspend) {
                (true, true) => format!("{title} is suspended already\n"),
                (true, false) => format!("{title} is not suspended\n"),
                (false, true) => {
                    format!("{title} is suspended: its pods save a checkpoint and stop; trainyard resume {title}\n")
                }
                (false, false) => format!("{title} goes on from its last checkpoint: trainyard status {title}\n"),
            }))
        })
    }
}

impl Suspend {
    async fn change_endpoint(&self, cluster: &Cluster, endpoint: &Endpoint, suspend: bool) -> Result<u8, PluginError> {
        let (title, already) = (endpoint.title(), endpoint.suspended == suspend);
        let value = if already { endpoint.value.clone() } else { cluster.suspend(endpoint, suspend).await?.value };
        Ok(self.output.print(&value, || match (already, suspend) {
            (true, true) => format!("{title} is suspended already\n"),
            (true, false) => format!("{title} is not suspended\n"),
            (false, true) => {
                format!("{title} is suspended: its pods answer what they have, and stop; trainyard resume {title}\n")
            }
            (false, false) => format!("{title} starts again: trainyard status {title}\n"),
        }))
    }
}

async fn patched(cluster: &Cluster, job: &Job, suspend: bool) -> Result<Job, PluginError> {
    let (params, patch) = (PatchParams::default(), Patch::Merge(json!({"spec": {"runPolicy": {"suspend": suspend}}})));
    Ok(match job.kind {
        Kind::Training => cluster.api::<TrainingJob>().patch(&job.name, &params, &patch).await?.into(),
        Kind::Scoring => cluster.api::<ScoringJob>().patch(&job.name, &params, &patch).await?.into(),
    })
}
