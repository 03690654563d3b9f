//! What an agent had before it when it asked: kept with the question, because memory goes on learning.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    cycle::{Neighbour, Work},
    escalation::risk::Hit,
    memory::Candidate,
};

/// Solved tasks shown with a question: more than a person compares.
const NEIGHBOURS_MAX: usize = 5;

/// What a human may want to see before deciding.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// What gives harm away, the gravest first.
    pub findings: Vec<Finding>,
    /// The labels that memory holds likely, best first.
    pub candidates: Vec<Candidate>,
    /// The nearest solved tasks, nearest first.
    pub neighbours: Vec<Neighbour>,
}

impl Evidence {
    /// What is known when the work so far ends in a question.
    #[must_use]
    pub fn of(work: &Work) -> Self {
        let recall = work.recall.as_ref();
        let verdict = recall.and_then(|recall| recall.verdict.as_ref());
        let neighbours = recall.map_or(&[][..], |recall| &recall.neighbours);
        Self {
            findings: work
                .thought
                .as_ref()
                .map(|thought| thought.findings.clone())
                .unwrap_or_default(),
            candidates: verdict
                .map(|verdict| verdict.candidates.clone())
                .unwrap_or_default(),
            neighbours: neighbours.iter().take(NEIGHBOURS_MAX).cloned().collect(),
        }
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let findings = self.findings.iter().map(|f| f.why.len() + f.words.len());
        let candidates = self.candidates.iter().map(|c| c.label.len());
        let neighbours = self.neighbours.iter().map(|n| n.label.len() + n.text.len());
        findings.chain(candidates).chain(neighbours).sum()
    }
}

/// Something that gives harm away. Displayed as a human should read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What the harm would be, or which example the task resembles.
    pub why: String,
    /// The words found, as they stand in the task; empty where an example gave it away.
    pub words: String,
}

impl From<&Hit<'_>> for Finding {
    fn from(hit: &Hit<'_>) -> Self {
        Self {
            why: hit.why.to_owned(),
            words: hit.found.clone(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words.as_str() {
            "" => f.write_str(&self.why),
            words => write!(f, "{} ({words:?})", self.why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cycle::{Output, Recall, Thought},
        memory::MemoryVerdict,
        task::Answer,
    };

    #[test]
    fn a_question_shows_what_the_work_found_and_few_neighbours() {
        let neighbour = |episode| Neighbour {
            episode,
            label: "it".into(),
            similarity: 0.5,
            text: "the nearest".into(),
        };
        let mut work = Work::default();
        assert_eq!(Evidence::of(&work), Evidence::default());
        work.record(Output::Retrieve(Recall {
            neighbours: (0..16).map(neighbour).collect(),
            verdict: Some(MemoryVerdict {
                candidates: vec![Candidate {
                    label: "it".into(),
                    share: 1.0,
                }],
                ..MemoryVerdict::blank()
            }),
        }));
        let finding = Finding {
            why: "deletes data".into(),
            words: "drop table".into(),
        };
        work.record(Output::Reason(Thought {
            answer: Answer::by_rule("it", "test"),
            escalation_reason: None,
            model_calls: vec![],
            findings: vec![finding.clone()],
        }));
        let evidence = Evidence::of(&work);
        assert_eq!(evidence.neighbours.len(), NEIGHBOURS_MAX);
        assert_eq!(evidence.candidates.len(), 1);
        assert_eq!(evidence.findings, [finding]);
        assert_eq!(
            evidence.findings[0].to_string(),
            "deletes data (\"drop table\")"
        );
        assert!(evidence.bytes() > 5 * "the nearest".len());
    }

    #[test]
    fn a_thought_of_an_older_version_found_nothing() {
        let thought = serde_json::json!({
            "answer": Answer::by_rule("it", "test"), "escalation_reason": null, "model_calls": [],
        });
        let thought: Thought = serde_json::from_value(thought).expect("readable");
        assert_eq!(thought.findings, []);
    }
}
