//! Figures of a small stream, counted by hand.

use colony_proto::v1::{StateCount, TaskState, Track};

use super::*;

fn ticket(label: &str, split: Split) -> Ticket {
    Ticket {
        text: format!("{label} {split:?}"),
        label: Some(label.to_owned()),
        split,
        risky: false,
    }
}

fn outcome(
    proposal: &str,
    escalation_reason: Option<&str>,
    source: ProposalSource,
) -> Option<Outcome> {
    Some(Outcome {
        state: "done",
        proposal: proposal.to_owned(),
        source,
        escalation_reason: escalation_reason.map(str::to_owned),
        latency_us: 2_000,
        ..Outcome::default()
    })
}

#[test]
fn a_small_stream_is_counted_right() {
    use ProposalSource::{Memory, Model};
    let tickets = vec![
        ticket("a", Split::Train),
        ticket("b", Split::Train),
        ticket("a", Split::Test),
        ticket("b", Split::Test),
        ticket("oos", Split::Test),
        ticket("oos", Split::Test),
    ];
    let source = TicketSource::of(tickets);
    let outcomes = [
        outcome("", Some("new"), ProposalSource::Other),
        outcome("b", None, Memory),
        outcome("a", None, Memory),
        outcome("a", Some("uncertain"), Model),
        outcome("a", Some("new"), Memory),
        outcome("b", None, Memory),
    ];
    let status = StatusResponse {
        accepted: 6,
        tasks: vec![StateCount {
            state: TaskState::Done.into(),
            tasks: 6,
        }],
        ..StatusResponse::default()
    };
    let track = |tasks| {
        Some(Track {
            tasks,
            ..Track::default()
        })
    };
    let agent = |tasks| Agent {
        agent_type: "triage".to_owned(),
        track: track(tasks),
        ..Agent::default()
    };
    let agents = [agent(20), agent(20), agent(1), agent(0)];
    let evidence = Evidence {
        source: &source,
        outcomes: &outcomes,
        agents: &agents,
        models: &[],
        status: &status,
        engine: "echo",
        ended_in_this_life: 6,
        window: 32,
        stream: Duration::from_secs(2),
        wall_s: 3.0,
        peak_rss_bytes: 1,
    };
    let figures = figures(&evidence);
    assert!(figures.all_ended && figures.conserved);
    assert_eq!(figures.learning.accuracy_by_decile, [0.0, 1.0]);
    assert_eq!((figures.test.in_scope, figures.test.out_of_scope), (2, 2));
    assert_eq!(figures.test.accuracy, Some(0.5));
    assert_eq!(figures.test.accuracy_unescalated, Some(1.0));
    assert_eq!(figures.test.share_escalated, Some(0.5));
    assert_eq!(figures.test.share_escalated_in_scope, Some(0.5));
    assert_eq!(figures.test.out_of_scope_recall, Some(0.5));
    assert_eq!(
        (
            figures.models.memory_answers,
            figures.models.memory_accuracy
        ),
        (4, Some(1.0))
    );
    assert_eq!(
        (figures.models.model_answers, figures.models.model_accuracy),
        (1, Some(0.0))
    );
    assert_eq!(figures.speed.latency_p50_ms, Some(2.0));
    let fair = &figures.fairness["triage"];
    assert_eq!(
        (fair.eligible, fair.gini.map(|gini| gini.abs() < 1e-12)),
        (2, Some(true))
    );
    assert_eq!((fair.agents, fair.worked), (4, 3));
    let table = describe(&figures);
    assert!(
        table.contains(
            "50.0 % of 2 test tickets that belong to a queue; 100.0 % where no human was asked"
        ),
        "{table}"
    );
}

#[test]
fn the_words_for_newcomers_fit_into_eighty_columns() {
    let words = in_words(&Learning {
        accuracy_by_decile: vec![0.362, 0.919],
        ..Learning::default()
    });
    assert!(words.contains("36.2 % of the first tenth"), "{words}");
    assert!(
        words.lines().all(|line| line.chars().count() <= 80),
        "{words}"
    );
}

#[test]
fn the_curve_rises_from_left_to_right() {
    assert_eq!(sparkline(&[0.0, 0.3, 0.99, 1.0]), "▁▃██");
}
