//! Lists of large things: whatever is legal comes through a client with default limits.

use std::sync::Arc;

use colony_core::{
    cycle::{Effect, EscalationReason},
    escalation::Evidence,
    id::ApprovalId,
    journal::{EffectKey, Entry, Note},
    task::{Answer, INPUT_BYTES_MAX},
};
use colony_proto::v1::{self, approvals_client::ApprovalsClient};
use colony_store::{Commit, Question, Settlement};

use super::api::{Api, claimed, task};
use crate::walk::ledger;

#[tokio::test(flavor = "multi_thread")]
async fn eighty_large_tasks_are_listed_over_several_pages() {
    let api = Api::open().await;
    let large = "x".repeat(INPUT_BYTES_MAX);
    let mut expected = Vec::new();
    for _ in 0..2 {
        let tasks = vec![task("triage", &large); 40];
        let batch = v1::SubmitBatchRequest { tasks };
        let submitted = api.tasks().submit_batch(batch).await.expect("accepted");
        let submitted = submitted.into_inner().submitted;
        expected.extend(submitted.into_iter().map(|s| s.task_id));
    }
    let (mut found, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let list = v1::ListTasksRequest {
            page_token,
            ..v1::ListTasksRequest::default()
        };
        let page = api.tasks().list(list).await.expect("listed").into_inner();
        assert!(!page.tasks.is_empty(), "an empty page asks for another");
        found.extend(page.tasks.into_iter().map(|t| t.id));
        page_token = page.next_page_token;
        pages += 1;
        if page_token.is_empty() {
            break;
        }
    }
    expected.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(found, expected);
    assert!(pages > 1, "5 MiB came in one answer");
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eighty_large_questions_are_listed_over_several_pages() {
    let ledger = ledger();
    let large = "x".repeat(INPUT_BYTES_MAX);
    let inputs = vec![large.clone(); 80];
    let mut expected = Vec::new();
    for claim in claimed(&*ledger, inputs).await {
        let question = Question {
            id: ApprovalId(claim.head.id.0),
            escalation_reason: EscalationReason::Risky,
            question: "shall it be done?".to_owned(),
            proposal: Answer::by_rule(large.clone(), "always"),
            evidence: Evidence::default(),
        };
        expected.push(question.id.to_string());
        let wait = Settlement::Wait(Box::new(question));
        let commit = Commit::settling(claim.reference(), wait);
        ledger.commit(commit).await.expect("it waits");
    }
    let api = Api::on(ledger, |_| {}).await;
    let mut approvals = ApprovalsClient::new(api.channel.clone());
    let (mut found, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let list = v1::ListApprovalsRequest {
            page_token,
            ..v1::ListApprovalsRequest::default()
        };
        let page = approvals.list(list).await.expect("listed").into_inner();
        found.extend(page.approvals.into_iter().map(|a| a.id));
        page_token = page.next_page_token;
        pages += 1;
        if page_token.is_empty() {
            break;
        }
    }
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(pages > 2, "10 MiB came in {pages} answers");
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_journal_comes_in_pages_and_an_endless_entry_without_its_body() {
    let ledger = ledger();
    let claim = claimed(&*ledger, vec!["x".repeat(INPUT_BYTES_MAX)])
        .await
        .remove(0);
    let effect = |n: u32| Effect {
        tool: "call".to_owned(),
        arguments: serde_json::json!(n),
    };
    // Ten entries of 900 KiB, and one of 2 MiB.
    let lengths = [vec![900 * 1024; 10], vec![2 * 1024 * 1024]].concat();
    let entries = (0..).zip(&lengths).map(|(sequence, bytes)| Entry {
        sequence,
        at: ledger.now(),
        note: Note::Outcome {
            key: EffectKey::new(claim.head.id, 0, &effect(sequence), 0),
            value: "y".repeat(*bytes).into(),
        },
    });
    let mut commit = Commit::settling(claim.reference(), Settlement::Continue);
    commit.entries = entries.collect();
    ledger.commit(commit).await.expect("written");
    let api = Api::on(Arc::clone(&ledger), |_| {}).await;
    let id = claim.head.id.to_string();
    let ask = |journal_page_token: String| v1::GetTaskRequest {
        task_id: id.clone(),
        journal: true,
        journal_page_token,
    };
    let (mut entries, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let got = api
            .tasks()
            .get(ask(token))
            .await
            .expect("known")
            .into_inner();
        assert_eq!(got.task.expect("a task").id, id);
        entries.extend(got.journal);
        token = got.next_journal_page_token;
        pages += 1;
        if token.is_empty() {
            break;
        }
    }
    assert!(pages > 2, "9 MiB came in {pages} answers");
    assert_eq!(entries.len(), lengths.len());
    for ((sequence, entry), length) in (0..).zip(&entries).zip(&lengths) {
        assert_eq!(entry.sequence, sequence);
        let bytes = usize::try_from(entry.body_bytes).expect("small");
        assert!(bytes > *length);
        let shown = if *length > 1024 * 1024 { 0 } else { bytes };
        assert_eq!(entry.body_json.len(), shown);
    }
    let bad = api.tasks().get(ask("x".to_owned())).await;
    assert_eq!(super::api::code(&bad.expect_err("no token")), "CLY0010");
    api.close().await;
}
