//! The `colony` command: reads its arguments and hands each command to the module of its name.
//!
//! | command | module |
//! | --- | --- |
//! | `submit`, `task`, `agent`, `approve`, `field`, `status`, `model list`, `model test` | [`client`] |
//! | `node` | [`node`] |
//! | `demo` | [`demo`] |
//! | `model pull`, `model info`, `model import` | [`model`] |
//! | `config` | [`config`] |
//! | `bench` | [`mod@bench`] |

mod args;
mod bench;
mod client;
mod config;
mod demo;
mod errors;
mod model;
mod node;
mod output;
mod sim;
mod stats;

use std::{io, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};

use crate::{
    args::{Cli, Command, Global, ModelCommand, Shell},
    client::Node,
    errors::Failure,
    output::{Format, Notes, Output},
};

/// Agents allocate and free small things on every core all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let format = if global.json {
        Format::Json
    } else {
        Format::Human
    };
    let notes = if global.quiet {
        Notes::Hidden
    } else {
        Notes::Shown
    };
    let out = Output::new(format, notes);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            out.failure(&Failure::failed(format!(
                "cannot start the async runtime: {error}"
            )));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(command, &global, out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                out.failure(&failure);
            }
            failure.exit_code()
        }
    }
}

async fn dispatch(command: Command, global: &Global, out: Output) -> Result<(), Failure> {
    let node = || Node::connect(&global.address, global.timeout);
    match command {
        Command::Submit(args) => client::submit::run(node(), args, out).await,
        Command::Task(command) => client::tasks::run(&node().await?, command, out).await,
        Command::Agent(command) => client::agents::run(&node().await?, command, out).await,
        Command::Approve(command) => client::approve::run(&node().await?, command, out).await,
        Command::Field(command) => client::field::run(&node().await?, command, out).await,
        Command::Status => client::status::run(&node().await?, out).await,
        Command::Model(ModelCommand::List) => client::models::list(&node().await?, out).await,
        Command::Model(ModelCommand::Test { name, text }) => {
            client::models::test(&node().await?, name, text, out).await
        }
        Command::Model(ModelCommand::Pull { names, dry_run }) => {
            model::pull_named(names, dry_run, out).await
        }
        Command::Model(ModelCommand::Info { name }) => model::info(name, out).await,
        Command::Model(ModelCommand::Import { file, name, force }) => {
            model::import_file(file, name, force, out).await
        }
        Command::Node(args) => node::run(args, out).await,
        Command::Demo(args) => demo::run(*args, global, out).await,
        Command::Config(command) => config::run(command, out),
        Command::Completions { shell } => completions(shell, out),
        Command::Sim(command) => sim::command(command, out).await,
        Command::Bench(args) => bench::run(args, out).await,
    }
}

fn completions(shell: Shell, out: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    clap_complete::generate(
        shell,
        &mut command,
        "colony",
        &mut script as &mut dyn io::Write,
    );
    out.text(&String::from_utf8_lossy(&script))
}
