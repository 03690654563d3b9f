//! One bench's result: as a JSON line, or for people.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    errors::Failure,
    output::{Output, sheet},
    stats::percentile,
};

/// What one bench found.
#[derive(Debug)]
pub(super) struct Figure {
    name: &'static str,
    unit: &'static str,
    runs: Vec<f64>,
    latency: Option<Latency>,
    extras: Map<String, Value>,
}

/// How long one thing took, over many.
#[derive(Debug, Clone)]
struct Latency {
    of: &'static str,
    p50_ms: f64,
    p99_ms: f64,
}

impl Figure {
    /// A figure and its value in each run.
    pub(super) fn new(name: &'static str, unit: &'static str, runs: Vec<f64>) -> Self {
        Self {
            name,
            unit,
            runs,
            latency: None,
            extras: Map::new(),
        }
    }

    /// With the waits for `of`; nothing is said of no waits.
    pub(super) fn with_latency(mut self, of: &'static str, mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        let ms = |percent| percentile(&waits, percent).map(|wait| wait.as_secs_f64() * 1e3);
        self.latency = ms(50)
            .zip(ms(99))
            .map(|(p50_ms, p99_ms)| Latency { of, p50_ms, p99_ms });
        self
    }

    /// With one more fact.
    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extras.insert(key.to_owned(), value.into());
        self
    }

    /// With a second series measured in the same runs: its median and the runs.
    pub(super) fn with_runs(self, key: &str, runs: &[f64]) -> Self {
        let listed: Vec<f64> = runs.iter().map(|run| rounded(*run)).collect();
        self.with(
            key,
            json!({ "median": rounded(median(runs)), "runs": listed }),
        )
    }

    /// Writes it out.
    pub(super) fn print(&self, peak_rss_bytes: u64, out: Output) -> Result<(), Failure> {
        out.result(&self.to_json(peak_rss_bytes), || {
            self.describe(peak_rss_bytes)
        })
    }

    fn to_json(&self, peak_rss_bytes: u64) -> Value {
        let runs: Vec<f64> = self.runs.iter().map(|run| rounded(*run)).collect();
        let mut said = Map::new();
        said.insert("name".to_owned(), self.name.into());
        said.insert("unit".to_owned(), self.unit.into());
        said.insert("median".to_owned(), rounded(median(&self.runs)).into());
        said.insert("runs".to_owned(), runs.into());
        if let Some(latency) = &self.latency {
            said.insert("latency_of".to_owned(), latency.of.into());
            said.insert("p50_ms".to_owned(), rounded(latency.p50_ms).into());
            said.insert("p99_ms".to_owned(), rounded(latency.p99_ms).into());
        }
        said.insert("peak_rss_bytes".to_owned(), peak_rss_bytes.into());
        said.extend(self.extras.clone());
        Value::Object(said)
    }

    fn describe(&self, peak_rss_bytes: u64) -> String {
        let runs: Vec<String> = self.runs.iter().map(|run| shown(*run)).collect();
        let mut rows = vec![
            (
                self.name.to_owned(),
                format!("{} {}", shown(median(&self.runs)), self.unit),
            ),
            ("  runs".to_owned(), runs.join("  ")),
        ];
        if let Some(latency) = &self.latency {
            let Latency { of, p50_ms, p99_ms } = latency;
            let said = format!("p50 {} ms, p99 {} ms", shown(*p50_ms), shown(*p99_ms));
            rows.push((format!("  {of}"), said));
        }
        for (key, value) in &self.extras {
            let value = value.get("median").unwrap_or(value);
            let said = value.as_f64().map_or_else(|| value.to_string(), shown);
            rows.push((format!("  {}", key.replace('_', " ")), said));
        }
        let mib = format!("{} MiB", peak_rss_bytes.div_ceil(1024 * 1024));
        rows.push(("  peak memory".to_owned(), mib));
        sheet(rows)
    }
}

/// The middle value, of an even number the upper of the two; 0 of nothing.
pub(super) fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Four digits are all that a measurement holds.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powf(3.0 - value.abs().log10().floor());
    // Rounded to a whole number only above four digits.
    if scale < 1.0 {
        value.round()
    } else {
        (value * scale).round() / scale
    }
}

fn shown(value: f64) -> String {
    if value.abs() < 1_000.0 {
        return rounded(value).to_string();
    }
    let whole = format!("{value:.0}");
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_says_its_median_its_runs_and_its_latency() {
        let waits = (1..=100).map(Duration::from_millis).collect();
        let figure = Figure::new("market", "tasks/s", vec![51_000.4, 49_000.0, 52_123.0])
            .with_latency("submit to done", waits)
            .with_runs("sampled", &[1.23456, 0.5, 2.0])
            .with("agents", 1_000);
        let said = figure.to_json(1 << 20);
        assert_eq!(said["median"], 51_000.0);
        assert_eq!(said["runs"], json!([51_000.0, 49_000.0, 52_123.0]));
        assert_eq!(
            (&said["p50_ms"], &said["p99_ms"]),
            (&json!(50.0), &json!(99.0))
        );
        assert_eq!(said["sampled"]["median"], 1.235);
        let text = figure.describe(1 << 20);
        assert!(text.contains("51,000 tasks/s"), "{text}");
        assert!(text.contains("p99 99 ms"), "{text}");
    }

    #[test]
    fn nothing_measured_is_nothing() {
        assert!(Figure::new("x", "y", vec![]).to_json(0)["median"] == 0.0);
        assert_eq!(shown(1_234_567.0), "1,234,567");
        assert_eq!(shown(-1_234.0), "-1,234");
    }
}
