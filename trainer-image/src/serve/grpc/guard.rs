//! What comes before a message is decoded: only those are let in who may ask, and messages are read within the bounds of all
//! protocols. The service behind it sees messages that have arrived whole, are plain, and have no more parts than they may.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::request::Parts;
use axum::http::{Request, Response, header};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{Stream, StreamExt, iter, unfold};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::messages::{Messages, encoding, prefix};
use super::parts;
use crate::serve::app::App;
use crate::serve::error::ServeError;
use crate::serve::metrics::Coming;
use crate::serve::room::Share;

/// What is answered without a token, as over REST.
const OPEN: [&str; 4] = ["ServerLive", "ServerReady", "ServerMetadata", "ModelReady"];
/// The service of health, which is as well.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// The call with one request for images.
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
/// The call with many, one after the other.
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

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
            let (mut head, body) = request.into_parts();
            let encoding = match encoding(&mut head.headers) {
                Ok(encoding) => encoding,
                Err(refusal) => return Ok(refusal.into_http()),
            };
            if let Err(error) = authorize(&app, &head) {
                return Ok(Status::from(error).into_http());
            }
            let messages = Messages::new(&app, encoding, body);
            let is = |path: &str| head.uri.path() == path;
            if is(STREAM) {
                return inner.call(Request::from_parts(head, Body::new(StreamBody::new(each(app, messages))))).await;
            }
            let coming = is(INFER).then(|| app.metrics.coming("grpc", "infer", ""));
            // It is held until the answer is there.
            let mut share = app.room.share();
            match one(&app, messages, is(INFER), &mut share).await {
                Ok(message) => {
                    coming.into_iter().for_each(Coming::goes_on);
                    inner.call(Request::from_parts(head, Body::new(StreamBody::new(iter(message))))).await
                }
                Err(error) => {
                    coming.into_iter().for_each(|coming| coming.ended(error.status().as_u16()));
                    Ok(Status::from(error).into_http())
                }
            }
        })
    }
}

/// Lets those in who may ask.
fn authorize(app: &App, head: &Parts) -> Result<(), ServeError> {
    let path = head.uri.path();
    let method = path.rsplit('/').next().unwrap_or_default();
    if OPEN.contains(&method) || path.starts_with(HEALTH) {
        return Ok(());
    }
    app.authorize(head.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()))
}

type Frames = Vec<Result<Frame<Bytes>, Status>>;

/// A message as a body has it.
fn frames(message: Bytes) -> Frames {
    vec![Ok(Frame::data(prefix(&message))), Ok(Frame::data(message))]
}

/// The one message of a call.
async fn one(app: &App, mut messages: Messages, is_infer: bool, share: &mut Share) -> Result<Frames, ServeError> {
    let Some(message) = messages.next(share).await? else { return Ok(Vec::new()) };
    if is_infer {
        parts::check(&message, app.settings.batching.max_queue as usize)?;
    }
    messages.end().await?;
    Ok(frames(message))
}

/// The next message of a call that asks again and again, and its part of the room.
async fn next(app: &App, messages: &mut Messages) -> Result<Option<(Bytes, Share)>, ServeError> {
    if !messages.another().await? {
        return Ok(None);
    }
    let mut share = app.room.share();
    let Some(message) = messages.next(&mut share).await? else { return Ok(None) };
    parts::check(&message, app.settings.batching.max_queue as usize)?;
    Ok(Some((message, share)))
}

/// The messages of such a call: the next one is read when the service has answered the one before, whose part
/// of the room is free again then.
fn each(app: Arc<App>, messages: Messages) -> impl Stream<Item = Result<Frame<Bytes>, Status>> {
    let all = unfold(Some((app, messages, None)), |state| async move {
        let (app, mut messages, share) = state?;
        drop::<Option<Share>>(share);
        match next(&app, &mut messages).await {
            Ok(None) => None,
            Ok(Some((message, share))) => Some((frames(message), Some((app, messages, Some(share))))),
            Err(error) => {
                app.metrics.coming("grpc", "infer", "").ended(error.status().as_u16());
                Some((vec![Err(Status::from(error))], None))
            }
        }
    });
    all.flat_map(iter)
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use clap::Parser;
    use futures::FutureExt;
    use futures::channel::mpsc;
    use http_body_util::BodyExt;
    use tch::Device;
    use tonic::Code;

    use super::super::FRAME;
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

    /// Sends a message of so many bytes, or more than one.
    fn send(sender: &Sender, bytes: usize) {
        send_as(sender, 0, &vec![7; bytes]);
    }

    fn send_as(sender: &Sender, flag: u8, message: &[u8]) {
        let frame = [&[flag], &(message.len() as u32).to_be_bytes()[..], message].concat();
        // In pieces, as a network cuts them.
        for piece in frame.chunks(3000) {
            sender.unbounded_send(Ok(Frame::data(piece.to_vec().into()))).unwrap();
        }
    }

    async fn body_of(answer: Result<Response<Body>, Infallible>) -> Bytes {
        answer.unwrap().into_body().collect().await.unwrap().to_bytes()
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
        assert_eq!(body_of(guard.call(request).await).await, "\0\0\0\0\u{3}\u{7}\u{7}\u{7}");
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

        for (what, sentence) in [
            (&b"\0\0\0\0\x02a"[..], "the message is cut off"),
            (b"\0\0", "the message is cut off"),
            (b"\x02\0\0\0\0", "a message begins with 2, not with 0 or 1"),
            (b"\x01\0\0\0\0", "a message is compressed, and no grpc-encoding says how"),
            (b"\0\0\0\0\0\0", "there is more than one message, and one was expected"),
        ] {
            let (sender, broken) = request("ModelInfer");
            sender.unbounded_send(Ok(Frame::data(what.into()))).unwrap();
            drop(sender);
            assert_eq!(refusal(guard.call(broken).await), (Code::InvalidArgument, sentence.to_owned()));
        }

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

    #[tokio::test]
    async fn messages_are_inflated_within_the_same_bounds() {
        use std::io::Write;

        use flate2::Compression;
        use flate2::write::{GzEncoder, ZlibEncoder};

        let gzip = |bytes: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let deflate = |bytes: &[u8]| {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let mut guard = guard(&["--max-request-bytes", "1024"], None);
        let mut ask = async |encoding: &str, flag: u8, message: &[u8]| {
            let (sender, mut request) = request("ModelInfer");
            request.headers_mut().insert("grpc-encoding", encoding.parse().unwrap());
            send_as(&sender, flag, message);
            drop(sender);
            guard.call(request).await
        };
        let largest = 1024 + FRAME;
        for size in [0, 3, largest] {
            let message = vec![7; size];
            let plain = [&prefix(&message), &message[..]].concat();
            assert_eq!(body_of(ask("gzip", 1, &gzip(&message)).await).await, plain);
            assert_eq!(body_of(ask("deflate", 1, &deflate(&message)).await).await, plain);
            // Each message says for itself.
            assert_eq!(body_of(ask("gzip", 0, &message).await).await, plain);
        }
        let sentence = format!("the body has more than the {largest} bytes allowed");
        for size in [largest + 1, 100 * largest] {
            let refused = refusal(ask("gzip", 1, &gzip(&vec![7; size])).await);
            assert_eq!(refused, (Code::OutOfRange, sentence.clone()));
        }
        let (code, sentence) = refusal(ask("gzip", 1, b"no").await);
        assert!(code == Code::InvalidArgument && sentence.starts_with("the body is not gzip"), "{sentence}");
        let refused = ask("zstd", 1, b"").await.unwrap();
        assert_eq!(refused.headers()["grpc-accept-encoding"], "identity,deflate,gzip");
        assert_eq!(refusal(Ok(refused)).0, Code::Unimplemented);
    }

    #[tokio::test]
    async fn a_stream_is_read_message_by_message_and_its_room_with_them() {
        let mut guard = guard(&["--max-request-bytes", "1024", "--max-queue", "4"], None);
        let free = |guard: &Guard<Echo>| guard.app.room.available();
        let (all, (sender, request)) = (free(&guard), request("ModelStreamInfer"));
        let mut body = guard.call(request).await.unwrap().into_body();
        for size in [30_000, 0, 20_000] {
            assert!(body.frame().now_or_never().is_none(), "nothing has come");
            send(&sender, size);
            let message = vec![7; size];
            let next = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(next, prefix(&message));
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), message);
            assert_eq!(free(&guard) < all, size > 0, "it has its part of the room until the next one is asked for");
        }
        send_as(&sender, 0, &b"\x2a\x04\x2a\x02\x42\0".repeat(5));
        let refused = body.frame().await.unwrap().unwrap_err();
        assert_eq!((refused.code(), free(&guard)), (Code::OutOfRange, all));
        assert!(body.frame().await.is_none());
    }
}
