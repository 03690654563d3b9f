//! The offers of one agent type: dense entries, and a free list with constant-time removal.

use std::collections::BTreeMap;

use rand::RngCore;

use super::{Award, Bid, Error, Mode, Offer, Outcome, Rules, SuccessCount, TaskSummary, score};
use crate::{id::AgentId, unit::Ratio};

/// Tasks an agent has had lately, on average, when the counters are halved. Long enough to see who is
/// favoured, short enough that a newcomer need not catch up with years.
const RECENT_MAX: u64 = 32;

/// Tasks an agent may be ahead of its peers before that weighs much; without it one task in an idle
/// colony would already outweigh a better record.
const HEAD_START: f64 = 8.0;

/// One agent's offer and what the market made of it.
#[derive(Debug)]
struct Entry {
    // What it offers.
    agent: AgentId,
    slots: u32,
    track: SuccessCount,
    /// `track.ucb()`, kept because it costs a square root and is read for every bid.
    history: Ratio,

    // What it has.
    taken: u32,
    awarded: u64,
    /// Awards, older ones counting less; see `Pool::age`.
    recent: u64,

    // Where it stands.
    /// Its place in `Pool::free` while it has a free slot.
    place: Option<usize>,
    /// Its key in `Pool::fifo` while it has a free slot.
    since: u64,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    /// None: the agent has withdrawn, and the next newcomer takes its place.
    entries: Vec<Option<Entry>>,
    vacant: Vec<usize>,
    by_ordinal: BTreeMap<u32, usize>,
    /// Entries with a free slot, in no order of meaning.
    free: Vec<usize>,
    /// The same by the tick (a counter) at which they became free; `None` unless first in, first out is asked
    /// for, because it costs more than all the rest of an award.
    fifo: Option<BTreeMap<u64, usize>>,
    tick: u64,
    free_slots: u32,
    /// Sum of `recent` over the entries.
    recent: u64,
    /// The bidders of the present auction; kept to save the allocation.
    drawn: Vec<usize>,
}

impl Pool {
    pub(super) fn new(mode: Mode) -> Self {
        let fifo = match mode {
            Mode::Auction => None,
            Mode::Fifo => Some(BTreeMap::new()),
        };
        Self {
            fifo,
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_ordinal.is_empty()
    }

    pub(super) const fn free_slots(&self) -> u32 {
        self.free_slots
    }

    pub(super) fn awarded(&self) -> impl Iterator<Item = (u32, u64)> {
        self.by_ordinal
            .iter()
            .filter_map(|(ordinal, index)| Some((*ordinal, self.entries[*index].as_ref()?.awarded)))
    }

    pub(super) fn track(&self, ordinal: u32) -> Option<SuccessCount> {
        let index = *self.by_ordinal.get(&ordinal)?;
        Some(self.entries[index].as_ref()?.track)
    }

    pub(super) fn offer(&mut self, offer: Offer) {
        let ordinal = offer.agent.ordinal;
        let former = self
            .by_ordinal
            .get(&ordinal)
            .and_then(|index| self.entries[*index].as_ref())
            .map(|entry| (entry.taken, entry.awarded, entry.recent));
        self.withdraw(ordinal);
        let (taken, awarded, recent) = former.unwrap_or_default();
        self.recent += recent;
        let entry = Entry {
            agent: offer.agent,
            slots: offer.slots,
            track: offer.track,
            history: offer.track.ucb(),
            taken,
            awarded,
            recent,
            place: None,
            since: 0,
        };
        let index = match self.vacant.pop() {
            Some(index) => {
                self.entries[index] = Some(entry);
                index
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        };
        self.by_ordinal.insert(ordinal, index);
        let free = offer.slots.saturating_sub(taken);
        if free > 0 {
            self.enlist(index);
            self.free_slots += free;
        }
    }

    pub(super) fn withdraw(&mut self, ordinal: u32) -> bool {
        let Some(index) = self.by_ordinal.remove(&ordinal) else {
            return false;
        };
        self.delist(index);
        if let Some(entry) = self.entries[index].take() {
            self.free_slots -= entry.slots.saturating_sub(entry.taken);
            self.recent -= entry.recent;
        }
        self.vacant.push(index);
        true
    }

    /// Takes an agent out of the auctions and notes a failure. What it had stays on record: a crash must
    /// not make it look like a newcomer.
    pub(super) fn suspend(&mut self, ordinal: u32) -> bool {
        let Some(index) = self.by_ordinal.get(&ordinal).copied() else {
            return false;
        };
        self.delist(index);
        if let Some(entry) = &mut self.entries[index] {
            self.free_slots -= entry.slots.saturating_sub(entry.taken);
            entry.slots = 0;
            entry.taken = 0;
            entry.track.tasks += 1;
            entry.history = entry.track.ucb();
        }
        true
    }

    pub(super) fn free(&mut self, agent: &AgentId, outcome: Outcome) -> Result<(), Error> {
        let (index, entry) = self.find(agent)?;
        if entry.taken == 0 {
            return Err(Error::NotBusy(agent.clone()));
        }
        entry.taken -= 1;
        match outcome {
            Outcome::Success => {
                entry.track.tasks += 1;
                entry.track.successes += 1;
            }
            Outcome::Failure => entry.track.tasks += 1,
            Outcome::Neutral => {}
        }
        if outcome != Outcome::Neutral {
            entry.history = entry.track.ucb();
        }
        // An offer replaced by a smaller one may still be full.
        if entry.taken < entry.slots {
            let was_listed = entry.place.is_some();
            self.free_slots += 1;
            if !was_listed {
                self.enlist(index);
            }
        }
        Ok(())
    }

    /// Draws up to `rules.sample` free agents and gives the task to the best.
    pub(super) fn auction(
        &mut self,
        rules: &Rules,
        task: &TaskSummary,
        attraction: &dyn Fn(&TaskSummary, &AgentId) -> Ratio,
        rng: &mut (impl RngCore + ?Sized),
    ) -> Option<Award> {
        if self.free.is_empty() {
            return None;
        }
        let drawn = self
            .free
            .len()
            .min(usize::try_from(rules.sample.max(1)).unwrap_or(usize::MAX));
        self.draw(drawn, rng);

        let even = self.even_share();
        let mut best: Option<(usize, &Entry, Ratio)> = None;
        let mut bidders = 0;
        for index in self.drawn.iter().copied() {
            let Some(entry) = &self.entries[index] else {
                continue;
            };
            bidders += 1;
            let score = score(&rules.weights, &entry.bid(task, even, attraction));
            if best.is_none_or(|(_, other, bar)| entry.beats(score, other, bar)) {
                best = Some((index, entry, score));
            }
        }
        let (index, entry, score) = best?;
        let award = Award {
            task: task.task,
            agent: entry.agent.clone(),
            score,
            bidders,
        };
        self.occupy(index);
        Some(award)
    }

    /// Gives the task to the agent that has been free longest.
    pub(super) fn next_in_line(&mut self, task: &TaskSummary) -> Option<Award> {
        let index = *self.fifo.as_ref()?.first_key_value()?.1;
        let agent = self.entries[index].as_ref()?.agent.clone();
        self.occupy(index);
        Some(Award {
            task: task.task,
            agent,
            score: Ratio::ZERO,
            bidders: 1,
        })
    }

    fn find(&mut self, agent: &AgentId) -> Result<(usize, &mut Entry), Error> {
        self.by_ordinal
            .get(&agent.ordinal)
            .and_then(|index| Some((*index, self.entries[*index].as_mut()?)))
            .ok_or_else(|| Error::Unknown(agent.clone()))
    }

    /// Takes one slot of an entry that has one.
    fn occupy(&mut self, index: usize) {
        let Some(entry) = &mut self.entries[index] else {
            return;
        };
        entry.taken += 1;
        entry.awarded += 1;
        entry.recent += 1;
        let has_more = entry.taken < entry.slots;
        self.free_slots -= 1;
        self.recent += 1;
        self.age();
        self.delist(index);
        if has_more {
            self.enlist(index);
        }
    }

    /// Halves what everyone had lately once that is [`RECENT_MAX`] tasks each on average: a mean of
    /// one halved counter per 16 awards.
    fn age(&mut self) {
        if self.recent < RECENT_MAX * self.by_ordinal.len() as u64 {
            return;
        }
        self.recent = 0;
        for entry in self.entries.iter_mut().flatten() {
            entry.recent /= 2;
            self.recent += entry.recent;
        }
    }

    /// What an agent had lately if the work were spread evenly.
    #[expect(clippy::cast_precision_loss, reason = "at most RECENT_MAX each")]
    fn even_share(&self) -> f64 {
        self.recent as f64 / self.by_ordinal.len().max(1) as f64
    }

    fn enlist(&mut self, index: usize) {
        self.tick += 1;
        if let Some(entry) = &mut self.entries[index] {
            entry.place = Some(self.free.len());
            entry.since = self.tick;
            self.free.push(index);
            if let Some(fifo) = &mut self.fifo {
                fifo.insert(self.tick, index);
            }
        }
    }

    fn delist(&mut self, index: usize) {
        let Some(entry) = &mut self.entries[index] else {
            return;
        };
        let Some(place) = entry.place.take() else {
            return;
        };
        if let Some(fifo) = &mut self.fifo {
            fifo.remove(&entry.since);
        }
        self.free.swap_remove(place);
        self.note_place(place);
    }

    /// Draws `count` different free entries into `self.drawn` (Floyd's way: one draw of chance for
    /// each, nothing is moved).
    fn draw(&mut self, count: usize, rng: &mut (impl RngCore + ?Sized)) {
        self.drawn.clear();
        let all = self.free.len();
        if count == all {
            self.drawn.extend_from_slice(&self.free);
            return;
        }
        for last in all - count..all {
            let index = self.free[below(last + 1, rng)];
            if self.drawn.contains(&index) {
                self.drawn.push(self.free[last]);
            } else {
                self.drawn.push(index);
            }
        }
    }

    fn note_place(&mut self, place: usize) {
        if let Some(index) = self.free.get(place).copied()
            && let Some(entry) = &mut self.entries[index]
        {
            entry.place = Some(place);
        }
    }
}

impl Entry {
    /// The standing offer as a bid for one task. The more an agent had lately, compared with `even`, the less
    /// idle it counts.
    #[expect(clippy::cast_precision_loss, reason = "at most RECENT_MAX each")]
    fn bid(
        &self,
        task: &TaskSummary,
        even: f64,
        attraction: &dyn Fn(&TaskSummary, &AgentId) -> Ratio,
    ) -> Bid {
        Bid {
            idleness: Ratio::clamped(
                (even + HEAD_START) / (even + HEAD_START + self.recent as f64),
            ),
            history: self.history,
            field: attraction(task, &self.agent),
        }
    }

    fn beats(&self, score: Ratio, other: &Self, bar: Ratio) -> bool {
        score
            .get()
            .total_cmp(&bar.get())
            .then_with(|| other.awarded.cmp(&self.awarded))
            .then_with(|| other.agent.ordinal.cmp(&self.agent.ordinal))
            .is_gt()
    }
}

/// A number below `bound`: multiply and shift. Its bias of `bound` / 2^64 cannot be seen, and unlike
/// rejection it takes exactly one draw, which keeps streams aligned between runs.
fn below(bound: usize, rng: &mut (impl RngCore + ?Sized)) -> usize {
    let wide = u128::from(rng.next_u64()) * bound as u128;
    usize::try_from(wide >> 64).unwrap_or(0)
}
