//! The node's openings to the world: the clock, chance, and who else is there.
//!
//! The simulator swaps each of them, together with the network, the ledger and the engines. Nothing else
//! in this crate reads a clock, draws a random number or opens a socket.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use colony_core::{
    id::NodeId,
    port::{Clock, RandomSource},
    unit::Timestamp,
};
use rand::{RngCore, SeedableRng, rngs::OsRng};
use rand_chacha::ChaCha12Rng;
use tokio::time::Instant;

/// Colony time on a real machine: the wall clock read once, carried forward by the clock that counts from
/// boot, so that a jump of the wall clock moves nothing and a machine's sleep is not forgotten.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    anchor: Timestamp,
    started: Duration,
}

impl SystemClock {
    /// Reads the wall clock, this once.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock port")]
    pub fn start() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            anchor: Timestamp::default().after(wall),
            started: since_boot(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let elapsed = since_boot().saturating_sub(self.started);
        self.anchor.after(elapsed)
    }
}

/// Time since the machine was started, its sleep included.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// Time since the first call. Whether a machine's sleep counts is the system's affair.
#[cfg(not(target_os = "linux"))]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the clock port"
)]
fn since_boot() -> Duration {
    static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

/// The time of a tokio runtime, which may be virtual: for the simulator and for tests.
#[derive(Debug, Clone, Copy)]
pub struct RuntimeClock {
    anchor: Timestamp,
    started: Instant,
}

impl RuntimeClock {
    /// Starts at a given moment.
    #[must_use]
    pub fn at(anchor: Timestamp) -> Self {
        Self {
            anchor,
            started: Instant::now(),
        }
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        self.anchor.after(self.started.elapsed())
    }
}

/// Randomness from the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl RandomSource for SystemRandom {
    fn stream(&self, _purpose: &str, _number: u64) -> Box<dyn RngCore + Send> {
        Box::new(ChaCha12Rng::from_rng(&mut rand::rand_core::UnwrapErr(
            OsRng,
        )))
    }
}

/// Randomness from one seed: the same seed, purpose and number give the same stream.
#[derive(Debug, Clone, Copy)]
pub struct SeededRandom {
    seed: u64,
}

impl SeededRandom {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl RandomSource for SeededRandom {
    fn stream(&self, purpose: &str, number: u64) -> Box<dyn RngCore + Send> {
        // The purpose is folded with FNV-1a: stable over platforms and releases.
        let folded = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&folded.to_le_bytes());
        seed[16..24].copy_from_slice(&number.to_le_bytes());
        Box::new(ChaCha12Rng::from_seed(seed))
    }
}

/// A node of the colony, as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Where its gRPC API is.
    pub address: String,
    /// Whether it takes work.
    pub ready: bool,
}

/// Who is in the colony.
pub trait Membership: Send + Sync + fmt::Debug {
    /// The members, this node included.
    fn members(&self) -> Vec<Member>;
}

/// A colony of one.
#[derive(Debug, Clone)]
pub struct Alone(pub Member);

impl Membership for Alone {
    fn members(&self) -> Vec<Member> {
        vec![self.0.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_purpose_and_number_and_repeat_by_seed() {
        let draw = |seed, purpose: &str, number| {
            SeededRandom::new(seed).stream(purpose, number).next_u64()
        };
        assert_eq!(draw(7, "market", 0), draw(7, "market", 0));
        assert_ne!(draw(7, "market", 0), draw(7, "market", 1));
        assert_ne!(draw(7, "market", 0), draw(7, "ids", 0));
        assert_ne!(draw(7, "market", 0), draw(8, "market", 0));
    }
}
