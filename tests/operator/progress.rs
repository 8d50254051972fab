//! How far jobs are, as their leaders tell it, and what becomes of a job that stands still.

use std::net::Ipv4Addr;

use crds::TrainingJob;
use crds::contract::{DIAGNOSTIC_BYTES, DIAGNOSTICS, PROGRESS_PORT};
use crds::status::Phase;
use serde_json::{Value, json};
use tests::cluster::Leader;

use crate::yard::{Yard, trained};

/// What a leader says at a step of 200.
fn at_step(attempt: u32, step: usize) -> Value {
    json!({
        "contractVersion": 1, "attempt": attempt, "stage": "Training", "epoch": 1, "epochs": 2, "step": step,
        "totalSteps": 200, "loss": 0.5, "imagesPerSecond": 10.0, "etaSeconds": 60, "somethingNewer": true,
    })
}

#[tokio::test]
async fn progress_is_told_at_once_and_then_twice_a_minute_at_most() {
    let yard = Yard::new("progress", &["cpu"]).await;
    yard.train("a", json!({})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    let leader = Leader::start((Ipv4Addr::new(127, 7, 0, 1), PROGRESS_PORT), |asked| at_step(1, 50 + asked)).await;
    leader.lead(&pods, "a-t1-0").await;
    let told = yard.until("a", |status| status.progress.is_some()).await;
    let progress = told.progress.expect("progress");
    assert_eq!((progress.step, progress.total_steps, progress.percent, progress.epoch), (50, 200, 25, 1));
    assert_eq!((told.phase, progress.loss, progress.eta_seconds), (Phase::Running, Some(0.5), Some(60)));
    yard.patiently(async || leader.asked().len() > 4).await;
    let later = yard.until("a", |_| true).await;
    assert_eq!(later.progress, Some(progress), "it moved on, and half a minute is not over");
    pods.finish("a-t1-0", 0, &trained()).await;
    let ended = yard.phase("a", Phase::Succeeded).await;
    assert_eq!(ended.progress.map(|progress| progress.percent), Some(100), "what is done is done whole");
}

#[tokio::test]
async fn what_was_found_in_the_data_is_told_within_the_bounds_of_a_status() {
    let yard = Yard::new("findings", &["cpu"]).await;
    yard.train("a", json!({})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    let found = json!({"check": "duplicates", "text": "x".repeat(4_000)});
    let leader = Leader::start((Ipv4Addr::new(127, 7, 0, 3), PROGRESS_PORT), move |asked| {
        let mut told = at_step(1, 50 + asked);
        told["stage"] = json!("y".repeat(4_000));
        told["diagnostics"] = json!(vec![&found; DIAGNOSTICS + 2]);
        told
    })
    .await;
    leader.lead(&pods, "a-t1-0").await;
    yard.until("a", |status| status.progress.is_some()).await;
    let job = yard.namespace.api::<TrainingJob>().get("a").await.expect("the job");
    let told = job.status.expect("a status").diagnostics;
    assert_eq!(told.len(), DIAGNOSTICS);
    assert!(told.iter().all(|told| told.check == "duplicates" && told.text.len() <= DIAGNOSTIC_BYTES), "{told:?}");
}

#[tokio::test]
async fn a_job_that_stands_still_is_started_again_and_told_of() {
    let yard = Yard::new("still", &["cpu"]).await;
    yard.train("a", json!({"runPolicy": {"stallDeadlineSeconds": 3, "backoffLimit": 1}})).await;
    yard.train("silent", json!({"runPolicy": {"stallDeadlineSeconds": 3}})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    let leader = Leader::start((Ipv4Addr::new(127, 7, 0, 2), PROGRESS_PORT), |_| at_step(1, 7)).await;
    leader.lead(&pods, "a-t1-0").await;
    yard.until("a", |status| status.progress.is_some()).await;
    yard.patiently(async || yard.pods().await.contains("a-t2-0")).await;
    let status = yard.until("a", |status| status.attempt == 2).await;
    let ended = &status.attempts[0];
    assert!(ended.message.contains("no progress since step 7 for 3 s"), "{ended:?}");
    assert!(yard.events().await.contains("NoProgress"), "{:?}", yard.events().await);
    let silent = yard.until("silent", |_| true).await;
    assert_eq!((silent.phase, silent.attempt), (Phase::Running, 1), "who never reported has no stall deadline");
}
