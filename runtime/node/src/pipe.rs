//! Work that an actor does not wait for.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    task::{Context, Poll, Waker},
};

use futures_util::FutureExt as _;
use ractor::{ActorRef, Message};
use tokio::task::AbortHandle;

/// Runs `work` and sends the message it ends with to `me`: in place when it is ready at once, else beside
/// the actor, which stays responsive. The handle stops it; none when it has ended already. Should it panic, the
/// actor ends as by a panic of its own.
pub(crate) fn pipe_to_self<M: Message>(
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
    #[expect(
        clippy::disallowed_methods,
        reason = "its end is the message it sends, or the end of the actor"
    )]
    let task = tokio::spawn(async move {
        match AssertUnwindSafe(work).catch_unwind().await {
            // An actor that has ended meanwhile waits for nothing.
            Ok(message) => drop(me.cast(message)),
            // It would wait for this message for ever: it ends instead, and its supervisor hears of it.
            Err(_) => me.kill(),
        }
    });
    Some(task.abort_handle())
}

/// Work under way that ends with its owner.
#[derive(Debug, Default)]
pub(crate) struct Running(Option<AbortHandle>);

impl Running {
    /// Replaces what was under way.
    pub(crate) fn set(&mut self, work: Option<AbortHandle>) {
        self.stop();
        self.0 = work;
    }

    /// Whether something is under way, or was and has ended by itself.
    pub(crate) const fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Stops it.
    pub(crate) fn stop(&mut self) {
        if let Some(work) = self.0.take() {
            work.abort();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
