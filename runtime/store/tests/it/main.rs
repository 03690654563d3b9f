//! What every engine of the ledger must do, and what each must survive.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bench;
mod conformance;
mod corruption;
mod crash;
mod disk;
mod file;
mod lost_log;
mod migration;
mod power;
mod reference;
mod world;
