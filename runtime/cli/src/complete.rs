//! What shells offer at Tab: what the arguments say, and what the node has.
//!
//! The script of `colony completions SHELL` asks this binary at every Tab, with [`VARIABLE`] set. A node that is away or slow has
//! nothing to offer, and nobody waits for it.

use std::{ffi::OsStr, future::Future, time::Duration};

use clap::CommandFactory;
use clap_complete::{
    ArgValueCompleter, CompleteEnv, CompletionCandidate,
    env::{Bash, EnvCompleter, Fish, Zsh},
};
use colony_proto::v1::{
    ListAgentsRequest, ListApprovalsRequest, ListModelsRequest, ListTasksRequest,
};

use crate::{
    args::{Cli, Shell},
    client::{Node, types, view},
    errors::Failure,
    output::{Output, cell},
};

/// Set by the script.
const VARIABLE: &str = "COLONY_COMPLETE";
/// How long somebody who pressed Tab waits for the node.
const ANSWER_WAIT: Duration = Duration::from_millis(500);
/// Most that is offered at once.
const OFFERED_MAX: u32 = 50;

/// Answers a shell that asks, and ends; does nothing otherwise.
pub(crate) fn answer() {
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .complete();
}

/// Prints the script.
pub(crate) fn script(shell: Shell, out: Output) -> Result<(), Failure> {
    let shell: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    let written = shell.write_registration(VARIABLE, "colony", "colony", "colony", &mut script);
    written.map_err(|error| Failure::failed(format!("the script was not made: {error}")))?;
    out.text(&String::from_utf8_lossy(&script))
}

type Offers = Result<Vec<CompletionCandidate>, Failure>;

/// Ids of tasks, the newest first.
pub(crate) fn tasks() -> ArgValueCompleter {
    offer(async |node, begun| {
        let ask = ListTasksRequest {
            id_prefix: begun,
            page_size: OFFERED_MAX,
            ..ListTasksRequest::default()
        };
        let found = node.open(node.tasks().list(node.ask(ask)).await)?;
        let offers = found.tasks.into_iter().map(|task| {
            let help = format!("{}, {}", view::state(task.state), cell(&task.input));
            candidate(task.id, &help)
        });
        Ok(offers.collect())
    })
}

/// Ids of open questions, the oldest first.
pub(crate) fn approvals() -> ArgValueCompleter {
    offer(async |node, begun| {
        let ask = ListApprovalsRequest {
            id_prefix: begun,
            page_size: OFFERED_MAX,
            ..ListApprovalsRequest::default()
        };
        let found = node.open(node.approvals().list(node.ask(ask)).await)?;
        let offers = found.approvals.into_iter().map(|approval| {
            let help = format!(
                "{}, {}",
                view::escalation_reason(approval.escalation_reason),
                cell(&approval.input)
            );
            candidate(approval.id, &help)
        });
        Ok(offers.collect())
    })
}

/// Ids of agents.
pub(crate) fn agents() -> ArgValueCompleter {
    offer(async |node, begun| {
        let ask = ListAgentsRequest {
            agent_type: begun.split('/').next().unwrap_or_default().to_owned(),
            page_size: OFFERED_MAX,
            ..ListAgentsRequest::default()
        };
        // Half a type's name is the name of none.
        let ask = match types::declared(&node).await?.contains(&ask.agent_type) {
            true => ask,
            false => ListAgentsRequest {
                agent_type: String::new(),
                ..ask
            },
        };
        let found = node.open(node.agents().list(node.ask(ask)).await)?;
        let offers = found
            .agents
            .into_iter()
            .map(|agent| CompletionCandidate::new(agent.id));
        Ok(offers.collect())
    })
}

/// Names of agent types.
pub(crate) fn agent_types() -> ArgValueCompleter {
    offer(async |node, _| {
        let declared = types::declared(&node).await?.into_iter();
        Ok(declared.map(CompletionCandidate::new).collect())
    })
}

/// Names of the node's models.
pub(crate) fn models() -> ArgValueCompleter {
    offer(async |node, _| {
        let found = node.open(node.models().list(node.ask(ListModelsRequest {})).await)?;
        let offers = found
            .models
            .into_iter()
            .map(|model| CompletionCandidate::new(model.name));
        Ok(offers.collect())
    })
}

fn candidate(id: String, help: &str) -> CompletionCandidate {
    CompletionCandidate::new(id).help(Some(help.to_owned().into()))
}

/// Offers what `ask` finds that begins as what was typed.
fn offer<F>(ask: impl Fn(Node, String) -> F + Send + Sync + 'static) -> ArgValueCompleter
where
    F: Future<Output = Offers>,
{
    ArgValueCompleter::new(move |begun: &OsStr| {
        let begun = begun.to_string_lossy().into_owned();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let offers = runtime.ok().and_then(|runtime| {
            let ask = async { ask(Node::at(&address(), ANSWER_WAIT)?, begun.clone()).await };
            runtime
                .block_on(async { tokio::time::timeout(ANSWER_WAIT, ask).await })
                .ok()?
                .ok()
        });
        let mut offers = offers.unwrap_or_default();
        offers.retain(|offer| offer.get_value().to_string_lossy().starts_with(&begun));
        offers
    })
}

/// The node's address, as what was typed so far says it.
fn address() -> String {
    let words: Vec<String> = std::env::args().collect();
    let said = words.iter().enumerate().rev().find_map(|(at, word)| {
        match word.strip_prefix("--address") {
            Some("") => words.get(at + 1).cloned(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        }
    });
    let set = || std::env::var("COLONY_ADDRESS").ok();
    said.or_else(set)
        .unwrap_or_else(|| crate::args::ADDRESS.to_owned())
}
