//! A connection of gRPC: it keeps its place among those allowed, and must say what it wants within a bounded time.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::serve::connections::Incoming;

/// Bytes with which HTTP/2 begins (RFC 9113, 3.4): from then on the protocol's own keep-alive notices who is gone.
const PREFACE: usize = 24;

pub(super) struct Connection {
    stream: TcpStream,
    /// Until the preface has come: how much of it is missing, and how long it may take.
    awaited: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

/// The connections that come in.
pub(super) fn stream(incoming: Incoming, patience: Duration) -> impl Stream<Item = io::Result<Connection>> {
    futures::stream::unfold(incoming, move |mut incoming| async move {
        let (stream, place) = incoming.next().await?;
        let awaited = Some((PREFACE, Box::pin(sleep(patience))));
        Some((Ok(Connection { stream, awaited, _place: place }), incoming))
    })
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let count = buffer.filled().len() - before;
        let is_late = match &mut self.awaited {
            Some((missing, sleep)) => {
                *missing = missing.saturating_sub(count);
                *missing > 0 && sleep.as_mut().poll(context).is_ready()
            }
            None => false,
        };
        if is_late {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        if self.awaited.as_ref().is_some_and(|(missing, _)| *missing == 0) {
            self.awaited = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}
