//! `colony demo`: a thousand agents sort help-desk tickets on this machine, and learn while they do.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`ticket_source`] | where the tickets come from |
//! | [`driver`] | the stream through the node, and the feedback |
//! | [`reviewer`] | the scripted human |
//! | [`progress`] | what is seen meanwhile |
//! | [`outcome`], [`report`] | what came of it, in figures |
//!
//! The node runs in this process, behind its gRPC API on a loopback port: the demo is a client like any
//! other, and `colony approve --address …` works beside it.

mod driver;
mod outcome;
mod progress;
mod report;
mod reviewer;
mod ticket_source;

use std::{collections::BTreeMap, path::PathBuf};

use colony_inference::Item;
use colony_node::config::{AgentType, Config, Engine};
use colony_proto::v1::ListModelsRequest;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use self::{
    driver::{AGENT_TYPE, DriveOptions, End, Streamed},
    report::{Evidence, Figures},
    ticket_source::TicketSource,
};
use crate::{
    args::{DemoArgs, Global, ReviewerChoice},
    client::{Node, agents, status},
    config,
    errors::Failure,
    model,
    node::{
        flags, logging,
        privacy::{exposures, private_folder},
        running::{Running, has_ledger},
        signals::Signals,
    },
    output::{Output, say},
};

pub(crate) async fn run(args: DemoArgs, global: &Global, out: Output) -> Result<(), Failure> {
    let started = Instant::now();
    let mut signals = Signals::listen()?;
    let source = TicketSource::open(args.tasks.as_deref(), args.seed, args.count)?;
    let (folder, _temporary) = data_dir(args.data_dir.as_ref())?;
    let flags = flags(Some(&folder), Some(args.listen), Some(args.engine));
    let mut config = config::load(args.sources, flags)?.config;
    if config.telemetry.log == Config::default().telemetry.log {
        // Life events would tear the bars; what fails is still said.
        "error".clone_into(&mut config.telemetry.log);
    }
    only_who_sorts(&mut config.agents, args.agents)?;
    logging::start(&config.telemetry, out)?;
    let home = model::home_of(&config)?;
    if config.inference.engine == Engine::Ort {
        tokio::select! {
            fetched = model::fetch(home.clone(), Item::ALL.to_vec(), out) => { fetched?; }
            _ = signals.first() => return Err(Failure::failed("stopped while fetching; what is complete stays")),
        }
    }
    if has_ledger(&folder) {
        out.note(&format!(
            "the ledger in {} is taken up again",
            folder.display()
        ));
    }
    let running = Running::open(&config, home).await?;
    let address = running.address.to_string();
    out.note(&format!(
        "{} tickets for {} agents; the node listens on {address}",
        source.tickets.len(),
        config
            .agents
            .values()
            .map(|kind| u64::from(kind.count))
            .sum::<u64>(),
    ));
    // The log of a demo is silent on warnings.
    for warning in exposures(&config) {
        out.note(&warning);
    }
    if args.reviewer == ReviewerChoice::Person {
        out.note(&format!(
            "you review: `colony approve list --address {address}`, then `colony approve accept ID [--label LABEL]`"
        ));
    }
    let options = DriveOptions {
        reviewer: args.reviewer,
        window: args.window,
    };
    let work = async {
        let node = Node::at(&address, global.timeout)?;
        let streamed = driver::drive(&node, &source, options, &mut signals, out).await?;
        let figures = sum_up(&node, &source, &streamed, &config, args.window, started).await?;
        Ok((streamed.end, figures))
    };
    let result = work.await;
    let mut hurry = signals;
    tokio::select! {
        _ = running.stop() => {}
        _ = hurry.first() => say("left at once"),
    }
    let (end, figures) = result?;
    if end != End::Interrupted {
        let said = serde_json::to_value(&figures).unwrap_or_else(|_| json!({}));
        out.result(&said, || report::describe(&figures))?;
        out.note(&report::in_words(&figures.learning));
    }
    verdict(end, &figures, args.data_dir.is_some(), out)
}

/// The folder of the ledger; a temporary one goes away with the second value.
fn data_dir(named: Option<&PathBuf>) -> Result<(PathBuf, Option<TempDir>), Failure> {
    let failed =
        |what: &str, error: std::io::Error| Failure::failed(format!("cannot make {what}: {error}"));
    match named {
        Some(folder) => {
            private_folder(folder).map_err(|error| failed(&folder.display().to_string(), error))?;
            Ok((folder.clone(), None))
        }
        None => {
            let temporary = tempfile::Builder::new()
                .prefix("colony-demo-")
                .tempdir()
                .map_err(|error| failed("a temporary folder", error))?;
            Ok((temporary.path().to_owned(), Some(temporary)))
        }
    }
}

/// Leaves the type that sorts tickets, with so many agents: others would get none.
fn only_who_sorts(types: &mut BTreeMap<String, AgentType>, agents: u32) -> Result<(), Failure> {
    types.retain(|name, _| name == AGENT_TYPE);
    match types.get_mut(AGENT_TYPE) {
        Some(_) if agents == 0 => Err(Failure::usage("--agents 0: somebody has to do it")),
        Some(declared) => {
            declared.count = agents;
            Ok(())
        }
        None => Err(Failure::usage(format!(
            "the configuration declares no agent type {AGENT_TYPE:?}, which is handed the tickets"
        ))),
    }
}

async fn sum_up(
    node: &Node,
    source: &TicketSource,
    streamed: &Streamed,
    config: &Config,
    window: usize,
    started: Instant,
) -> Result<Figures, Failure> {
    let status = status::ask(node).await?;
    let (agents, _) = agents::list(node, String::new(), 0).await?;
    let models = node.models().list(node.ask(ListModelsRequest {})).await;
    let models = node.open(models)?.models;
    Ok(report::figures(&Evidence {
        source,
        outcomes: &streamed.outcomes,
        agents: &agents,
        models: &models,
        status: &status,
        engine: config.inference.engine.as_str(),
        ended_in_this_life: streamed.ended_now,
        window,
        stream: streamed.stream,
        wall_s: started.elapsed().as_secs_f64(),
        peak_rss_bytes: crate::bench::peak_rss_bytes(),
    }))
}

fn verdict(end: End, figures: &Figures, kept: bool, out: Output) -> Result<(), Failure> {
    let again = if kept {
        "run it again with the same --data-dir to go on"
    } else {
        "with --data-dir a stopped demo can go on"
    };
    match end {
        End::Interrupted => Err(Failure::failed("stopped before the end").with_hint(again)),
        // Nobody was to review them.
        End::Waiting(waiting) => {
            out.note(&format!("{waiting} tickets wait for a human; {again}"));
            Ok(())
        }
        End::Complete if !figures.conserved => Err(Failure::failed(
            "the ledger does not account for every task: please report this",
        )),
        End::Complete if !figures.all_ended => Err(Failure::failed("not every ticket has ended")),
        End::Complete => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(count: u32) -> AgentType {
        AgentType {
            count,
            ..AgentType::default()
        }
    }

    #[test]
    fn all_agents_are_of_the_type_that_sorts() {
        let mut types = BTreeMap::from([
            ("echo".to_owned(), kind(10)),
            ("triage".to_owned(), kind(100)),
        ]);
        assert!(only_who_sorts(&mut types, 0).is_err());
        only_who_sorts(&mut types, 1_000).expect("it is declared");
        let counts: Vec<(&str, u32)> = types.iter().map(|(n, t)| (n.as_str(), t.count)).collect();
        assert_eq!(counts, [("triage", 1_000)]);
        types.clear();
        assert!(only_who_sorts(&mut types, 1).is_err());
    }
}
