//! The tickets of the demo.
