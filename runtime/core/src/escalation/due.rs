//! When a human's answer is due, and what becomes of a question that nobody answers in time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    cycle::{Decision, DecisionKind, Teaching},
    span,
    unit::Timestamp,
};

/// Who decides what nobody has decided in time.
pub const DECIDED_BY: &str = "colony";

/// What an agent type says of the questions that its agents ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Due {
    /// From the question to the moment at which its answer is due; zero: it is never late.
    #[serde(with = "span")]
    pub within: Duration,
    /// What becomes of a question that is late.
    pub late: Late,
}

/// What becomes of a question that is late. Nothing is ever done that nobody has allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// It goes on waiting, and the node says so.
    #[default]
    Wait,
    /// It is rejected.
    Reject,
}

impl Due {
    /// When the answer to a question is due; none: it is never late.
    #[must_use]
    pub fn at(&self, asked_at: Timestamp) -> Option<Timestamp> {
        (!self.within.is_zero()).then(|| asked_at.after(self.within))
    }

    /// What was asked at this moment or before is late at `now`; none: nothing ever is.
    #[must_use]
    pub fn late_since(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.within.is_zero()).then(|| now.before(self.within))
    }

    /// What is decided where nobody has; none: it goes on waiting.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        match self.late {
            Late::Wait => None,
            Late::Reject => Some(Decision {
                kind: DecisionKind::Reject {
                    reason: format!("nobody decided within {}", span::print(self.within)),
                },
                teaching: Teaching::Keep,
                by: DECIDED_BY.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_late_from_the_moment_at_which_it_is_due() {
        let due = Due {
            within: Duration::from_secs(3_600),
            late: Late::Reject,
        };
        let asked = Timestamp::from_micros(5_000_000_000);
        let at = due.at(asked).expect("it is due");
        assert_eq!(at.since(asked), due.within);
        assert_eq!(due.late_since(at), Some(asked));
        let decision = due.decision().expect("a rejection");
        let reason = "nobody decided within 1h".to_owned();
        assert_eq!(decision.kind, DecisionKind::Reject { reason });

        let never = Due::default();
        assert_eq!((never.at(asked), never.late_since(asked)), (None, None));
        assert_eq!(never.decision(), None);
    }
}
