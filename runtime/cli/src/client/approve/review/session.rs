//! What the keys of a review mean, without a terminal and without a node.
//!
//! ```text
//!             a, y after a risky one ─┐
//!   choosing ─ r ─► reason ── Enter ──┼─► decided: held back ─► sent with the next decision, or with q
//!             l ─► label ─── Enter ───┘        └─ u ─► taken back; the question is open again
//! ```
//! A decision that was sent cannot be taken back: the task goes on at once. So the last one is held here until the
//! next one is made or the review ends with `q`; until then `u` undoes it, and Ctrl-C drops it.

use std::collections::BTreeSet;

use colony_core::escalation::known_label;
use colony_proto::v1::{Approval, Decision};

use super::super::{
    decide::{accepting, rejecting},
    is_risky,
};

/// Why a rejection needs no reason of its own.
const REASON: &str = "rejected by a human";
/// What can be pressed.
const HELP: &str = "a accept  r reject  l label  j next  k back  s show  u undo  q send and quit";

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Backspace,
    Tab,
    Escape,
    /// Ctrl-C, a signal, or a terminal that has gone.
    Interrupt,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// Show a question; `place` says which of how many.
    Show { id: String, place: String },
    /// Say something, on lines of its own.
    Say(String),
    /// Show the line that is being written.
    Prompt(String),
    /// Send a decision.
    Send(Box<Held>),
    /// It is over.
    End,
}

/// A decision that was made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    pub(super) approval: Approval,
    pub(super) decision: Decision,
    /// Memory does not know the label, and it is meant.
    pub(super) new_label: bool,
}

/// What the next key is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    /// To choose what to do.
    Choosing,
    /// To say that a risky one is meant.
    Confirming,
    /// To write a label. `refused` was entered, and is unknown: entered again, it is meant.
    Label {
        text: String,
        refused: Option<String>,
    },
    /// To write why it is rejected.
    Reason { text: String },
}

/// A review.
#[derive(Debug)]
pub(super) struct Session {
    by: String,
    questions: Vec<Approval>,
    known_labels: Vec<String>,

    // Where it stands.
    at: usize,
    decided: BTreeSet<String>,
    held: Option<Held>,
    mode: Mode,
}

impl Session {
    /// A review of `questions`, at least one.
    pub(super) const fn new(questions: Vec<Approval>, by: String) -> Self {
        Self {
            by,
            questions,
            known_labels: Vec::new(),
            at: 0,
            decided: BTreeSet::new(),
            held: None,
            mode: Mode::Choosing,
        }
    }

    /// The first question.
    pub(super) fn begin(&self) -> Vec<Act> {
        self.show()
    }

    /// The labels that memory knows, as of the question shown last.
    pub(super) fn know(&mut self, labels: Vec<String>) {
        self.known_labels = labels;
    }

    /// A question whose decision could not be sent is open still.
    pub(super) fn reopened(&mut self, id: &str) {
        self.decided.remove(id);
    }

    /// The question whose decision is held back.
    pub(super) fn held(&self) -> Option<&str> {
        self.held.as_ref().map(|held| held.approval.id.as_str())
    }

    pub(super) fn press(&mut self, key: Key) -> Vec<Act> {
        if key == Key::Interrupt {
            let said = match &self.held {
                Some(held) => not_sent(&held.approval.id),
                None => "nothing is left to send".to_owned(),
            };
            return vec![Act::Say(said), Act::End];
        }
        match std::mem::replace(&mut self.mode, Mode::Choosing) {
            Mode::Choosing => self.choose(key),
            Mode::Confirming => match key {
                Key::Char('y') => self.accept(None, false),
                Key::Char(_)
                | Key::Enter
                | Key::Backspace
                | Key::Tab
                | Key::Escape
                | Key::Interrupt => vec![Act::Say("not accepted".to_owned())],
            },
            Mode::Label { text, refused } => self.write_label(text, refused, key),
            Mode::Reason { text } => self.write_reason(text, key),
        }
    }

    fn choose(&mut self, key: Key) -> Vec<Act> {
        let Key::Char(key) = key else {
            return vec![Act::Say(HELP.to_owned())];
        };
        match key {
            'j' => self.go(self.at + 1, "that was the last one; q sends and quits"),
            'k' => match self.at.checked_sub(1) {
                Some(before) => self.go(before, ""),
                None => vec![Act::Say("this is the first one".to_owned())],
            },
            's' => self.show(),
            'u' => self.undo(),
            'q' => {
                let mut acts = self.release();
                acts.push(Act::End);
                acts
            }
            'a' | 'r' | 'l' if self.is_decided() => {
                vec![Act::Say(
                    "it is decided already; u undoes the last decision".to_owned(),
                )]
            }
            'a' if is_risky(self.present()) => {
                self.mode = Mode::Confirming;
                vec![Act::Prompt(
                    "it is risky; press y to accept it all the same".to_owned(),
                )]
            }
            'a' => self.accept(None, false),
            'r' => {
                let text = String::new();
                self.mode = Mode::Reason { text };
                vec![Act::Prompt(
                    "why (Enter: no reason, Esc: back): ".to_owned(),
                )]
            }
            'l' => {
                self.mode = Mode::Label {
                    text: String::new(),
                    refused: None,
                };
                vec![Act::Prompt("label (Tab completes, Esc: back): ".to_owned())]
            }
            _ => vec![Act::Say(HELP.to_owned())],
        }
    }

    fn write_label(&mut self, mut text: String, refused: Option<String>, key: Key) -> Vec<Act> {
        match key {
            Key::Enter if text.trim().is_empty() => vec![Act::Say("no label".to_owned())],
            Key::Enter => {
                let label = text.trim().to_owned();
                let meant = refused.as_ref() == Some(&label);
                match known_label(&label, &self.known_labels) {
                    Err(unknown) if !meant => {
                        let said = format!("{unknown}\nEnter again takes {label:?} as a new label");
                        let prompt = format!("label (Tab completes, Esc: back): {text}");
                        let refused = Some(label);
                        self.mode = Mode::Label { text, refused };
                        vec![Act::Say(said), Act::Prompt(prompt)]
                    }
                    Ok(()) | Err(_) => self.accept(Some(label), meant),
                }
            }
            Key::Escape => vec![Act::Say("no label".to_owned())],
            Key::Tab => {
                let mut completions = self.known_labels.iter().filter(|l| l.starts_with(&text));
                let said = match (completions.next(), completions.next()) {
                    (Some(only), None) => {
                        text.clone_from(only);
                        None
                    }
                    (Some(first), Some(second)) => {
                        let rest = completions.map(String::as_str);
                        let all = [first.as_str(), second.as_str()].into_iter().chain(rest);
                        Some(all.collect::<Vec<_>>().join("  "))
                    }
                    (None, _) => Some("no label begins so".to_owned()),
                };
                let mut acts: Vec<Act> = said.map(Act::Say).into_iter().collect();
                acts.push(Act::Prompt(format!(
                    "label (Tab completes, Esc: back): {text}"
                )));
                self.mode = Mode::Label { text, refused };
                acts
            }
            Key::Char(_) | Key::Backspace | Key::Interrupt => {
                edit(&mut text, key);
                let prompt = format!("label (Tab completes, Esc: back): {text}");
                self.mode = Mode::Label { text, refused };
                vec![Act::Prompt(prompt)]
            }
        }
    }

    fn write_reason(&mut self, mut text: String, key: Key) -> Vec<Act> {
        match key {
            Key::Enter => {
                let reason = match text.trim() {
                    "" => REASON,
                    reason => reason,
                };
                self.hold(rejecting(reason.to_owned(), self.by.clone()), false)
            }
            Key::Escape => vec![Act::Say("not rejected".to_owned())],
            Key::Char(_) | Key::Backspace | Key::Tab | Key::Interrupt => {
                edit(&mut text, key);
                let prompt = format!("why (Enter: no reason, Esc: back): {text}");
                self.mode = Mode::Reason { text };
                vec![Act::Prompt(prompt)]
            }
        }
    }

    fn accept(&mut self, label: Option<String>, new_label: bool) -> Vec<Act> {
        self.hold(accepting(label, true, self.by.clone()), new_label)
    }

    /// Holds a decision back, sends the one before, and goes to the next open question.
    fn hold(&mut self, decision: Decision, new_label: bool) -> Vec<Act> {
        let approval = self.present().clone();
        let mut acts = self.release();
        self.decided.insert(approval.id.clone());
        self.held = Some(Held {
            approval,
            decision,
            new_label,
        });
        let said = "decided; u undoes it until the next decision or q";
        acts.push(Act::Say(said.to_owned()));
        let next = (self.at + 1..self.questions.len()).find(|at| !self.is_decided_at(*at));
        match next {
            Some(next) => {
                self.at = next;
                acts.extend(self.show());
            }
            None => acts.push(Act::Say(
                "that was the last one; q sends and quits".to_owned(),
            )),
        }
        acts
    }

    fn release(&mut self) -> Vec<Act> {
        let held = self.held.take();
        held.map(|held| Act::Send(Box::new(held)))
            .into_iter()
            .collect()
    }

    fn undo(&mut self) -> Vec<Act> {
        let Some(held) = self.held.take() else {
            let said = "there is nothing to undo: what was decided before was sent";
            return vec![Act::Say(said.to_owned())];
        };
        let id = held.approval.id;
        self.decided.remove(&id);
        if let Some(at) = self.questions.iter().position(|question| question.id == id) {
            self.at = at;
        }
        // Below the question: what is pressed before a question is there counts for nothing.
        let mut acts = self.show();
        acts.push(Act::Say("undone".to_owned()));
        acts
    }

    fn go(&mut self, to: usize, beyond: &str) -> Vec<Act> {
        if to >= self.questions.len() {
            return vec![Act::Say(beyond.to_owned())];
        }
        self.at = to;
        self.show()
    }

    fn show(&self) -> Vec<Act> {
        let mut place = format!("{} of {}", self.at + 1, self.questions.len());
        if self.is_decided() {
            place.push_str(", decided");
        }
        let id = self.present().id.clone();
        vec![Act::Show { id, place }, Act::Say(HELP.to_owned())]
    }

    fn present(&self) -> &Approval {
        &self.questions[self.at]
    }

    fn is_decided(&self) -> bool {
        self.is_decided_at(self.at)
    }

    fn is_decided_at(&self, at: usize) -> bool {
        self.decided.contains(&self.questions[at].id)
    }
}

/// What is said of a decision that was held back when the review ended.
pub(super) fn not_sent(id: &str) -> String {
    format!("the decision on {id} was not sent")
}

fn edit(text: &mut String, key: Key) {
    match key {
        Key::Char(c) => text.push(c),
        Key::Backspace => {
            text.pop();
        }
        Key::Enter | Key::Tab | Key::Escape | Key::Interrupt => {}
    }
}

#[cfg(test)]
mod tests {
    use colony_proto::v1::{EscalationReason, decision::Kind};

    use super::*;

    fn session(escalation_reasons: &[EscalationReason]) -> Session {
        let question = |(n, escalation_reason): (usize, &EscalationReason)| Approval {
            id: format!("q{n}"),
            escalation_reason: (*escalation_reason).into(),
            ..Approval::default()
        };
        let questions = escalation_reasons
            .iter()
            .enumerate()
            .map(question)
            .collect();
        let mut session = Session::new(questions, "ann".to_owned());
        session.know(vec!["hardware".to_owned(), "printing".to_owned()]);
        session
    }

    fn press(session: &mut Session, keys: &str) -> Vec<Act> {
        let key = |c| match c {
            '\n' => Key::Enter,
            '\t' => Key::Tab,
            '\u{8}' => Key::Backspace,
            '\u{1b}' => Key::Escape,
            c => Key::Char(c),
        };
        keys.chars().flat_map(|c| session.press(key(c))).collect()
    }

    /// What is sent, in order: question and decision.
    fn sent(acts: &[Act]) -> Vec<(String, Kind)> {
        let sent = acts.iter().filter_map(|act| match act {
            Act::Send(held) => {
                let kind = held.decision.kind.clone().expect("a kind");
                Some((held.approval.id.clone(), kind))
            }
            Act::Show { .. } | Act::Say(_) | Act::Prompt(_) | Act::End => None,
        });
        sent.collect()
    }

    fn accepted(id: &str) -> (String, Kind) {
        (id.to_owned(), Kind::Accept(colony_proto::v1::Accepted {}))
    }

    #[test]
    fn a_decision_is_sent_with_the_next_one_or_at_the_end() {
        let mut session = session(&[EscalationReason::New; 3]);
        assert_eq!(sent(&press(&mut session, "a")), []);
        assert_eq!(sent(&press(&mut session, "a")), [accepted("q0")]);
        let acts = press(&mut session, "q");
        assert_eq!(sent(&acts), [accepted("q1")]);
        assert_eq!(acts.last(), Some(&Act::End));
    }

    #[test]
    fn undo_takes_the_last_decision_back_and_no_other() {
        let mut session = session(&[EscalationReason::New; 3]);
        let acts = press(&mut session, "aau");
        assert_eq!(sent(&acts), [accepted("q0")]);
        let Some(Act::Show { id, .. }) = acts
            .iter()
            .rev()
            .find(|act| matches!(act, Act::Show { .. }))
        else {
            panic!("the question is shown again");
        };
        assert_eq!(id, "q1");
        let again = press(&mut session, "u");
        assert!(matches!(&again[..], [Act::Say(said)] if said.contains("nothing to undo")));
        let acts = press(&mut session, "rbad\u{8}\u{8}\u{8}no\nq");
        let rejected = ("q1".to_owned(), Kind::Reject("no".to_owned()));
        assert_eq!(sent(&acts), [rejected]);
    }

    #[test]
    fn an_interrupt_sends_nothing() {
        let mut session = session(&[EscalationReason::New; 2]);
        press(&mut session, "a");
        let acts = session.press(Key::Interrupt);
        assert_eq!(sent(&acts), []);
        assert!(
            matches!(&acts[..], [Act::Say(said), Act::End] if said.contains("q0 was not sent"))
        );
    }

    #[test]
    fn a_risky_one_is_accepted_only_when_it_is_said_twice() {
        let mut session = session(&[EscalationReason::Risky, EscalationReason::New]);
        assert_eq!(sent(&press(&mut session, "aaq")), []);
        let mut session = self::session(&[EscalationReason::Risky]);
        assert_eq!(sent(&press(&mut session, "ayq")), [accepted("q0")]);
    }

    #[test]
    fn an_unknown_label_is_taken_when_it_is_entered_twice() {
        let mut session = session(&[EscalationReason::New; 2]);
        let acts = press(&mut session, "lhardwear\n");
        let asks = |act: &Act| matches!(act, Act::Say(said) if said.contains("did you mean \"hardware\"?"));
        assert!(acts.iter().any(asks), "{acts:?}");
        let acts = press(&mut session, "\nq");
        let Some(Act::Send(held)) = acts.iter().find(|act| matches!(act, Act::Send(_))) else {
            panic!("it is meant");
        };
        assert!(held.new_label);
        let correct = |label: &str| Kind::Correct(label.to_owned());
        assert_eq!(held.decision.kind, Some(correct("hardwear")));
        let mut session = self::session(&[EscalationReason::New; 2]);
        let acts = press(&mut session, "lpr\t\nq");
        assert_eq!(sent(&acts), [("q0".to_owned(), correct("printing"))]);
        // Esc goes back.
        let mut session = self::session(&[EscalationReason::New; 2]);
        assert_eq!(sent(&press(&mut session, "lpr\u{1b}rno\u{1b}q")), []);
    }

    #[test]
    fn a_question_is_decided_once_and_both_ends_are_said() {
        let mut session = session(&[EscalationReason::New; 2]);
        let says = |acts: Vec<Act>, text: &str| {
            let says = acts
                .iter()
                .any(|act| matches!(act, Act::Say(said) if said.contains(text)));
            assert!(says, "{text:?} is not in {acts:?}");
        };
        says(press(&mut session, "k"), "the first");
        press(&mut session, "a");
        says(press(&mut session, "j"), "the last");
        says(press(&mut session, "kr"), "decided already");
        says(press(&mut session, "x"), "a accept");
        // Only what could not be sent is open again.
        session.reopened("q0");
        assert!(matches!(press(&mut session, "r")[..], [Act::Prompt(_)]));
    }
}
