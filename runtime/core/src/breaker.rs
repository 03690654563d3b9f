//! Whether something outside that fails is asked again: one rule for every port.
//!
//! ```text
//!            failures in a row ≥ failures_max            hold over
//!   closed ─────────────────────────────────► open ───────────────────► half-open
//!     ▲                                        ▲                           │
//!     └──────────────── the probe succeeds ────┼───────────────────────────┤
//!                                              └── it fails: hold doubles ─┘
//! ```
//! A breaker stands for one port that can be away: a model, an endpoint, a tool. Only failures of the
//! port itself count (it is away, it does not answer); a request that it refuses for the request's own
//! sake says nothing about it, and neither does a full queue. While a breaker is open nothing that needs
//! the port is begun; half-open, one at a time is: the probe. A probe that never reports, because whoever
//! carried it died, is forgotten after a hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{span, unit::Timestamp};

/// When breakers open, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Failures in a row that open a breaker.
    pub failures_max: u32,
    /// How long it stays open at first; doubles with each failed probe.
    #[serde(with = "span")]
    pub hold: Duration,
    /// The longest it stays open between two probes.
    #[serde(with = "span")]
    pub hold_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // A single failure may be a hiccup; five in a row, from five agents perhaps, are none.
            failures_max: 5,
            hold: Duration::from_secs(1),
            // A model that comes back is used within half a minute.
            hold_max: Duration::from_secs(30),
        }
    }
}

/// Whether the port may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Without limit.
    Free,
    /// Once: the answer decides.
    Probe,
    /// Not before this moment.
    NotBefore(Timestamp),
}

/// The state of one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Timestamp, hold: Duration },
    Probing { until: Timestamp, hold: Duration },
}

/// One port's breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    state: State,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed { failures: 0 },
        }
    }
}

impl Breaker {
    /// Whether the port may be asked now.
    #[must_use]
    pub fn permission(&self, now: Timestamp) -> Permission {
        match self.state {
            State::Closed { .. } => Permission::Free,
            State::Open { until, .. } | State::Probing { until, .. } if now < until => {
                Permission::NotBefore(until)
            }
            State::Open { .. } | State::Probing { .. } => Permission::Probe,
        }
    }

    /// A probe is on its way: nobody else may ask until it has answered, or a hold has passed.
    pub fn probe(&mut self, now: Timestamp) {
        if let State::Open { hold, .. } | State::Probing { hold, .. } = self.state {
            let until = now.after(hold);
            self.state = State::Probing { until, hold };
        }
    }

    /// The probe is over and never asked the port: another may go at once.
    pub fn probe_unused(&mut self, now: Timestamp) {
        if let State::Probing { hold, .. } = self.state {
            self.state = State::Open { until: now, hold };
        }
    }

    /// The port has answered. True when that closed the breaker.
    pub fn success(&mut self) -> bool {
        let was_open = self.is_open();
        self.state = State::Closed { failures: 0 };
        was_open
    }

    /// The port has failed. True when that opened the breaker.
    pub fn failure(&mut self, settings: &Settings, now: Timestamp) -> bool {
        match self.state {
            State::Closed { failures } => {
                let failures = failures.saturating_add(1);
                let opens = failures >= settings.failures_max;
                self.state = if opens {
                    State::Open {
                        until: now.after(settings.hold),
                        hold: settings.hold,
                    }
                } else {
                    State::Closed { failures }
                };
                opens
            }
            // Failures of calls that were under way when it opened say nothing new.
            State::Open { until, .. } if now < until => false,
            State::Open { hold, .. } | State::Probing { hold, .. } => {
                let hold = hold
                    .saturating_mul(2)
                    .min(settings.hold_max.max(settings.hold));
                let until = now.after(hold);
                self.state = State::Open { until, hold };
                false
            }
        }
    }

    /// Whether the port is taken for away.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        failures_max: 3,
        hold: Duration::from_secs(1),
        hold_max: Duration::from_secs(4),
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn opened(now: Timestamp) -> Breaker {
        let mut breaker = Breaker::default();
        let opened: Vec<_> = (0..3).map(|_| breaker.failure(&SETTINGS, now)).collect();
        assert_eq!(opened, [false, false, true]);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.failure(&SETTINGS, at(0));
            breaker.failure(&SETTINGS, at(0));
            assert!(!breaker.success());
        }
        assert_eq!(breaker.permission(at(0)), Permission::Free);
        assert_eq!(
            opened(at(0)).permission(at(0)),
            Permission::NotBefore(at(1))
        );
    }

    #[test]
    fn one_probe_at_a_time_and_its_answer_decides() {
        let mut breaker = opened(at(0));
        assert_eq!(breaker.permission(at(1)), Permission::Probe);
        breaker.probe(at(1));
        assert_eq!(breaker.permission(at(1)), Permission::NotBefore(at(2)));
        assert!(breaker.success());
        assert_eq!(breaker.permission(at(1)), Permission::Free);
    }

    #[test]
    fn the_hold_doubles_with_each_failed_probe_up_to_its_limit() {
        let mut breaker = opened(at(0));
        let mut now = at(1);
        for hold in [2, 4, 4, 4] {
            assert_eq!(breaker.permission(now), Permission::Probe);
            breaker.probe(now);
            breaker.failure(&SETTINGS, now);
            let next = now.after(Duration::from_secs(hold));
            assert_eq!(breaker.permission(now), Permission::NotBefore(next));
            now = next;
        }
    }

    #[test]
    fn a_probe_that_never_reports_is_forgotten() {
        let mut breaker = opened(at(0));
        breaker.probe(at(1));
        assert_eq!(breaker.permission(at(2)), Permission::Probe);
    }

    #[test]
    fn a_probe_that_asked_nothing_makes_room_for_another() {
        let mut breaker = opened(at(0));
        breaker.probe(at(1));
        breaker.probe_unused(at(1));
        assert_eq!(breaker.permission(at(1)), Permission::Probe);
        assert!(breaker.is_open());
    }

    #[test]
    fn late_failures_of_calls_under_way_do_not_lengthen_the_hold() {
        let mut breaker = opened(at(0));
        for _ in 0..100 {
            assert!(!breaker.failure(&SETTINGS, at(0)));
        }
        assert_eq!(breaker.permission(at(1)), Permission::Probe);
    }
}
