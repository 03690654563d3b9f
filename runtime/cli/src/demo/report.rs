//! The figures of a demo: computed from what the ledger says of every ticket, then printed.

mod show;

use std::{collections::BTreeMap, time::Duration};

use colony_agents::tickets::{Split, Ticket};
use colony_proto::v1::{Agent, Model, ModelKind, StatusResponse};
use serde::Serialize;

use super::{
    outcome::{Outcome, ProposalSource},
    ticket_source::{TicketSource, is_out_label},
};
use crate::{
    client::status::sum_of_states,
    stats::{gini, percentile, rate, ratio, share},
};

pub(super) use self::show::{describe, in_words, sparkline};

/// Tasks an agent must have had before it counts in the fairness of its type.
const GINI_TASKS_MIN: u64 = 20;

/// All figures; `--json` prints this. Shares are 0 to 1 and null where there is nothing to count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figures {
    /// `ort` or `echo`.
    pub(super) engine: String,
    pub(super) tickets: usize,
    pub(super) agents: u64,
    /// Tickets by the state they ended in.
    pub(super) states: BTreeMap<String, usize>,
    /// Every ticket ended.
    pub(super) all_ended: bool,
    /// Accepted tasks equal the sum over all states.
    pub(super) conserved: bool,
    pub(super) learning: Learning,
    pub(super) test: Test,
    /// Of the risky tickets, those that a human saw.
    pub(super) risky_caught: Option<f64>,
    pub(super) risky: usize,
    pub(super) models: ModelFigures,
    pub(super) speed: Speed,
    /// By agent type.
    pub(super) fairness: BTreeMap<String, Fairness>,
    /// Highest resident memory of this process, in bytes.
    pub(super) peak_rss_bytes: u64,
    /// Lives of the data directory: 1, and one more for each kill.
    pub(super) incarnation: u64,
}

/// The train stream, in the order it was handed in.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Learning {
    pub(super) labelled: usize,
    /// The share of right proposals in each tenth of the stream.
    pub(super) accuracy_by_decile: Vec<f64>,
    pub(super) share_escalated: Option<f64>,
    /// Tickets of the stream whose label was taught.
    pub(super) taught: usize,
}

/// The test part. Proposals are the agents' own; what humans made of them does not count.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Test {
    pub(super) in_scope: usize,
    pub(super) out_of_scope: usize,
    /// Of those in scope, right proposals.
    pub(super) accuracy: Option<f64>,
    /// Of those in scope that no human saw, right answers.
    pub(super) accuracy_unescalated: Option<f64>,
    /// Of all test tickets, those a human saw.
    pub(super) share_escalated: Option<f64>,
    /// The same of those in scope.
    pub(super) share_escalated_in_scope: Option<f64>,
    /// Of those out of scope, the ones that a human saw.
    pub(super) out_of_scope_recall: Option<f64>,
    /// Of those out of scope, the ones that a human saw or that were answered as out of scope.
    pub(super) out_of_scope_noticed: Option<f64>,
}

/// Memory and model, apart. Accuracy counts labelled tickets of both parts that are in scope.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct ModelFigures {
    pub(super) memory_answers: usize,
    pub(super) memory_accuracy: Option<f64>,
    pub(super) model_answers: usize,
    pub(super) model_accuracy: Option<f64>,
    /// The unsure tickets, on which the model was asked: who was right there, memory, the model, and what
    /// the agent made of both.
    pub(super) asked: Asked,
    pub(super) model_calls: u64,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    /// Rows in a call of the embedding model, on average, in this life.
    pub(super) mean_batch_embed: Option<f64>,
    /// Rows in a decode step of the language model, on average, in this life.
    pub(super) mean_batch_decode: Option<f64>,
}

/// Labelled tickets in scope on which the model was asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Asked {
    pub(super) tickets: usize,
    pub(super) memory_accuracy: Option<f64>,
    pub(super) model_accuracy: Option<f64>,
    pub(super) agent_accuracy: Option<f64>,
}

/// How fast it went, in this life.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Speed {
    /// Tickets ended a second, from the first hand-in to the last end.
    pub(super) tasks_per_s: f64,
    /// Tickets under way at a time, on average, and the most that may be.
    pub(super) under_way: f64,
    pub(super) window: usize,
    /// From acknowledgement to end, of tickets that no human saw.
    pub(super) latency_p50_ms: Option<f64>,
    pub(super) latency_p99_ms: Option<f64>,
    /// The same of those that a human saw.
    pub(super) latency_human_p50_ms: Option<f64>,
    pub(super) latency_human_p99_ms: Option<f64>,
    /// From the start of the command to this report, models fetched and opened.
    pub(super) wall_s: f64,
    /// Group commits of the ledger, and the tasks' share in them.
    pub(super) syncs: u64,
}

/// How evenly a type's tasks fell on its agents: Gini coefficient, 0 for even.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Fairness {
    pub(super) agents: usize,
    /// Agents that have had a task.
    pub(super) worked: usize,
    /// Agents with at least 20 tasks.
    pub(super) eligible: usize,
    /// Over the eligible.
    pub(super) gini: Option<f64>,
    /// Over all.
    pub(super) gini_all: Option<f64>,
}

/// What the figures are computed from.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) source: &'a TicketSource,
    pub(super) outcomes: &'a [Option<Outcome>],
    pub(super) agents: &'a [Agent],
    pub(super) models: &'a [Model],
    pub(super) status: &'a StatusResponse,
    pub(super) engine: &'a str,
    pub(super) ended_in_this_life: u64,
    pub(super) window: usize,
    /// From the first hand-in of this life to its last end.
    pub(super) stream: Duration,
    pub(super) wall_s: f64,
    pub(super) peak_rss_bytes: u64,
}

/// A ticket with what became of it.
type Case<'a> = (&'a Ticket, &'a Outcome);

pub(super) fn figures(evidence: &Evidence<'_>) -> Figures {
    let source = evidence.source;
    let cases: Vec<Case<'_>> = source
        .tickets
        .iter()
        .zip(evidence.outcomes)
        .filter_map(|(ticket, outcome)| Some((ticket, outcome.as_ref()?)))
        .collect();
    let mut states = BTreeMap::new();
    for (_, outcome) in &cases {
        *states.entry(outcome.state.to_owned()).or_insert(0) += 1;
    }
    let risky: Vec<_> = cases.iter().filter(|(ticket, _)| ticket.risky).collect();
    Figures {
        engine: evidence.engine.to_owned(),
        tickets: source.tickets.len(),
        agents: evidence.status.agents.iter().map(|count| count.total).sum(),
        states,
        all_ended: cases.len() == source.tickets.len(),
        conserved: sum_of_states(evidence.status) == evidence.status.accepted,
        learning: learning(source, evidence.outcomes),
        test: test(source, &cases),
        risky_caught: share(risky.iter().map(|(_, outcome)| outcome.is_escalated())),
        risky: risky.len(),
        models: models(source, &cases, evidence.models),
        speed: speed(evidence, &cases),
        fairness: fairness(evidence.agents),
        peak_rss_bytes: evidence.peak_rss_bytes,
        incarnation: evidence.status.incarnation,
    }
}

fn is_right(ticket: &Ticket, outcome: &Outcome) -> bool {
    ticket.label.as_deref() == Some(outcome.proposal.as_str())
}

/// Whether a proposal for this ticket can be right: its label is known, and it belongs to a queue.
fn is_scored(source: &TicketSource, ticket: &Ticket) -> bool {
    ticket.label.is_some() && !source.is_out_of_scope(ticket)
}

/// Accuracy of each tenth of the labelled train tickets that have ended, in stream order.
pub(super) fn learning(source: &TicketSource, outcomes: &[Option<Outcome>]) -> Learning {
    let stream: Vec<Case<'_>> = source
        .tickets
        .iter()
        .zip(outcomes)
        .filter(|(ticket, _)| ticket.split == Split::Train && ticket.label.is_some())
        .filter_map(|(ticket, outcome)| Some((ticket, outcome.as_ref()?)))
        .collect();
    let decile = |tenth: usize| {
        let (from, to) = (stream.len() * tenth / 10, stream.len() * (tenth + 1) / 10);
        share(
            stream[from..to]
                .iter()
                .map(|(ticket, outcome)| is_right(ticket, outcome)),
        )
    };
    Learning {
        labelled: stream.len(),
        accuracy_by_decile: (0..10).filter_map(decile).collect(),
        share_escalated: share(stream.iter().map(|(_, outcome)| outcome.is_escalated())),
        taught: stream.iter().filter(|(_, outcome)| outcome.taught).count(),
    }
}

fn test(source: &TicketSource, cases: &[Case<'_>]) -> Test {
    let tested = || {
        cases
            .iter()
            .filter(|(ticket, _)| ticket.split == Split::Test)
    };
    let (out, inside): (Vec<&Case<'_>>, Vec<&Case<'_>>) =
        tested().partition(|(ticket, _)| source.is_out_of_scope(ticket));
    let inside: Vec<_> = inside
        .into_iter()
        .filter(|(ticket, _)| ticket.label.is_some())
        .collect();
    let right = |(ticket, outcome): &&Case<'_>| is_right(ticket, outcome);
    let escalated = |(_, outcome): &&Case<'_>| outcome.is_escalated();
    let noticed = |case: &&Case<'_>| escalated(case) || is_out_label(&case.1.proposal);
    Test {
        in_scope: inside.len(),
        out_of_scope: out.len(),
        accuracy: share(inside.iter().map(right)),
        accuracy_unescalated: share(inside.iter().filter(|case| !escalated(case)).map(right)),
        share_escalated: share(tested().map(|case| escalated(&case))),
        share_escalated_in_scope: share(inside.iter().map(escalated)),
        out_of_scope_recall: share(out.iter().map(escalated)),
        out_of_scope_noticed: share(out.iter().map(noticed)),
    }
}

fn models(source: &TicketSource, cases: &[Case<'_>], models: &[Model]) -> ModelFigures {
    let by = |source| {
        let of = move |(_, outcome): &&Case<'_>| outcome.source == source;
        cases.iter().filter(of).collect::<Vec<_>>()
    };
    let accuracy = |answers: &[&Case<'_>]| {
        let scored = answers
            .iter()
            .filter(|(ticket, _)| is_scored(source, ticket));
        share(scored.map(|(ticket, outcome)| is_right(ticket, outcome)))
    };
    let batch = |kind: ModelKind| {
        let found = models.iter().filter(|model| model.kind == i32::from(kind));
        let (rows, batches) = found.fold((0, 0), |(rows, batches), m| {
            (rows + m.rows, batches + m.batches)
        });
        ratio(rows, batches)
    };
    let (memory, model) = (by(ProposalSource::Memory), by(ProposalSource::Model));
    ModelFigures {
        memory_accuracy: accuracy(&memory),
        memory_answers: memory.len(),
        model_accuracy: accuracy(&model),
        model_answers: model.len(),
        asked: asked(source, cases),
        model_calls: cases.iter().map(|(_, outcome)| outcome.model_calls).sum(),
        prompt_tokens: cases.iter().map(|(_, outcome)| outcome.prompt_tokens).sum(),
        completion_tokens: cases
            .iter()
            .map(|(_, outcome)| outcome.completion_tokens)
            .sum(),
        mean_batch_embed: batch(ModelKind::Embed),
        mean_batch_decode: batch(ModelKind::Generate),
    }
}

fn asked(source: &TicketSource, cases: &[Case<'_>]) -> Asked {
    let cases: Vec<_> = cases
        .iter()
        .filter(|(ticket, outcome)| outcome.model_choice.is_some() && is_scored(source, ticket))
        .collect();
    let accuracy = |choice: fn(&Outcome) -> Option<&str>| {
        let right = |(ticket, outcome): &&Case<'_>| ticket.label.as_deref() == choice(outcome);
        share(cases.iter().map(right))
    };
    Asked {
        tickets: cases.len(),
        memory_accuracy: accuracy(|outcome| outcome.memory_choice.as_deref()),
        model_accuracy: accuracy(|outcome| outcome.model_choice.as_deref()),
        agent_accuracy: accuracy(|outcome| Some(&outcome.proposal)),
    }
}

fn speed(evidence: &Evidence<'_>, cases: &[Case<'_>]) -> Speed {
    let latencies = |escalated: bool| {
        let of = cases
            .iter()
            .filter(move |(_, outcome)| outcome.is_escalated() == escalated);
        let mut latencies: Vec<u64> = of.map(|(_, outcome)| outcome.latency_us).collect();
        latencies.sort_unstable();
        latencies
    };
    let (alone, human) = (latencies(false), latencies(true));
    let ms = |sorted: &[u64], percent| {
        percentile(sorted, percent).map(|us| Duration::from_micros(us).as_secs_f64() * 1e3)
    };
    // Little's law: how many come, times how long each stays.
    let tasks_per_s = rate(evidence.ended_in_this_life, evidence.stream);
    let stay_s: f64 = cases
        .iter()
        .map(|(_, outcome)| Duration::from_micros(outcome.latency_us).as_secs_f64())
        .sum();
    let mean_stay_s = if cases.is_empty() {
        0.0
    } else {
        stay_s / cases.len() as f64
    };
    Speed {
        tasks_per_s,
        under_way: tasks_per_s * mean_stay_s,
        window: evidence.window,
        latency_p50_ms: ms(&alone, 50),
        latency_p99_ms: ms(&alone, 99),
        latency_human_p50_ms: ms(&human, 50),
        latency_human_p99_ms: ms(&human, 99),
        wall_s: evidence.wall_s,
        syncs: evidence.status.syncs,
    }
}

fn fairness(agents: &[Agent]) -> BTreeMap<String, Fairness> {
    let mut by_type: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for agent in agents {
        let tasks = agent.track.unwrap_or_default().tasks;
        by_type
            .entry(agent.agent_type.clone())
            .or_default()
            .push(tasks);
    }
    let of = |tasks: Vec<u64>| {
        let eligible: Vec<u64> = tasks
            .iter()
            .copied()
            .filter(|t| *t >= GINI_TASKS_MIN)
            .collect();
        Fairness {
            agents: tasks.len(),
            worked: tasks.iter().filter(|tasks| **tasks > 0).count(),
            eligible: eligible.len(),
            gini: gini(&eligible),
            gini_all: gini(&tasks),
        }
    };
    by_type
        .into_iter()
        .map(|(name, tasks)| (name, of(tasks)))
        .collect()
}

#[cfg(test)]
mod tests;
