//! The whole from outside: the checkout as files, and real processes with real kills.

#![allow(clippy::unwrap_used, reason = "tests")]

mod api;
mod arguments;
mod commands;
mod completions;
mod demo;
mod deploy;
mod docs;
mod json_keys;
mod kills;
mod metrics;
mod outbound;
mod outbox;
mod process;
mod python;
mod receiver;
mod reviewing;
mod risk;
mod tasks;
mod tidy;
mod trace_store;
