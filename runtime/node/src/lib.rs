//! One process of a colony: components around the rules of `colony-core`, supervision, and the APIs.
//!
//! A library only: the `colony` binary and the simulator start it. [`Node::start`] takes a [`Config`] and
//! [`Dependencies`] (clock, chance, ledger, models, spans) and gives a running node; [`gateway::serve`]
//! opens its gRPC API on a stream of connections.

mod approvals;
mod breakers;
pub mod config;
pub mod field;
pub mod gateway;
mod handle;
pub mod http;
mod market;
pub mod memory;
mod node;
mod pipe;
pub mod ports;
mod problem;
pub mod revive;
pub mod risk;
mod root;
mod roster;
mod snapshots;
mod sweep;
pub mod telemetry;
pub mod view;
pub mod workers;

pub use config::Config;
pub use handle::{NodeHandle, Submission};
pub use node::{Dependencies, Node, StartError, check_agents};
pub use problem::Problem;
pub use root::Health;
