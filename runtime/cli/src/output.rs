//! The one place that writes to stdout.
//!
//! Results go to stdout: tables for people, or with `--json` one JSON object a line. Progress, notes and
//! errors go to stderr, so that a pipe sees results only. A reader that closed the pipe ends the command
//! quietly.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

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
            Format::Json => write_line(&json.to_string()),
            Format::Human => write_line(&human()),
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
                    write_line(&json.to_string())?;
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

    /// Text as it is: completions and the like.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        write_line(text.trim_end_matches('\n'))
    }

    /// Something a person may want to know; not a result.
    pub(crate) fn note(self, text: &str) {
        if self.is_talkative() {
            say(text);
        }
    }

    /// Why the command failed: always said, on stderr.
    pub(crate) fn failure(self, failure: &Failure) {
        match self.format {
            Format::Json => say(&failure.to_json().to_string()),
            Format::Human => say(&failure.to_string()),
        }
    }
}

/// A line on stderr. A closed stderr is nobody's loss.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn write_line(text: &str) -> Result<(), Failure> {
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

/// A table without frames: one row a line, so that `grep` and `awk` work on it too.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header.iter().map(|name| name.to_uppercase()));
    }
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// Names and values below each other.
pub(crate) fn sheet<N: Into<String>>(facts: impl IntoIterator<Item = (N, String)>) -> String {
    let rows = facts
        .into_iter()
        .map(|(name, value)| vec![name.into(), value]);
    table(&[], rows.collect())
}

/// Foreign text made fit for a terminal: control characters and those that turn the direction of
/// writing are shown as escapes, so that a task's text cannot move the cursor or forge a line.
pub(crate) fn clean(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\n' => safe.push('⏎'),
            '\t' => safe.push(' '),
            _ if c.is_control() || turns => {
                // Writing to a String cannot fail.
                let _ = write!(safe, "{}", c.escape_unicode());
            }
            _ => safe.push(c),
        }
    }
    safe
}

/// [`clean`] text, cut to the width of a table cell.
pub(crate) fn cell(text: &str) -> String {
    cell_within(CELL_CHARS_MAX, text)
}

/// [`clean`] text, cut to at most `chars_max` characters.
pub(crate) fn cell_within(chars_max: usize, text: &str) -> String {
    let safe = clean(text);
    if safe.chars().count() <= chars_max {
        return safe;
    }
    let mut cut: String = safe.chars().take(chars_max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(clean("one\ntwo"), "one⏎two");
        assert_eq!(clean("\u{202e}txt"), "\\u{202e}txt");
        assert_eq!(clean("Grüße 🐜"), "Grüße 🐜");
    }

    #[test]
    fn long_cells_are_cut_between_characters() {
        let cut = cell(&"ü".repeat(200));
        assert_eq!(cut.chars().count(), CELL_CHARS_MAX);
        assert!(cut.ends_with('…'));
    }
}
