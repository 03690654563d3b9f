//! The ledger's time.

use std::time::Duration;

use crate::{mutant, unit::Timestamp};

/// Turns what the clock port says into stamps that never fall below what was written before, and never
/// stand still: where the highest time written lies ahead of the clock (the wall clock was set back),
/// stamps run on from there at the clock's own pace.
///
/// The port is monotonic within one life of the process; between two lives it may jump either way.
#[derive(Debug, Clone, Copy)]
pub struct StampClock {
    /// What the port said when the ledger was opened.
    opened_at: Timestamp,
    /// The stamp of that moment.
    from: Timestamp,
}

impl StampClock {
    /// Begins at the later of `port` and the `highest` time written.
    #[must_use]
    pub fn new(port: Timestamp, highest: Timestamp) -> Self {
        Self {
            opened_at: port,
            from: if mutant!(C20) {
                port
            } else {
                port.max(highest)
            },
        }
    }

    /// The stamp for what the port says now.
    #[must_use]
    pub fn at(&self, port: Timestamp) -> Timestamp {
        self.from.after(port.since(self.opened_at))
    }

    /// How far stamps lie ahead of the port. More than a minute is worth a line in the log.
    #[must_use]
    pub const fn ahead(&self) -> Duration {
        self.from.since(self.opened_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_a_day_delays_nothing() {
        let day = Duration::from_secs(86_400);
        let port = Timestamp::from_micros(1_000_000);
        let stamps = StampClock::new(port, port.after(day));
        assert_eq!(stamps.ahead(), day);
        let due = stamps.at(port).after(Duration::from_millis(100));
        assert!(stamps.at(port.after(Duration::from_millis(99))) < due);
        assert!(stamps.at(port.after(Duration::from_millis(100))) >= due);
    }

    #[test]
    fn a_clock_that_is_ahead_is_believed() {
        let port = Timestamp::from_micros(5_000_000);
        let stamps = StampClock::new(port, Timestamp::from_micros(1));
        assert_eq!(stamps.at(port), port);
        assert_eq!(stamps.ahead(), Duration::ZERO);
    }
}
