//! `colony approve review`: questions one after the other, decided with single keys.
//!
//! ```text
//!   key ─► session ─► what is to be done: show, say, send
//! ```
//! [`session`] decides what a key means, [`keys`] reads them from the terminal; here is what talks to the node.

mod keys;
mod session;

use std::io::{self, IsTerminal as _};

use colony_proto::v1::ListApprovalsRequest;

use self::{
    keys::Keys,
    session::{Act, Key, Session},
};
use super::{AFTERMATH_WAIT, decide, list, show, totals};
use crate::{
    args::DecideArgs,
    client::{Node, view},
    errors::Failure,
    output::{Output, clean_lines, sheet},
};

pub(super) async fn run(
    node: &Node,
    ask: ListApprovalsRequest,
    limit: usize,
    args: DecideArgs,
    out: Output,
) -> Result<(), Failure> {
    if out.is_json() || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let why = "a review reads single keys: it needs a terminal, and prints no JSON";
        return Err(Failure::usage(why)
            .with_hint("`colony approve list` and `colony approve accept` work everywhere"));
    }
    let found = list(node, ask, limit).await?;
    if found.approvals.is_empty() {
        out.note("nothing waits for a human");
        return Ok(());
    }
    out.note(&totals(&found.totals));
    if found.more {
        out.note(&format!("the first {limit} of them; --limit 0 takes all"));
    }
    let mut keys = Keys::open()?;
    let mut session = Session::new(found.approvals, args.by.clone());
    let mut acts = session.begin();
    // A prompt is a line without its end, until something else is said.
    let mut prompting = false;
    loop {
        let mut done = false;
        for act in std::mem::take(&mut acts) {
            done |= act == Act::End;
            let prompts = matches!(act, Act::Prompt(_));
            if prompting && !prompts {
                out.text("")?;
            }
            prompting = prompts;
            if let Some(id) = perform(node, &args, &mut session, act, out).await? {
                session.reopened(&id);
            }
        }
        if done {
            return Ok(());
        }
        // The terminal is read on this thread: there is nothing to do beside it.
        let key = tokio::task::block_in_place(|| keys.next())?;
        acts = session.press(key.unwrap_or(Key::Interrupt));
    }
}

/// Does what a key asked for. Gives the id of a question that could not be decided and is still open.
async fn perform(
    node: &Node,
    args: &DecideArgs,
    session: &mut Session,
    act: Act,
    out: Output,
) -> Result<Option<String>, Failure> {
    match act {
        Act::Show { id, place } => {
            let shown = show::get(node, id).await?;
            let mut facts = vec![("", place)];
            facts.extend(show::what_is_asked(&shown));
            let approval = shown.approval.clone().unwrap_or_default();
            facts.insert(1, ("asked", format!("{} ago", view::age(approval.age_ms))));
            let text = clean_lines(approval.input.trim());
            out.text(&format!("\n{}\n\n{text}\n", sheet(facts)))?;
            session.know(shown.known_labels);
        }
        Act::Say(text) => out.text(&clean_lines(&text))?,
        Act::Prompt(text) => keys::prompt(&text)?,
        Act::Send(held) => {
            let sent = decide::send(
                node,
                &held.approval,
                &held.decision,
                held.new_label,
                args.retry,
                out,
            );
            if let Err(failure) = sent.await {
                let decided_by_others = failure.code() == Some(decide::DECIDED);
                out.failure(&failure.within(&held.approval.id));
                return Ok((!decided_by_others).then(|| held.approval.id.clone()));
            }
            let task = decide::aftermath(node, &held.approval.task_id, AFTERMATH_WAIT, out);
            if let Some(task) = task.await? {
                out.text(&decide::said(&held.approval, &held.decision, &task))?;
            }
        }
        Act::End => {}
    }
    Ok(None)
}
