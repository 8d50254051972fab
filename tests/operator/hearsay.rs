//! An operator that starts with lists that are old, and is told what has happened since much later: what it does about the old picture
//! changes nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crds::TrainingJob;
use crds::contract::labels;
use crds::status::Phase;
use futures::future::{FutureExt, join_all};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::ListParams;
use kube::core::Request;
use serde_json::json;
use tokio::sync::watch;

use crate::chronicle::Chronicle;
use crate::wire::Fate;
use crate::yard::{Yard, trained};

/// How old the lists are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Created,
    Running,
    Suspended,
    Resumed,
}

/// Whose news come first.
#[derive(Clone, Copy, Debug)]
enum First {
    Pods,
    Jobs,
}

/// The lists of a moment, as the watches of an operator ask for them, by the ends of their paths.
struct Old([(&'static str, Vec<u8>); 2]);

impl Old {
    async fn of(yard: &Yard) -> Old {
        let namespace = Some(yard.namespace.name());
        let (pods, jobs) = (Pod::url_path(&(), namespace), TrainingJob::url_path(&(), namespace));
        let ours = ListParams::default().labels(labels::JOB);
        let list = async |path: String, which: &ListParams| {
            let request = Request::new(path).list(which).expect("a request");
            yard.namespace.client().request_text(request).await.expect("a list").into_bytes()
        };
        Old([("/pods", list(pods, &ours).await), ("/trainingjobs", list(jobs, &ListParams::default()).await)])
    }
}

/// A job runs, is suspended, goes on, fails and runs in its third attempt. Then its operator is followed by one that is told of the
/// lists of an earlier moment.
async fn live(moment: Moment, first: First) {
    let mut yard = Yard::idle("hearsay", &["cpu"]).await;
    let chronicle = Chronicle::begin(&yard).await;
    let mut old = None;
    let mut note = async |yard: &Yard, now: Moment| {
        if now == moment {
            old = Some(Old::of(yard).await);
        }
    };
    yard.train("a", json!({})).await;
    note(&yard, Moment::Created).await;
    yard.start_operator();
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    yard.phase("a", Phase::Running).await;
    note(&yard, Moment::Running).await;
    yard.suspend("a", true).await;
    pods.gone("a-t1-0").await;
    yard.phase("a", Phase::Suspended).await;
    note(&yard, Moment::Suspended).await;
    yard.suspend("a", false).await;
    pods.running("a-t2-0").await;
    yard.phase("a", Phase::Running).await;
    note(&yard, Moment::Resumed).await;
    pods.finish("a-t2-0", 162, "").await;
    pods.running("a-t3-0").await;
    yard.until("a", |status| status.attempt == 3 && status.phase == Phase::Running).await;
    yard.kill_operator().await;

    let Old(lists) = old.expect("a moment of this life");
    let lists = lists.map(|(path, list)| (path, list, AtomicBool::new(true)));
    let (acts, acted) = watch::channel(false);
    yard.start_operator_through(move |request| {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        if path.ends_with("/trainingjobs/a") || request.method() != Method::GET {
            acts.send_replace(true);
        }
        let Some((of, list, is_asked_first)) = lists.iter().find(|(of, _, _)| path.ends_with(of)) else {
            return Fate::Pass;
        };
        if query.contains("watch=") {
            let is_first = matches!((first, *of), (First::Pods, "/pods") | (First::Jobs, "/trainingjobs"));
            let mut acted = acted.clone();
            let slowly = async move {
                // The news come once the operator has done what it makes of the old picture, which may be nothing.
                let _ = tokio::time::timeout(Duration::from_secs(1), acted.wait_for(|acted| *acted)).await.is_ok();
                if !is_first {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            return Fate::Late(slowly.boxed());
        }
        // Its watches ask for pages.
        match query.contains("limit=500") && is_asked_first.swap(false, Ordering::SeqCst) {
            true => Fate::Answered(list.clone()),
            false => Fate::Pass,
        }
    });
    yard.namespace.pods().finish("a-t3-0", 0, &trained()).await;
    let status = yard.phase("a", Phase::Succeeded).await;
    assert_eq!((status.attempt, status.restarts, status.failures), (3, 2, 1), "{moment:?}, {first:?}");
    chronicle.keeps_what_was_promised(&yard).await;
    yard.leave();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_starts_from_old_lists_makes_no_pod_again_and_takes_nothing_back() {
    let moments = [Moment::Created, Moment::Running, Moment::Suspended, Moment::Resumed];
    join_all(moments.into_iter().flat_map(|moment| [live(moment, First::Pods), live(moment, First::Jobs)])).await;
}
