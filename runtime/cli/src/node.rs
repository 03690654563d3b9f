//! `colony node`: a node of one's own process, from start to drain.
//!
//! ```text
//!   configuration ─► Running::open (ledger, models, node, API) ─► "node ready" ─► SIGTERM or Ctrl-C ─► drain
//! ```
//! Nothing is fetched here: a node that lacks a model says which file is missing and how to get it.

mod descriptors;
pub(crate) mod logging;
pub(crate) mod privacy;
pub(crate) mod running;
pub(crate) mod signals;
mod spans;

use std::path::Path;

use serde_json::json;

use self::{
    running::Running,
    signals::{Hangup, Signals},
};
use crate::{
    args::{EngineChoice, LogFormatChoice, NodeArgs},
    config,
    errors::Failure,
    model,
    output::Output,
};

pub(crate) async fn run(args: NodeArgs, out: Output) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let mut hangup = Hangup::listen()?;
    let NodeArgs {
        sources,
        data_dir,
        listen,
        http_listen,
        engine,
        log_format,
    } = args;
    let mut flags = flags(data_dir.as_deref(), listen, engine);
    flags.extend(http_listen.map(|address| {
        let address = serde_json::Value::from(address).to_string();
        ("http.listen".to_owned(), address)
    }));
    flags.extend(log_format.map(|format| ("telemetry.log_format".to_owned(), log_name(format))));
    let loaded = config::load(sources, flags)?;
    let config = loaded.config;
    logging::start(&config.telemetry, out)?;
    for warning in loaded.warnings {
        tracing::warn!(key = warning.key, origin = %warning.origin, "{}", warning.what);
    }
    descriptors::raise(config.gateway.connections_max);
    for warning in privacy::exposures(&config) {
        tracing::warn!("{warning}");
    }
    let home = model::home_of(&config)?;
    let running = Running::open(&config, home).await?;
    let agents: u64 = config
        .agents
        .values()
        .map(|kind| u64::from(kind.count))
        .sum();
    tracing::info!(
        node = %config.node.id,
        address = %running.address,
        data_dir = %config.node.data_dir.display(),
        agents,
        engine = config.inference.engine.as_str(),
        "node ready"
    );
    if let Some(address) = running.http {
        tracing::info!(%address, "health and metrics over HTTP");
    }
    if out.is_json() {
        let ready = json!({
            "event": "ready",
            "node": config.node.id,
            "address": running.address.to_string(),
            "http_address": running.http.map(|address| address.to_string()),
            "data_dir": config.node.data_dir,
            "agents": agents,
            "engine": config.inference.engine.as_str(),
        });
        out.result(&ready, String::new)?;
    }
    let mut failed = None;
    let signal = loop {
        tokio::select! {
            signal = signals.first() => break signal,
            () = hangup.next() => tracing::warn!(
                "SIGHUP is ignored: a node does not read its configuration again yet; restart it to change that"
            ),
            reason = running.failed() => {
                failed = Some(reason);
                break "none";
            }
        }
    };
    tracing::info!(
        signal,
        "node stopping: its agents give back their tasks; a second signal leaves at once"
    );
    let drained = tokio::select! {
        drained = running.stop() => drained,
        _ = signals.first() => return Err(Failure::failed("left at once; the next start takes up what was in hand")),
    };
    if let Some(reason) = failed {
        return Err(Failure::failed(reason)
            .with_hint("nothing acknowledged is lost; the next start takes up what was in hand"));
    }
    tracing::info!(drained, "node stopped");
    if out.is_json() {
        let stopped = json!({ "event": "stopped", "drained": drained });
        out.result(&stopped, String::new)?;
    }
    if !drained {
        let what = "the node stopped before everything in hand was given back; the log says why";
        return Err(Failure::failed(what)
            .with_hint("nothing acknowledged is lost; the next start takes up what was in hand"));
    }
    Ok(())
}

fn log_name(format: LogFormatChoice) -> String {
    match format {
        LogFormatChoice::Text => "text",
        LogFormatChoice::Json => "json",
    }
    .to_owned()
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
