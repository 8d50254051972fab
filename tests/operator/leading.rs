//! Of several operators one leads: who dies is followed, who is cut off writes nothing more, who is told to stop hands over.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crds::status::Phase;
use futures::future::FutureExt;
use http::Method;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Client;
use operator::cluster::{self, Leadership, OperatorError, Settings};
use serde_json::json;
use tests::cluster::PATIENCE;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::wire::{self, Fate};
use crate::yard::{Yard, trained};

/// One of several operators.
pub(crate) struct Rival {
    end: JoinHandle<Result<(), OperatorError>>,
    stop: oneshot::Sender<()>,
    listens: SocketAddr,
}

impl Rival {
    pub(crate) fn new(yard: &Yard, identity: &str, seconds: u32, client: Client) -> Rival {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let listen = free.expect("a free port");
        let leadership =
            Leadership { namespace: yard.namespace.name().to_owned(), identity: identity.to_owned(), seconds };
        let settings = Settings { leadership: Some(leadership), listen, ..yard.settings() };
        let (stop, stopped) = oneshot::channel();
        let run = cluster::run(client, settings, stopped.map(drop).boxed());
        Rival { end: tokio::spawn(run), stop, listens: listen }
    }

    /// Tells it to stop, and waits for its end.
    pub(crate) async fn stop(self) -> Result<(), OperatorError> {
        self.stop.send(()).expect("it runs");
        self.end.await.expect("no panic")
    }

    /// What it answers on a path.
    async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.listens);
        let ask = move || {
            let agent =
                ureq::Agent::new_with_config(ureq::config::Config::builder().http_status_as_error(false).build());
            let mut answer = agent.get(url).call().ok()?;
            Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
        };
        tokio::task::spawn_blocking(ask).await.expect("an asker").unwrap_or_default()
    }
}

async fn lease(yard: &Yard) -> LeaseSpec {
    let lease: Option<Lease> = yard.namespace.api().get_opt("trainyard-operator").await.expect("an answer");
    lease.and_then(|lease| lease.spec).unwrap_or_default()
}

async fn leads(yard: &Yard, identity: &str) {
    yard.patiently(async || lease(yard).await.holder_identity.as_deref() == Some(identity)).await;
}

#[tokio::test]
async fn an_operator_that_dies_is_followed_by_the_one_that_stands_by() {
    let yard = Yard::idle("follow", &["cpu"]).await;
    let first = Rival::new(&yard, "first", 3, yard.namespace.client());
    leads(&yard, "first").await;
    let second = Rival::new(&yard, "second", 3, yard.namespace.client());
    yard.train("a", json!({})).await;
    yard.namespace.pods().running("a-t1-0").await;
    yard.phase("a", Phase::Running).await;
    assert_eq!(first.get("/readyz").await, (200, "ok".to_owned()));
    assert_eq!(second.get("/readyz").await, (200, "stands by: another operator leads".to_owned()));

    first.end.abort();
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    let status = yard.phase("a", Phase::Succeeded).await;
    assert_eq!((status.attempt, status.restarts), (1, 0));
    let lease = lease(&yard).await;
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("second"), Some(1)));

    let (_, metrics) = second.get("/metrics").await;
    for figure in [
        r#"trainyard_jobs{kind="TrainingJob",phase="Succeeded"} 1"#,
        r#"trainyard_attempts_ended_total{kind="TrainingJob",cause="Completed"} 1"#,
        r#"trainyard_phase_time_seconds_total{kind="TrainingJob",phase="Running"}"#,
        r#"trainyard_writes_total{verb="patch_status",result="ok"}"#,
    ] {
        assert!(metrics.contains(figure), "{figure}: {metrics}");
    }
    second.end.abort();
}

#[tokio::test]
async fn an_operator_that_cannot_renew_its_lease_ends_and_what_it_was_writing_is_never_sent() {
    let yard = Yard::idle("fence", &["cpu"]).await;
    let (is_cut, is_sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (held, let_go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (cut, sent, holds, gate) = (Arc::clone(&is_cut), Arc::clone(&is_sent), Arc::clone(&held), Arc::clone(&let_go));
    // Once it is cut, nothing is heard of its lease any more, and its writes are on their way for very long.
    let client = wire::client(yard.namespace.client(), move |request| {
        if !cut.load(Ordering::SeqCst) {
            return Fate::Pass;
        }
        if request.uri().path().contains("/leases") {
            return Fate::Lost;
        }
        if request.method() == Method::GET {
            return Fate::Pass;
        }
        let (sent, holds, gate) = (Arc::clone(&sent), Arc::clone(&holds), Arc::clone(&gate));
        let wait = async move {
            holds.notify_one();
            gate.notified().await;
            sent.store(true, Ordering::SeqCst);
        };
        Fate::Late(wait.boxed())
    });
    let first = Rival::new(&yard, "first", 3, client);
    leads(&yard, "first").await;
    let second = Rival::new(&yard, "second", 3, yard.namespace.client());
    yard.train("a", json!({})).await;
    yard.namespace.pods().running("a-t1-0").await;
    yard.phase("a", Phase::Running).await;

    is_cut.store(true, Ordering::SeqCst);
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    held.notified().await;
    let end = first.end.await.expect("no panic");
    assert!(matches!(end, Err(OperatorError::NotLeading)), "{end:?}");
    assert_ne!(lease(&yard).await.holder_identity.as_deref(), Some("second"), "it ended before another one could lead");
    yard.phase("a", Phase::Succeeded).await;
    let_go.notify_waiters();
    tokio::task::yield_now().await;
    assert!(!is_sent.load(Ordering::SeqCst));
    second.end.abort();
}

#[tokio::test]
async fn an_operator_that_is_told_to_stop_before_its_first_lists_are_in_ends() {
    let yard = Yard::idle("early", &["cpu"]).await;
    // The lists that its watches ask for, and that by which it knows what is newer than itself.
    for (number, (list, page)) in
        [("/pods", "limit=500"), ("/trainingjobs", "limit=500"), ("/scoringjobs", "limit=1")].into_iter().enumerate()
    {
        let asked = Arc::new(Notify::new());
        let asks = Arc::clone(&asked);
        let client = wire::client(yard.namespace.client(), move |request| {
            let uri = request.uri();
            if uri.path().ends_with(list) && uri.query().is_some_and(|query| query.split('&').any(|part| part == page))
            {
                asks.notify_one();
                return Fate::Lost;
            }
            Fate::Pass
        });
        let identity = format!("early-{number}");
        let operator = Rival::new(&yard, &identity, 300, client);
        leads(&yard, &identity).await;
        asked.notified().await;
        let end = tokio::time::timeout(PATIENCE, operator.stop()).await;
        end.unwrap_or_else(|_| panic!("it waits for {list}")).expect("a good end");
        assert_ne!(lease(&yard).await.holder_identity, Some(identity), "the lease was given back");
    }
}

#[tokio::test]
async fn an_operator_that_is_told_to_stop_hands_over_at_once() {
    let yard = Yard::idle("handover", &["cpu"]).await;
    // The lease lasts longer than the test's patience: only one that was given back can be taken.
    let first = Rival::new(&yard, "first", 300, yard.namespace.client());
    leads(&yard, "first").await;
    let second = Rival::new(&yard, "second", 300, yard.namespace.client());
    yard.train("a", json!({})).await;
    yard.namespace.pods().running("a-t1-0").await;
    first.stop().await.expect("a good end");
    leads(&yard, "second").await;
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    yard.phase("a", Phase::Succeeded).await;
    second.end.abort();
}
