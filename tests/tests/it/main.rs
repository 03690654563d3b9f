//! The whole from outside: the checkout as files, and real processes with real kills.

#![allow(clippy::unwrap_used, reason = "tests")]

mod docs;
mod tidy;
