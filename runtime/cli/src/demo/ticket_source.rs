//! The tickets of a demo: where they come from, how they are recognised after a restart, and which of them
//! belong to no queue.

use std::{collections::BTreeSet, fs::File, io::BufReader, path::Path};

use colony_agents::tickets::{self, Split, Ticket};
use sha2::{Digest as _, Sha256};

use crate::{errors::Failure, lines::Lines};

/// Tickets of a demo without `--tasks` and `--count`.
const COUNT_DEFAULT: usize = 2_000;
/// Bad lines that are named; a file in a wrong format would fill the screen.
const BAD_LINES_SHOWN: usize = 5;
/// Labels that people write on what belongs to no queue.
const OUT_OF_SCOPE: [&str; 6] = [
    "oos",
    "out_of_scope",
    "out-of-scope",
    "out of scope",
    "none",
    "unknown",
];

/// Tickets in the order they are handed in: all of the train part, then all of the test part.
#[derive(Debug)]
pub(super) struct TicketSource {
    pub(super) tickets: Vec<Ticket>,
    keys: Vec<String>,
    /// Labels of the train part.
    known: BTreeSet<String>,
    /// Whether a test ticket without a label counts as out of scope.
    unlabelled_is_out: bool,
}

impl TicketSource {
    /// The file's tickets, or the ready-made ones.
    pub(super) fn open(
        file: Option<&Path>,
        seed: u64,
        count: Option<usize>,
    ) -> Result<Self, Failure> {
        let Some(path) = file else {
            return Ok(Self::of(tickets::stream(
                seed,
                count.unwrap_or(COUNT_DEFAULT),
            )));
        };
        let mut tickets = read(path)?;
        tickets.truncate(count.unwrap_or(usize::MAX));
        if tickets.is_empty() {
            let name = path.display();
            return Err(Failure::usage(format!("{name} holds no tickets")));
        }
        Ok(Self::of(tickets))
    }

    /// Tickets in any order.
    pub(super) fn of(mut tickets: Vec<Ticket>) -> Self {
        // The keys are those of the file's order, so that the same file is recognised again.
        tickets.sort_by_key(|ticket| ticket.split);
        let keys = tickets
            .iter()
            .enumerate()
            .map(|(number, ticket)| key(number, ticket))
            .collect();
        let labels = |split| {
            let tickets = tickets.iter().filter(move |t: &&Ticket| t.split == split);
            tickets
                .filter_map(|t| t.label.clone())
                .collect::<BTreeSet<String>>()
        };
        let (known, tested) = (labels(Split::Train), labels(Split::Test));
        let marked = tested
            .iter()
            .any(|label| is_out_label(label) || !known.contains(label));
        Self {
            keys,
            unlabelled_is_out: !tested.is_empty() && !marked,
            known,
            tickets,
        }
    }

    /// The deduplication key of ticket `number`: the same ticket at the same place has the same key in every
    /// run.
    pub(super) fn key(&self, number: usize) -> &str {
        &self.keys[number]
    }

    /// The number of the first test ticket.
    pub(super) fn test_from(&self) -> usize {
        self.tickets
            .partition_point(|ticket| ticket.split == Split::Train)
    }

    /// Whether a test ticket belongs to no queue: its label says so, or no train ticket has its label, or
    /// it has none while the others have.
    pub(super) fn is_out_of_scope(&self, ticket: &Ticket) -> bool {
        match &ticket.label {
            Some(label) => {
                is_out_label(label)
                    || (ticket.split == Split::Test
                        && !self.known.is_empty()
                        && !self.known.contains(label))
            }
            None => ticket.split == Split::Test && self.unlabelled_is_out,
        }
    }
}

/// Reads a file so that a wrong one does not fill the screen.
fn read(path: &Path) -> Result<Vec<Ticket>, Failure> {
    let name = path.display();
    let unreadable = |error| Failure::usage(format!("cannot read {name}: {error}"));
    let file = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut tickets, mut bad, mut bad_count) = (Vec::new(), Vec::new(), 0_usize);
    for (number, line) in Lines::new(file) {
        let fault = match line {
            Ok(line) => {
                let parsed = tickets::parse(&line);
                tickets.extend(parsed.tickets);
                parsed.errors.first().map(|error| error.fault.to_string())
            }
            Err(fault) => Some(format!("{fault}; nothing after it was read")),
        };
        if let Some(fault) = fault {
            bad_count += 1;
            if bad.len() < BAD_LINES_SHOWN {
                bad.push(format!("line {number}: {fault}"));
            }
        }
    }
    if bad_count == 0 {
        return Ok(tickets);
    }
    if bad_count > bad.len() {
        bad.push(format!("… and {} more", bad_count - bad.len()));
    }
    let lines = if bad_count == 1 {
        "1 line that is no ticket".to_owned()
    } else {
        format!("{bad_count} lines that are no tickets")
    };
    Err(Failure::usage(format!("{name} has {lines}"))
        .with_details(bad)
        .with_hint("nothing was started; put them right first"))
}

/// Whether a label means "no queue".
pub(super) fn is_out_label(label: &str) -> bool {
    OUT_OF_SCOPE
        .iter()
        .any(|word| label.eq_ignore_ascii_case(word))
}

fn key(number: usize, ticket: &Ticket) -> String {
    let digest = Sha256::digest(ticket.text.as_bytes());
    let short: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("demo/{number:06}/{short}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(text: &str, label: Option<&str>, split: Split) -> Ticket {
        Ticket {
            text: text.to_owned(),
            label: label.map(str::to_owned),
            split,
            risky: false,
        }
    }

    #[test]
    fn train_comes_before_test_and_keeps_its_order() {
        let source = TicketSource::of(vec![
            ticket("t", Some("a"), Split::Test),
            ticket("1", Some("a"), Split::Train),
            ticket("2", Some("b"), Split::Train),
        ]);
        let order: Vec<&str> = source.tickets.iter().map(|t| t.text.as_str()).collect();
        assert_eq!(order, ["1", "2", "t"]);
        assert_eq!(source.test_from(), 2);
        assert!(source.key(0).starts_with("demo/000000/"));
    }

    #[test]
    fn out_of_scope_is_said_or_seen() {
        let source = TicketSource::of(vec![
            ticket("1", Some("a"), Split::Train),
            ticket("2", Some("a"), Split::Test),
            ticket("3", Some("OOS"), Split::Test),
            ticket("4", Some("never trained"), Split::Test),
            ticket("5", None, Split::Test),
        ]);
        let out: Vec<bool> = source
            .tickets
            .iter()
            .map(|t| source.is_out_of_scope(t))
            .collect();
        assert_eq!(out, [false, false, true, true, false]);
        let silent = TicketSource::of(vec![
            ticket("1", Some("a"), Split::Train),
            ticket("2", Some("a"), Split::Test),
            ticket("3", None, Split::Test),
        ]);
        assert!(silent.is_out_of_scope(&silent.tickets[2]));
    }
}
