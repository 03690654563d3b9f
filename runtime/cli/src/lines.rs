//! Files of JSON lines that people hand in.

/// Longest line that is read, in bytes: a text of 64 KiB whose every byte is escaped (`\u0000`), and what goes
/// with it.
pub(crate) const LINE_BYTES_MAX: u64 = 1024 * 1024;
