//! Work that an actor does not wait for.

use std::{
    future::Future,
    task::{Context, Poll, Waker},
};

use ractor::{ActorRef, Message};
use tokio::task::AbortHandle;

/// Runs `work` and sends the message it ends with to `me`: in place when it is ready at once, else beside
/// the actor, which stays responsive. The handle stops it; none when it has ended already.
pub(crate) fn aside<M: Message>(
    me: &ActorRef<M>,
    work: impl Future<Output = M> + Send + 'static,
) -> Option<AbortHandle> {
    let mut work = Box::pin(work);
    // Whatever it waits for is told the right waker when the task below polls it again.
    if let Poll::Ready(message) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        // The actor itself is calling: its mailbox is open.
        let _ = me.cast(message);
        return None;
    }
    let me = me.clone();
    #[expect(clippy::disallowed_methods, reason = "its end is the message it sends")]
    let task = tokio::spawn(async move {
        let message = work.await;
        // An actor that has ended meanwhile waits for nothing.
        let _ = me.cast(message);
    });
    Some(task.abort_handle())
}
