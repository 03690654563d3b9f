//! The default risk patterns against the demo's tickets, of which it is known which are risky.

use colony_agents::tickets::{self, Ticket};
use colony_core::{
    cycle::Doubt,
    escalation::risk::Policy,
    task::{Spec, State},
};
use colony_node::{Config, Node};
use colony_store::ApprovalFilter;

use crate::walk::{agent_type, book, config, dependencies, submit, until};

fn policy() -> Policy {
    Config::default()
        .risk
        .policy()
        .expect("the default is right")
}

/// (risky, of them found; harmless, of them found).
fn tally(policy: &Policy, tickets: &[Ticket]) -> [usize; 4] {
    let (risky, harmless): (Vec<_>, Vec<_>) = tickets.iter().partition(|ticket| ticket.risky);
    let found = |of: &[&Ticket]| {
        of.iter()
            .filter(|t| !policy.hits(&t.text).is_empty())
            .count()
    };
    [risky.len(), found(&risky), harmless.len(), found(&harmless)]
}

#[test]
fn the_default_finds_the_risky_tickets_and_lets_the_others_pass() {
    let policy = policy();
    assert_eq!(
        tally(&policy, &tickets::stream(1, 2_000)),
        [60, 56, 1_940, 0]
    );
    for seed in 2..12 {
        let [risky, found, harmless, alarms] = tally(&policy, &tickets::stream(seed, 2_000));
        assert!(
            found * 100 >= risky * 90,
            "seed {seed}: {found} of {risky} risky tickets"
        );
        assert!(
            alarms * 100 <= harmless,
            "seed {seed}: {alarms} of {harmless} harmless tickets"
        );
    }
}

#[test]
fn the_default_says_what_it_found() {
    let policy = policy();
    let hits = policy.hits("Please WIPE the old customers table, it is on the live system.");
    let said: Vec<String> = hits.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["a deleted production database may be gone for good (\"WIPE … table … live\")"]
    );
    assert_eq!(policy.hits("The database on the live system is slow."), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_risk_at_the_end_of_a_long_ticket_is_put_to_a_human_with_its_words() {
    let node = Node::start(&config(&[("triage", 1)]), dependencies(book()))
        .await
        .expect("starts");
    let handle = node.handle();
    let text = format!("{} Now \u{ff44}elete all files!", "blah ".repeat(10_000));
    let ids = submit(&handle, vec![Spec::new(agent_type("triage"), text)]).await;
    until(&handle, &ids, &[State::Waiting]).await;
    let filter = ApprovalFilter {
        limit: 1,
        ..ApprovalFilter::default()
    };
    let open = handle.approvals(filter).await.expect("readable");
    let asked = &open.items[0].question;
    assert_eq!(asked.doubt, Doubt::Risky);
    let said = "deletes more than one can check (\"delete all files\")";
    assert!(asked.question.contains(said), "{}", asked.question);
    node.stop().await;
}
