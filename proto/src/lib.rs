//! The words on the wire ([`v1`]) and in the ledger ([`store::v1`]).
//!
//! Generated from the `.proto` files of this crate and checked in, so that a build needs no protoc.
//! `COLONY_REGENERATE=1 cargo test -p colony-proto --test drift` writes the generated code anew;
//! without the variable the same test fails when it no longer fits the `.proto` files.

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    unreachable_pub,
    reason = "generated code"
)]
mod generated {
    include!("gen/tree.rs");
}

pub use generated::colony::*;

/// Every message and service of this crate, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");
