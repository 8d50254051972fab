//! `trainyard suspend`, `resume`, and `wait`: one field of a job, and one phase that it may come to.

use std::time::Duration;

use clap::{Args, ValueEnum};
use crds::status::Phase;
use crds::{ScoringJob, TrainingJob};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use super::access::{Access, Cluster, Format};
use super::advice;
use super::endpoint::Endpoint;
use super::error::PluginError;
use super::job::{Job, Kind};
use super::logs::seconds;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

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
            if let Some(endpoint) = cluster.meant(&self.job).await? {
                return self.change_endpoint(&cluster, &endpoint, suspend).await;
            }
            let job = cluster.find(&self.job).await?;
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

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The job, such as flowers, tj/flowers or sj/flowers.
    job: String,
    /// The phase to wait for.
    #[arg(long = "for", value_name = "PHASE", value_enum, default_value_t = Goal::Succeeded, ignore_case = true)]
    goal: Goal,
    /// How long to wait, such as 90s, 10m or 2h; without it as long as it takes.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    timeout: Option<i64>,
    #[command(flatten)]
    access: Access,
}

/// A phase that can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Goal {
    /// It works.
    Running,
    /// It has no pods because it is suspended.
    Suspended,
    /// It is done.
    Succeeded,
    /// It has failed for good.
    Failed,
    /// It has ended, well or badly.
    Ended,
}

/// What a look at a waited-for job comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    There,
    NotYet,
    Never,
}

impl Goal {
    fn judge(self, phase: Phase) -> Verdict {
        let is_there = match self {
            Goal::Running => phase == Phase::Running,
            Goal::Suspended => phase == Phase::Suspended,
            Goal::Succeeded => phase == Phase::Succeeded,
            Goal::Failed => phase == Phase::Failed,
            Goal::Ended => phase.is_terminal(),
        };
        match (is_there, phase.is_terminal()) {
            (true, _) => Verdict::There,
            (false, true) => Verdict::Never,
            (false, false) => Verdict::NotYet,
        }
    }
}

impl Wait {
    /// Waits; the exit code: 1 if the job ended otherwise, 124 if the time is over.
    pub(crate) fn run(&self) -> u8 {
        self.access.with(async |cluster| {
            let mut job = cluster.find(&self.job).await?;
            let until = self.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.unsigned_abs()));
            loop {
                let line = format!("{} {}: {}", job.title(), job.phase(), job.status.message);
                match self.goal.judge(job.status.phase) {
                    Verdict::There => {
                        println!("{}", line.trim_end_matches(": "));
                        return Ok(0);
                    }
                    Verdict::Never => {
                        return Err(PluginError::Refused(format!("{line}\nnext: {}", advice::next(&job))));
                    }
                    Verdict::NotYet => {}
                }
                if until.is_some_and(|until| Instant::now() >= until) {
                    return Err(PluginError::Timeout(format!("the time is over: {line}")));
                }
                tokio::time::sleep(EVERY).await;
                job = match cluster.again(&job).await? {
                    Some(job) => job,
                    None => return Err(PluginError::Refused(format!("{} was deleted", job.title()))),
                };
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_the_phase_is_there_or_can_never_be() {
        for (goal, phase, verdict) in [
            (Goal::Succeeded, Phase::Running, Verdict::NotYet),
            (Goal::Succeeded, Phase::Succeeded, Verdict::There),
            (Goal::Succeeded, Phase::Failed, Verdict::Never),
            (Goal::Running, Phase::Succeeded, Verdict::Never),
            (Goal::Failed, Phase::Failed, Verdict::There),
            (Goal::Ended, Phase::Failed, Verdict::There),
            (Goal::Suspended, Phase::Starting, Verdict::NotYet),
        ] {
            assert_eq!(goal.judge(phase), verdict, "{goal:?} {phase:?}");
        }
    }
}
