//! What a person can do next, by what became of a job.

use crds::contract::Cause;
use crds::reasons::{condition, reason};
use crds::status::Phase;

use super::job::{Job, Kind};

/// What to do next: a sentence, with commands where there are some.
pub(crate) fn next(job: &Job) -> String {
    let title = job.title();
    match job.status.phase {
        Phase::Succeeded if job.kind == Kind::Training => {
            format!("trainyard report {title}; train on from it: trainyard retrain {}", job.name)
        }
        Phase::Succeeded => "nothing: the rows are at the result's address".to_owned(),
        Phase::Suspended => format!("trainyard resume {title}"),
        Phase::Failed => after_failure(job),
        Phase::Restarting => match job.status.attempts.last() {
            Some(last) => format!(
                "nothing: it restarts by itself. What went before: trainyard logs {title} --attempt {}",
                last.number
            ),
            None => "nothing: it restarts by itself".to_owned(),
        },
        Phase::Running if holds(job, condition::STALLED) => {
            format!("it makes no progress: trainyard logs {title} -f")
        }
        Phase::Running => format!("trainyard logs {title} -f"),
        Phase::Pending | Phase::Starting => match reason_of(job, condition::SCHEDULABLE) {
            Some(reason::NO_FITTING_NODE) => format!("trainyard why {title} says what each node lacks"),
            Some(reason::PODS_REFUSED) => "see the message: a quota, a right or a service account".to_owned(),
            _ => format!("trainyard events {title}, and trainyard why {title} if it lasts"),
        },
    }
}

fn after_failure(job: &Job) -> String {
    match reason_of(job, condition::FAILED) {
        Some(reason::DEADLINE_EXCEEDED) => {
            return format!("raise runPolicy.activeDeadlineSeconds, {}", anew(job, None));
        }
        Some(reason::MODEL_MISSING) => {
            return "see to the model that it names, delete the job and apply it anew".to_owned();
        }
        _ => {}
    }
    let last = job.status.attempts.last();
    let cause = last.map(|last| last.cause);
    let pulls =
        last.is_some_and(|last| ["ImagePullBackOff", "ErrImagePull"].iter().any(|it| last.message.starts_with(it)));
    let log = || format!("trainyard logs {} --attempt {}", job.title(), job.status.attempt);
    match cause {
        Some(Cause::Storage) if pulls => {
            let see = "check the image's name, infrastructure.pod.imagePullSecrets and the way to the registry";
            format!("{see}, {}", anew(job, None))
        }
        Some(cause @ (Cause::Completed | Cause::Bug | Cause::OtherPermanent)) => format!("{}; {}", after(cause), log()),
        Some(cause) => format!("{}, {}; {}", after(cause), anew(job, Some(cause)), log()),
        None => "trainyard validate -f the manifest; the message names the field".to_owned(),
    }
}

/// How a job comes to its end that has failed, which it stays.
fn anew(job: &Job, cause: Option<Cause>) -> &'static str {
    match (job.kind, cause) {
        // What an image of one's own goes on from it knows itself.
        _ if job.infrastructure.image.is_some() => "delete the job and apply it anew",
        (Kind::Scoring, _) | (_, Some(Cause::NotFinite)) => "delete the job and apply it anew with another output.uri",
        // A checkpoint is of one recipe and of one list of images.
        (_, Some(Cause::BadSpec | Cause::BadData | Cause::DataMissing)) => "delete the job and apply it anew",
        _ => "delete the job and apply it anew: it goes on from its newest checkpoint",
    }
}

/// What to do after a job failed for good for this cause.
fn after(cause: Cause) -> &'static str {
    match cause {
        Cause::Completed => "nothing",
        Cause::BadSpec => "mend the field that the message names",
        Cause::BadData | Cause::DataMissing => "mend the file that the message names",
        Cause::GpuUnsupported => "give nodes with a newer driver, another runtime, or device: Cpu",
        Cause::Bug | Cause::OtherPermanent => {
            "see the log; a defect of Trainyard's: trainyard support-bundle, and report it"
        }
        Cause::HostMemory => "raise the pod's memory, or lower batchSize or data.loaderThreads",
        Cause::GpuMemory => "lower batchSize or imageSize, or take GPUs with more memory",
        Cause::NotFinite => "lower the learning rate, lengthen the warm-up, or set gradientClipNorm",
        Cause::Permission => "let the trainer's user read the data and write the output",
        Cause::Preempted => "see what took the pods' place",
        Cause::NodeFault => "see to the nodes that are left out",
        Cause::PeerLost => "see to the network between the nodes",
        Cause::Storage => "see to the storage or its credentials",
        Cause::OtherRetryable => "see the log, raise runPolicy.backoffLimit if it was chance",
    }
}

fn reason_of<'a>(job: &'a Job, type_: &str) -> Option<&'a str> {
    job.status.conditions.iter().find(|one| one.type_ == type_).map(|one| one.reason.as_str())
}

fn holds(job: &Job, type_: &str) -> bool {
    job.status.conditions.iter().any(|one| one.type_ == type_ && one.status == "True")
}
