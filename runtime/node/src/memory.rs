//! Memory: solved episodes, and what comes to mind.
//!
//! ```text
//!   retrieve ── recall ──► shelf of (tenant, type) ──► core::memory::Experience ──► Recall
//!   learn, feedback ── teach ──► ledger (durable) ──► shelf
//!   start ──► snapshot + episodes since ──► shelves
//! ```
//! A shelf holds the episodes of one tenant and agent type: their vectors lie in one row-major array and are
//! compared with a query one by one, which takes 0.3 ms at 2,000 episodes. How similarities become a
//! label, a confidence and a verdict is the law of `colony_core::memory`. A vector index comes when
//! memories outgrow this.

mod port;
mod shelf;

use std::{collections::BTreeMap, sync::Arc};

use colony_core::{
    cycle::{Percept, Recall},
    id::{TaskId, Tenant, TypeName},
    memory::{Experience, Rule},
    port::Clock,
};
use colony_store::{Episode, Ledger, LedgerError};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

pub(crate) use self::port::MemoryPort;
use self::shelf::Shelf;

/// Lessons after which the experience of a shelf is written down: what a start after a crash has to work
/// out again.
const SNAPSHOT_EVERY: u64 = 256;
/// Episodes read from the book at once.
const PAGE: u32 = 1_000;

/// How memory works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// The law's lines.
    pub rule: Rule,
    /// Most episodes on one shelf; the oldest go first.
    pub episodes_max: usize,
    /// Neighbours shown in a recall, for prompts and explanations.
    pub shown: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rule: Rule::default(),
            episodes_max: 20_000,
            shown: 5,
        }
    }
}

type Key = (Tenant, TypeName);

/// The door to memory.
#[derive(Debug, Clone)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    shelves: RwLock<BTreeMap<Key, Arc<RwLock<Shelf>>>>,
}

/// Why something was not learned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TeachError {
    /// The percept has no vector.
    #[error("the task has no embedding: its agent type has no embedder")]
    NoVector,
    /// The vector is not as long as those on the shelf.
    #[error(
        "the embedding has {given} numbers, memory has {known}: the embedding model was changed"
    )]
    WrongLength {
        /// Length of the new vector.
        given: usize,
        /// Length of those known.
        known: usize,
    },
    /// The book failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why a type's memory cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BindError {
    /// Vectors of two models cannot be compared, though they may have the same length.
    #[error(
        "agents.{agent_type}: its memory was made with the embedding model {was}, and now there is {now}: take another \
         data directory, or declare {was} again"
    )]
    OtherModel {
        /// The type.
        agent_type: TypeName,
        /// The model of its episodes.
        was: String,
        /// The model declared.
        now: String,
    },
    /// The book failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What is kept of a shelf beside its episodes.
#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    schema: u32,
    /// The last episode it knows.
    last: u64,
    experience: Experience,
}

impl Memory {
    /// Reads all episodes from the book.
    ///
    /// # Errors
    /// Storage.
    pub async fn open(
        settings: Settings,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LedgerError> {
        let shelves = RwLock::default();
        let memory = Self {
            inner: Arc::new(Inner {
                settings,
                ledger,
                clock,
                shelves,
            }),
        };
        let mut after = 0;
        loop {
            let page = memory.inner.ledger.episodes(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.number;
            for episode in page {
                memory.restore(episode).await?;
            }
        }
        Ok(memory)
    }

    /// Binds the memory of a type to its embedding model. While it is empty it takes any.
    ///
    /// # Errors
    /// [`BindError::OtherModel`] when its episodes were embedded by another one; storage.
    pub(crate) async fn bind(&self, agent_type: &TypeName, model: &str) -> Result<(), BindError> {
        let ledger = &self.inner.ledger;
        let name = format!("memory-model/{agent_type}");
        let was = ledger.snapshot(&name).await?;
        if was.as_deref() == Some(model.as_bytes()) {
            return Ok(());
        }
        if let Some(was) = was
            && self.knows(agent_type)
        {
            return Err(BindError::OtherModel {
                agent_type: agent_type.clone(),
                was: String::from_utf8_lossy(&was).into_owned(),
                now: model.to_owned(),
            });
        }
        ledger
            .save_snapshot(&name, model.as_bytes().to_vec())
            .await?;
        Ok(())
    }

    /// Whether there is an episode of this type, whatever its tenant.
    fn knows(&self, agent_type: &TypeName) -> bool {
        let shelves = self.inner.shelves.read();
        let mut own = shelves.iter().filter(|((_, name), _)| name == agent_type);
        own.any(|(_, shelf)| shelf.read().len() > 0)
    }

    async fn restore(&self, episode: Episode) -> Result<(), LedgerError> {
        let key = (episode.tenant.clone(), episode.agent_type.clone());
        let known = self.inner.shelves.read().get(&key).cloned();
        let shelf = match known {
            Some(shelf) => shelf,
            None => {
                let shelf = self.shelf(&key);
                if let Some(body) = self.inner.ledger.snapshot(&snapshot_name(&key)).await? {
                    match serde_json::from_slice::<Snapshot>(&body) {
                        Ok(kept) if kept.schema == 1 => {
                            shelf.write().resume(kept.experience, kept.last);
                        }
                        Ok(_) | Err(_) => {
                            tracing::warn!(key = ?key, "memory snapshot is not readable, learning again");
                        }
                    }
                }
                shelf
            }
        };
        let settings = self.inner.settings;
        if let Err(error) = shelf.write().put(episode, &settings) {
            tracing::warn!(%error, "an episode was left out of memory");
        }
        Ok(())
    }

    fn shelf(&self, key: &Key) -> Arc<RwLock<Shelf>> {
        if let Some(shelf) = self.inner.shelves.read().get(key) {
            return Arc::clone(shelf);
        }
        Arc::clone(self.inner.shelves.write().entry(key.clone()).or_default())
    }

    /// What comes to mind at `percept`; nothing without a vector.
    #[must_use]
    pub fn recall(&self, tenant: &Tenant, agent_type: &TypeName, percept: &Percept) -> Recall {
        let Some(vector) = &percept.vector else {
            return Recall::default();
        };
        let shelf = self.shelf(&(tenant.clone(), agent_type.clone()));
        let shelf = shelf.read();
        shelf.recall(vector, &self.inner.settings)
    }

    /// Remembers that `label` is right for `percept`. Durable when it returns. The last label of a task
    /// counts: doing it twice does no harm.
    ///
    /// Cancel-safe: dropped before it returns, the lesson is learned durably or not at all, and shows up in
    /// memory at the next start at the latest.
    ///
    /// # Errors
    /// [`TeachError`].
    pub async fn teach(
        &self,
        tenant: &Tenant,
        agent_type: &TypeName,
        task: TaskId,
        percept: &Percept,
        label: &str,
    ) -> Result<(), TeachError> {
        let vector = percept.vector.clone().ok_or(TeachError::NoVector)?;
        let key = (tenant.clone(), agent_type.clone());
        let shelf = self.shelf(&key);
        shelf.read().check(&vector)?;
        let mut episode = Episode {
            number: 0,
            tenant: tenant.clone(),
            agent_type: agent_type.clone(),
            task,
            text: percept.text.clone(),
            label: label.to_owned(),
            vector,
            at: self.inner.clock.now(),
        };
        let numbers = self.inner.ledger.learn(vec![episode.clone()]).await?;
        episode.number = numbers.first().copied().unwrap_or_default();
        let due = {
            let mut shelf = shelf.write();
            shelf.put(episode, &self.inner.settings)?;
            shelf.lessons().is_multiple_of(SNAPSHOT_EVERY)
        };
        if due {
            self.save(&key, &shelf).await?;
        }
        Ok(())
    }

    /// Number of episodes over all shelves.
    #[must_use]
    pub fn episodes(&self) -> usize {
        let shelves: Vec<_> = self.inner.shelves.read().values().cloned().collect();
        shelves.iter().map(|shelf| shelf.read().len()).sum()
    }

    /// Writes every shelf's experience down, as before a stop.
    ///
    /// # Errors
    /// Storage.
    pub async fn save_all(&self) -> Result<(), LedgerError> {
        let shelves: Vec<_> = self
            .inner
            .shelves
            .read()
            .iter()
            .map(|(k, s)| (k.clone(), Arc::clone(s)))
            .collect();
        for (key, shelf) in shelves {
            self.save(&key, &shelf).await?;
        }
        Ok(())
    }

    async fn save(&self, key: &Key, shelf: &RwLock<Shelf>) -> Result<(), LedgerError> {
        let (experience, last) = {
            let shelf = shelf.read();
            (shelf.experience().clone(), shelf.last())
        };
        let snapshot = Snapshot {
            schema: 1,
            last,
            experience,
        };
        let body = serde_json::to_vec(&snapshot).map_err(|error| LedgerError::Storage {
            what: error.to_string(),
        })?;
        self.inner
            .ledger
            .save_snapshot(&snapshot_name(key), body)
            .await
    }
}

fn snapshot_name((tenant, agent_type): &Key) -> String {
    format!("memory/{tenant}/{agent_type}")
}
