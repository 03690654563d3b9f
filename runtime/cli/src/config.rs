//! `colony config`: which settings hold, where they come from, and what is wrong with them.

use std::path::{Path, PathBuf};

use colony_agents::Kinds;
use colony_node::config::{Config, ConfigError, Loaded, Sources};
use serde_json::json;

use crate::{
    args::{ConfigCommand, ConfigSources},
    errors::{Failure, chain},
    output::{Output, cell},
};

/// Read when no file is named and it is there.
const FILE_DEFAULT: &str = "colony.toml";

pub(crate) fn run(command: ConfigCommand, out: Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show { sources, prefix } => {
            let loaded = load(sources, Vec::new())?;
            let prefix = prefix.unwrap_or_default();
            let rows = loaded
                .show()
                .into_iter()
                .filter(|s| s.key.starts_with(&prefix))
                .map(|setting| {
                    let cells = vec![
                        setting.key.clone(),
                        cell(&setting.value.to_string()),
                        setting.origin.to_string(),
                    ];
                    let json = json!({
                        "key": setting.key,
                        "value": setting.value,
                        "origin": setting.origin.to_string(),
                    });
                    (json, cells)
                });
            out.results(&["key", "value", "origin"], rows, "no such key")
        }
        ConfigCommand::Check { sources } => {
            let file = file_of(&sources);
            let loaded = load(sources, Vec::new())?;
            colony_node::check_agents(&loaded.config, &Kinds::builtin())
                .map_err(|error| Failure::usage(chain(&error)))?;
            let settings = loaded.show().len();
            let name = file.map_or_else(|| "the defaults".to_owned(), |f| f.display().to_string());
            let said = json!({ "ok": true, "file": name, "settings": settings });
            out.result(&said, || {
                format!("{name}: {settings} settings, nothing wrong")
            })
        }
    }
}

/// All layers, checked; `flags` are those of the command, weaker than `--set`.
pub(crate) fn load(
    sources: ConfigSources,
    flags: Vec<(String, String)>,
) -> Result<Loaded, Failure> {
    let file = file_of(&sources);
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let flags = flags.into_iter().chain(sources.set).collect();
    Config::load(&Sources { file, env, flags }).map_err(|error| {
        let failure = Failure::usage(chain(&error));
        match error {
            ConfigError::Problems { .. } => failure
                .with_hint("colony.toml in the repository lists every setting; `colony config show` what holds"),
            ConfigError::Read { .. } | ConfigError::Syntax { .. } => failure,
        }
    })
}

fn file_of(sources: &ConfigSources) -> Option<PathBuf> {
    let default = Path::new(FILE_DEFAULT);
    match &sources.config {
        Some(file) => Some(file.clone()),
        None => default.is_file().then(|| default.to_owned()),
    }
}
