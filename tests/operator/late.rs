//! A write that comes late meets another job of the same name, and changes nothing there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use crds::TrainingJob;
use crds::status::Phase;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::api::DeleteParams;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tests::cluster::Cluster;
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service};

use crate::yard::Yard;

/// Holds the answer to the first pod that is created back until it is let go.
#[derive(Clone, Default)]
struct Hold(Arc<State>);

#[derive(Default)]
struct State {
    is_spent: AtomicBool,
    held: Notify,
    let_go: Notify,
}

impl Hold {
    async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(Cluster::shared().await.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        ClientBuilder::try_from(config).unwrap().with_layer(self).build()
    }
}

impl<S> Layer<S> for Hold {
    type Service = Held<S>;
    fn layer(&self, inner: S) -> Held<S> {
        Held { inner, hold: self.clone() }
    }
}

struct Held<S> {
    inner: S,
    hold: Hold,
}

impl<S, B> Service<Request<Body>> for Held<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_pod = request.method() == Method::POST && request.uri().path().ends_with("/pods");
        let holds = is_pod && !self.hold.0.is_spent.swap(true, Ordering::SeqCst);
        let (hold, answer) = (self.hold.clone(), self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await;
            if holds {
                hold.0.held.notify_one();
                hold.0.let_go.notified().await;
            }
            answer
        })
    }
}

#[tokio::test]
async fn the_status_of_a_job_that_is_gone_is_not_written_to_another_of_its_name() {
    let hold = Hold::default();
    let mut yard = Yard::idle("late", &["cpu"]).await;
    yard.start_operator_with(hold.client().await);
    let first = yard.train("a", json!({})).await;
    hold.0.held.notified().await;
    yard.namespace.api::<TrainingJob>().delete("a", &DeleteParams::default()).await.unwrap();
    yard.namespace.wait("a", |job: Option<&TrainingJob>| job.is_none()).await;
    yard.train("a", json!({})).await;
    hold.0.let_go.notify_one();
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
