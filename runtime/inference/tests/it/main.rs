//! Tests of the crate from outside: with real models where the name says so.
#![allow(clippy::unwrap_used, reason = "tests")]

mod decoder;
mod embedding;
mod fixture;
mod generation;
mod models;
mod refusals;
