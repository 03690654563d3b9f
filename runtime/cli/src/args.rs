//! The arguments: what can be typed, and nothing of what it does.

mod approve;
mod outbox;
mod values;

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use colony_core::task::State;
use colony_inference::Item;

pub(crate) use self::approve::{
    AcceptArgs, ApprovalFilterArgs, ApproveCommand, DecideArgs, EscalationReasonChoice, RejectArgs,
};
pub(crate) use self::outbox::OutboxCommand;
use self::values::{address, agents, at_least_one, pair, span, tenant, window};
use crate::{
    complete,
    explain::{self, Page},
};

/// Runs a thousand agents as one swarm.
#[derive(Debug, Parser)]
#[command(
    name = "colony",
    version,
    about,
    long_about = None,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong arguments or input, 3 no node answers in time, 4 refused, 5 not found.\n\
                  Results go to stdout, everything else to stderr; --json prints one object a line."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where a node listens unless it is told otherwise.
pub(crate) const ADDRESS: &str = "127.0.0.1:7400";

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Address of the node [env: COLONY_ADDRESS] [default: 127.0.0.1:7400]
    // As a default and not by clap's `env`, which would show it among what is required.
    #[arg(
        long,
        global = true,
        default_value_t = address(),
        hide_default_value = true,
        value_name = "HOST:PORT"
    )]
    pub(crate) address: String,
    /// Longest wait for one answer of the node
    #[arg(long, global = true, default_value = "30s", value_parser = span, value_name = "TIME")]
    pub(crate) timeout: Duration,
    /// Print results as JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No notes and no progress on stderr, errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node until SIGTERM or Ctrl-C
    Node(NodeArgs),
    /// Watch a thousand agents sort help-desk tickets on this machine
    Demo(Box<DemoArgs>),
    /// Hand in a task, or a file of tasks; prints one id a line
    Submit(SubmitArgs),
    /// List, follow, cancel, revive and correct tasks
    #[command(subcommand)]
    Task(TaskCommand),
    /// See who is at work
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Decide what agents ask of humans
    #[command(subcommand)]
    Approve(ApproveCommand),
    /// What agents want done in the world outside, such as filed tickets
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// Sense the pheromones that agents leave for each other
    #[command(subcommand)]
    Field(FieldCommand),
    /// Fetch, import and try models
    #[command(subcommand)]
    Model(ModelCommand),
    /// How the node is
    Status,
    /// See whether what was written down is whole
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Begin, show, check and explain the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Try out what counts as risky
    #[command(subcommand)]
    Risk(RiskCommand),
    /// Say what an error code means and what to do about it
    Explain {
        /// Such as CLY0003
        #[arg(value_name = "CODE", value_parser = pages(), ignore_case = true, hide_possible_values = true)]
        page: Page,
    },
    /// Replay workloads in a simulated colony
    #[command(subcommand)]
    Sim(SimCommand),
    /// Measure this machine
    Bench(BenchArgs),
    /// Print the completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct ConfigSources {
    /// Configuration file; without it ./colony.toml, if there is one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key, stronger than file and environment; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

/// What runs the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// ONNX Runtime and real models
    Ort,
    /// A deterministic stand-in that needs no model
    Echo,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) sources: ConfigSources,
    /// Folder of the node's ledger; created when missing
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Address for health and metrics over HTTP; without: none
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http_listen: Option<String>,
    /// What runs the models
    #[arg(long)]
    pub(crate) engine: Option<EngineChoice>,
    /// The form of a log line
    #[arg(long)]
    pub(crate) log_format: Option<LogFormatChoice>,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormatChoice {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["text", "file"]))]
pub(crate) struct SubmitArgs {
    /// The text of the task; `-` reads standard input to its end
    pub(crate) text: Option<String>,
    /// JSON lines {"text", "type"?, "priority"?, "key"?, "expected"?, "attributes"?}; `-` is standard input
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) file: Option<PathBuf>,
    /// Agent type that shall do it
    #[arg(long = "type", default_value = "triage", value_name = "TYPE", add = complete::agent_types())]
    pub(crate) agent_type: String,
    /// Tenant it belongs to
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    pub(crate) tenant: Option<String>,
    /// 1 (background) to 10 (critical)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) priority: Option<u32>,
    /// Expire it unless it has ended after this time
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) deadline: Option<Duration>,
    /// Deduplication key; with --file the beginning of each line's key, which makes a second run safe
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// The right answer, where it is known; another one goes to a human
    #[arg(long, value_name = "LABEL")]
    pub(crate) expected: Option<String>,
    /// Goes along with the task; may be repeated
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) attributes: Vec<(String, String)>,
    /// Keep trying this long while the node is away or full; the first attempt gets at least 3s
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = span)]
    pub(crate) retry_for: Duration,
    /// Wait until all have ended and print them instead of their ids
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait at most this long; the tasks go on
    #[arg(long, requires = "wait", value_name = "TIME", value_parser = span)]
    pub(crate) wait_for: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// List tasks, newest first
    List {
        /// Only these states; may be repeated
        #[arg(long = "state", value_name = "STATE", value_parser = states())]
        states: Vec<State>,
        /// Only this agent type
        #[arg(long = "type", value_name = "TYPE", add = complete::agent_types())]
        agent_type: Option<String>,
        /// Only this tenant
        #[arg(long, value_name = "NAME", value_parser = tenant)]
        tenant: Option<String>,
        /// Most tasks; 0 lists all
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Show a task, and what it asks if it waits for a human
    Get {
        /// Its id, or the beginning of it
        #[arg(add = complete::tasks())]
        id: String,
        /// With its journal
        #[arg(long)]
        journal: bool,
    },
    /// Follow changes as they become durable
    Watch {
        /// Only these tasks, by their ids or the beginnings of them; without: all
        #[arg(add = complete::tasks())]
        ids: Vec<String>,
        /// Stop when all of them have ended
        #[arg(long, requires = "ids")]
        until_ended: bool,
        /// Begin after this cursor, one that an earlier watch printed
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
    /// End live tasks
    Cancel {
        /// Their ids, or the beginnings of them
        #[arg(required = true, add = complete::tasks())]
        ids: Vec<String>,
        #[command(flatten)]
        retry: RetryArgs,
    },
    /// Make dead, cancelled or expired tasks ready again
    Revive(ReviveArgs),
    /// Say what the right answer of an ended task is; its agent type learns it
    Feedback {
        /// Its id, or the beginning of it
        #[arg(add = complete::tasks())]
        id: String,
        /// The right answer
        label: String,
        /// The label is meant though memory does not know it
        #[arg(long)]
        new_label: bool,
    },
}

/// How long a request that changes something is repeated. It is safe: each carries an id by which the node knows
/// its repeats.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct RetryArgs {
    /// Keep trying this long while the node is away or full; the first attempt gets at least 3s
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = span)]
    pub(crate) retry_for: Duration,
}

/// Which tasks to revive: some by their ids, or those that options find.
#[derive(Debug, Args)]
pub(crate) struct ReviveArgs {
    /// Their ids, or the beginnings of them
    #[arg(required_unless_present_any = ["states", "agent_type", "tenant", "reason"],
          conflicts_with_all = ["states", "agent_type", "tenant", "reason"], add = complete::tasks())]
    pub(crate) ids: Vec<String>,
    /// All in these states, of dead, cancelled and expired; may be repeated. Without: dead
    #[arg(long = "state", value_name = "STATE", value_parser = states())]
    pub(crate) states: Vec<State>,
    /// All of this agent type
    #[arg(long = "type", value_name = "TYPE", add = complete::agent_types())]
    pub(crate) agent_type: Option<String>,
    /// All of this tenant
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    pub(crate) tenant: Option<String>,
    /// All that ended for a reason that holds this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Most tasks; 0 revives all that are found
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
    /// Say what would be revived, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Keep trying this long while the node is away or full; only with ids
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = span,
          conflicts_with_all = ["states", "agent_type", "tenant", "reason"])]
    pub(crate) retry_for: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Read the whole ledger, compare it with its checksums and counters, and set aside what cannot be read
    Verify {
        /// Of a stopped node: the folder that holds its ledger
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List agents by type and number
    List {
        /// Only this type
        #[arg(long = "type", value_name = "TYPE", add = complete::agent_types())]
        agent_type: Option<String>,
        /// Most agents; 0 lists all
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Show an agent
    Get {
        /// Its id, such as triage/17
        #[arg(add = complete::agents())]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FieldCommand {
    /// Trails at and below a location, strongest first
    Sense {
        /// The location, such as triage.billing; without: everywhere
        location: Option<String>,
        /// Only this meaning
        #[arg(long)]
        signal: Option<Signal>,
        /// Whose field
        #[arg(long, value_name = "NAME", value_parser = tenant)]
        tenant: Option<String>,
        /// Most pheromones, 1,000 at most
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
}

/// What a pheromone means.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Signal {
    Task,
    Resource,
    Danger,
    Success,
    Capability,
    LoadBalancing,
    Coordination,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// The models of a running node with their workers' figures
    List,
    /// Fetch the ONNX Runtime library and the models (221 MB), checked by SHA-256
    Pull {
        /// Which; without: all
        #[arg(value_parser = items())]
        items: Vec<Item>,
        /// Show what would be fetched, and fetch nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Ask a model of a running node once
    Test {
        /// Its name in `[models]`
        #[arg(add = complete::models())]
        name: String,
        /// What to embed or to answer
        #[arg(default_value = "My laptop does not start any more.")]
        text: String,
    },
    /// What is known of a model on this machine
    Info {
        /// Its name, or its folder; without: all in $COLONY_HOME
        name: Option<String>,
    },
    /// Make an ONNX decoder with KV cache from a GGUF file
    Import {
        /// The GGUF file
        file: PathBuf,
        /// The model's name; without: the file's
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Replace a model of that name
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every key with its value and where it comes from
    Show {
        #[command(flatten)]
        sources: ConfigSources,
        /// Only keys that begin with this
        prefix: Option<String>,
    },
    /// Say everything that is wrong with the configuration
    Check {
        #[command(flatten)]
        sources: ConfigSources,
    },
    /// Say what a setting means: unit, range, effect
    Explain {
        /// Such as market.sample; or a section, such as market
        key: String,
    },
    /// Write a colony.toml with every setting, its default and its meaning
    Init {
        /// Where to; a file that is there stays as it is
        #[arg(default_value = "colony.toml")]
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RiskCommand {
    /// Measure what counts as risky on texts of which it is known whether they are
    Eval(RiskEvalArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RiskEvalArgs {
    /// JSON lines {"text", "risky": true or false}
    pub(crate) file: PathBuf,
    /// The agent type whose embedding model compares them
    #[arg(long = "type", default_value = "triage", value_name = "NAME", add = complete::agent_types())]
    pub(crate) agent_type: String,
    /// List what was missed and what was a false alarm
    #[arg(long)]
    pub(crate) list: bool,
    #[command(flatten)]
    pub(crate) sources: ConfigSources,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// Run a workload in virtual time; one seed gives one history
    Run {
        /// The workload, such as sim/workloads/quickstart.toml
        workload: PathBuf,
        /// Makes everything: arrivals, faults, chance
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Write the history here, one line an event, for comparing two runs
        #[arg(long, value_name = "FILE")]
        history: Option<PathBuf>,
    },
    /// Run random worlds until one fails, and keep the simplest workload that fails in the same way
    Fuzz {
        /// How many worlds, one seed each
        #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 1, value_name = "SEED")]
        from: u64,
        /// Where a failing workload is kept
        #[arg(long, default_value = "sim/regressions", value_name = "DIR")]
        keep: PathBuf,
        /// Worlds at a time; 0: as many as there are processors
        #[arg(long, default_value_t = 0, value_name = "N")]
        threads: usize,
        /// Run all worlds, and keep the first that fails of each property
        #[arg(long)]
        keep_going: bool,
    },
}

/// Who answers the agents' questions in the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReviewerChoice {
    /// A script: the true label for training tickets, the proposal for all others
    Auto,
    /// A person with `colony approve`
    Person,
    /// Nobody; what waits for a human is left waiting
    None,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Your own tickets: JSON lines {"text", "label"?, "split"?: "train" or "test"}
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) tasks: Option<PathBuf>,
    /// Number of tickets; with --tasks the first N of the file
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) count: Option<usize>,
    /// Number of agents that sort, 100,000 at most
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = agents)]
    pub(crate) agents: u32,
    /// Seed of the ready-made tickets
    #[arg(long, default_value_t = 7)]
    pub(crate) seed: u64,
    /// Who answers the agents' questions
    #[arg(long, default_value = "auto")]
    pub(crate) reviewer: ReviewerChoice,
    /// What runs the models
    #[arg(long, default_value = "ort")]
    pub(crate) engine: EngineChoice,
    /// Keep the ledger here; a demo that was killed goes on from it. Without: a temporary folder
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address to listen on while it runs; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// Most tickets under way at once; fewer learn more from each other
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = window)]
    pub(crate) window: usize,
    #[command(flatten)]
    pub(crate) sources: ConfigSources,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Bare ractor messages and spawns
    Actors,
    /// Six-step no-op tasks through market and 1,000 agents, ledger in memory
    Market,
    /// Durable submit, claim and complete on SQLite
    Ledger,
    /// Embeddings, alone and batched by 16
    Embed,
    /// Generation, alone and batched by 16
    Generate,
    /// All of them
    All,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    pub(crate) subject: Subject,
    /// Runs of each; the median is reported
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
}

/// Listed in the help and by completions.
fn states() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::as_str)).try_map(|name| name.parse::<State>())
}

fn pages() -> impl TypedValueParser<Value = Page> {
    PossibleValuesParser::new(explain::codes())
        .try_map(|code| explain::page(&code).ok_or("no error has this code"))
}

fn items() -> impl TypedValueParser<Value = Item> {
    PossibleValuesParser::new(Item::ALL.map(Item::name))
        .try_map(|name| Item::from_name(&name).ok_or("not in the catalog"))
}

#[cfg(test)]
mod documents;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }
}
