//! What comes before a message is decoded: only those are let in who may ask, and the message is read within the bounds of all
//! protocols. The service behind it sees messages that have arrived whole.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::request::Parts;
use axum::http::{Request, Response, header};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::FRAME;
use crate::serve::app::App;
use crate::serve::body::{self, Bounds, Deadline};
use crate::serve::error::ServeError;
use crate::serve::metrics::Ended;
use crate::serve::room::Share;

/// What is answered without a token, as over REST.
const OPEN: [&str; 4] = ["ServerLive", "ServerReady", "ServerMetadata", "ModelReady"];
/// The service of health, which is as well.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// A service behind the guard.
#[derive(Clone)]
pub(super) struct Guard<S> {
    inner: S,
    app: Arc<App>,
}

impl<S> Guard<S> {
    pub(super) fn new(inner: S, app: Arc<App>) -> Guard<S> {
        Guard { inner, app }
    }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut inner, app) = (self.inner.clone(), Arc::clone(&self.app));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            // It is held until the answer is there.
            let mut share = app.room.share();
            match admit(&app, &head, body, &mut share).await {
                Ok(message) => inner.call(Request::from_parts(head, Body::new(Full::new(message)))).await,
                Err(error) => Ok(Status::from(error).into_http()),
            }
        })
    }
}

/// The message of those who may send one.
async fn admit(app: &App, head: &Parts, body: Body, share: &mut Share) -> Result<Bytes, ServeError> {
    let path = head.uri.path();
    let method = path.rsplit('/').next().unwrap_or_default();
    if !OPEN.contains(&method) && !path.starts_with(HEALTH) {
        app.authorize(head.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()))?;
    }
    let limits = &app.settings.limits;
    let bounds = Bounds {
        bytes: limits.max_request_bytes as usize + FRAME,
        silence: app.settings.header_timeout,
        deadline: Deadline::after(limits.timeout_seconds),
    };
    let read = body::read(&head.headers, body, bounds, share).await;
    if let Err(error) = &read
        && method == "ModelInfer"
    {
        app.metrics.ended(&Ended { protocol: "grpc", method: "infer", code: error.status().as_u16() });
    }
    read
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use clap::Parser;
    use futures::FutureExt;
    use futures::channel::mpsc;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    use tch::Device;
    use tonic::Code;

    use super::*;
    use crate::serve::device::Chosen;
    use crate::serve::engine::Engine;
    use crate::serve::settings::{Options, Settings};
    use crate::serve::token::Token;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// Answers with what it is sent.
    #[derive(Clone)]
    struct Echo;

    impl Service<Request<Body>> for Echo {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            ready(Ok(Response::new(request.into_body())))
        }
    }

    fn guard(arguments: &[&str], token: Option<Token>) -> Guard<Echo> {
        let options = Line::parse_from([&["serve", "/models/a"], arguments].concat()).options;
        let settings = Settings::new(&options, |_| None).unwrap();
        let chosen = Chosen { device: Device::Cpu, reason: String::new() };
        let engine = Engine::start(1, 10_000, Arc::default(), |_| ()).unwrap();
        Guard::new(Echo, Arc::new(App::new(settings, token, chosen, engine, Arc::default())))
    }

    type Sender = mpsc::UnboundedSender<Result<Frame<Bytes>, Status>>;

    /// A request whose body comes as the sender says.
    fn request(method: &str) -> (Sender, Request<Body>) {
        let (sender, frames) = mpsc::unbounded();
        let request = Request::builder().uri(format!("/inference.GRPCInferenceService/{method}"));
        (sender, request.body(Body::new(StreamBody::new(frames))).unwrap())
    }

    fn send(sender: &Sender, bytes: usize) {
        sender.unbounded_send(Ok(Frame::data(vec![7; bytes].into()))).unwrap();
    }

    /// Code and message of a refusal.
    fn refusal(answer: Result<Response<Body>, Infallible>) -> (Code, String) {
        let status = Status::from_header_map(answer.unwrap().headers()).unwrap();
        (status.code(), status.message().to_owned())
    }

    #[tokio::test]
    async fn who_may_not_ask_is_told_before_a_byte_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "secret").unwrap();
        let mut guard = guard(&[], Some(Token::read(&path).unwrap()));
        for method in ["ModelInfer", "ModelMetadata", "Whatever"] {
            let (_sender, request) = request(method);
            assert_eq!(refusal(guard.call(request).await).0, Code::Unauthenticated, "{method}");
        }
        let (sender, mut request) = request("ModelInfer");
        request.headers_mut().insert(header::AUTHORIZATION, "Bearer secret".parse().unwrap());
        send(&sender, 3);
        drop(sender);
        let answer = guard.call(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "\u{7}\u{7}\u{7}");
        let methods = OPEN.map(|method| format!("/inference.GRPCInferenceService/{method}"));
        for path in methods.into_iter().chain([format!("{HEALTH}Check")]) {
            let request = Request::builder().uri(&path).body(Body::empty()).unwrap();
            assert!(guard.call(request).await.unwrap().headers().is_empty(), "{path}");
        }
    }

    #[tokio::test]
    async fn messages_have_bounds_and_one_room() {
        let mut guard = guard(&["--max-request-bytes", "1024", "--header-timeout-seconds", "1"], None);
        let largest = 1024 + FRAME;
        let (sender, large) = request("ModelInfer");
        send(&sender, largest + 1);
        drop(sender);
        let (code, sentence) = refusal(guard.call(large).await);
        assert_eq!((code, sentence), (Code::OutOfRange, format!("the body has more than the {largest} bytes allowed")));

        let (_silent, silent) = request("ModelInfer");
        let (code, sentence) = refusal(guard.call(silent).await);
        assert!(code == Code::DeadlineExceeded && sentence.starts_with("nothing of the request arrived for 1 seconds"));

        // Sixteen that have come but for their ends take all room; one more waits until one of them leaves.
        let mut held: Vec<_> = (0..16)
            .map(|_| {
                let (sender, request) = request("ModelInfer");
                send(&sender, largest);
                let mut call = guard.call(request);
                assert!((&mut call).now_or_never().is_none());
                (sender, call)
            })
            .collect();
        let (sender, waiting) = request("ModelInfer");
        send(&sender, 5000);
        drop(sender);
        let mut waiting = guard.call(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        held.pop();
        assert!(waiting.await.unwrap().headers().is_empty());
        let (sender, call) = held.pop().unwrap();
        drop(sender);
        assert!(call.await.unwrap().headers().is_empty());
    }
}
