#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn fault(line: &str) -> LineFault {
    let mut parsed = parse(line.as_bytes());
    assert_eq!(
        (parsed.tickets.len(), parsed.errors.len()),
        (0, 1),
        "{line}"
    );
    parsed.errors.remove(0).fault
}

#[test]
fn the_same_seed_gives_the_same_stream_and_another_seed_another() {
    assert_eq!(stream(7, 300), stream(7, 300));
    assert_ne!(stream(7, 300), stream(8, 300));
}

#[test]
fn a_stream_is_varied_and_its_test_part_new() {
    let tickets = stream(1, 2_000);
    assert_eq!(tickets.len(), 2_000);
    let texts: BTreeSet<&str> = tickets.iter().map(|t| t.text.as_str()).collect();
    assert!(
        texts.len() >= 1_900,
        "{} different texts of 2000",
        texts.len()
    );
    let mut labels: BTreeMap<&str, usize> = BTreeMap::new();
    for ticket in &tickets {
        *labels.entry(ticket.label.as_deref().unwrap()).or_default() += 1;
    }
    assert_eq!(labels.len(), 33, "{labels:?}");
    assert!(labels.values().all(|&count| count >= 15), "{labels:?}");
    let first_test = tickets.iter().position(|t| t.split == Split::Test).unwrap();
    assert_eq!(first_test, 1_600);
    assert!(tickets[first_test..].iter().all(|t| t.split == Split::Test));
    let risky = tickets.iter().filter(|t| t.risky).count();
    assert_eq!(risky, 60);
    assert!(!tickets.iter().any(|t| t.text.contains(['{', '}'])));
}

#[test]
fn small_streams_work() {
    assert!(stream(1, 0).is_empty());
    assert_eq!(stream(1, 1).len(), 1);
    assert_eq!(stream(u64::MAX, 7).len(), 7);
}

#[test]
fn hand_written_texts_are_all_tickets() {
    let parsed = parse(include_bytes!("../../tickets/handwritten.jsonl"));
    assert_eq!(parsed.errors, []);
    assert!(parsed.tickets.len() >= 300 && parsed.tickets.iter().all(|t| t.label.is_some()));
}

#[test]
fn anybodys_lines_are_read_as_meant() {
    let file = "\u{feff}{\"text\": \"hé\", \"label\": \" vpn \", \"split\": \"test\", \"id\": 9}\r\n\n\
                {\"text\": \"b\", \"label\": null}\n  {\"text\":\"c\",\"risky\":true}";
    let parsed = parse(file.as_bytes());
    assert_eq!(parsed.errors, []);
    let read: Vec<_> = parsed
        .tickets
        .iter()
        .map(|t| (t.text.as_str(), t.label.as_deref(), t.split, t.risky))
        .collect();
    let want = [
        ("hé", Some("vpn"), Split::Test, false),
        ("b", None, Split::Train, false),
        ("c", None, Split::Train, true),
    ];
    assert_eq!(read, want);
}

#[test]
fn a_bad_line_says_which_and_why_and_the_others_are_kept() {
    let parsed = parse(b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n{\"text\":\"b\"}");
    assert_eq!(parsed.tickets.len(), 2);
    let words = parsed.errors[0].to_string();
    assert_eq!(
        words,
        "line 2: byte 10 is not valid UTF-8; save the file as UTF-8"
    );
}

#[test]
fn every_fault_has_its_own_words() {
    assert!(matches!(fault("{\"text\": "), LineFault::Json(_)));
    assert_eq!(fault("[1]"), LineFault::Shape("a list"));
    assert_eq!(fault("{\"label\":\"x\"}"), LineFault::Blank);
    assert_eq!(fault("{\"text\":\" \\n\"}"), LineFault::Blank);
    let got = "a number";
    assert_eq!(
        fault("{\"text\":7}"),
        LineFault::Kind { field: "text", got }
    );
    assert_eq!(
        fault("{\"text\":\"a\",\"label\":7}"),
        LineFault::Kind {
            field: "label",
            got
        }
    );
    assert_eq!(
        fault("{\"text\":\"a\",\"split\":\"val\"}"),
        LineFault::Split("val".to_owned())
    );
    for wrong in ["\"true\"", "1", "[true]"] {
        let line = format!("{{\"text\":\"a\",\"risky\":{wrong}}}");
        assert_eq!(fault(&line), LineFault::Risky(wrong.to_owned()));
    }
    let parsed = parse(b"{\"text\":\"a\",\"risky\":null}\n{\"text\":\"b\",\"risky\":\"yes\"}");
    assert!(!parsed.tickets[0].risky);
    assert_eq!(
        parsed.errors[0].to_string(),
        "line 2: \"risky\" is \"yes\"; write true or false without quotes, or leave it out"
    );
    let long = format!("{{\"text\":\"a\",\"risky\":\"{}\"}}", "é".repeat(100));
    let LineFault::Risky(value) = fault(&long) else {
        panic!("{long}");
    };
    assert_eq!(value.chars().count(), 41);
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(70_000));
    assert!(matches!(
        fault(&long),
        LineFault::Long {
            bytes: 70_000,
            limit: 65_536,
            ..
        }
    ));
}
