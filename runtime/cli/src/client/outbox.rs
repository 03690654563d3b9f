//! `colony outbox`: what agents want done in the world outside, for whoever does it.

use std::collections::BTreeSet;

use colony_proto::v1::{
    AcknowledgeRequest, ListOutboxRequest, MessageId, OutboxMessage, WatchOutboxRequest,
    WatchOutboxResponse,
};
use serde_json::{Value, json};
use tonic::{Status, Streaming};

use super::{Node, page_size, retry::with_retry, view, watch::patiently};
use crate::{
    args::OutboxCommand,
    errors::Failure,
    output::{Output, cell, clean, clean_within},
};

/// Most messages that the node acknowledges at once.
const IDS_MAX: usize = 1_000;
/// Most characters of an id that are repeated; the node's have some sixty.
const ID_CHARS_MAX: usize = 200;

pub(crate) async fn run(node: &Node, command: OutboxCommand, out: Output) -> Result<(), Failure> {
    match command {
        OutboxCommand::List {
            destination,
            all,
            limit,
        } => {
            let ask = ListOutboxRequest {
                destination: destination.unwrap_or_default(),
                acknowledged_too: all,
                ..ListOutboxRequest::default()
            };
            list(node, ask, limit, out).await
        }
        OutboxCommand::Watch { destination, after } => {
            let ask = WatchOutboxRequest {
                destination: destination.unwrap_or_default(),
                after_cursor: after,
            };
            watch(node, ask, out).await
        }
        OutboxCommand::Ack { ids, retry } => {
            let mut missing = 0;
            for ids in ids.chunks(IDS_MAX) {
                let ask = AcknowledgeRequest { ids: ids.to_vec() };
                let answer = with_retry(retry.retry_for, out, || {
                    let (mut client, ask) = (node.outbox(), node.ask(ask.clone()));
                    async move { client.acknowledge(ask).await }
                });
                let answer = answer.await.map_err(|status| node.failure(&status))?;
                let unknown: BTreeSet<String> = answer.unknown.iter().map(id).collect();
                for id in ids.iter().map(id) {
                    let known = !unknown.contains(&id);
                    missing += u64::from(!known);
                    let said = json!({ "id": id, "acknowledged": known });
                    let id = clean_within(ID_CHARS_MAX, &id);
                    out.result(&said, || match known {
                        true => format!("{id} is acknowledged"),
                        false => format!("{id} is not there: never posted, or forgotten"),
                    })?;
                }
            }
            match missing {
                0 => Ok(()),
                missing => Err(Failure::not_found(format!(
                    "{missing} of the messages are not there"
                ))),
            }
        }
    }
}

async fn list(
    node: &Node,
    mut ask: ListOutboxRequest,
    limit: usize,
    out: Output,
) -> Result<(), Failure> {
    let mut messages = Vec::new();
    loop {
        ask.page_size = page_size(limit, messages.len());
        let page = node.open(node.outbox().list(node.ask(ask.clone())).await)?;
        messages.extend(page.messages);
        ask.page_token = page.next_page_token;
        if ask.page_token.is_empty() || page_size(limit, messages.len()) == 0 {
            break;
        }
    }
    // An id is long, and what `ack` takes: beside it a terminal has no room for two times.
    let all = ask.acknowledged_too;
    let header: &[&str] = match all {
        true => &["id", "to", "state", "payload"],
        false => &["id", "to", "payload"],
    };
    let rows = messages.iter().map(|message| {
        let mut cells = row(message);
        let acknowledged = message.acknowledged_at_us.is_some();
        cells.drain(2..4);
        if all {
            let state = if acknowledged { "done" } else { "open" };
            cells.insert(2, state.to_owned());
        }
        (shown(message), cells)
    });
    out.results(header, rows, "nothing waits to be delivered")?;
    if !ask.page_token.is_empty() {
        out.note(&format!("… and more; --limit 0 lists all ({limit} shown)"));
    }
    Ok(())
}

/// Follows the stream, and takes it up again from its last cursor when it breaks. Ends when it is interrupted.
async fn watch(node: &Node, mut ask: WatchOutboxRequest, out: Output) -> Result<(), Failure> {
    let mut stream = begin(node, ask.clone())
        .await
        .map_err(|status| node.failure(&status))?;
    loop {
        match stream.message().await {
            Ok(Some(WatchOutboxResponse { cursor, message })) => {
                ask.after_cursor = Some(cursor.clone());
                let Some(message) = message else { continue };
                let mut told = shown(&message);
                if let Value::Object(fields) = &mut told {
                    fields.insert("cursor".to_owned(), Value::String(cursor.clone()));
                }
                out.result(&told, || format!("{}  {cursor}", row(&message).join("  ")))?;
            }
            // A node that drains closes its streams.
            Ok(None) => stream = again(node, &ask, out).await?,
            Err(status) if super::watch::is_break(status.code()) => {
                stream = again(node, &ask, out).await?;
            }
            Err(status) => return Err(node.failure(&status)),
        }
    }
}

async fn again(
    node: &Node,
    ask: &WatchOutboxRequest,
    out: Output,
) -> Result<Streaming<WatchOutboxResponse>, Failure> {
    out.note("the stream broke; taking it up again");
    let begun = patiently(|| begin(node, ask.clone())).await;
    begun.map_err(|status| node.failure(&status))
}

async fn begin(
    node: &Node,
    ask: WatchOutboxRequest,
) -> Result<Streaming<WatchOutboxResponse>, Status> {
    Ok(node.outbox().watch(ask).await?.into_inner())
}

/// The id of a message as `colony outbox ack` takes it.
fn id(id: &MessageId) -> String {
    format!("{}#{}", id.effect_key, id.index)
}

fn shown(message: &OutboxMessage) -> Value {
    let named = message.id.clone().unwrap_or_default();
    let payload = serde_json::from_str(&message.payload_json);
    json!({
        "id": id(&named),
        "effect_key": named.effect_key,
        "index": named.index,
        "task_id": message.task_id,
        "destination": message.destination,
        // A payload is JSON; whatever else it were would be shown as it is.
        "payload": payload.unwrap_or_else(|_| Value::String(message.payload_json.clone())),
        "posted_at_us": message.posted_at_us,
        "acknowledged_at_us": message.acknowledged_at_us,
    })
}

fn row(message: &OutboxMessage) -> Vec<String> {
    let named = message.id.clone().unwrap_or_default();
    let acknowledged = message.acknowledged_at_us;
    vec![
        clean(&id(&named)),
        cell(&message.destination),
        view::time(message.posted_at_us),
        acknowledged.map_or_else(|| "-".to_owned(), view::time),
        cell(&message.payload_json),
    ]
}
