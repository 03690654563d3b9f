//! How an agent lives: when it sleeps, and who is woken.
//!
//! ```text
//!              award              ended
//!     idle ─────────────► active ────────► idle
//!      │ ▲                  ▲
//!      │ │ warm             │ award (wakes it on the way)
//!      │ └──── warming ◄────┼──── sleeping
//!      └────────────────────┼──────►  sleep (idle for long)
//! ```
//! Only agents that are not asleep are actors; a sleeper is a row that still offers itself to the market.
//! Called by the roster; who gets a task is the market's decision, not this one's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::unit::Timestamp;

/// How an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Awake, without a task.
    Idle,
    /// Works on a task.
    Active,
    /// A row, not an actor.
    Sleeping,
    /// Being made an actor from its row.
    Warming,
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The market gives it a task.
    Award,
    /// Its task has left it.
    End,
    /// It has been idle for long.
    Sleep,
    /// It is wanted, or kept warm in advance.
    Wake,
    /// It is an actor again.
    Warm,
    /// Its actor died: it is a row until it is woken again.
    Crash,
}

/// An event that cannot happen in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to an agent that is {from:?}")]
pub struct Illegal {
    /// How the agent was.
    pub from: State,
    /// What was tried.
    pub event: Event,
}

impl State {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Active, Self::Sleeping, Self::Warming];

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot happen; the caller has lost a race or has a bug.
    pub const fn after(self, event: Event) -> Result<Self, Illegal> {
        match (self, event) {
            (Self::Idle, Event::Award) => Ok(Self::Active),
            (Self::Active, Event::End) | (Self::Warming, Event::Warm) => Ok(Self::Idle),
            (Self::Idle, Event::Sleep)
            | (Self::Idle | Self::Active | Self::Warming, Event::Crash) => Ok(Self::Sleeping),
            (Self::Sleeping, Event::Wake) => Ok(Self::Warming),
            (from, event) => Err(Illegal { from, event }),
        }
    }

    /// Whether an actor exists or is about to.
    #[must_use]
    pub const fn is_awake(self) -> bool {
        match self {
            Self::Idle | Self::Active | Self::Warming => true,
            Self::Sleeping => false,
        }
    }
}

/// When agents of one type sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rest {
    /// An agent idle for so long may sleep.
    pub sleep_after: Duration,
    /// Agents of the type that stay awake even so: the next tasks need not wait for a wake.
    pub keep_warm: u32,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            // An idle actor costs 8 to 11 KB and a wake some 10 µs: no hurry.
            sleep_after: Duration::from_secs(300),
            keep_warm: 0,
        }
    }
}

/// One agent as this law sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number within the type.
    pub ordinal: u32,
    /// How it is.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
}

impl Rest {
    /// Who goes to sleep now, longest idle first: all that were idle long enough, except so many that
    /// [`Rest::keep_warm`] agents stay awake.
    #[must_use]
    pub fn to_sleep(&self, members: &[Member], now: Timestamp) -> Vec<u32> {
        let awake = members.iter().filter(|m| m.state.is_awake()).count();
        let spare = awake.saturating_sub(usize::try_from(self.keep_warm).unwrap_or(usize::MAX));
        let mut tired: Vec<_> = members
            .iter()
            .filter(|m| m.state == State::Idle && now.since(m.since) >= self.sleep_after)
            .map(|m| (m.since, m.ordinal))
            .collect();
        tired.sort_unstable();
        tired
            .into_iter()
            .take(spare)
            .map(|(_, ordinal)| ordinal)
            .collect()
    }

    /// Who is woken for `demand` waiting tasks, last asleep first (its memory is the freshest): as many as
    /// the idle and the warming cannot serve, and as many as [`Rest::keep_warm`] wants in any case.
    #[must_use]
    pub fn to_wake(&self, members: &[Member], demand: u32) -> Vec<u32> {
        let count = |states: &[State]| members.iter().filter(|m| states.contains(&m.state)).count();
        let ready = count(&[State::Idle, State::Warming]);
        let awake = ready + count(&[State::Active]);
        let as_count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let for_demand = as_count(demand).saturating_sub(ready);
        let for_warmth = as_count(self.keep_warm).saturating_sub(awake);
        let mut sleepers: Vec<_> = members
            .iter()
            .filter(|m| m.state == State::Sleeping)
            .map(|m| (std::cmp::Reverse(m.since), m.ordinal))
            .collect();
        sleepers.sort_unstable();
        let wanted = for_demand.max(for_warmth);
        sleepers
            .into_iter()
            .take(wanted)
            .map(|(_, ordinal)| ordinal)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(ordinal: u32, state: State, since: u64) -> Member {
        Member {
            ordinal,
            state,
            since: Timestamp::from_micros(since * 1_000_000),
        }
    }

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    #[test]
    fn a_sleeper_wakes_before_it_works() {
        assert!(State::Sleeping.after(Event::Award).is_err());
        let woken = State::Sleeping
            .after(Event::Wake)
            .and_then(|s| s.after(Event::Warm))
            .and_then(|s| s.after(Event::Award))
            .and_then(|s| s.after(Event::End));
        assert_eq!(woken, Ok(State::Idle));
        assert!(
            State::Active.after(Event::Sleep).is_err(),
            "nobody sleeps at work"
        );
        for state in State::ALL {
            assert_eq!(state.after(Event::Crash).is_ok(), state.is_awake());
        }
    }

    #[test]
    fn the_longest_idle_sleep_and_some_stay_warm() {
        let members = [
            member(1, State::Idle, 600),
            member(2, State::Idle, 100),
            member(3, State::Active, 0),
            member(4, State::Idle, 900),
            member(5, State::Sleeping, 0),
        ];
        let rest = |keep_warm| Rest {
            keep_warm,
            ..Rest::default()
        };
        assert_eq!(rest(0).to_sleep(&members, NOW), [2, 1]);
        assert_eq!(rest(3).to_sleep(&members, NOW), [2]);
        assert_eq!(rest(4).to_sleep(&members, NOW), [0; 0]);
    }

    #[test]
    fn as_many_wake_as_are_wanted_the_freshest_first() {
        let members = [
            member(1, State::Sleeping, 10),
            member(2, State::Sleeping, 30),
            member(3, State::Sleeping, 20),
            member(4, State::Idle, 0),
            member(5, State::Warming, 0),
            member(6, State::Active, 0),
        ];
        assert_eq!(Rest::default().to_wake(&members, 2), [0; 0]);
        assert_eq!(Rest::default().to_wake(&members, 4), [2, 3]);
        assert_eq!(Rest::default().to_wake(&members, 99), [2, 3, 1]);
        let warm = Rest {
            keep_warm: 4,
            ..Rest::default()
        };
        assert_eq!(warm.to_wake(&members, 0), [2]);
    }

    proptest! {
        /// Sleeping and waking do not undo each other: whoever is sent to sleep is not wanted back.
        #[test]
        fn the_two_decisions_agree(states in proptest::collection::vec(0_usize..4, 0..30), keep_warm in 0_u32..10) {
            let mut members: Vec<_> = (0_u32..).zip(&states)
                .map(|(ordinal, state)| member(ordinal, State::ALL[*state], 0)).collect();
            let rest = Rest { keep_warm, ..Rest::default() };
            let asleep = rest.to_sleep(&members, NOW);
            for member in &mut members {
                if asleep.contains(&member.ordinal) {
                    prop_assert_eq!(member.state, State::Idle);
                    member.state = State::Sleeping;
                }
            }
            let woken = rest.to_wake(&members, 0);
            prop_assert!(asleep.is_empty() || woken.is_empty());
        }
    }
}
