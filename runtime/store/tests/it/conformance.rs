//! The contract, run against every engine.

mod claims;
mod humans;
mod keeping;
mod reading;
mod submits;

use std::sync::Arc;

use colony_store::{MemoryLedger, Policy, SqliteLedger};

use crate::world::World;

/// The default rules, with a limit on live tasks that a test can reach.
fn policy() -> Policy {
    Policy {
        live_max: 20,
        ..Policy::default()
    }
}

/// Runs each check on an engine of its own.
macro_rules! on_every_engine {
    ($($name:ident in $module:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                let book = super::MemoryLedger::new(super::policy());
                super::$module::$name(super::World::new(super::Arc::new(book))).await;
            })+
        }

        mod memory_with_sync_delay {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                let delay = std::time::Duration::from_millis(3);
                let book = super::MemoryLedger::with_sync_delay(super::policy(), delay);
                super::$module::$name(super::World::new(super::Arc::new(book))).await;
            })+
        }

        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("ledger.db");
                let book = super::SqliteLedger::open(&path, super::policy()).unwrap();
                super::$module::$name(super::World::new(super::Arc::new(book))).await;
            })+
        }
    };
}

on_every_engine! {
    a_repeated_submit_is_a_duplicate in submits,
    a_deduplication_key_is_remembered in submits,
    a_batch_is_accepted_in_order in submits,
    a_full_book_takes_all_or_none in submits,
    priority_overtakes_within_its_head_start in claims,
    a_claim_takes_what_is_wanted_of_each_type in claims,
    a_task_walks_to_its_end in claims,
    an_old_claim_is_lost_everywhere in claims,
    a_gap_in_the_journal_is_refused_whole in claims,
    hand_back_is_not_a_delivery in claims,
    a_failed_claim_waits_and_dies_in_the_end in claims,
    a_new_life_requeues_former_claims_only in claims,
    a_former_life_gets_nothing in claims,
    deadlines_end_tasks in claims,
    a_parked_task_goes_on_after_the_decision in humans,
    a_question_is_decided_once in humans,
    cancel_closes_the_question in humans,
    cancel_ends_a_task_in_each_live_state in humans,
    outbox_holds_each_key_once in keeping,
    the_last_episode_of_a_task_counts in keeping,
    agents_and_snapshots_are_kept_as_they_are in keeping,
    a_closed_book_is_shut in keeping,
    tasks_are_paged_newest_first in reading,
    questions_are_paged_oldest_first in reading,
    changes_have_no_gaps in reading,
    next_due_is_the_next_deadline_or_backoff in reading,
}
