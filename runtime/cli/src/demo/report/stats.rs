//! Shares, percentiles and the Gini coefficient.

/// Share of true ones; none of nothing.
pub(super) fn share(of: impl IntoIterator<Item = bool>) -> Option<f64> {
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
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// How many a second; 0 when no time has passed.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts far below 2^52, for display"
)]
pub(super) fn per_second(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

/// The value that `percent` of the sorted microseconds do not exceed, in milliseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "latencies far below 2^52 µs, for display"
)]
pub(super) fn percentile_ms(sorted_us: &[u64], percent: usize) -> Option<f64> {
    let rank = (sorted_us.len() * percent).div_ceil(100).max(1);
    sorted_us.get(rank - 1).map(|us| *us as f64 / 1_000.0)
}

/// The Gini coefficient: 0 when all have the same, towards 1 when one has all. None of nothing.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts far below 2^52, for display"
)]
pub(super) fn gini(mut values: Vec<u64>) -> Option<f64> {
    values.sort_unstable();
    let count = values.len() as f64;
    let sum = values.iter().sum::<u64>() as f64;
    if values.is_empty() || sum <= 0.0 {
        return None;
    }
    let weighted: f64 = values
        .iter()
        .zip(1_u64..)
        .map(|(value, rank)| rank as f64 * *value as f64)
        .sum();
    Some(2.0 * weighted / (count * sum) - (count + 1.0) / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gini_is_nought_when_even_and_large_when_one_has_all() {
        assert_eq!(gini(vec![]), None);
        assert_eq!(gini(vec![0, 0]), None);
        assert!(gini(vec![5, 5, 5, 5]).expect("four").abs() < 1e-12);
        assert!((gini(vec![0, 0, 0, 8]).expect("four") - 0.75).abs() < 1e-12);
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let latencies: Vec<u64> = (1..=100).map(|ms| ms * 1_000).collect();
        assert_eq!(percentile_ms(&latencies, 50), Some(50.0));
        assert_eq!(percentile_ms(&latencies, 99), Some(99.0));
        assert_eq!(percentile_ms(&latencies[..1], 99), Some(1.0));
        assert_eq!(percentile_ms(&[], 50), None);
    }
}
