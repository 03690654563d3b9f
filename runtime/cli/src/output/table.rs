//! Tables without frames, as wide as the terminal and no wider.
//!
//! On a terminal a row of a list stays one line: what is too long is cut, but for the first column, which names the
//! thing, and ids are shortened to beginnings that only they have. Facts about one thing are wrapped instead. Where there is no terminal nothing is cut, so that `grep` and
//! `awk` find whole values.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use colony_core::id::IdPrefix;
use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table, presets};

use super::clean;

/// Narrower than this nothing can be arranged; a terminal that says so is not believed.
const WIDTH_MIN: u16 = 40;
/// Characters of a whole id.
const ID_CHARS: usize = 36;
/// Characters that are left of an id at least: those before its first hyphen.
const ID_CHARS_MIN: usize = 8;
/// Between two columns.
const GAP: u16 = 2;

/// What happens to a cell that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TooLong {
    Cut,
    Wrap,
}

/// One row a line below a header.
pub(crate) fn table(header: &[&str], mut rows: Vec<Vec<String>>) -> String {
    let width = width();
    if width.is_some() {
        shorten(&mut rows);
    }
    arranged(header, rows, width, TooLong::Cut)
}

/// Cuts ids to the shortest beginnings by which commands know them among those shown.
fn shorten(rows: &mut [Vec<String>]) {
    let is_id = |text: &str| text.len() == ID_CHARS && IdPrefix::parse(text).is_ok();
    let cells = rows.iter().flatten().filter(|cell| is_id(cell));
    let ids: BTreeSet<String> = cells.cloned().collect();
    let shared = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let ids: Vec<&String> = ids.iter().collect();
    // In order, so that the longest beginning is shared with a neighbour.
    let length = |at: usize| {
        let before = at.checked_sub(1).map(|before| shared(ids[at], ids[before]));
        let after = ids.get(at + 1).map(|after| shared(ids[at], after));
        let shared = before.max(after).unwrap_or_default();
        let length = (shared + 1).max(ID_CHARS_MIN);
        // A hyphen at the end says nothing.
        if ids[at].as_bytes()[length - 1] == b'-' {
            length + 1
        } else {
            length
        }
    };
    let lengths: BTreeMap<String, usize> = (0..ids.len())
        .map(|at| (ids[at].clone(), length(at)))
        .collect();
    for cell in rows.iter_mut().flatten() {
        if let Some(length) = lengths.get(cell) {
            cell.truncate(*length);
        }
    }
}

/// Names and values below each other.
pub(crate) fn sheet<N: Into<String>>(facts: impl IntoIterator<Item = (N, String)>) -> String {
    let rows = facts
        .into_iter()
        .map(|(name, value)| vec![name.into(), value]);
    arranged(&[], rows.collect(), width(), TooLong::Wrap)
}

/// Columns of the terminal: what COLUMNS says, or else the terminal on stdout; none when there is neither.
fn width() -> Option<u16> {
    let told = std::env::var("COLUMNS")
        .ok()
        .and_then(|told| told.parse().ok());
    let measured = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0);
    told.or_else(measured).filter(|width| *width >= WIDTH_MIN)
}

/// A text in Markdown with its long lines broken between words, where there is a terminal. Blocks of code and tables
/// stay as they are.
pub(crate) fn page(text: &str) -> String {
    match width() {
        Some(width) => wrapped(text, usize::from(width)),
        None => text.to_owned(),
    }
}

fn wrapped(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        let bare = line.trim_start();
        if bare.starts_with("```") {
            in_code = !in_code;
        }
        if in_code || bare.starts_with("```") || bare.starts_with('|') {
            lines.push(line.to_owned());
            continue;
        }
        let margin = line.len() - bare.len();
        let hanging = margin + if bare.starts_with("- ") { 2 } else { 0 };
        let mut current = " ".repeat(margin);
        let mut begins = true;
        for word in bare.split_whitespace() {
            let long = current.chars().count() + 1 + word.chars().count() > width;
            if !begins && long {
                lines.push(std::mem::replace(&mut current, " ".repeat(hanging)));
                begins = true;
            }
            if !begins {
                current.push(' ');
            }
            current.push_str(word);
            begins = false;
        }
        lines.push(current.trim_end().to_owned());
    }
    lines.join("\n")
}

fn arranged(
    header: &[&str],
    rows: Vec<Vec<String>>,
    width: Option<u16>,
    too_long: TooLong,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_truncation_indicator("…");
    if !header.is_empty() {
        let mut row = Row::from(
            header
                .iter()
                .map(|name| name.to_uppercase())
                .collect::<Vec<_>>(),
        );
        if width.is_some() && too_long == TooLong::Cut {
            row.max_height(1);
        }
        table.set_header(row);
    }
    for cells in rows {
        let mut row = Row::from(cells.iter().map(|text| clean(text)).collect::<Vec<_>>());
        if width.is_some() && too_long == TooLong::Cut {
            row.max_height(1);
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    match width {
        None => table.set_content_arrangement(ContentArrangement::Disabled),
        Some(width) => {
            if let Some(first) = table.column_mut(0) {
                first.set_constraint(ColumnConstraint::ContentWidth);
            }
            // The last gap is empty, and cut off below.
            table.set_width(width + GAP);
            table.set_content_arrangement(ContentArrangement::Dynamic)
        }
    };
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "018f3a52-7b1c-7c3e-9f53-1d2c3b4a5968";

    fn rows() -> Vec<Vec<String>> {
        let row = |input: &str| {
            let cells = [
                ID,
                "triage",
                "cancelled",
                "triage/1000",
                "printing (memory, 0.95)",
                input,
            ];
            cells.map(str::to_owned).to_vec()
        };
        vec![
            row("The printer on floor 3 is out of paper again"),
            row(&"ü".repeat(60)),
            row("漢字かな交じり文をここに書く"),
        ]
    }

    fn longest(text: &str) -> usize {
        text.lines()
            .map(|line| line.chars().count())
            .max()
            .unwrap_or_default()
    }

    #[test]
    fn a_list_fits_into_eighty_columns_with_whole_ids() {
        let header = ["id", "type", "state", "agent", "answer", "input"];
        let text = arranged(&header, rows(), Some(80), TooLong::Cut);
        assert_eq!(text.lines().count(), 4, "one line each:\n{text}");
        assert!(longest(&text) <= 80, "{text}");
        assert!(
            text.lines().skip(1).all(|line| line.starts_with(ID)),
            "{text}"
        );
        assert!(text.contains('…'), "{text}");
    }

    #[test]
    fn ids_are_shortened_to_beginnings_that_only_they_have() {
        let ids = [
            "018f3a52-7b1c-7c3e-9f53-1d2c3b4a5968",
            "018f3a52-7b1c-7d00-9f53-1d2c3b4a5968",
            "018f3a53-0000-7d00-9f53-1d2c3b4a5968",
            "01900000-0000-7d00-9f53-1d2c3b4a5968",
        ];
        let mut rows: Vec<Vec<String>> = ids
            .iter()
            .map(|id| vec![(*id).to_owned(), "triage/17".to_owned(), ids[3].to_owned()])
            .collect();
        shorten(&mut rows);
        let first: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(
            first,
            [
                "018f3a52-7b1c-7c",
                "018f3a52-7b1c-7d",
                "018f3a53",
                "01900000"
            ]
        );
        assert_eq!(rows[0][1..], ["triage/17", "01900000"]);
    }

    #[test]
    fn facts_are_wrapped_and_nothing_of_them_is_lost() {
        let long = "words and ".repeat(30);
        let facts = vec![
            vec!["input".to_owned(), long],
            vec!["state".to_owned(), "done".to_owned()],
        ];
        let text = arranged(&[], facts, Some(80), TooLong::Wrap);
        assert!(longest(&text) <= 80, "{text}");
        assert_eq!(text.matches("words").count(), 30, "{text}");
        assert!(
            text.lines()
                .skip(1)
                .take(2)
                .all(|line| line.starts_with("       ")),
            "{text}"
        );
    }

    #[test]
    fn a_page_is_wrapped_between_words_but_not_its_code() {
        let code = format!("```\n{}\n```", "code ".repeat(30).trim_end());
        let text = format!(
            "# Title\n\n{}\n\n- {}\n{code}",
            "some words ".repeat(20),
            "an item ".repeat(20)
        );
        let page = wrapped(&text, 80);
        assert!(page.ends_with(&code), "{page}");
        let prose = page.strip_suffix(&code).expect("prose");
        assert!(longest(prose) <= 80, "{prose}");
        assert!(prose.contains("\n\n- an item"), "{prose}");
        assert!(
            prose.contains("\n  an item") || prose.contains("\n  item"),
            "{prose}"
        );
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&page), words(&text));
    }

    #[test]
    fn nothing_is_cut_where_there_is_no_terminal() {
        let text = arranged(
            &["id", "input"],
            vec![vec![ID.to_owned(), "x".repeat(500)]],
            None,
            TooLong::Cut,
        );
        assert!(text.contains(&"x".repeat(500)), "{text}");
    }
}
