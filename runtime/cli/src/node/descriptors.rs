//! How many files and sockets the process may have open: each connection needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but connections: the ledger and its readers, models, the log.
const OTHERS: u64 = 128;

/// Raises the limit to the most that the process may give itself; shells and service managers often begin with
/// 1,024. Says so in the log when that is too low for `connections_max`.
pub(crate) fn raise(connections_max: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            current
        }
    };
    if let Some(allowed) = allowed.filter(|allowed| is_low(*allowed, connections_max)) {
        tracing::warn!(
            allowed,
            connections_max,
            "fewer files may be open than gateway.connections_max needs: raise the hard limit (ulimit -Hn, LimitNOFILE)"
        );
    }
}

/// Whether so many descriptors are too few for so many connections.
fn is_low(allowed: u64, connections_max: usize) -> bool {
    allowed < OTHERS.saturating_add(connections_max as u64)
}
