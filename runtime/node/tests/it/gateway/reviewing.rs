//! What a person who decides is shown: filters and totals, the evidence, known labels, and questions as they come.

use std::time::Duration;

use colony_proto::v1::{
    self, ApprovalState, EscalationReason, TaskState, approvals_client::ApprovalsClient,
    decision::Kind, watch_approvals_response::Event,
};
use tonic::{Code, Streaming, transport::Channel};

use super::api::{Api, code, task, until, watch_to_the_end};

const RISKY: &str = "please drop the production database";

fn client(api: &Api) -> ApprovalsClient<Channel> {
    ApprovalsClient::new(api.channel.clone())
}

async fn list(api: &Api, ask: v1::ListApprovalsRequest) -> v1::ListApprovalsResponse {
    let listed = client(api).list(ask).await;
    listed.expect("listed").into_inner()
}

fn correct(approval: &v1::Approval, label: &str) -> v1::DecideRequest {
    v1::DecideRequest {
        approval_id: approval.id.clone(),
        decision: Some(v1::Decision {
            kind: Some(Kind::Correct(label.to_owned())),
            teach: None,
            by: "ann".to_owned(),
        }),
        request_id: None,
        known_label_only: true,
    }
}

/// Hands a ticket in and waits for its question.
async fn asked(api: &Api, input: &str) -> v1::Approval {
    let task_id = api.submit(task("triage", input)).await;
    until(api, &task_id, &[TaskState::Waiting]).await;
    let ask = v1::ListApprovalsRequest {
        task_id,
        ..v1::ListApprovalsRequest::default()
    };
    list(api, ask).await.approvals.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_found_by_reason_and_text_and_counted() {
    let api = Api::open().await;
    let risky = asked(&api, RISKY).await;
    let other = asked(&api, "my password is lost").await;
    let found = async |ask: v1::ListApprovalsRequest| {
        let with_totals = v1::ListApprovalsRequest {
            with_totals: true,
            ..ask
        };
        let page = list(&api, with_totals).await;
        let totals = page.totals.expect("asked for");
        let ids: Vec<_> = page.approvals.into_iter().map(|a| a.id).collect();
        (ids, totals)
    };
    let all = v1::ListApprovalsRequest::default;
    let (ids, totals) = found(v1::ListApprovalsRequest {
        page_size: 1,
        ..all()
    })
    .await;
    assert_eq!(ids, std::slice::from_ref(&risky.id), "the page");
    assert_eq!(totals.approvals, 2, "whatever the page");
    let counted: Vec<_> = totals
        .by_escalation_reason
        .iter()
        .map(|count| (count.escalation_reason(), count.approvals))
        .collect();
    assert_eq!(
        counted,
        [(EscalationReason::New, 1), (EscalationReason::Risky, 1)]
    );
    assert!(totals.oldest_age_ms.is_some());
    let (ids, totals) = found(v1::ListApprovalsRequest {
        escalation_reasons: vec![EscalationReason::Risky.into()],
        ..all()
    })
    .await;
    assert_eq!((ids, totals.approvals), (vec![risky.id], 1));
    let (ids, _) = found(v1::ListApprovalsRequest {
        search: "PASSWORD".to_owned(),
        ..all()
    })
    .await;
    assert_eq!(ids, [other.id]);
    let (ids, totals) = found(v1::ListApprovalsRequest {
        older_than_ms: 3_600_000,
        ..all()
    })
    .await;
    assert_eq!((ids.len(), totals.oldest_age_ms), (0, None));
    assert_eq!(list(&api, all()).await.totals, None, "not asked for");
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_shows_its_evidence_and_a_mistyped_label_is_refused() {
    let api = Api::open().await;
    let first = asked(&api, "the printer is out of paper").await;
    let shown = async |id: &str| {
        let approval_id = id.to_owned();
        let got = client(&api)
            .get(v1::GetApprovalRequest { approval_id })
            .await;
        got.map(tonic::Response::into_inner)
    };
    let got = shown(&first.id).await.expect("there");
    assert_eq!(got.approval.expect("a question").id, first.id);
    assert!(got.known_labels.is_empty());
    // While memory knows nothing there is nothing that a typo could be compared with.
    let decided = client(&api).decide(correct(&first, "printing")).await;
    decided.expect("the first label");
    watch_to_the_end(&api, vec![first.task_id.clone()]).await;

    let risky = asked(&api, RISKY).await;
    let got = shown(&risky.id).await.expect("there");
    assert_eq!(got.known_labels, ["printing"]);
    let evidence = got.evidence.expect("evidence");
    assert!(
        evidence.findings[0].words.contains("database"),
        "{evidence:?}"
    );
    assert_eq!(evidence.candidates[0].label, "printing");
    assert_eq!(evidence.neighbours[0].text, "the printer is out of paper");

    let mut decide = correct(&risky, "printnig");
    let refused = client(&api).decide(decide.clone()).await;
    let refused = refused.expect_err("a typo");
    assert_eq!(
        (refused.code(), code(&refused).as_str()),
        (Code::FailedPrecondition, "CLY0034")
    );
    assert!(
        refused.message().contains("did you mean \"printing\"?"),
        "{refused:?}"
    );
    for unseen in ["data\u{202e}bases", "data\u{200b}bases", "data\u{1b}bases"] {
        let mut evil = correct(&risky, unseen);
        evil.known_label_only = false;
        let refused = client(&api).decide(evil).await.expect_err("steers");
        assert_eq!(code(&refused), "CLY0010", "{unseen:?}");
    }
    let feedback = v1::FeedbackRequest {
        task_id: first.task_id,
        label: "printnig".to_owned(),
        known_label_only: true,
    };
    let refused = api.tasks().feedback(feedback).await.expect_err("a typo");
    assert_eq!(code(&refused), "CLY0034");
    decide.known_label_only = false;
    client(&api).decide(decide).await.expect("it is meant");
    let none = shown("019a0000-0000-7000-8000-000000000000").await;
    assert_eq!(code(&none.expect_err("none")), "CLY0013");
    api.close().await;
}

fn opened(event: Event) -> String {
    match event {
        Event::Open(approval) => approval.id,
        other @ (Event::Settled(_) | Event::CaughtUp(_)) => panic!("{other:?}"),
    }
}

async fn next(stream: &mut Streaming<v1::WatchApprovalsResponse>) -> Event {
    let message = tokio::time::timeout(Duration::from_secs(30), stream.message()).await;
    let message = message.expect("a message in 30 s").expect("unbroken");
    message
        .expect("the stream goes on")
        .event
        .expect("an event")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_is_told_what_is_open_and_then_what_happens() {
    let api = Api::open().await;
    let first = asked(&api, "my password is lost").await;
    let watch = async |agent_type: &str| {
        let ask = v1::WatchApprovalsRequest {
            agent_type: agent_type.to_owned(),
            ..v1::WatchApprovalsRequest::default()
        };
        let opened = client(&api).watch(ask).await;
        opened.expect("watched").into_inner()
    };
    let mut stream = watch("triage").await;
    let mut nothing = watch("echo").await;
    assert_eq!(opened(next(&mut stream).await), first.id);
    assert_eq!(next(&mut stream).await, Event::CaughtUp(v1::CaughtUp {}));
    assert_eq!(next(&mut nothing).await, Event::CaughtUp(v1::CaughtUp {}));
    let second = asked(&api, "the screen is broken").await;
    assert_eq!(opened(next(&mut stream).await), second.id);
    let decided = client(&api).decide(correct(&first, "access")).await;
    decided.expect("decided");
    let Event::Settled(settled) = next(&mut stream).await else {
        panic!("the first is decided");
    };
    assert_eq!(settled.id, first.id);
    assert_eq!(settled.decision.expect("a decision").by, "ann");
    let cancel = v1::CancelRequest {
        task_id: second.task_id.clone(),
        request_id: None,
    };
    api.tasks().cancel(cancel).await.expect("cancelled");
    let Event::Settled(settled) = next(&mut stream).await else {
        panic!("the second is closed");
    };
    assert_eq!(
        (settled.id.as_str(), settled.state()),
        (second.id.as_str(), ApprovalState::Closed)
    );
    // Whoever comes later begins with what is open then.
    let mut late = watch("").await;
    assert_eq!(next(&mut late).await, Event::CaughtUp(v1::CaughtUp {}));
    drop((stream, nothing, late));
    api.close().await;
}
