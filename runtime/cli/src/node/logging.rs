//! Log lines: which of them, in what form, and where to.

use std::io::{self, IsTerminal as _};

use colony_node::config::{LogFormat, Telemetry};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    errors::Failure,
    output::{Output, wants_colour},
};

/// Where log lines go. One that cannot be written, for a full disk or a reader who left, is lost: the node goes on.
struct Lossy;

impl io::Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging to stderr what `telemetry` asks for; with `--quiet` errors only.
pub(crate) fn start(telemetry: &Telemetry, out: Output) -> Result<(), Failure> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives(&telemetry.log, out)))
        .with_ansi(wants_colour(io::stderr().is_terminal()))
        .with_writer(|| Lossy);
    let set = match telemetry.log_format {
        LogFormat::Json => lines.json().try_init(),
        LogFormat::Text => lines.try_init(),
    };
    set.map_err(|error| Failure::failed(format!("cannot log: {error}")))
}

fn directives(wanted: &str, out: Output) -> &str {
    match wanted.trim() {
        "off" => "off",
        _ if out.is_talkative() => wanted,
        _ => "error",
    }
}

/// What is wrong with `directives`, if anything.
pub(crate) fn problem(directives: &str) -> Option<String> {
    let parts = directives.split(',').map(str::trim);
    // A misspelt level would be taken for the name of a module that never says anything.
    let mut words = parts.filter(|part| !part.is_empty() && !part.contains(['=', '[']));
    if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Some(format!(
            "{word:?} is no level; write error, warn, info, debug, trace or off, or TARGET=LEVEL"
        ));
    }
    let refused = EnvFilter::try_new(directives).err()?;
    Some(format!("{directives:?}: {refused}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, Notes};

    #[test]
    fn a_quiet_node_logs_errors_only() {
        let out = |notes| Output::new(Format::Human, notes);
        for wanted in ["info", "debug,colony_node=trace", "off"] {
            assert_eq!(directives(wanted, out(Notes::Shown)), wanted);
        }
        assert_eq!(directives("info", out(Notes::Hidden)), "error");
        assert_eq!(directives("off", out(Notes::Hidden)), "off");
    }

    #[test]
    fn levels_and_directives_are_told_from_misspelt_ones() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,colony_node=debug",
            "colony[step]=trace",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        for bad in [
            "inof",
            "info,colony_node",
            "colony_node=louder",
            "info,a=b=c",
        ] {
            assert!(problem(bad).is_some(), "{bad}");
        }
    }
}
