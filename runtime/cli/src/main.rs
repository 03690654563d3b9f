//! The `colony` command: reads its arguments and hands each command to the module of its name.
//!
//! | command | module |
//! | --- | --- |
//! | `submit`, `task`, `agent`, `approve`, `field`, `status`, `ledger`, `model list`, `model test` | [`client`] |
//! | `node` | [`node`] |
//! | `demo` | [`demo`] |
//! | `model pull`, `model info`, `model import` | [`model`] |
//! | `config` | [`config`] |
//! | `risk` | [`risk`] |
//! | `explain` | [`explain`] |
//! | `bench` | [`mod@bench`] |

mod args;
mod bench;
mod client;
mod complete;
mod config;
mod demo;
mod errors;
mod explain;
mod lines;
mod model;
mod node;
mod output;
mod risk;
mod sim;
mod stats;

use std::{io, process::ExitCode};

use clap::Parser as _;

use crate::{
    args::{Cli, Command, Global, LedgerCommand, ModelCommand, RiskCommand},
    client::Node,
    errors::Failure,
    output::{Format, Notes, Output, say},
};

/// Agents allocate and free small things on every core all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Most characters of a line that quotes an argument, from its beginning and from its end.
const QUOTED_CHARS_MAX: usize = 250;

fn main() -> ExitCode {
    silence_onnx_runtime();
    complete::answer();
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
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

/// Help, or what is wrong with the arguments. It quotes these, so it is cleaned; help has nothing to clean and keeps
/// its colours.
fn refused(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        // What it quotes may be a file that a shell put there.
        let text = error.render().to_string();
        let lines = text.trim_end().lines();
        let lines: Vec<String> = lines.map(short).collect();
        say(&lines.join("\n"));
    } else {
        // A reader that has gone is nobody's loss.
        let printed = error.print();
        if let Err(error) = printed
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            say(&format!("error: cannot write to standard output: {error}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// A line without the middle of what is too long: at its end stands what is wrong.
fn short(line: &str) -> String {
    let chars: Vec<char> = line.chars().collect();
    if chars.len() <= 2 * QUOTED_CHARS_MAX {
        return line.to_owned();
    }
    let begin: String = chars[..QUOTED_CHARS_MAX].iter().collect();
    let end: String = chars[chars.len() - QUOTED_CHARS_MAX..].iter().collect();
    format!("{begin} … {end}")
}

/// Colony talks to nobody that its configuration does not name, and neither does what it loads.
#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "ONNX Runtime reads nothing but the environment, and as the first call in main no other thread reads it"
)]
fn silence_onnx_runtime() {
    let (variable, off) = colony_inference::TELEMETRY_OFF;
    // SAFETY: this is the only thread.
    unsafe { std::env::set_var(variable, off) };
}

async fn dispatch(command: Command, global: &Global, out: Output) -> Result<(), Failure> {
    let node = || Node::at(&global.address, global.timeout);
    match command {
        Command::Submit(args) => client::submit::run(&node()?, args, out).await,
        Command::Task(command) => client::tasks::run(&node()?, command, out).await,
        Command::Agent(command) => client::agents::run(&node()?, command, out).await,
        Command::Approve(command) => client::approve::run(&node()?, command, out).await,
        Command::Outbox(command) => client::outbox::run(&node()?, command, out).await,
        Command::Field(command) => client::field::run(&node()?, command, out).await,
        Command::Status => client::status::run(&node()?, out).await,
        Command::Ledger(LedgerCommand::Verify { data_dir: None }) => {
            client::ledger::verify(&node()?, out).await
        }
        Command::Ledger(LedgerCommand::Verify {
            data_dir: Some(folder),
        }) => client::ledger::verify_stopped(&folder, out).await,
        Command::Model(ModelCommand::List) => client::models::list(&node()?, out).await,
        Command::Model(ModelCommand::Test { name, text }) => {
            client::models::test(&node()?, name, text, out).await
        }
        Command::Model(ModelCommand::Pull { items, dry_run }) => {
            model::pull_items(items, dry_run, out).await
        }
        Command::Model(ModelCommand::Info { name }) => model::info(name, out).await,
        Command::Model(ModelCommand::Import { file, name, force }) => {
            model::import_file(file, name, force, out).await
        }
        Command::Node(args) => node::run(args, out).await,
        Command::Demo(args) => demo::run(*args, global, out).await,
        Command::Config(command) => config::run(command, out),
        Command::Completions { shell } => complete::script(shell, out),
        Command::Risk(RiskCommand::Eval(args)) => risk::eval(args, out).await,
        Command::Explain { page } => explain::run(page, out),
        Command::Sim(command) => sim::command(command, out).await,
        Command::Bench(args) => bench::run(args, out).await,
    }
}
