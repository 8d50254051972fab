//! The one status of a job, from its ledger.

use crds::status::{
    AttemptRecord, JobStatus, ModelStatus, Phase, ProgressStatus, RowCounts, ScoringJobStatus, TrainingJobStatus,
    bounded,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::build::conditions::conditions;
use crate::observe::Ledger;

/// The status of a TrainingJob. `output` is what its manifest calls the place of its model, where that is another name than
/// the job's processes know it by. `before` are the conditions written last: one that still holds keeps its time.
pub fn training(ledger: &Ledger, output: Option<&str>, before: &[Condition], now: Timestamp) -> TrainingJobStatus {
    TrainingJobStatus {
        job: job(ledger, before, now),
        diagnostics: ledger.progress.as_ref().map(|progress| progress.diagnostics.clone()).unwrap_or_default(),
        model: result(ledger, output),
    }
}

/// The status of a ScoringJob; the parameters are those of [`training`].
pub fn scoring(ledger: &Ledger, output: Option<&str>, before: &[Condition], now: Timestamp) -> ScoringJobStatus {
    ScoringJobStatus {
        job: job(ledger, before, now),
        rows: ledger.result.as_ref().map(|result| RowCounts {
            found: result.rows_in.unwrap_or(0).cast_signed(),
            written: result.rows_out.unwrap_or(0).cast_signed(),
            failed: result.rows_failed.unwrap_or(0).cast_signed(),
        }),
        shards_done: u32::try_from(ledger.done.len()).unwrap_or(u32::MAX),
        output: result(ledger, output),
    }
}

fn job(ledger: &Ledger, before: &[Condition], now: Timestamp) -> JobStatus {
    JobStatus {
        phase: ledger.phase,
        message: ledger.message.clone(),
        conditions: conditions(ledger, before, now),
        observed_generation: ledger.observed_generation,
        attempt: ledger.attempt,
        restarts: ledger.restarts,
        failures: ledger.failures,
        start_time: ledger.start_time.map(Time),
        completion_time: ledger.completion_time.map(Time),
        active_seconds: ledger.active_seconds.cast_signed(),
        active_since: ledger.active_since.map(Time),
        progress: progress(ledger),
        placement: ledger.placement.clone(),
        attempts: attempts(ledger),
        excluded_nodes: ledger.excluded.keys().cloned().collect(),
        memory: ledger.memory(),
    }
}

fn progress(ledger: &Ledger) -> Option<ProgressStatus> {
    let progress = ledger.progress.as_ref()?;
    // The last steps are done between two looks at how far a job is, and early stopping leaves some out.
    let percent = match ledger.phase {
        Phase::Succeeded => 100,
        _ => (progress.step * 100).checked_div(progress.total_steps).unwrap_or(0).min(100),
    };
    Some(ProgressStatus {
        epoch: progress.epoch,
        step: progress.step.cast_signed(),
        total_steps: progress.total_steps.cast_signed(),
        percent: u32::try_from(percent).unwrap_or(100),
        loss: progress.loss,
        metric: progress.metric,
        images_per_second: progress.images_per_second,
        eta_seconds: progress.eta_seconds.map(u64::cast_signed),
        checkpoint_step: progress.checkpoint_step.map(u64::cast_signed),
        updated_at: ledger.progress_at.map(Time),
    })
}

fn attempts(ledger: &Ledger) -> Vec<AttemptRecord> {
    let record = |attempt: &crate::observe::Attempt| AttemptRecord {
        number: attempt.number,
        shard: attempt.shard,
        start: attempt.start.map(Time),
        end: Some(Time(attempt.end)),
        cause: attempt.failure.cause,
        exit_code: attempt.failure.exit_code,
        node: attempt.failure.node.clone(),
        rank: attempt.failure.rank,
        step: attempt.failure.step.map(u64::cast_signed),
        message: bounded(&attempt.failure.message),
    };
    ledger.attempts.iter().map(record).collect()
}

/// What is there once the job is done; partial results are no results.
fn result(ledger: &Ledger, output: Option<&str>) -> Option<ModelStatus> {
    let result = ledger.result.as_ref().filter(|_| ledger.phase == Phase::Succeeded)?;
    Some(ModelStatus {
        uri: output.unwrap_or(&result.uri).to_owned(),
        digest: result.digest.clone(),
        metric_name: result.metric_name.clone(),
        metric: result.metric,
        threshold: result.threshold,
    })
}
