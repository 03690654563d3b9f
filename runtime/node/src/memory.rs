//! Memory: solved episodes, and what comes to mind.
//!
//! ```text
//!   an end's commit, feedback ──► ledger: one stream of episodes a tenant and type
//!                                   │ follow: what was learned and forgotten, by number
//!                                   ▼
//!   retrieve ── recall ──► index ──► core::memory::Experience ──► Recall
//! ```
//! An index is a fold over one stream of the ledger, and nothing else changes it: whoever has written
//! something lets memory `follow`, which reads on from where the index has come. So it does
//! not matter who tells, whether somebody does, or in which order: what is missed is seen with the next
//! lesson, and within half a minute. An index is a handle over a lock, not an actor.
//!
//! A start takes up a checkpoint: the experience as it was, and from the ledger the episodes that the
//! index held; what came after is learned as ever. So **a restart gives the index and the experience that
//! a node has which never stopped**, to the last bit. It reads as many episodes as an index holds, those
//! corrected among them twice, and learns at most what came since the last checkpoint. Without a
//! checkpoint that can be read, the newest episodes are learned again, which compares each with all before
//! it: seconds at 5,000 episodes, minutes at 20,000 (docs/adr/0010-memory-follows-the-ledger.md).
//!
//! Vectors lie in one row-major array and are compared with a query one by one, which takes 0.3 ms at
//! 2,000 episodes. How similarities become a label and a confidence is up to the rules of
//! [`colony_core::memory`]. A vector index comes when memories outgrow this.

mod index;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use colony_agents::{CallContext, MemoryPort, PortError};
use colony_core::{
    cycle::{Percept, Recall},
    id::{NodeId, TaskId, Tenant, TypeName},
    memory::Rule,
    mutant,
};
use colony_store::{Episode, EpisodeStream, Ledger, LedgerError, PAGE_MAX};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use self::index::{Checkpoint, EpisodeIndex};
use crate::snapshots::Snapshots;

/// Changes after which an index is due for a checkpoint: what a start after a crash has to learn again.
const CHECKPOINT_EVERY: u64 = 256;
/// The layout of [`Checkpoint`].
const CHECKPOINT_VERSION: u32 = 2;
/// The layout of what [`Memory::bind`] writes down: a model's name.
const MODEL_VERSION: u32 = 2;

/// How memory works: `[memory]` of colony.toml.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The limits of the rules.
    #[serde(flatten)]
    pub rule: Rule,
    /// Most episodes of one tenant and agent type; the oldest go first.
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

/// The handle to memory; clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    ledger: Arc<dyn Ledger>,
    snapshots: Snapshots,
    indexes: RwLock<BTreeMap<EpisodeStream, Arc<RwLock<EpisodeIndex>>>>,
}

/// Why something was not learned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TeachError {
    /// The percept has no vector.
    #[error("the task has no embedding: its agent type has no embedder")]
    NoVector,
    /// The vector is not as long as those in the index.
    #[error(
        "the embedding has {given} numbers, memory has {known}: the embedding model was changed"
    )]
    WrongLength {
        /// Length of the new vector.
        given: usize,
        /// Length of those known.
        known: usize,
    },
    /// The ledger failed.
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
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Memory {
    /// Takes memory up where it was.
    ///
    /// # Errors
    /// Storage.
    pub async fn open(
        settings: Settings,
        node: NodeId,
        ledger: Arc<dyn Ledger>,
    ) -> Result<Self, LedgerError> {
        let memory = Self {
            inner: Arc::new(Inner {
                settings,
                snapshots: Snapshots::new(Arc::clone(&ledger), node),
                ledger,
                indexes: RwLock::default(),
            }),
        };
        memory.follow_all().await?;
        Ok(memory)
    }

    /// Binds the memory of a type to its embedding model. While it is empty it takes any.
    ///
    /// # Errors
    /// [`BindError::OtherModel`] when its episodes were embedded by another one; storage.
    pub(crate) async fn bind(&self, agent_type: &TypeName, model: &str) -> Result<(), BindError> {
        let snapshots = &self.inner.snapshots;
        let name = format!("memory-model/{agent_type}");
        let was: Option<String> = snapshots.load(&name, MODEL_VERSION).await?;
        match was {
            Some(was) if was == model => Ok(()),
            Some(was) if self.knows(agent_type) => Err(BindError::OtherModel {
                agent_type: agent_type.clone(),
                was,
                now: model.to_owned(),
            }),
            Some(_) | None => Ok(snapshots.save(&name, MODEL_VERSION, &model).await?),
        }
    }

    /// Whether there is an episode of this type, whatever its tenant.
    fn knows(&self, agent_type: &TypeName) -> bool {
        let indexes = self.inner.indexes.read();
        let mut own = indexes
            .iter()
            .filter(|(stream, _)| stream.agent_type == *agent_type);
        own.any(|(_, index)| index.read().len() > 0)
    }

    /// What comes to mind at `percept`; nothing without a vector.
    #[must_use]
    pub fn recall(&self, tenant: &Tenant, agent_type: &TypeName, percept: &Percept) -> Recall {
        let Some(vector) = &percept.vector else {
            return Recall::default();
        };
        let settings = &self.inner.settings;
        match self.index(&stream(tenant, agent_type)) {
            Some(index) => index.read().recall(vector, settings),
            None => EpisodeIndex::default().recall(vector, settings),
        }
    }

    /// The labels that the agents of a type know, in order.
    #[must_use]
    pub fn labels(&self, tenant: &Tenant, agent_type: &TypeName) -> Vec<String> {
        let index = self.index(&stream(tenant, agent_type));
        index.map_or_else(Vec::new, |index| {
            index.read().labels().map(str::to_owned).collect()
        })
    }

    /// What a task taught, to be written down in its stream; then memory is to [`follow`](Self::follow).
    ///
    /// # Errors
    /// `NoVector`, `WrongLength`.
    pub(crate) fn episode(
        &self,
        tenant: &Tenant,
        agent_type: &TypeName,
        task: TaskId,
        percept: &Percept,
        label: &str,
    ) -> Result<Episode, TeachError> {
        let vector = percept.vector.clone().ok_or(TeachError::NoVector)?;
        if let Some(index) = self.index(&stream(tenant, agent_type)) {
            index.read().check(&vector)?;
        }
        Ok(Episode {
            number: 0,
            tenant: tenant.clone(),
            agent_type: agent_type.clone(),
            task,
            text: percept.text.clone(),
            label: label.to_owned(),
            vector,
            at: self.inner.ledger.now(),
        })
    }

    /// Remembers that `label` is right for `percept`. Durable when it returns. The last label of a task
    /// counts: doing it twice does no harm.
    ///
    /// Cancel-safe: dropped before it returns, the lesson is learned durably or not at all, and shows up in
    /// memory within half a minute.
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
        let episode = self.episode(tenant, agent_type, task, percept, label)?;
        let stream = EpisodeStream::of(&episode);
        self.inner.ledger.learn(vec![episode]).await?;
        if let Err(error) = self.follow(&stream).await {
            tracing::warn!(%task, %error, "what was learned is not in memory yet, trying again");
        }
        Ok(())
    }

    /// Takes in what was learned and forgotten in a stream since. Any number of callers may do it at once.
    ///
    /// Cancel-safe: dropped before it returns, memory has followed as far as it had come.
    ///
    /// # Errors
    /// Storage.
    pub(crate) async fn follow(&self, stream: &EpisodeStream) -> Result<(), LedgerError> {
        let index = match self.index(stream) {
            Some(index) => index,
            None => {
                let restored = Arc::new(RwLock::new(self.restore(stream).await?));
                let mut indexes = self.inner.indexes.write();
                Arc::clone(indexes.entry(stream.clone()).or_insert(restored))
            }
        };
        loop {
            let after = index.read().last();
            let page = self.inner.ledger.episodes(stream, after, PAGE_MAX).await?;
            let mut index = index.write();
            for change in page.items {
                if let Err(error) = index.apply(change, &self.inner.settings) {
                    left_out(stream, &error);
                }
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Follows every stream there is: what others have written in them, and what nobody told of.
    ///
    /// # Errors
    /// Storage.
    pub(crate) async fn follow_all(&self) -> Result<(), LedgerError> {
        for stream in self.inner.ledger.episode_streams().await? {
            self.follow(&stream).await?;
        }
        Ok(())
    }

    /// An index as it was at its last checkpoint; without one it is to begin with the newest episodes.
    async fn restore(&self, stream: &EpisodeStream) -> Result<EpisodeIndex, LedgerError> {
        let Inner {
            settings,
            ledger,
            snapshots,
            ..
        } = &*self.inner;
        let name = checkpoint_name(stream);
        let checkpoint = snapshots.load::<Checkpoint>(&name, CHECKPOINT_VERSION);
        let Some(checkpoint) = checkpoint.await? else {
            let live = u32::try_from(settings.episodes_max).unwrap_or(u32::MAX);
            let floor = ledger.episodes_floor(stream, live).await?;
            return Ok(EpisodeIndex::after(floor));
        };
        let (floor, last) = (checkpoint.floor, checkpoint.last);
        let mut after = if mutant!(C13) { 0 } else { floor };
        let mut index = EpisodeIndex::resume(checkpoint);
        while after < last {
            let page = ledger.episodes(stream, after, PAGE_MAX).await?;
            for change in page.items {
                after = change.number();
                if after <= last
                    && let Err(error) = index.put_back(change, settings)
                {
                    left_out(stream, &error);
                }
            }
            if !page.more {
                break;
            }
        }
        Ok(index)
    }

    fn index(&self, stream: &EpisodeStream) -> Option<Arc<RwLock<EpisodeIndex>>> {
        self.inner.indexes.read().get(stream).cloned()
    }

    /// Number of episodes over all indexes.
    #[must_use]
    pub fn episodes(&self) -> usize {
        let indexes: Vec<_> = self.inner.indexes.read().values().cloned().collect();
        indexes.iter().map(|index| index.read().len()).sum()
    }

    /// Writes down a checkpoint of every index that has changed much since the last one.
    ///
    /// # Errors
    /// Storage.
    pub(crate) async fn save_due(&self) -> Result<(), LedgerError> {
        self.save_where(CHECKPOINT_EVERY).await
    }

    /// Writes down a checkpoint of every index that has changed since the last one, as before a stop.
    ///
    /// # Errors
    /// Storage.
    pub async fn save_all(&self) -> Result<(), LedgerError> {
        self.save_where(1).await
    }

    async fn save_where(&self, unsaved_min: u64) -> Result<(), LedgerError> {
        let indexes = self.inner.indexes.read().clone();
        for (stream, index) in indexes {
            let (checkpoint, unsaved) = {
                let index = index.read();
                if index.unsaved() < unsaved_min {
                    continue;
                }
                (index.checkpoint(), index.unsaved())
            };
            let name = checkpoint_name(&stream);
            let snapshots = &self.inner.snapshots;
            snapshots
                .save(&name, CHECKPOINT_VERSION, &checkpoint)
                .await?;
            index.write().saved(unsaved);
        }
        Ok(())
    }
}

#[async_trait]
impl MemoryPort for Memory {
    async fn recall(&self, percept: &Percept, call: &CallContext) -> Result<Recall, PortError> {
        Ok(Self::recall(self, &call.tenant, &call.agent_type, percept))
    }
}

fn stream(tenant: &Tenant, agent_type: &TypeName) -> EpisodeStream {
    EpisodeStream {
        tenant: tenant.clone(),
        agent_type: agent_type.clone(),
    }
}

fn checkpoint_name(EpisodeStream { tenant, agent_type }: &EpisodeStream) -> String {
    format!("memory/{tenant}/{agent_type}")
}

/// An episode was checked before it was written; the model was changed in between.
fn left_out(stream: &EpisodeStream, error: &TeachError) {
    let EpisodeStream { tenant, agent_type } = stream;
    tracing::warn!(%tenant, %agent_type, %error, "an episode was left out of memory");
}

#[cfg(test)]
mod tests;
