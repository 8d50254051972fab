//! `trainyard wait`: one phase that a job or an endpoint may come to.

use std::time::Duration;

use clap::{Args, ValueEnum};
use crds::status::{EndpointPhase, Phase};
use tokio::time::Instant;

use super::access::{Access, patiently};
use super::error::PluginError;
use super::logs::seconds;
use super::subject::Subject;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The job or endpoint, such as flowers, tj/flowers, sj/flowers or me/flowers.
    job: String,
    /// The phase to wait for; unless told otherwise, Succeeded for a job and Ready for an endpoint.
    #[arg(long = "for", value_name = "PHASE", value_enum, ignore_case = true)]
    goal: Option<Goal>,
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
    /// The job works.
    Running,
    /// All replicas of the endpoint's newest revision answer.
    Ready,
    /// It has no pods because it is suspended.
    Suspended,
    /// The job is done.
    Succeeded,
    /// It has failed for good.
    Failed,
    /// The job has ended, well or badly.
    Ended,
}

/// What a look comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    There,
    NotYet,
    /// It has ended, otherwise.
    Never,
    /// It is of a kind that has no such phase.
    NoSuchPhase,
}

impl Goal {
    fn of_job(self, phase: Phase) -> Verdict {
        let is_there = match self {
            Goal::Running => phase == Phase::Running,
            Goal::Suspended => phase == Phase::Suspended,
            Goal::Succeeded => phase == Phase::Succeeded,
            Goal::Failed => phase == Phase::Failed,
            Goal::Ended => phase.is_terminal(),
            Goal::Ready => return Verdict::NoSuchPhase,
        };
        match (is_there, phase.is_terminal()) {
            (true, _) => Verdict::There,
            (false, true) => Verdict::Never,
            (false, false) => Verdict::NotYet,
        }
    }

    /// An endpoint has no end: what has failed may be put right.
    fn of_endpoint(self, phase: EndpointPhase) -> Verdict {
        let is_there = match self {
            Goal::Ready => phase == EndpointPhase::Ready,
            Goal::Suspended => phase == EndpointPhase::Suspended,
            Goal::Failed => phase == EndpointPhase::Failed,
            Goal::Running | Goal::Succeeded | Goal::Ended => return Verdict::NoSuchPhase,
        };
        if is_there { Verdict::There } else { Verdict::NotYet }
    }
}

impl Subject {
    /// What `goal`, or the one that its kind has unless told otherwise, comes to.
    fn judge(&self, goal: Option<Goal>) -> Verdict {
        match self {
            Subject::Job(job) => goal.unwrap_or(Goal::Succeeded).of_job(job.status.phase),
            Subject::Endpoint(endpoint) => goal.unwrap_or(Goal::Ready).of_endpoint(endpoint.status.phase),
        }
    }
}

impl Wait {
    /// Waits; the exit code: 1 if it ended otherwise, 124 if the time is over.
    pub(crate) fn run(&self) -> u8 {
        self.access.with(async |cluster| {
            let mut seen = Subject::find(&cluster, &self.job).await?;
            let until = self.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.unsigned_abs()));
            loop {
                let line = seen.line();
                match seen.judge(self.goal) {
                    Verdict::There => {
                        println!("{}", line.trim_end_matches(": "));
                        return Ok(0);
                    }
                    Verdict::Never => {
                        return Err(PluginError::Refused(format!("{line}\nnext: {}", seen.next())));
                    }
                    Verdict::NoSuchPhase => return Err(PluginError::Usage(no_such_phase(&seen))),
                    Verdict::NotYet => {}
                }
                if until.is_some_and(|until| Instant::now() >= until) {
                    return Err(PluginError::Timeout(format!("the time is over: {line}")));
                }
                tokio::time::sleep(EVERY).await;
                seen = match patiently(async || seen.again(&cluster).await).await? {
                    Some(seen) => seen,
                    None => return Err(PluginError::Refused(format!("{} was deleted", seen.title()))),
                };
            }
        })
    }
}

fn no_such_phase(seen: &Subject) -> String {
    let has = match seen {
        Subject::Job(_) => "a job gets Running, Suspended, Succeeded, Failed, and with either of these Ended",
        Subject::Endpoint(_) => "an endpoint gets Ready, Suspended or Failed",
    };
    format!("{}: {has}: name one of them by --for", seen.title())
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
            (Goal::Ready, Phase::Running, Verdict::NoSuchPhase),
        ] {
            assert_eq!(goal.of_job(phase), verdict, "{goal:?} {phase:?}");
        }
        for (goal, phase, verdict) in [
            (Goal::Ready, EndpointPhase::Updating, Verdict::NotYet),
            (Goal::Ready, EndpointPhase::Ready, Verdict::There),
            (Goal::Ready, EndpointPhase::Failed, Verdict::NotYet),
            (Goal::Suspended, EndpointPhase::Suspended, Verdict::There),
            (Goal::Succeeded, EndpointPhase::Ready, Verdict::NoSuchPhase),
        ] {
            assert_eq!(goal.of_endpoint(phase), verdict, "{goal:?} {phase:?}");
        }
    }
}
