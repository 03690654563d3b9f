//! `colony approve watch`: questions as they are asked, decided and closed, through broken lines.

use std::{collections::BTreeSet, time::Duration};

use colony_proto::v1::{
    Approval, WatchApprovalsRequest, WatchApprovalsResponse, watch_approvals_response::Event,
};
use serde_json::json;
use tonic::{Status, Streaming};

use super::{decided, show};
use crate::{
    client::{Node, types, view},
    errors::{Failure, is_broken_line},
    output::{Output, cell},
};

/// Waits between attempts to open a broken stream anew: a node restarts in seconds.
const PAUSE: Duration = Duration::from_millis(500);
/// Attempts before giving up: a minute.
const ATTEMPTS_MAX: u32 = 120;

pub(super) async fn run(
    node: &Node,
    tenant: Option<String>,
    agent_type: Option<String>,
    out: Output,
) -> Result<(), Failure> {
    let ask = WatchApprovalsRequest {
        tenant: tenant.unwrap_or_default(),
        agent_type: agent_type.unwrap_or_default(),
    };
    if !ask.agent_type.is_empty() {
        types::check(node, &ask.agent_type).await?;
    }
    let mut stream = open(node, &ask)
        .await
        .map_err(|status| node.failure(&status))?;
    let mut told = Told::default();
    loop {
        let event = match stream.message().await {
            Ok(Some(WatchApprovalsResponse { event })) => event,
            // A node that drains ends its streams.
            Ok(None) => {
                stream = reopen(node, &ask, out).await?;
                told.again();
                continue;
            }
            Err(status) if is_away(&status) => {
                stream = reopen(node, &ask, out).await?;
                told.again();
                continue;
            }
            Err(status) => return Err(node.failure(&status)),
        };
        match event {
            Some(Event::Open(approval)) if told.open(&approval.id) => say(&approval, "open", out)?,
            Some(Event::Settled(approval)) => {
                told.settled(&approval.id);
                say(&approval, "settled", out)?;
            }
            Some(Event::CaughtUp(_)) => {
                for id in told.missed() {
                    let shown = show::get(node, id).await?;
                    say(&shown.approval.unwrap_or_default(), "settled", out)?;
                }
            }
            // Told already, by the stream before.
            Some(Event::Open(_)) | None => {}
        }
    }
}

/// Which open questions were told of. A stream that is opened anew tells all that are open then.
#[derive(Debug, Default)]
struct Told {
    open: BTreeSet<String>,
    /// Told of by the stream before, and not by this one yet.
    stale: BTreeSet<String>,
}

impl Told {
    fn again(&mut self) {
        self.stale.append(&mut self.open);
    }

    /// Whether the question is a new one.
    fn open(&mut self, id: &str) -> bool {
        let known = self.stale.remove(id);
        self.open.insert(id.to_owned()) && !known
    }

    fn settled(&mut self, id: &str) {
        self.open.remove(id);
    }

    /// What was settled while there was no stream.
    fn missed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.stale)
    }
}

async fn open(
    node: &Node,
    ask: &WatchApprovalsRequest,
) -> Result<Streaming<WatchApprovalsResponse>, Status> {
    let opened = node.approvals().watch(ask.clone()).await;
    opened.map(tonic::Response::into_inner)
}

async fn reopen(
    node: &Node,
    ask: &WatchApprovalsRequest,
    out: Output,
) -> Result<Streaming<WatchApprovalsResponse>, Failure> {
    out.note("the stream broke; opening it anew");
    let mut attempt = 0;
    loop {
        match open(node, ask).await {
            Ok(stream) => return Ok(stream),
            Err(status) if attempt < ATTEMPTS_MAX && is_away(&status) => {
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => return Err(node.failure(&status)),
        }
    }
}

/// Whether the node is away or stopping, rather than the request being wrong.
fn is_away(status: &Status) -> bool {
    status.code() == tonic::Code::Unavailable || is_broken_line(status)
}

fn say(approval: &Approval, event: &str, out: Output) -> Result<(), Failure> {
    let json = json!({ "event": event, "approval": view::approval(approval) });
    out.result(&json, || {
        let what = match event {
            "open" => view::escalation_reason(approval.escalation_reason).to_owned(),
            _ => decided(approval),
        };
        format!("{}  {what}  {}", approval.id, cell(&approval.input))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_opened_anew_tells_nothing_twice_and_what_was_missed() {
        let mut told = Told::default();
        assert!(told.open("a") && told.open("b") && told.open("c"));
        assert!(told.missed().is_empty());
        told.settled("a");
        told.again();
        assert!(!told.open("b") && told.open("d"));
        assert_eq!(told.missed(), BTreeSet::from(["c".to_owned()]));
        told.again();
        assert!(!told.open("b") && !told.open("d"));
        assert!(told.missed().is_empty());
    }
}
