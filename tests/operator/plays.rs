//! Lives of jobs that have to come to the same end whatever happens to the operator and to its writes.

use std::collections::BTreeSet;

use crds::contract::Cause;
use crds::status::{AttemptRecord, Phase};
use crds::{ScoringJob, TrainingJob};
use serde_json::json;

use crate::yard::{Yard, said, scored, trained};

/// What is the same at the end of every life.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    phase: Phase,
    counts: (u32, u32, u32),
    causes: Vec<(u32, Cause)>,
    result: String,
    pods: BTreeSet<String>,
}

fn causes(attempts: &[AttemptRecord]) -> Vec<(u32, Cause)> {
    let mut causes: Vec<_> = attempts.iter().map(|attempt| (attempt.number, attempt.cause)).collect();
    causes.sort();
    causes
}

async fn training_end(yard: &Yard, phase: Phase) -> End {
    let status = yard.phase("a", phase).await;
    let live: BTreeSet<String> = yard.pods().await;
    End {
        phase,
        counts: (status.attempt, status.restarts, status.failures),
        causes: causes(&status.attempts),
        result: json!(yard.model("a").await).to_string(),
        pods: live,
    }
}

/// A gang of two loses one, starts again and trains its model.
pub(crate) async fn restarted(yard: &Yard) -> End {
    yard.train("a", json!({"infrastructure": {"nodes": 2}})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    pods.finish("a-t1-1", 162, &said("Storage", "the volume is gone")).await;
    pods.running("a-t2-1").await;
    pods.finish("a-t2-1", 0, "").await;
    pods.finish("a-t2-0", 0, &trained()).await;
    training_end(yard, Phase::Succeeded).await
}

/// A job is suspended while it runs, goes on, and meets data that can't be used.
pub(crate) async fn suspended(yard: &Yard) -> End {
    yard.train("a", json!({})).await;
    yard.namespace.pods().running("a-t1-0").await;
    yard.phase("a", Phase::Running).await;
    yard.change::<TrainingJob>("a", json!({"runPolicy": {"suspend": true}})).await;
    yard.namespace.pods().gone("a-t1-0").await;
    yard.phase("a", Phase::Suspended).await;
    yard.change::<TrainingJob>("a", json!({"runPolicy": {"suspend": false}})).await;
    yard.namespace.pods().finish("a-t2-0", 65, &said("BadData", "cat/7.jpg is truncated")).await;
    training_end(yard, Phase::Failed).await
}

/// Three shards, one at a time, of which one is tried twice.
pub(crate) async fn shards(yard: &Yard) -> End {
    yard.score("a", json!({"shards": 3, "parallelism": 1})).await;
    let pods = yard.namespace.pods();
    pods.finish("a-s1-0", 0, &scored(10)).await;
    pods.finish("a-s1-1", 161, "").await;
    // While the second shard waits for its restart, the third has its place; a crash may change their order.
    let (second, third) = (scored(20), scored(30));
    futures::join!(pods.finish("a-s2-1", 0, &second), pods.finish("a-s1-2", 0, &third));
    let done = |job: Option<&ScoringJob>| {
        job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.job.phase.is_terminal())
    };
    let job: Option<ScoringJob> = yard.namespace.wait("a", done).await;
    let status = job.and_then(|job| job.status).expect("a status");
    End {
        phase: status.job.phase,
        counts: (status.job.attempt, status.job.restarts, status.job.failures),
        causes: causes(&status.job.attempts),
        result: json!(status.rows).to_string(),
        pods: yard.pods().await,
    }
}
