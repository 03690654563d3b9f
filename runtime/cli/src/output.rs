//! The one place that writes to stdout.
//!
//! Results go to stdout: tables for people, or with `--json` one JSON object a line. Progress, notes and
//! errors go to stderr, so that a pipe sees results only. A reader that closed the pipe ends the command
//! quietly.

mod closed;
mod escape;
mod table;

use std::io::{self, Write as _};

use serde_json::{Value, json};

use self::escape::clean_json;
pub(crate) use self::{
    escape::{clean, clean_lines, clean_within},
    table::{page, sheet, table},
};
use crate::errors::Failure;

/// Most characters of a text in a table cell; the rest is there with `--json`.
const CELL_CHARS_MAX: usize = 60;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Whether notes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notes {
    /// Yes, to stderr.
    Shown,
    /// No: errors only.
    Hidden,
}

/// Writes results and notes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
    notes: Notes,
}

impl Output {
    pub(crate) const fn new(format: Format, notes: Notes) -> Self {
        Self { format, notes }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Whether notes and progress are wanted on stderr.
    pub(crate) fn is_talkative(self) -> bool {
        self.notes == Notes::Shown
    }

    /// One result: `json` as a line of its own, or what `human` says.
    pub(crate) fn result(
        self,
        json: &Value,
        human: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => write_line(&clean_json(&json.to_string())),
            Format::Human => write_line(&clean_lines(&human())),
        }
    }

    /// Many results: one JSON line each, or one table.
    pub(crate) fn results(
        self,
        header: &[&str],
        rows: impl IntoIterator<Item = (Value, Vec<String>)>,
        nothing: &str,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                for (json, _) in rows {
                    write_line(&clean_json(&json.to_string()))?;
                }
                Ok(())
            }
            Format::Human => {
                let rows: Vec<_> = rows.into_iter().map(|(_, cells)| cells).collect();
                if rows.is_empty() {
                    self.note(nothing);
                    return Ok(());
                }
                write_line(&table(header, rows))
            }
        }
    }

    /// Our own text as it is: completions and the like.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        write_line(text.trim_end_matches('\n'))
    }

    /// Something a person may want to know; not a result.
    pub(crate) fn note(self, text: &str) {
        if !self.is_talkative() {
            return;
        }
        match self.format {
            Format::Json => write_error(&clean_json(&json!({ "note": text }).to_string())),
            Format::Human => say(text),
        }
    }

    /// Why the command failed: always said, on stderr.
    pub(crate) fn failure(self, failure: &Failure) {
        match self.format {
            Format::Json => write_error(&clean_json(&failure.to_json().to_string())),
            Format::Human => say(&failure.to_string()),
        }
    }
}

/// Whether colours are welcome on a stream: on a terminal that has some, unless NO_COLOR is set.
pub(crate) fn wants_colour(is_terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    is_terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// Lines on stderr.
pub(crate) fn say(text: &str) {
    write_error(&clean_lines(text));
}

/// A closed stderr is nobody's loss.
fn write_error(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn write_line(text: &str) -> Result<(), Failure> {
    if closed::is_closed() {
        return Err(Failure::failed(
            "cannot write to standard output: it is closed",
        ));
    }
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    written.map_err(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::pipe_closed()
        } else {
            Failure::failed(format!("cannot write to standard output: {error}"))
        }
    })
}

/// [`clean`] text, cut to the width of a table cell.
pub(crate) fn cell(text: &str) -> String {
    clean_within(CELL_CHARS_MAX, text)
}
