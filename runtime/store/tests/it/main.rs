//! What every engine of the book must do, and what each must survive.

#![allow(clippy::unwrap_used, reason = "tests")]

mod conformance;
mod power;
mod world;
