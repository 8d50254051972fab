//! A write that comes late meets another job of the same name, and changes nothing there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crds::TrainingJob;
use crds::status::Phase;
use futures::future::FutureExt;
use http::Method;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::sync::Notify;

use crate::wire::Fate;
use crate::yard::Yard;

/// Starts an operator to which the answer to the creation of one pod, of this number from 0, comes late. The first of both tells
/// when it is held, the second lets it go.
fn answer_late(yard: &mut Yard, number: u32) -> (Arc<Notify>, Arc<Notify>) {
    let (held, let_go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (pods, holds, gate) = (AtomicU32::new(0), Arc::clone(&held), Arc::clone(&let_go));
    yard.start_operator_through(move |request| {
        let is_pod = request.method() == Method::POST && request.uri().path().ends_with("/pods");
        if !is_pod || pods.fetch_add(1, Ordering::SeqCst) != number {
            return Fate::Pass;
        }
        let (holds, gate) = (Arc::clone(&holds), Arc::clone(&gate));
        let wait = async move {
            holds.notify_one();
            gate.notified().await;
        };
        Fate::AnsweredLate(wait.boxed())
    });
    (held, let_go)
}

#[tokio::test]
async fn the_status_of_a_job_that_is_gone_is_not_written_to_another_of_its_name() {
    let mut yard = Yard::idle("late", &["cpu"]).await;
    // The answer to the first pod that is created comes late.
    let (held, let_go) = answer_late(&mut yard, 0);
    let first = yard.train("a", json!({})).await;
    held.notified().await;
    yard.namespace.api::<TrainingJob>().delete("a", &DeleteParams::default()).await.unwrap();
    yard.namespace.wait("a", |job: Option<&TrainingJob>| job.is_none()).await;
    yard.train("a", json!({})).await;
    let_go.notify_one();
    // The new job's first pod waits for the name of the old one's: until that is gone, nothing may be told of it.
    yard.patiently(async || {
        let job: TrainingJob = yard.namespace.api().get("a").await.unwrap();
        let attempt = job.status.map_or(0, |status| status.job.attempt);
        let waits = yard.is_owned_by("a-t1-0", &first).await;
        assert!(!waits || attempt == 0, "attempt {attempt} of a job that has no pod yet");
        !waits
    })
    .await;
    yard.phase("a", Phase::Running).await;
}

#[tokio::test]
async fn a_spec_that_is_changed_between_the_first_pods_and_the_first_status_leaves_no_pod_of_the_old_one() {
    let mut yard = Yard::idle("changed", &["cpu"]).await;
    // The answer to the last pod comes late.
    let (held, let_go) = answer_late(&mut yard, 2);
    yard.train("a", json!({"infrastructure": {"nodes": 3}, "runPolicy": {"backoffLimit": 0}})).await;
    held.notified().await;
    yard.change::<TrainingJob>("a", json!({"infrastructure": {"nodes": 1}})).await;
    let_go.notify_one();
    yard.namespace.pods().running("a-t2-0").await;
    let status = yard.phase("a", Phase::Running).await;
    assert_eq!((status.attempt, status.failures), (2, 0));
    yard.patiently(async || yard.pods().await == BTreeSet::from(["a-t2-0".to_owned()])).await;
}
