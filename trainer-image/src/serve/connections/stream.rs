//! A connection's socket, with a bounded patience: for the first bytes of HTTP/2, and for a client that takes nothing of what is
//! written. hyper itself looks after the heads of HTTP/1.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::places::Tenant;

pub(super) struct Stream {
    socket: TcpStream,
    tenant: Arc<Tenant>,
    /// How long a client may take nothing.
    patience: Duration,
    /// Until the first bytes have come: how many are missing, and how long they may take.
    awaited: Option<(usize, Pin<Box<Sleep>>)>,
    /// Until when the client must have taken something, if something waits for it.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    /// Waits for so many bytes for a bounded time.
    pub(super) fn new(socket: TcpStream, tenant: &Arc<Tenant>, patience: Duration, first: usize) -> Stream {
        let awaited = (first > 0).then(|| (first, Box::pin(sleep(patience))));
        Stream { socket, tenant: Arc::clone(tenant), patience, awaited, stalled: None }
    }

    /// What came of a write, unless nothing has for too long.
    fn written<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let was_stalled = self.stalled.is_some();
        if written.is_ready() {
            self.stalled = None;
            if was_stalled {
                self.tenant.stalls(false);
            }
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        let is_late = stalled.as_mut().poll(context).is_ready();
        if !was_stalled {
            self.tenant.stalls(true);
        }
        if is_late { Poll::Ready(Err(ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
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

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
