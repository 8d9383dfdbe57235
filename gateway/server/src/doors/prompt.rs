//! A body that has to come in time and has to find room: whoever announces a request holds a permit, and trickling bodies
//! would hold all there are; and a thousand that were let in may still bring 4 MiB each.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};
use weir_domain::Refusal;

use crate::admission::Room;
use crate::metrics::Metrics;
use crate::refuse;

/// The body as it comes, or [`Refusal::SlowBody`], or the refusal for want of memory. The time runs once the body is waited for: most are here already, and
/// need no timer.
pub(crate) struct Prompt {
    body: Incoming,
    within: Option<Duration>,
    room: Option<Room>,
    for_tonic: Option<Arc<Metrics>>,
    late: Option<Pin<Box<Sleep>>>,
}

impl Prompt {
    /// The body of a request; `None` waits for it as long as its caller likes. Nobody counts what tonic refuses.
    pub(super) fn new(
        body: Incoming,
        within: Option<Duration>,
        room: Option<Room>,
        for_tonic: Option<Arc<Metrics>>,
    ) -> Self {
        Self { body, within, room, for_tonic, late: None }
    }

    fn refused(&self, refusal: Refusal) -> BoxError {
        match &self.for_tonic {
            // It passes a status on, and makes its own of everything else.
            Some(metrics) => {
                metrics.refused(&refusal);
                refuse::grpc(&refusal).into()
            }
            None => refusal.into(),
        }
    }
}

impl Body for Prompt {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            // What is whole is answered: that frees its memory sooner.
            let refusal = self.room.as_ref().filter(|_| !self.body.is_end_stream()).and_then(Room::refused);
            return Poll::Ready(match refusal {
                Some(refusal) => Some(Err(self.refused(refusal))),
                None => frame.map(|frame| frame.map_err(BoxError::from)),
            });
        }
        let Some(within) = self.within else { return Poll::Pending };
        ready!(self.late.get_or_insert_with(|| Box::pin(sleep(within))).as_mut().poll(cx));
        Poll::Ready(Some(Err(self.refused(Refusal::SlowBody { within }))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The refusal at the bottom of an error, if that is what it came from.
pub(crate) fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Refusal> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
        .find_map(|error| error.downcast_ref())
}
