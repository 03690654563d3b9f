//! The openings to the world that every component needs: time and chance.
//!
//! The node hands in implementations (a monotonic clock, the operating system's randomness); the
//! simulator hands in seeded ones. Ports that only one component needs live in it.

use std::fmt;

use rand::RngCore;

use crate::{
    id::{ApprovalId, TaskId},
    unit::Timestamp,
};

/// Tells colony time. Never goes backwards within one process.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// A source of seeds. Every component draws its own stream once, by purpose, so that a new draw in one component
/// does not shift the stream of another.
pub trait RandomSource: Send + Sync + fmt::Debug {
    /// A generator for `purpose`. The same port, purpose and number give the same stream in simulation.
    fn stream(&self, purpose: &str, number: u64) -> Box<dyn RngCore + Send>;
}

/// Draws a task id.
pub fn task_id(now: Timestamp, rng: &mut (impl RngCore + ?Sized)) -> TaskId {
    let mut random = [0; 10];
    rng.fill_bytes(&mut random);
    TaskId::new(now, random)
}

/// Draws an approval id.
pub fn approval_id(now: Timestamp, rng: &mut (impl RngCore + ?Sized)) -> ApprovalId {
    let mut random = [0; 10];
    rng.fill_bytes(&mut random);
    ApprovalId::new(now, random)
}
