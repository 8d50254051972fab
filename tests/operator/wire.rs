//! The way between an operator and the API server, where a test decides what becomes of each request.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use http::header::RETRY_AFTER;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use kube::Client;
use kube::client::Body;
use kube::client::retry::RetryPolicy;
use kube::core::Status;
use tower::retry::RetryLayer;
use tower::{BoxError, Layer, Service, service_fn};

/// The body of an answer.
pub(crate) type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// What becomes of a request.
pub(crate) enum Fate {
    /// It reaches the API server, and the answer comes back.
    Pass,
    /// It is never sent, and never answered.
    Lost,
    /// It is sent once this has ended.
    Late(BoxFuture<'static, ()>),
    /// It takes effect, and the answer comes back once this has ended.
    AnsweredLate(BoxFuture<'static, ()>),
    /// The API server answers with this code, and does nothing.
    Refused(StatusCode),
    /// The API server is busy, and says after how many seconds to ask again.
    Busy(u64),
    /// It takes effect, and the connection breaks before the answer is there.
    Broken,
    /// It is never sent, and answered with this JSON.
    Answered(Vec<u8>),
    /// It is sent once this has ended, and what the answer says is told by that in its own way.
    Retold(BoxFuture<'static, ()>, Box<dyn FnOnce(Body) -> Answer + Send>),
}

/// A client like `client`, but with every request meeting the fate that `fate` gives it. What is refused reaches who asked: nothing
/// is tried again on the way.
pub(crate) fn client(client: Client, fate: impl Fn(&Request<Body>) -> Fate + Send + 'static) -> Client {
    let namespace = client.default_namespace().to_owned();
    Client::new(service(client, fate), namespace)
}

/// The same, with the fates on the far side of what a client tries again by itself.
pub(crate) fn patient(client: Client, fate: impl Fn(&Request<Body>) -> Fate + Send + 'static) -> Client {
    let namespace = client.default_namespace().to_owned();
    Client::new(RetryLayer::new(RetryPolicy::server_retry()).layer(service(client, fate)), namespace)
}

type Sent = BoxFuture<'static, Result<Response<Answer>, BoxError>>;

fn service(
    client: Client,
    fate: impl Fn(&Request<Body>) -> Fate + Send + 'static,
) -> impl Service<Request<Body>, Response = Response<Answer>, Error = BoxError, Future = Sent> + Clone + Send + 'static
{
    let fate = Arc::new(Mutex::new(fate));
    service_fn(move |request| {
        let (client, fate) = (client.clone(), (fate.lock().expect("no panic"))(&request));
        async move {
            match fate {
                Fate::Pass => Ok(client.send(request).await?.map(plain)),
                Fate::Lost => std::future::pending().await,
                Fate::Late(wait) => {
                    wait.await;
                    Ok(client.send(request).await?.map(plain))
                }
                Fate::AnsweredLate(wait) => {
                    let answer = client.send(request).await;
                    wait.await;
                    Ok(answer?.map(plain))
                }
                Fate::Refused(code) => Ok(refusal(code)),
                Fate::Answered(json) => Ok(Response::new(plain(Body::from(json)))),
                Fate::Retold(wait, tell) => {
                    wait.await;
                    Ok(client.send(request).await?.map(tell))
                }
                Fate::Busy(seconds) => {
                    let mut answer = refusal(StatusCode::TOO_MANY_REQUESTS);
                    answer.headers_mut().insert(RETRY_AFTER, seconds.into());
                    Ok(answer)
                }
                Fate::Broken => {
                    client.send(request).await?;
                    Err("the connection was reset".into())
                }
            }
        }
        .boxed()
    })
}

/// An answer as it is.
fn plain(body: Body) -> Answer {
    body.map_err(BoxError::from).boxed_unsync()
}

fn refusal(code: StatusCode) -> Response<Answer> {
    let reason = code.canonical_reason().unwrap_or_default();
    let status = Status::failure("refused by the test", reason).with_code(code.as_u16());
    let body = serde_json::to_vec(&status).expect("a status");
    Response::builder().status(code).body(plain(Body::from(body))).expect("an answer")
}
