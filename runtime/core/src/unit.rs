//! Quantities with their units in the type.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A moment of colony time, in microseconds since the Unix epoch.
///
/// Colony time is store time carried forward by a monotonic clock: it never jumps with the local wall
/// clock, and the simulator can set it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// Time since `earlier`, or zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved back; stops at the beginning of time instead of wrapping.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
        )
    }

    /// This moment moved forward; stops at the end of time instead of wrapping.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

/// A number from 0 to 1: a probability, a share, a confidence.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(f64);

impl Ratio {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);
    /// One of two.
    pub const HALF: Self = Self(0.5);
    /// Everything.
    pub const ONE: Self = Self(1.0);

    /// Takes a number from 0 to 1.
    ///
    /// # Errors
    /// [`OutOfRange`] for anything else, not-a-number included.
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(OutOfRange { value })
        }
    }

    /// Takes any number and moves it into 0 to 1; not-a-number becomes 0.
    #[must_use]
    pub fn clamped(value: f64) -> Self {
        if value.is_nan() {
            Self(0.0)
        } else {
            Self(value.clamp(0.0, 1.0))
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Ratio {
    type Error = OutOfRange;
    fn try_from(value: f64) -> Result<Self, OutOfRange> {
        Self::new(value)
    }
}

impl From<Ratio> for f64 {
    fn from(share: Ratio) -> Self {
        share.0
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that should lie between 0 and 1 and does not.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{value} is not between 0 and 1")]
pub struct OutOfRange {
    /// The refused number.
    pub value: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_at_both_ends() {
        let t = Timestamp::from_micros(5);
        assert_eq!(t.since(Timestamp::from_micros(9)), Duration::ZERO);
        assert_eq!(t.after(Duration::MAX), Timestamp::from_micros(u64::MAX));
    }

    #[test]
    fn a_share_refuses_what_is_not_one() {
        assert!(Ratio::new(1.000_001).is_err());
        assert!(Ratio::new(f64::NAN).is_err());
        assert_eq!(Ratio::clamped(f64::NAN), Ratio::ZERO);
        assert_eq!(Ratio::clamped(7.0), Ratio::ONE);
    }
}
