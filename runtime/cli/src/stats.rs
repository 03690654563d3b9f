//! Shares, rates, percentiles and the Gini coefficient, for the figures of the demo and of the benches.

use std::time::Duration;

use colony_core::market;

/// The share of true ones; none of nothing.
pub(crate) fn share(of: impl IntoIterator<Item = bool>) -> Option<f64> {
    let (mut all, mut hits) = (0, 0);
    for hit in of {
        all += 1;
        hits += u64::from(hit);
    }
    ratio(hits, all)
}

/// `part / whole`; none of nothing.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts far below 2^52, for display"
)]
pub(crate) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// How many a second; 0 when no time has passed.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts far below 2^52, for display"
)]
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        count as f64 / time.as_secs_f64()
    }
}

/// The value that `percent` of the sorted ones do not exceed: one that was measured. None of nothing.
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The Gini coefficient of the market's rule; none where nobody has anything.
pub(crate) fn gini(values: &[u64]) -> Option<f64> {
    values
        .iter()
        .any(|value| *value > 0)
        .then(|| market::gini(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gini_is_nought_when_even_and_large_when_one_has_all() {
        assert_eq!(gini(&[]), None);
        assert_eq!(gini(&[0, 0]), None);
        assert!(gini(&[5, 5, 5, 5]).expect("four").abs() < 1e-12);
        assert!((gini(&[0, 0, 0, 8]).expect("four") - 0.75).abs() < 1e-12);
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let latencies: Vec<u64> = (1..=100).map(|ms| ms * 1_000).collect();
        assert_eq!(percentile(&latencies, 50), Some(50_000));
        assert_eq!(percentile(&latencies, 99), Some(99_000));
        assert_eq!(percentile(&latencies[..1], 99), Some(1_000));
        assert_eq!(percentile::<u64>(&[], 50), None);
    }
}
