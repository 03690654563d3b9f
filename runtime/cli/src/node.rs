//! `colony node`: a node of one's own process, from start to drain.
//!
//! ```text
//!   configuration ─► running::open (book, models, rooms, door) ─► ready line ─► SIGTERM or Ctrl-C ─► drain
//! ```
//! Nothing is fetched here: a node that lacks a model says which file is missing and how to get it.

pub(crate) mod running;
pub(crate) mod signals;
mod spans;

use std::path::Path;

use colony_node::config::Config;
use serde_json::json;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use self::{running::Running, signals::Signals};
use crate::{
    args::{EngineChoice, NodeArgs},
    config,
    errors::Failure,
    model,
    output::Output,
};

pub(crate) async fn run(args: NodeArgs, out: Output) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let NodeArgs {
        sources,
        data_dir,
        listen,
        engine,
    } = args;
    let config = config::load(sources, flags(data_dir.as_deref(), listen, engine))?.config;
    log(&config.telemetry.log, out, std::io::stderr)?;
    let home = model::home_of(&config)?;
    let running = Running::open(&config, home).await?;
    let ready = json!({
        "event": "ready",
        "node": config.node.id,
        "address": running.address.to_string(),
        "data_dir": config.node.data_dir,
        "agents": config.agents.values().map(|kind| u64::from(kind.count)).sum::<u64>(),
        "engine": config.inference.engine.as_str(),
    });
    if out.is_json() {
        out.result(&ready, String::new)?;
    } else {
        out.note(&describe(&config, &running));
    }
    signals.first().await;
    out.note("draining; once more to leave at once");
    let drained = tokio::select! {
        drained = running.stop() => drained,
        () = signals.first() => return Err(Failure::failed("left at once; the next start takes up what was in hand")),
    };
    let said = json!({ "event": "stopped", "drained": drained });
    if out.is_json() {
        out.result(&said, String::new)?;
    } else if drained {
        out.note("stopped; everything is written down");
    } else {
        out.note("stopped; the next start takes up what was still in hand");
    }
    Ok(())
}

/// The flags of a command as settings, weaker than `--set`.
pub(crate) fn flags(
    data_dir: Option<&Path>,
    listen: Option<String>,
    engine: Option<EngineChoice>,
) -> Vec<(String, String)> {
    let mut flags = Vec::new();
    let mut set = |key: &str, value: String| flags.push((key.to_owned(), value));
    if let Some(folder) = data_dir {
        // Quoted, so that a folder called `7` stays text.
        set(
            "node.data_dir",
            serde_json::Value::from(folder.to_string_lossy()).to_string(),
        );
    }
    if let Some(address) = listen {
        set("node.listen", serde_json::Value::from(address).to_string());
    }
    if let Some(engine) = engine {
        let name = match engine {
            EngineChoice::Ort => "ort",
            EngineChoice::Echo => "echo",
        };
        set("inference.engine", name.to_owned());
    }
    flags
}

/// Log lines to stderr, as `telemetry.log` asks for.
pub(crate) fn log<W>(directives: &str, out: Output, writer: W) -> Result<(), Failure>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| Failure::usage(format!("telemetry.log: {directives:?}: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    let set = if out.is_json() {
        lines.json().try_init()
    } else {
        lines.try_init()
    };
    set.map_err(|error| Failure::failed(format!("cannot log: {error}")))
}

fn describe(config: &Config, running: &Running) -> String {
    let agents: Vec<String> = config
        .agents
        .iter()
        .map(|(name, kind)| format!("{} {name}", kind.count))
        .collect();
    format!(
        "ready: {} listens on {}, data in {}, engine {}, agents: {}",
        config.node.id,
        running.address,
        config.node.data_dir.display(),
        config.inference.engine.as_str(),
        agents.join(", ")
    )
}
