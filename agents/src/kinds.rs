//! Ready-made kinds, one file each.

pub(crate) mod echo;
pub(crate) mod triage;
