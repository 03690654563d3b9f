//! `colony approve review`: questions one after the other, decided with single keys.
//!
//! ```text
//!   bytes ─► decoder ─► key ─► session ─► what is to be done: show, say, send
//! ```
//! [`session`] decides what a key means, [`keys`] reads them from the terminal with [`decoder`]; here is what talks to
//! the node.

mod decoder;
mod keys;
mod session;

use std::io::{self, IsTerminal as _};

use colony_proto::v1::ListApprovalsRequest;

use self::{
    keys::Keys,
    session::{Act, Held, Session},
};
use super::{AFTERMATH_WAIT, decide, list, show, totals};
use crate::{
    args::DecideArgs,
    client::{Node, view},
    errors::Failure,
    output::{Output, clean_lines, sheet},
};

/// Asks, until `q` or Ctrl-C.
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
        out.note(found.nothing());
        return Ok(());
    }
    out.note(&totals(&found.totals));
    if found.more {
        out.note(&format!("the first {limit} of them; --limit 0 takes all"));
    }
    let mut review = Review {
        node,
        args: &args,
        keys: Keys::open()?,
        session: Session::new(found.approvals, args.by.clone()),
        prompting: false,
        untaken: None,
        out,
    };
    let ended = review.run().await;
    if ended.is_err()
        && let Some(id) = review.session.held()
    {
        out.failure(&Failure::failed(session::not_sent(id)));
    }
    ended?;
    match review.untaken {
        None => Ok(()),
        Some(first) => Err(first.again("not all decisions were taken; the reasons stand above")),
    }
}

/// A review on a terminal.
struct Review<'a> {
    node: &'a Node,
    args: &'a DecideArgs,
    keys: Keys,
    session: Session,
    /// A prompt is a line without its end, until something else is said.
    prompting: bool,
    /// Why the first decision was not taken that was not: it gives the exit code.
    untaken: Option<Failure>,
    out: Output,
}

impl Review<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let mut acts = self.session.begin();
        loop {
            for act in acts {
                let (ends, prompts) = (act == Act::End, matches!(act, Act::Prompt(_)));
                if self.prompting && !prompts {
                    self.out.text("")?;
                }
                self.prompting = prompts;
                self.perform(act).await?;
                if ends {
                    return Ok(());
                }
            }
            acts = self.session.press(self.keys.next().await);
        }
    }

    /// Does what a key asked for.
    async fn perform(&mut self, act: Act) -> Result<(), Failure> {
        match act {
            Act::Show { id, place } => {
                let shown = show::get(self.node, id).await?;
                let mut facts = vec![("", place)];
                facts.extend(show::what_is_asked(&shown));
                let approval = shown.approval.clone().unwrap_or_default();
                facts.insert(1, ("asked", format!("{} ago", view::age(approval.age_ms))));
                let text = clean_lines(approval.input.trim());
                // A key that was pressed before was not meant for a question that nobody had seen.
                self.keys.forget();
                self.out.text(&format!("\n{}\n\n{text}\n", sheet(facts)))?;
                self.session.know(shown.known_labels);
            }
            Act::Say(text) => self.out.text(&clean_lines(&text))?,
            Act::Prompt(text) => keys::prompt(&text)?,
            Act::Send(held) => self.send(&held).await?,
            Act::End => {}
        }
        Ok(())
    }

    /// Sends a decision. A question that could not be decided and is still open can be decided again.
    async fn send(&mut self, held: &Held) -> Result<(), Failure> {
        let (approval, decision) = (&held.approval, &held.decision);
        let (node, out) = (self.node, self.out);
        let sent = decide::send(
            node,
            approval,
            decision,
            held.new_label,
            self.args.retry,
            out,
        );
        if let Err(failure) = sent.await {
            if failure.code() != Some(decide::DECIDED) {
                self.session.reopened(&approval.id);
            }
            let failure = failure.within(&approval.id);
            out.failure(&failure);
            self.untaken.get_or_insert(failure);
            return Ok(());
        }
        let task = decide::aftermath(node, &approval.task_id, AFTERMATH_WAIT, out);
        if let Some(task) = task.await? {
            out.text(&decide::said(approval, decision, &task))?;
        }
        Ok(())
    }
}
