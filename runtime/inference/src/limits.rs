//! Bounds and settings of the workers, as they stand in colony.toml.

use serde::{Deserialize, Serialize};

/// Settings of an embedding worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbedLimits {
    /// Requests admitted and not answered, beyond which new ones are refused. 1 to 1,000,000.
    /// Higher: fewer refusals, longer waits and about 2 KB of memory each.
    pub waiting_max: usize,
    /// Texts in one model call. 1 to 1,024. Higher: more texts a second while many wait, and a
    /// longer wait for the one that just missed a batch.
    pub batch_rows_max: usize,
    /// Tokens in one model call, padding included (rows × longest row). At least the model's
    /// longest text, else that text is a batch by itself. Higher: as above, and more memory.
    pub batch_tokens_max: usize,
    /// Threads of the engine inside one call. 1 to 64; more than the cores only hurts.
    pub threads: usize,
}

impl Default for EmbedLimits {
    fn default() -> Self {
        Self {
            // A thousand agents with some requests each.
            waiting_max: 4_096,
            // Measured on two cores: nothing is gained from 8 to 32 rows, and latency is lost.
            batch_rows_max: 32,
            batch_tokens_max: 2_048,
            threads: 2,
        }
    }
}

/// Settings of a generating worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateLimits {
    /// Requests admitted and not answered, beyond which new ones are refused. 1 to 1,000,000.
    pub waiting_max: usize,
    /// Answers written at the same time. 1 to 256. Higher: more tokens a second together, fewer
    /// for each, and memory for each row's cache (46 KB a token for smollm2).
    pub rows_max: usize,
    /// Tokens that all running rows may come to together, prompts and longest answers, as the
    /// bound of the cache's memory. A request that could never fit is refused as too long.
    pub cache_tokens_max: usize,
    /// Prompt tokens read between two decode steps while answers are being written; one prompt is
    /// always read whole. Higher: rows fill faster; lower: running answers stall less.
    pub prefill_tokens_max: usize,
    /// Prompt beginnings kept in memory. 0 switches the prefix cache off.
    pub prefixes_max: usize,
    /// Tokens of all kept beginnings together (46 KB each for smollm2). A longer one is not kept.
    pub prefix_cache_tokens_max: usize,
    /// Shortest beginning worth keeping, in tokens.
    pub prefix_tokens_min: usize,
    /// Compiled answer schemas kept in memory. At least 1.
    pub schemas_max: usize,
    /// Threads of the engine inside one call. 1 to 64; more than the cores only hurts.
    pub threads: usize,
}

impl Default for GenerateLimits {
    fn default() -> Self {
        Self {
            waiting_max: 1_024,
            // Two cores gain little beyond: 458, 593, 693 tokens/s at 4, 8 and 16 rows.
            rows_max: 16,
            // 380 MB for smollm2, twice that while the engine copies: 16 rows of 512 tokens.
            cache_tokens_max: 8_192,
            prefill_tokens_max: 512,
            prefixes_max: 8,
            // 94 MB for smollm2.
            prefix_cache_tokens_max: 2_048,
            prefix_tokens_min: 16,
            schemas_max: 64,
            threads: 2,
        }
    }
}

impl EmbedLimits {
    /// Everything that is wrong with the values, each as `key: reason`; empty when they are fine.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        [
            outside("waiting_max", self.waiting_max, 1, 1_000_000),
            outside("batch_rows_max", self.batch_rows_max, 1, 1_024),
            outside("batch_tokens_max", self.batch_tokens_max, 1, 1_000_000),
            outside("threads", self.threads, 1, 64),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl GenerateLimits {
    /// Everything that is wrong with the values, each as `key: reason`; empty when they are fine.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        [
            outside("waiting_max", self.waiting_max, 1, 1_000_000),
            outside("rows_max", self.rows_max, 1, 256),
            outside("cache_tokens_max", self.cache_tokens_max, 64, 10_000_000),
            outside("prefill_tokens_max", self.prefill_tokens_max, 1, 1_000_000),
            outside("prefixes_max", self.prefixes_max, 0, 1_024),
            outside(
                "prefix_cache_tokens_max",
                self.prefix_cache_tokens_max,
                1,
                1_000_000,
            ),
            outside("prefix_tokens_min", self.prefix_tokens_min, 1, 100_000),
            outside("schemas_max", self.schemas_max, 1, 10_000),
            outside("threads", self.threads, 1, 64),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn outside(key: &str, value: usize, min: usize, max: usize) -> Option<String> {
    (!(min..=max).contains(&value))
        .then(|| format!("{key}: {value} is not between {min} and {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problems() {
        assert_eq!(EmbedLimits::default().problems(), Vec::<String>::new());
        assert_eq!(GenerateLimits::default().problems(), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_listed_with_its_key() {
        let limits = EmbedLimits {
            waiting_max: 0,
            threads: 65,
            ..EmbedLimits::default()
        };
        assert_eq!(
            limits.problems(),
            [
                "waiting_max: 0 is not between 1 and 1000000",
                "threads: 65 is not between 1 and 64"
            ]
        );
    }
}
