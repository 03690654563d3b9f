//! The gRPC API of a node in this process, over a real socket: every bad request has its status and its code, and
//! nothing is lost or made up.

mod api;
mod asking;
mod connecting;
mod deciding;
mod health;
mod outbox;
mod paging;
mod reviewing;
mod reviving;
mod submitting;
mod texts;
mod verifying;
mod watching;
