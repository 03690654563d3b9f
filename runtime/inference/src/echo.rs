//! The `echo` engine: deterministic answers without a model, a file or a thread.
//!
//! For tests, simulation and `--engine echo`. Nothing here is random and nothing reads a clock
//! but the one handed in; the optional latency is a tokio timer, so it also passes in virtual time.

mod embedder;
mod generator;
mod instance;
mod solo;

pub use embedder::EchoEmbedder;
pub use generator::EchoGenerator;

/// FNV-1a, 64 bits: stable over platforms and versions, which `std`'s hasher does not promise.
fn fnv(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in *part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // A byte that UTF-8 does not have, so that ("ab", "c") is not ("a", "bc").
        hash = (hash ^ 0xff).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}
