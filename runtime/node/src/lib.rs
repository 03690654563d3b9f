//! The building: rooms of actors around the laws of `colony-core`, supervision, and the doors.
//!
//! A library only: the `colony` binary and the simulator start it. [`Colony::start`] takes a [`Config`] and
//! a [`World`] (clock, chance, ledger, models, spans) and gives a running node; [`gateway::serve`] opens
//! its gRPC door on a stream of connections.

mod aside;
mod colony;
pub mod config;
pub mod field;
pub mod gateway;
mod market;
pub mod memory;
pub mod ports;
mod rooms;
mod roster;
pub mod telemetry;
pub mod view;
pub mod workers;

pub use colony::{Colony, StartError, World, check_agents};
pub use config::Config;
pub use rooms::{FeedbackError, Rooms, SubmitError};
