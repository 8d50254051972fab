//! A client of gRPC, as small as can be.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// What the health service says.
pub(crate) const SERVING: u8 = 1;
pub(crate) const NOT_SERVING: u8 = 2;

/// `ModelInferRequest` as far as it is used.
#[derive(Message)]
struct InferRequest {
    #[prost(string, tag = "1")]
    model: String,
    #[prost(message, repeated, tag = "5")]
    inputs: Vec<Input>,
}

#[derive(Message)]
struct Input {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    contents: Option<Contents>,
}

#[derive(Message)]
struct Contents {
    #[prost(bytes = "vec", repeated, tag = "8")]
    bytes: Vec<Vec<u8>>,
}

/// One connection.
pub(crate) struct Channel {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

impl Channel {
    pub(crate) fn new(address: SocketAddr) -> Channel {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sender = runtime.block_on(async {
            let socket = TcpStream::connect(address).await.unwrap();
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        Channel { runtime, sender }
    }

    fn call(&self, method: &str, message: &[u8]) -> impl Future<Output = Incoming> + Send + use<> {
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put_slice(message);
        let request = Request::post(format!("http://test{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(framed.freeze()))
            .unwrap();
        let answer = self.sender.clone().send_request(request);
        async { answer.await.unwrap().into_body() }
    }

    /// Watches the health of the whole server.
    pub(crate) fn watch(&self) -> Watch<'_> {
        let body = self.runtime.block_on(self.call("/grpc.health.v1.Health/Watch", b""));
        Watch { channel: self, body }
    }

    /// Asks about images.
    pub(crate) fn infer(&self, model: &str, images: &[Vec<u8>]) -> Asked<'_> {
        let input = Input {
            name: "image".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![images.len() as i64],
            contents: Some(Contents { bytes: images.to_vec() }),
        };
        let message = InferRequest { model: model.to_owned(), inputs: vec![input] }.encode_to_vec();
        let call = self.call("/inference.GRPCInferenceService/ModelInfer", &message);
        let status = self.runtime.spawn(async {
            let answer = call.await.collect().await.unwrap();
            answer.trailers().unwrap()["grpc-status"].to_str().unwrap().to_owned()
        });
        Asked { channel: self, status }
    }
}

/// A stream of the health service.
pub(crate) struct Watch<'a> {
    channel: &'a Channel,
    body: Incoming,
}

impl Watch<'_> {
    /// What it says next; none at its end.
    pub(crate) fn next(&mut self) -> Option<u8> {
        loop {
            let frame = self.channel.runtime.block_on(self.body.frame())?.unwrap();
            // A message of one field: its number and type, and its value.
            if let Ok(data) = frame.into_data() {
                return data.last().copied();
            }
        }
    }
}

/// A request that was sent.
pub(crate) struct Asked<'a> {
    channel: &'a Channel,
    status: JoinHandle<String>,
}

impl Asked<'_> {
    /// Waits for the answer: its status.
    pub(crate) fn status(self) -> String {
        self.channel.runtime.block_on(self.status).unwrap()
    }
}
