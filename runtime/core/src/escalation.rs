//! When a human has to decide: see [`judge`].
//!
//! Called by agents before they act on an answer. The order of the doubts is the order of harm: what is
//! risky is asked as risky even when it is new and uncertain too.
//!
//! 1. *risky*: the request matches a [`risk::Pattern`]; being sure of the answer does not help.
//! 2. *contradiction*: the submitter expects another answer.
//! 3. *new*: unlike anything known, so confidence means nothing.
//! 4. *uncertain*: confidence below the policy's bar.

use serde::{Deserialize, Serialize};

use crate::{
    cycle::{Doubt, Verdict},
    task::{Answer, Source},
    unit::Share,
};

pub mod risk;

/// Longest question, in characters: one line that a person takes in at a glance.
const QUESTION_CHARS_MAX: usize = 200;

/// How sure an agent must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Answers with less confidence are put to a human. Raising it: fewer wrong answers, more questions.
    pub confidence_min: Share,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            confidence_min: Share::clamped(0.5),
        }
    }
}

/// What is known when an answer is judged.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The answer.
    pub answer: &'a Answer,
    /// A doubt that the agent itself has, if any.
    pub doubt: Option<Doubt>,
    /// How unlike everything known the request is.
    pub novelty: f64,
    /// Above this it counts as new.
    pub novelty_limit: f64,
    /// The risks the request was found to carry.
    pub risks: &'a [risk::Hit<'a>],
    /// The answer the submitter expects, where it is known.
    pub expected: Option<&'a str>,
}

/// What becomes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It stands.
    Accept,
    /// A human decides.
    Ask {
        /// Why.
        doubt: Doubt,
        /// What the human reads: one line.
        question: String,
    },
}

impl From<Judgement> for Verdict {
    fn from(judgement: Judgement) -> Self {
        match judgement {
            Judgement::Accept => Self::Accept,
            Judgement::Ask { doubt, question } => Self::Ask { doubt, question },
        }
    }
}

/// Decides whether an answer stands or a human is asked. What a human has answered always stands.
#[must_use]
pub fn judge(policy: &Policy, case: &Case<'_>) -> Judgement {
    if case.answer.source == Source::Human {
        return Judgement::Accept;
    }
    let Some((doubt, question)) = doubt(policy, case) else {
        return Judgement::Accept;
    };
    let question = one_line(&question);
    Judgement::Ask { doubt, question }
}

fn doubt(policy: &Policy, case: &Case<'_>) -> Option<(Doubt, String)> {
    let Answer {
        text, confidence, ..
    } = case.answer;
    let percent = confidence.get() * 100.0;
    if let Some(hit) = case.risks.first() {
        return Some((Doubt::Risky, format!("{hit}: go on with {text:?}?")));
    }
    if case.doubt == Some(Doubt::Risky) {
        return Some((Doubt::Risky, format!("could do harm: go on with {text:?}?")));
    }
    if let Some(expected) = case.expected.filter(|e| e.trim() != text.trim()) {
        let question =
            format!("the answer is {text:?}, the submitter expects {expected:?}: which?");
        return Some((Doubt::Contradiction, question));
    }
    if case.doubt == Some(Doubt::Contradiction) {
        return Some((
            Doubt::Contradiction,
            format!("contradicts itself: is it {text:?}?"),
        ));
    }
    if case.novelty > case.novelty_limit || case.doubt == Some(Doubt::New) {
        let question = format!("unlike anything solved before: is it {text:?}?");
        return Some((Doubt::New, question));
    }
    if *confidence < policy.confidence_min || case.doubt == Some(Doubt::Uncertain) {
        return Some((
            Doubt::Uncertain,
            format!("{percent:.0} % sure: is it {text:?}?"),
        ));
    }
    None
}

fn one_line(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= QUESTION_CHARS_MAX {
        return printable.collect();
    }
    printable
        .take(QUESTION_CHARS_MAX - 1)
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(confidence: f64, source: Source) -> Answer {
        Answer {
            text: "card_lost".into(),
            confidence: Share::clamped(confidence),
            source,
            reason: String::new(),
        }
    }

    fn case(answer: &Answer) -> Case<'_> {
        Case {
            answer,
            doubt: None,
            novelty: 0.1,
            novelty_limit: 0.5,
            risks: &[],
            expected: None,
        }
    }

    fn asked(case: &Case<'_>) -> Option<Doubt> {
        match judge(&Policy::default(), case) {
            Judgement::Accept => None,
            Judgement::Ask { doubt, .. } => Some(doubt),
        }
    }

    #[test]
    fn a_sure_and_harmless_answer_stands() {
        let answer = answer(0.5, Source::Memory);
        assert_eq!(asked(&case(&answer)), None);
        let expected = Some("card_lost ");
        assert_eq!(
            asked(&Case {
                expected,
                ..case(&answer)
            }),
            None
        );
    }

    #[test]
    fn the_worst_doubt_is_asked() {
        let answer = answer(0.1, Source::Model);
        let hit = risk::Hit {
            name: "money",
            why: "moves money",
            found: "wire transfer".to_owned(),
        };
        let uncertain = case(&answer);
        let new = Case {
            novelty: 0.6,
            ..uncertain
        };
        let contradiction = Case {
            expected: Some("card_stolen"),
            ..new
        };
        let risky = Case {
            risks: std::slice::from_ref(&hit),
            ..contradiction
        };
        assert_eq!(asked(&uncertain), Some(Doubt::Uncertain));
        assert_eq!(asked(&new), Some(Doubt::New));
        assert_eq!(asked(&contradiction), Some(Doubt::Contradiction));
        assert_eq!(asked(&risky), Some(Doubt::Risky));
        let question = "moves money (\"wire transfer\"): go on with \"card_lost\"?".to_owned();
        let ask = Judgement::Ask {
            doubt: Doubt::Risky,
            question,
        };
        assert_eq!(judge(&Policy::default(), &risky), ask);
    }

    #[test]
    fn the_agents_own_doubt_counts() {
        let answer = answer(0.99, Source::Memory);
        for doubt in [
            Doubt::Uncertain,
            Doubt::New,
            Doubt::Risky,
            Doubt::Contradiction,
        ] {
            let own = Case {
                doubt: Some(doubt),
                ..case(&answer)
            };
            assert_eq!(asked(&own), Some(doubt));
        }
    }

    #[test]
    fn a_humans_word_is_not_doubted() {
        let answer = answer(0.0, Source::Human);
        let all = Case {
            novelty: 9.0,
            expected: Some("x"),
            doubt: Some(Doubt::Risky),
            ..case(&answer)
        };
        assert_eq!(asked(&all), None);
    }

    #[test]
    fn a_question_is_one_short_line() {
        let mut long = answer(0.0, Source::Model);
        long.text = "a\u{85}ß".repeat(500);
        let Judgement::Ask { question, .. } = judge(&Policy::default(), &case(&long)) else {
            unreachable!("an unsure answer is asked about")
        };
        assert_eq!(question.chars().count(), QUESTION_CHARS_MAX);
        assert!(!question.chars().any(char::is_control));
    }
}
