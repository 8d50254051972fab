//! The way between an operator and the API server, where a test decides what becomes of each request.

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use tower::service_fn;

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
    /// It takes effect, and the connection breaks before the answer is there.
    Broken,
}

/// A client like `client`, but with every request meeting the fate that `fate` gives it.
pub(crate) fn client(client: Client, fate: impl Fn(&Request<Body>) -> Fate + Send + 'static) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request| {
        let (client, fate) = (client.clone(), fate(&request));
        async move {
            match fate {
                Fate::Pass => client.send(request).await,
                Fate::Lost => std::future::pending().await,
                Fate::Late(wait) => {
                    wait.await;
                    client.send(request).await
                }
                Fate::AnsweredLate(wait) => {
                    let answer = client.send(request).await;
                    wait.await;
                    answer
                }
                Fate::Refused(code) => Ok(refusal(code)),
                Fate::Broken => {
                    client.send(request).await?;
                    Err(kube::Error::Service("the connection was reset".into()))
                }
            }
        }
    });
    Client::new(service, namespace)
}

fn refusal(code: StatusCode) -> Response<Body> {
    let reason = code.canonical_reason().unwrap_or_default();
    let status = Status::failure("refused by the test", reason).with_code(code.as_u16());
    let body = serde_json::to_vec(&status).expect("a status");
    Response::builder().status(code).body(Body::from(body)).expect("an answer")
}
