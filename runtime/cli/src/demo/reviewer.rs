//! The scripted human of the demo.
//!
//! | ticket | decision | memory learns |
//! | --- | --- | --- |
//! | train, and the proposal is its label | accept | yes |
//! | train, and the proposal is something else | correct to the label | yes |
//! | any other, with a proposal | accept | no |
//! | any other, without a proposal | reject | no |
//!
//! It rules the same on risky tickets: filing only routes a request to the people of its queue, and does
//! not grant it.

use colony_agents::tickets::{Split, Ticket};
use colony_proto::v1::{Accepted, Approval, Decision, decision::Kind};

/// The name on its decisions.
const NAME: &str = "demo reviewer";

/// Its decision on a question about `ticket`.
pub(super) fn rule(approval: &Approval, ticket: &Ticket) -> Decision {
    let proposal = approval
        .proposal
        .as_ref()
        .map_or("", |answer| answer.text.as_str());
    let known = ticket
        .label
        .as_ref()
        .filter(|_| ticket.split == Split::Train);
    let (kind, teach) = match known {
        Some(label) if label == proposal => (Kind::Accept(Accepted {}), true),
        Some(label) => (Kind::Correct(label.clone()), true),
        None if proposal.is_empty() => (Kind::Reject("nothing is proposed".to_owned()), false),
        None => (Kind::Accept(Accepted {}), false),
    };
    Decision {
        kind: Some(kind),
        teach: Some(teach),
        by: NAME.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use colony_proto::v1::Answer;

    use super::*;

    fn kind(proposal: &str, label: Option<&str>, split: Split) -> (Kind, bool) {
        let approval = Approval {
            proposal: Some(Answer {
                text: proposal.to_owned(),
                ..Answer::default()
            }),
            ..Approval::default()
        };
        let label = label.map(str::to_owned);
        let ticket = Ticket {
            text: "t".to_owned(),
            label,
            split,
            risky: true,
        };
        let decision = rule(&approval, &ticket);
        (decision.kind.expect("a kind"), decision.teach == Some(true))
    }

    #[test]
    fn train_labels_teach_and_test_labels_do_not() {
        let accept = || Kind::Accept(Accepted {});
        assert_eq!(kind("a", Some("a"), Split::Train), (accept(), true));
        assert_eq!(
            kind("b", Some("a"), Split::Train),
            (Kind::Correct("a".to_owned()), true)
        );
        assert_eq!(kind("b", Some("a"), Split::Test), (accept(), false));
        assert_eq!(kind("b", None, Split::Train), (accept(), false));
        assert!(matches!(
            kind("", None, Split::Test),
            (Kind::Reject(_), false)
        ));
    }
}
