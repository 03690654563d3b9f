//! The contract, run against every engine: the list of engines stands at the end.

mod claims;
mod commits;
mod humans;
mod keeping;
mod races;
mod random;
mod reading;
mod submits;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_core::{id::Tenant, port::Clock};
use colony_store::{MemoryLedger, Policy, SqliteLedger};

use crate::world::{Opened, World};

/// The default rules, with limits that a test can reach.
fn policy() -> Policy {
    Policy {
        live_max: 20,
        tenant_weights: BTreeMap::from([(Tenant::new("zoo").unwrap(), 3)]),
        ..Policy::default()
    }
}

/// Runs each check on a ledger of its own, and random histories, as many as are said.
macro_rules! on_engine {
    ($engine:ident, $open:expr, $histories:expr) => {
        mod $engine {
            use super::*;

            checks! { $open;
                submits: a_repeated_submit_is_a_duplicate,
                submits: a_repeat_is_answered_before_anything_is_judged,
                submits: a_deduplication_key_is_remembered,
                submits: a_batch_is_accepted_in_order,
                submits: a_full_ledger_takes_all_or_none,
                claims: priority_overtakes_within_its_head_start,
                claims: a_claim_takes_what_is_free_in_each_queue,
                claims: tenants_share_by_weight,
                claims: a_repeated_claim_gets_what_it_holds_still,
                claims: nobody_else_s_request_claims_anything,
                claims: a_new_life_loses_the_claims_of_the_former_ones,
                claims: no_task_dies_of_its_nodes,
                claims: the_only_node_adopts_what_it_finds,
                claims: a_wait_is_over_when_its_time_has_come,
                claims: whoever_waits_for_work_is_woken,
                commits: a_task_walks_to_its_end,
                commits: an_old_claim_is_lost_everywhere,
                commits: a_gap_in_the_journal_is_refused_whole,
                commits: a_repeated_commit_is_answered_alike,
                commits: a_release_that_does_not_count_is_no_attempt,
                commits: a_failed_attempt_waits_and_the_last_one_kills,
                commits: deadlines_end_tasks,
                commits: cancel_ends_a_task_in_each_live_state,
                commits: what_ended_without_a_verdict_is_revived,
                humans: a_waiting_task_goes_on_after_the_decision,
                humans: a_question_is_decided_once,
                humans: an_end_closes_the_question,
                humans: an_answer_survives_the_end_of_its_task,
                keeping: the_outbox_holds_each_message_once,
                keeping: an_acknowledged_message_waits_no_more,
                keeping: an_acknowledged_message_is_forgotten_in_its_time,
                keeping: the_last_episode_of_a_task_counts,
                keeping: each_tenant_and_type_has_a_stream_of_its_own,
                keeping: the_newest_episodes_that_count_lie_after_a_floor,
                keeping: a_commit_teaches_once,
                keeping: agents_are_saved_by_who_read_them_last,
                keeping: snapshots_are_kept_by_node_and_name,
                keeping: a_closed_ledger_is_shut,
                reading: tasks_are_paged_newest_first,
                reading: a_page_ends_by_bytes,
                reading: questions_are_paged_oldest_first,
                reading: questions_are_found_by_what_is_looked_for,
                reading: tasks_are_found_by_the_beginning_of_their_ids,
                reading: changes_have_no_gaps,
                races: cancel_beside_commit,
                races: expire_beside_commit,
                races: lose_beside_commit,
                races: decide_beside_cancel,
                races: decide_beside_expire,
                races: decide_beside_decide,
                races: revive_beside_late_commit,
                races: revive_beside_late_cancel,
                races: cancel_beside_late_revive,
                races: register_beside_late_claim,
                races: claim_beside_repeat,
                races: settle_repeated_after_another_claim,
                races: submit_beside_submit,
            }

            proptest::proptest! {
                #![proptest_config(proptest::prelude::ProptestConfig {
                    cases: $histories,
                    failure_persistence: None,
                    ..Default::default()
                })]

                #[test]
                fn does_as_the_reference(ops in random::ops()) {
                    random::run($open, ops);
                }
            }
        }
    };
}

macro_rules! checks {
    ($open:expr; $($module:ident: $check:ident,)+) => {
        $(#[tokio::test(start_paused = true)]
        async fn $check() {
            let open = $open;
            $module::$check(World::begin(|clock| open(policy(), clock)).await).await;
        })+
    };
}

fn memory(policy: Policy, clock: Arc<dyn Clock>) -> Opened {
    (Arc::new(MemoryLedger::new(policy, clock)), None)
}

fn memory_with_sync_delay(policy: Policy, clock: Arc<dyn Clock>) -> Opened {
    let delay = Duration::from_millis(3);
    let ledger = MemoryLedger::with_sync_delay(policy, clock, delay);
    (Arc::new(ledger), None)
}

fn in_a_new_file(policy: Policy, clock: Arc<dyn Clock>) -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = SqliteLedger::open(&path, policy, clock).unwrap();
    (Arc::new(ledger), Some(folder))
}

on_engine!(in_memory, memory, 300);
on_engine!(in_memory_with_sync_delay, memory_with_sync_delay, 50);
on_engine!(in_a_file, in_a_new_file, 30);
