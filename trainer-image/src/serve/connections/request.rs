//! What becomes of a request, for the place of its connection: it comes, it is owed an answer, it is answered. The bodies tell.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Frame, SizeHint};

use super::places::Tenant;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Coming,
    Owed,
    Answered,
}

/// A request of a connection.
struct Asked {
    tenant: Arc<Tenant>,
    step: Mutex<Step>,
}

impl Asked {
    /// Goes on, never back.
    fn go_on(&self, to: Step) {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        match (*step, to) {
            (Step::Coming, Step::Owed) => self.tenant.has_asked(),
            (Step::Coming | Step::Owed, Step::Answered) => self.tenant.is_answered(*step == Step::Owed),
            _ => return,
        }
        *step = to;
    }
}

/// The body of a request, which tells when it has come.
pub(super) struct Sent<B> {
    body: B,
    asked: Option<Arc<Asked>>,
}

/// The body of an answer, or the answer that is still being made, which tells when it is gone.
pub(super) struct Answer<B> {
    body: B,
    asked: Option<Arc<Asked>>,
}

/// The body of a request of which an answer is owed, and where that is to be put.
pub(super) fn owed<B: Body>(tenant: &Arc<Tenant>, body: B) -> (Sent<B>, Answer<()>) {
    tenant.asks();
    let asked = Arc::new(Asked { tenant: Arc::clone(tenant), step: Mutex::new(Step::Coming) });
    if body.is_end_stream() {
        asked.go_on(Step::Owed);
    }
    (Sent { body, asked: Some(Arc::clone(&asked)) }, Answer { body: (), asked: Some(asked) })
}

/// The same for a request that is a matter of course, and holds no place.
pub(super) fn free<B: Body>(body: B) -> (Sent<B>, Answer<()>) {
    (Sent { body, asked: None }, Answer { body: (), asked: None })
}

impl Answer<()> {
    pub(super) fn with<B>(mut self, body: B) -> Answer<B> {
        Answer { body, asked: self.asked.take() }
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            asked.go_on(Step::Answered);
        }
    }
}

impl<B> Drop for Sent<B> {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            // What has not come is not waited for.
            asked.go_on(Step::Owed);
        }
    }
}

impl<B: Body + Unpin> Body for Sent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if (frame.is_none() || self.body.is_end_stream())
            && let Some(asked) = self.asked.take()
        {
            asked.go_on(Step::Owed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
