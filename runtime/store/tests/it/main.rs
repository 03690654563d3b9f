//! What every engine of the book must do, and what each must survive.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bench;
mod conformance;
mod crash;
mod file;
mod model;
mod power;
mod world;
