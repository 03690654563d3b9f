//! What the tests of the whole share: the checkout as files, and the `colony` binary as processes.
//!
//! Nothing here knows a component of the node: these tests see what a user sees, the command line, the gRPC API
//! and the files.

mod binary;
mod checkout;
mod node;
mod python;
mod wait;

pub use binary::{Finished, colony, command, run, run_within};
pub use checkout::{Checkout, data_file, offline, skipped};
pub use node::{Folder, Node};
pub use python::Packages;
pub use wait::{eventually, eventually_some};
