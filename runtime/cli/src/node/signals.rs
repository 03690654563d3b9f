//! SIGTERM and Ctrl-C, which end a process, and SIGHUP, which does not end a node.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::errors::Failure;

/// Both signals that ask a process to end.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes them over: from now on neither ends the process by itself.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of them and gives its name. Cancel-safe.
    pub(crate) async fn first(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// SIGHUP: a terminal that goes away, or somebody who wants the configuration to be read again.
#[derive(Debug)]
pub(crate) struct Hangup(Signal);

impl Hangup {
    /// Takes it over: from now on it does not end the process.
    pub(crate) fn listen() -> Result<Self, Failure> {
        take(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}

fn take(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))
}
