#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

fn request(tokens: usize) -> Waiting {
    Waiting {
        tokens,
        answer_tokens: 10,
        enqueued_at: NOW,
        deadline: None,
        priority: Priority::NORMAL,
        tenant: Tenant::default(),
        alone: false,
    }
}

fn of(tenant: &str, priority: Priority) -> Waiting {
    Waiting {
        tenant: Tenant::new(tenant).unwrap(),
        priority,
        ..request(10)
    }
}

fn encode(waiting: &[Waiting], limits: &EncoderLimits) -> Plan {
    encode_next(waiting, &mut FairQueue::default(), limits, NOW)
}

#[test]
fn a_batch_is_sorted_and_within_its_budget() {
    let waiting: Vec<_> = [30, 10, 20, 400, 25].into_iter().map(request).collect();
    let limits = EncoderLimits {
        tokens_max: 120,
        ..EncoderLimits::default()
    };
    assert_eq!(encode(&waiting, &limits).run, [1, 2, 4, 0]);
    // A single request above the budget is a batch by itself rather than never.
    assert_eq!(encode(&waiting[3..4], &limits).run, [0]);
}

#[test]
fn padding_is_bounded() {
    let waiting: Vec<_> = [100, 5, 5, 5, 90].into_iter().map(request).collect();
    let plan = encode(&waiting, &EncoderLimits::default());
    assert_eq!(
        plan.run,
        [1, 4, 0],
        "one short row is worth it, three are not"
    );
}

#[test]
fn a_large_tenant_does_not_crowd_out_a_small_one() {
    let mut waiting = vec![of("big", Priority::NORMAL); 10];
    waiting.push(of("small", Priority::NORMAL));
    let limits = EncoderLimits {
        rows_max: 2,
        ..EncoderLimits::default()
    };
    let mut fair_queue = FairQueue::default();
    assert_eq!(
        encode_next(&waiting, &mut fair_queue, &limits, NOW).run,
        [0, 10]
    );
    // And it does not pay for its modesty: next time it starts level.
    waiting.remove(10);
    waiting.remove(0);
    let _ = encode_next(&waiting, &mut fair_queue, &limits, NOW);
    waiting.push(of("small", Priority::NORMAL));
    assert!(
        encode_next(&waiting, &mut fair_queue, &limits, NOW)
            .run
            .contains(&9)
    );
}

#[test]
fn urgency_comes_first_until_a_request_is_overdue() {
    let mut waiting = vec![of("a", Priority::LOW), of("a", Priority::CRITICAL)];
    let mut fair_queue = FairQueue::default();
    assert_eq!(fair_queue.order(&waiting, NOW), [1, 0]);
    waiting[0].enqueued_at = Timestamp::from_micros(NOW.as_micros() - 10_000_000);
    assert_eq!(fair_queue.order(&waiting, NOW), [0, 1]);
}

#[test]
fn the_late_are_named_and_not_run() {
    let mut waiting = vec![request(10), request(10)];
    waiting[0].deadline = Some(NOW);
    let plan = encode(&waiting, &EncoderLimits::default());
    assert_eq!((plan.run, plan.late), (vec![1], vec![0]));
    let limits = DecoderLimits::default();
    let plan = decode_next(
        &waiting,
        Running::default(),
        &mut FairQueue::default(),
        &limits,
        NOW,
    );
    assert_eq!((plan.run, plan.late), (vec![1], vec![0]));
}

#[test]
fn who_is_retried_goes_alone_and_before_all_others() {
    let mut waiting = vec![of("a", Priority::CRITICAL), request(10), request(10)];
    waiting[1].alone = true;
    waiting[2].alone = true;
    assert_eq!(encode(&waiting, &EncoderLimits::default()).run, [1]);
    let join = |waiting: &[Waiting], running| {
        let limits = DecoderLimits::default();
        decode_next(waiting, running, &mut FairQueue::default(), &limits, NOW).run
    };
    assert_eq!(join(&waiting, Running::default()), [1]);
    let alone = Running {
        rows: 1,
        cache_tokens: 20,
        alone: true,
    };
    assert_eq!(join(&waiting[..1], alone), [0; 0], "nobody joins it");
    let others = Running {
        alone: false,
        ..alone
    };
    assert_eq!(
        join(&waiting, others),
        [0; 0],
        "it waits until the others have ended"
    );
    waiting[1].deadline = Some(NOW);
    assert_eq!(encode(&waiting, &EncoderLimits::default()).run, [2]);
}

#[test]
fn rows_join_while_slots_cache_and_prefill_allow() {
    let limits = DecoderLimits {
        rows_max: 4,
        cache_tokens_max: 200,
        prefill_tokens_max: 60,
    };
    let join = |waiting: &[Waiting], rows, cache_tokens| {
        let running = Running {
            rows,
            cache_tokens,
            alone: false,
        };
        decode_next(waiting, running, &mut FairQueue::default(), &limits, NOW).run
    };
    let some = vec![request(30); 5];
    assert_eq!(
        join(&some, 0, 0),
        [0, 1],
        "two prompts fill the prefill budget"
    );
    assert_eq!(join(&some, 3, 60), [0], "one slot is left");
    assert_eq!(join(&some, 4, 60), [0; 0], "no slot is left");
    assert_eq!(join(&some, 1, 170), [0; 0], "the cache is full");
    assert_eq!(
        join(&[request(90), request(1)], 1, 20),
        [0],
        "the first is read whole"
    );
    assert_eq!(
        join(&[request(150), request(1)], 1, 60),
        [0; 0],
        "nobody overtakes"
    );
    assert_eq!(join(&[request(500)], 0, 0), [0], "alone it may try");
}

fn any_waiting() -> impl Strategy<Value = Vec<Waiting>> {
    let one = (
        0_usize..200,
        0_usize..50,
        1_u8..=10,
        0_u8..4,
        proptest::option::of(-5_i8..5),
        proptest::bool::weighted(0.1),
    );
    proptest::collection::vec(one, 0..40).prop_map(|all| {
        all.into_iter()
            .map(
                |(tokens, answer_tokens, priority, tenant, deadline, alone)| Waiting {
                    tokens,
                    answer_tokens,
                    enqueued_at: Timestamp::from_micros(NOW.as_micros() - u64::from(priority)),
                    deadline: deadline.map(|d| {
                        Timestamp::from_micros(NOW.as_micros().saturating_add_signed(d.into()))
                    }),
                    priority: Priority::new(priority).unwrap(),
                    tenant: Tenant::new(&format!("t{tenant}")).unwrap(),
                    alone,
                },
            )
            .collect()
    })
}

proptest! {
    /// Whatever waits, limits hold, and repeating the choice serves or names everybody exactly once.
    #[test]
    fn everybody_is_served_once_within_the_limits(mut waiting in any_waiting()) {
        let limits = EncoderLimits { rows_max: 5, tokens_max: 300, ..EncoderLimits::default() };
        let mut fair_queue = FairQueue::default();
        while !waiting.is_empty() {
            let first = fair_queue.order(&waiting, NOW).into_iter()
                .find(|n| waiting[*n].deadline.is_none_or(|d| d > NOW));
            let plan = encode_next(&waiting, &mut fair_queue, &limits, NOW);
            let alone = plan.run.iter().any(|n| waiting[*n].alone);
            prop_assert!(first.is_none_or(|n| alone || plan.run.contains(&n)));
            prop_assert!(!alone || plan.run.len() == 1);
            prop_assert!(!plan.run.is_empty() || !plan.late.is_empty());
            let longest = plan.run.iter().map(|n| waiting[*n].tokens).max().unwrap_or(0);
            prop_assert!(plan.run.len() <= 1 || plan.run.len() * longest <= 300);
            let gone: BTreeSet<_> = plan.run.iter().chain(&plan.late).copied().collect();
            prop_assert_eq!(gone.len(), plan.run.len() + plan.late.len());
            let mut number = 0;
            waiting.retain(|_| { number += 1; !gone.contains(&(number - 1)) });
        }
    }

    #[test]
    fn joining_keeps_rows_and_cache_within_their_limits(
        waiting in any_waiting(), rows in 0_usize..6, cache_tokens in 0_usize..400
    ) {
        let limits = DecoderLimits { rows_max: 5, cache_tokens_max: 400, prefill_tokens_max: 100 };
        let running = Running { rows, cache_tokens, alone: false };
        let plan = decode_next(&waiting, running, &mut FairQueue::default(), &limits, NOW);
        let joined: usize = plan.run.iter()
            .map(|n| waiting[*n].tokens + waiting[*n].answer_tokens).sum();
        prop_assert!(plan.run.is_empty() || rows + plan.run.len() <= 5);
        prop_assert!(plan.run.is_empty() || cache_tokens + joined <= 400 || rows == 0);
        let read: usize = plan.run.iter().map(|n| waiting[*n].tokens).sum();
        prop_assert!(plan.run.len() <= 1 || read <= 100);
    }
}
