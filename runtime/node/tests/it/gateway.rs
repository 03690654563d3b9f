//! The gRPC door of a node in this process, over a real socket: every bad request has its status and its
//! code, and nothing is lost or made up.

mod asking;
mod house;
mod submitting;
mod texts;
mod watching;
