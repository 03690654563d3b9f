//! The whole from outside: the checkout as files, and real processes with real kills.

#![allow(clippy::unwrap_used, reason = "tests")]

mod demo;
mod docs;
mod doors;
mod process;
mod receiver;
mod tidy;
