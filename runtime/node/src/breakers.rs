//! The breakers of one node, one per port that can be away: models, tools.
//!
//! ```text
//!   ports, tools ── success / failure ──► breakers ──► changes (the market looks again)
//!   market ── plan(free agents per queue) ──► what it may claim now, and when to look again
//! ```
//! The rule is [`colony_core::breaker`]. A handle over a lock, no actor: recording an outcome is a map
//! look-up, and the market asks once per claim. Ports that never failed have no entry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use colony_core::{
    breaker::{Breaker, Permission, Settings},
    id::{QueueName, TaskId},
    port::Clock,
    unit::Timestamp,
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The breakers; clones are handles on the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Breakers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    clock: Arc<dyn Clock>,
    ports: Mutex<BTreeMap<String, Port>>,
    /// The ports without which the agents of a queue can do nothing.
    needs: BTreeMap<QueueName, BTreeSet<String>>,
    changes: watch::Sender<u64>,
}

/// A port that has failed.
#[derive(Debug, Default)]
struct Port {
    breaker: Breaker,
    /// The task that asks it while it may be back: the last one that was let in as the probe.
    probe: Option<TaskId>,
}

/// What may be claimed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Free agents per queue, less where a port is away.
    pub(crate) free: BTreeMap<QueueName, u32>,
    /// Queues of which one task may be claimed, to see whether a port is back; the first that has one is the
    /// probe of the ports it needs ([`Breakers::admits_queue`]).
    pub(crate) probes: BTreeSet<QueueName>,
    /// When the next port may be asked again.
    pub(crate) look_again: Option<Timestamp>,
}

/// An open breaker, as status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPort {
    /// The port, such as `model/smollm2`.
    pub port: String,
    /// When it is asked again; none: a probe is under way or due.
    pub until: Option<Timestamp>,
}

/// What a model is called among ports.
pub(crate) fn model_port(name: &str) -> String {
    format!("model/{name}")
}

impl Breakers {
    pub(crate) fn new(
        settings: Settings,
        needs: BTreeMap<QueueName, BTreeSet<String>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (changes, _) = watch::channel(0);
        Self {
            inner: Arc::new(Inner {
                settings,
                clock,
                ports: Mutex::default(),
                needs,
                changes,
            }),
        }
    }

    /// Rises when a port is back.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The port has answered.
    pub(crate) fn success(&self, port: &str) {
        // Nothing to note of a port that never failed.
        let Some(mut back) = self.inner.ports.lock().remove(port) else {
            return;
        };
        if back.breaker.success() {
            tracing::info!(port, "port is back, breaker closed");
            self.inner.changes.send_modify(|n| *n += 1);
        }
    }

    /// The port is away or failed; a refusal of one request for its own sake is no such thing.
    pub(crate) fn failure(&self, port: &str, reason: &str) {
        let now = self.inner.clock.now();
        let mut ports = self.inner.ports.lock();
        let away = ports.entry(port.to_owned()).or_default();
        away.probe = None;
        let opened = away.breaker.failure(&self.inner.settings, now);
        drop(ports);
        if opened {
            tracing::warn!(port, reason, "port is away, breaker opened");
        }
    }

    /// Whether a port may be asked at this moment for a task in hand. Where it may be asked once, this task is the
    /// probe, and the others wait for its answer. It may ask several things at once: were the second refused, its
    /// step would fail and take the first along before that had asked, each time again.
    pub(crate) fn admits(&self, port: &str, task: TaskId) -> bool {
        self.admits_all([port], task)
    }

    /// Whether a task of `queue` may ask all the ports it needs; where one may be asked once, it is the probe.
    pub(crate) fn admits_queue(&self, queue: &QueueName, task: TaskId) -> bool {
        self.admits_all(self.needs(queue), task)
    }

    /// All of them or none: a task that is refused by one port is the probe of no other.
    fn admits_all<'a>(
        &self,
        needs: impl IntoIterator<Item = &'a str, IntoIter: Clone>,
        task: TaskId,
    ) -> bool {
        let now = self.inner.clock.now();
        let mut ports = self.inner.ports.lock();
        let needs = needs.into_iter();
        let refuses = |port: &Port| match port.breaker.permission(now) {
            Permission::Free | Permission::Probe => false,
            Permission::NotBefore(_) => port.probe != Some(task),
        };
        if needs
            .clone()
            .filter_map(|port| ports.get(port))
            .any(refuses)
        {
            return false;
        }
        for port in needs {
            if let Some(port) = ports.get_mut(port)
                && port.breaker.permission(now) == Permission::Probe
            {
                port.breaker.probe(now);
                port.probe = Some(task);
            }
        }
        true
    }

    /// The ports without which the agents of a queue can do nothing.
    fn needs(&self, queue: &QueueName) -> impl Iterator<Item = &str> + Clone {
        let needs = self.inner.needs.get(queue).into_iter().flatten();
        needs.map(String::as_str)
    }

    /// Cuts what a claim may ask for down to what the ports allow.
    pub(crate) fn plan(&self, free: BTreeMap<QueueName, u32>) -> Allowed {
        let now = self.inner.clock.now();
        let ports = self.inner.ports.lock();
        let mut allowed = Allowed::default();
        if ports.is_empty() {
            allowed.free = free;
            return allowed;
        }
        for (queue, count) in free {
            let mut limit = count;
            let mut probing = false;
            for port in self.needs(&queue) {
                match ports.get(port).map(|port| port.breaker.permission(now)) {
                    None | Some(Permission::Free) => {}
                    Some(Permission::Probe) => {
                        limit = limit.min(1);
                        probing = true;
                    }
                    Some(Permission::NotBefore(at)) => {
                        limit = 0;
                        let earliest = allowed.look_again.map_or(at, |known| known.min(at));
                        allowed.look_again = Some(earliest);
                    }
                }
            }
            if limit == 0 {
                continue;
            }
            if probing {
                allowed.probes.insert(queue.clone());
            }
            allowed.free.insert(queue, limit);
        }
        allowed
    }

    /// A task of `queue` has left its agent: if it was a probe and asked nothing, another may go.
    pub(crate) fn probed(&self, queue: &QueueName) {
        let now = self.inner.clock.now();
        let mut ports = self.inner.ports.lock();
        for port in self.needs(queue) {
            if let Some(port) = ports.get_mut(port) {
                port.breaker.probe_unused(now);
            }
        }
    }

    /// Ports that are taken for away.
    pub(crate) fn open(&self) -> Vec<OpenPort> {
        let now = self.inner.clock.now();
        let ports = self.inner.ports.lock();
        let open = ports.iter().filter(|(_, port)| port.breaker.is_open());
        open.map(|(name, port)| OpenPort {
            port: name.clone(),
            until: match port.breaker.permission(now) {
                Permission::NotBefore(at) => Some(at),
                Permission::Free | Permission::Probe => None,
            },
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ports::RuntimeClock;

    #[tokio::test(start_paused = true)]
    async fn one_caller_at_a_time_asks_a_port_that_may_be_back() {
        let settings = Settings {
            failures_max: 1,
            hold: Duration::from_secs(1),
            hold_max: Duration::from_secs(1),
        };
        let clock = Arc::new(RuntimeClock::at(Timestamp::default()));
        let breakers = Breakers::new(settings, BTreeMap::new(), clock);
        let port = "tool/search";
        let (one, other) = (
            TaskId::new(Timestamp::from_micros(1), [1; 10]),
            TaskId::new(Timestamp::from_micros(1), [2; 10]),
        );
        assert!(breakers.admits(port, one), "it has never failed");
        breakers.failure(port, "away");
        assert!(!breakers.admits(port, one), "it is away");
        tokio::time::sleep(settings.hold).await;
        assert!(breakers.admits(port, one), "the probe");
        assert!(breakers.admits(port, one), "the probe's second call");
        assert!(!breakers.admits(port, other), "only one task");
        breakers.failure(port, "still away");
        assert!(!breakers.admits(port, one), "its answer has come");
        tokio::time::sleep(settings.hold).await;
        assert!(breakers.admits(port, other), "the next probe");
        breakers.success(port);
        assert!(
            breakers.admits(port, one) && breakers.admits(port, other),
            "it is back"
        );
    }
}
