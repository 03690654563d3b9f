//! Drives the stream of tickets through a node, over its gRPC API.
//!
//! ```text
//!   tickets ─► window ─► SubmitBatch ─► … agents …  ─► Watch ─┬─ waiting ► reviewer ─► Decide
//!                ▲                                            └─ ended ─► Get with journal ─┐
//!                └──────────────── settled ◄──── Feedback (train label not yet taught) ◄────┘
//! ```
//! At most `window` tickets are under way, so that later ones can learn from earlier ones. The test part
//! begins when the train part is settled. What the ledger already holds from a killed run is recognised by
//! its deduplication key: it is followed or summed up, never handed in twice. Feedback is given again after
//! a kill, because nobody knows whether it arrived; memory keeps one episode a task.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    time::Duration,
};

use colony_agents::tickets::Split;
use colony_proto::v1::{
    Approval, DecideRequest, FeedbackRequest, GetTaskRequest, ListApprovalsRequest,
    ListModelsRequest, ListTasksRequest, Model, NewTask, SubmitBatchRequest, WatchRequest,
    submitted::Outcome as Submission,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    outcome::Outcome,
    progress::{Progress, ProgressView},
    report::learning,
    reviewer,
    ticket_source::TicketSource,
};
use crate::{
    args::ReviewerChoice,
    client::{Node, approve, page_size, request_id, view, watch::Watch},
    errors::Failure,
    node::signals::Signals,
    output::Output,
    stats::rate,
};

/// The agent type that sorts tickets.
pub(super) const AGENT_TYPE: &str = "triage";
/// How often the bars are painted and the questions looked through.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at the models' figures.
const MODEL_TICKS: u32 = 10;
/// Nothing has moved for so long although nobody is waited for: something is broken.
const STALL_MAX: Duration = Duration::from_secs(180);

type Work = Pin<Box<dyn Future<Output = Result<Done, Failure>> + Send>>;

/// What a call in the background came to.
enum Done {
    /// Tickets with their ids, and the states of those that were there already.
    Submitted(Vec<(usize, String, Option<i32>)>),
    /// A decision was given, or this question is to be looked at again.
    Reviewed(Option<String>),
    /// A ticket has ended, its outcome is read and its label is taught.
    Settled(usize, Box<Outcome>),
    /// Open questions.
    Questions(Vec<Approval>),
}

/// A ticket on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TicketState {
    /// Not handed in.
    Waiting,
    /// Handed in; the state last heard of.
    UnderWay(&'static str),
    /// Ended; outcome and feedback are being dealt with.
    Settling,
    /// All is done.
    Settled,
}

/// Why the stream is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All tickets are settled.
    Complete,
    /// All that nobody waits for are settled; the rest waits for a human.
    Waiting(usize),
    /// A signal came.
    Interrupted,
}

/// What the stream gave.
#[derive(Debug)]
pub(super) struct Streamed {
    pub(super) end: End,
    pub(super) outcomes: Vec<Option<Outcome>>,
    /// Tickets that ended in this life of the node.
    pub(super) ended_now: u64,
    /// From the first hand-in of this life to the last end.
    pub(super) stream: Duration,
}

/// How to drive.
#[derive(Debug, Clone, Copy)]
pub(super) struct DriveOptions {
    pub(super) reviewer: ReviewerChoice,
    pub(super) window: usize,
}

/// Drives all tickets of `source` to their ends.
pub(super) async fn drive(
    node: &Node,
    source: &TicketSource,
    options: DriveOptions,
    signals: &mut Signals,
    out: Output,
) -> Result<Streamed, Failure> {
    // Before the ledger is read, so that no change falls between the two.
    let mut watch = Watch::open(node, WatchRequest::default()).await?;
    let mut driver = Driver::new(node, source, options, out);
    let known = driver.take_up().await?;
    if known > 0 {
        let left = source.tickets.len() - known;
        driver.progress.note(&format!(
            "going on: {known} tickets are in the ledger, {left} are left"
        ));
    }
    let end = driver.run(&mut watch, signals).await?;
    Ok(driver.finish(end))
}

struct Driver<'a> {
    node: &'a Node,
    source: &'a TicketSource,
    options: DriveOptions,
    out: Output,
    // What it knows.
    states: Vec<TicketState>,
    numbers: HashMap<String, usize>,
    ids: Vec<String>,
    outcomes: Vec<Option<Outcome>>,
    next: usize,
    /// States of tasks whose ids are still on their way to us.
    early: HashMap<String, i32>,
    /// Questions that were answered or are being answered.
    ruled: BTreeSet<String>,
    models: Vec<Model>,
    ended_now: u64,
    started: Instant,
    last_move: Instant,
    // What it waits for.
    work: FuturesUnordered<Work>,
    submitting: usize,
    asking: bool,
    // Ways out.
    progress: Progress,
}

impl<'a> Driver<'a> {
    fn new(node: &'a Node, source: &'a TicketSource, options: DriveOptions, out: Output) -> Self {
        let count = source.tickets.len();
        Self {
            node,
            source,
            options,
            out,
            states: vec![TicketState::Waiting; count],
            numbers: HashMap::with_capacity(count),
            ids: vec![String::new(); count],
            outcomes: vec![None; count],
            next: 0,
            early: HashMap::new(),
            ruled: BTreeSet::new(),
            models: Vec::new(),
            ended_now: 0,
            started: Instant::now(),
            last_move: Instant::now(),
            work: FuturesUnordered::new(),
            submitting: 0,
            asking: false,
            progress: Progress::start(count, out),
        }
    }

    /// Recognises what the ledger holds from before. Returns how many.
    async fn take_up(&mut self) -> Result<usize, Failure> {
        let keys: HashMap<&str, usize> = (0..self.source.tickets.len())
            .map(|number| (self.source.key(number), number))
            .collect();
        let mut ask = ListTasksRequest {
            agent_type: AGENT_TYPE.to_owned(),
            page_size: page_size(0, 0),
            ..ListTasksRequest::default()
        };
        let mut known = 0;
        loop {
            let page = self
                .node
                .open(self.node.tasks().list(self.node.ask(ask.clone())).await)?;
            for task in page.tasks {
                let key = task.dedupe_key.as_deref().unwrap_or_default();
                let Some(number) = keys.get(key).copied() else {
                    continue;
                };
                known += 1;
                self.under_way(number, task.id, view::state(task.state));
                if view::is_final(task.state) {
                    self.settle(number);
                }
            }
            ask.page_token = page.next_page_token;
            if ask.page_token.is_empty() {
                return Ok(known);
            }
        }
    }

    async fn run(&mut self, watch: &mut Watch, signals: &mut Signals) -> Result<End, Failure> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut ticks: u32 = 0;
        loop {
            self.hand_in();
            if let Some(end) = self.is_over() {
                return Ok(end);
            }
            tokio::select! {
                change = watch.next(self.node, self.out) => {
                    if let Some(change) = change? {
                        self.heard(&change.task_id, change.state);
                    }
                }
                Some(done) = self.work.next(), if !self.work.is_empty() => self.take(done?),
                _ = tick.tick() => {
                    if ticks.is_multiple_of(MODEL_TICKS) {
                        let answer = self.node.models().list(self.node.ask(ListModelsRequest {})).await;
                        self.models = self.node.open(answer)?.models;
                    }
                    ticks = ticks.wrapping_add(1);
                    self.look_for_questions();
                    self.paint();
                    self.check_stall()?;
                }
                _ = signals.first() => return Ok(End::Interrupted),
            }
        }
    }

    /// Hands tickets in as far as the window reaches.
    fn hand_in(&mut self) {
        let under_way = self
            .states
            .iter()
            .filter(|place| self.fills_window(**place))
            .count();
        let mut room = self.options.window.saturating_sub(under_way);
        let test_from = self.source.test_from();
        let train_settled = self.states[..test_from]
            .iter()
            .all(|place| !self.is_awaited(*place));
        let mut batch = Vec::new();
        while room > 0 && self.next < self.states.len() {
            let number = self.next;
            if number >= test_from && !train_settled {
                break;
            }
            self.next += 1;
            if self.states[number] != TicketState::Waiting {
                continue;
            }
            self.states[number] = TicketState::UnderWay("ready");
            let ticket = &self.source.tickets[number];
            batch.push((
                number,
                NewTask {
                    agent_type: AGENT_TYPE.to_owned(),
                    input: ticket.text.clone(),
                    dedupe_key: Some(self.source.key(number).to_owned()),
                    ..NewTask::default()
                },
            ));
            room -= 1;
        }
        if batch.is_empty() {
            return;
        }
        self.submitting += 1;
        self.work.push(Box::pin(submit(self.node.clone(), batch)));
    }

    /// Whether a ticket holds a place of the window.
    fn fills_window(&self, place: TicketState) -> bool {
        place != TicketState::Waiting && self.is_awaited(place)
    }

    /// Whether somebody other than a person still has to do something about a ticket.
    fn is_awaited(&self, place: TicketState) -> bool {
        match place {
            TicketState::Waiting | TicketState::Settling => true,
            TicketState::UnderWay("waiting") => self.options.reviewer == ReviewerChoice::Auto,
            TicketState::UnderWay(_) => true,
            TicketState::Settled => false,
        }
    }

    fn is_over(&self) -> Option<End> {
        if !self.work.is_empty() || self.states.iter().any(|place| self.is_awaited(*place)) {
            return None;
        }
        match self
            .states
            .iter()
            .filter(|place| **place != TicketState::Settled)
            .count()
        {
            0 => Some(End::Complete),
            parked if self.options.reviewer == ReviewerChoice::None => Some(End::Waiting(parked)),
            _ => None,
        }
    }

    fn under_way(&mut self, number: usize, id: String, state: &'static str) {
        self.states[number] = TicketState::UnderWay(state);
        self.numbers.insert(id.clone(), number);
        self.ids[number] = id;
    }

    fn heard(&mut self, id: &str, state: i32) {
        let Some(number) = self.numbers.get(id).copied() else {
            if self.submitting > 0 {
                self.early.insert(id.to_owned(), state);
            }
            return;
        };
        self.last_move = Instant::now();
        if matches!(
            self.states[number],
            TicketState::Settling | TicketState::Settled
        ) {
            return;
        }
        self.states[number] = TicketState::UnderWay(view::state(state));
        if view::is_final(state) {
            self.ended_now += 1;
            self.settle(number);
        }
    }

    /// A ticket has ended: reads its outcome and teaches its label, unless a human's decision has.
    fn settle(&mut self, number: usize) {
        self.states[number] = TicketState::Settling;
        let (node, id) = (self.node.clone(), self.ids[number].clone());
        let ticket = &self.source.tickets[number];
        let label = ticket
            .label
            .clone()
            .filter(|_| ticket.split == Split::Train);
        self.work.push(Box::pin(async move {
            let ask = GetTaskRequest {
                task_id: id.clone(),
                journal: true,
                ..GetTaskRequest::default()
            };
            let task = node.open(node.tasks().get(node.ask(ask)).await)?;
            let mut outcome = Outcome::read(&task);
            if let Some(label) = label.filter(|_| !outcome.taught) {
                let ask = node.ask(FeedbackRequest {
                    task_id: id,
                    label,
                    ..FeedbackRequest::default()
                });
                // Echo agents have no memory to teach; what they did is scored all the same.
                outcome.taught = node.tasks().feedback(ask).await.is_ok();
            }
            Ok(Done::Settled(number, Box::new(outcome)))
        }));
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Submitted(numbers) => {
                for (number, id, state) in numbers {
                    let heard = self.early.remove(&id).or(state);
                    self.under_way(number, id.clone(), "ready");
                    if let Some(state) = heard {
                        self.heard(&id, state);
                    }
                }
                self.submitting -= 1;
                if self.submitting == 0 {
                    self.early.clear();
                }
            }
            Done::Reviewed(again) => {
                if let Some(question) = again {
                    self.ruled.remove(&question);
                }
            }
            Done::Settled(number, outcome) => {
                self.states[number] = TicketState::Settled;
                self.outcomes[number] = Some(*outcome);
            }
            Done::Questions(questions) => {
                self.asking = false;
                self.answer(questions);
            }
        }
    }

    fn look_for_questions(&mut self) {
        let waits = self.states.contains(&TicketState::UnderWay("waiting"));
        if self.asking || !waits || self.options.reviewer != ReviewerChoice::Auto {
            return;
        }
        self.asking = true;
        let node = self.node.clone();
        self.work.push(Box::pin(async move {
            let questions = approve::list(&node, ListApprovalsRequest::default(), 0).await?;
            Ok(Done::Questions(questions.approvals))
        }));
    }

    fn answer(&mut self, questions: Vec<Approval>) {
        for approval in questions {
            let Some(number) = self.numbers.get(&approval.task_id).copied() else {
                continue;
            };
            if !self.ruled.insert(approval.id.clone()) {
                continue;
            }
            let decision = reviewer::rule(&approval, &self.source.tickets[number]);
            let node = self.node.clone();
            self.work.push(Box::pin(async move {
                let id = approval.id;
                let ask = DecideRequest {
                    approval_id: id.clone(),
                    decision: Some(decision),
                    request_id: Some(request_id()),
                    known_label_only: false,
                };
                // Somebody else may have been quicker with `colony approve`; if not, it is still open.
                let decided = node.approvals().decide(node.ask(ask)).await;
                Ok(Done::Reviewed(decided.is_err().then_some(id)))
            }));
        }
    }

    fn paint(&mut self) {
        let mut states = BTreeMap::new();
        let mut ended = 0;
        for place in &self.states {
            match place {
                TicketState::Waiting => {}
                TicketState::UnderWay(state) => *states.entry(*state).or_insert(0) += 1,
                TicketState::Settling | TicketState::Settled => ended += 1,
            }
        }
        let curve = learning(self.source, &self.outcomes).accuracy_by_decile;
        let per_s = rate(self.ended_now, self.started.elapsed());
        let models = &self.models;
        self.progress.show(&ProgressView {
            ended,
            states,
            curve,
            models,
            per_s,
        });
    }

    fn check_stall(&self) -> Result<(), Failure> {
        if self.last_move.elapsed() < STALL_MAX || self.options.reviewer == ReviewerChoice::Person {
            return Ok(());
        }
        let open = self
            .states
            .iter()
            .filter(|place| **place != TicketState::Settled)
            .count();
        Err(Failure::failed(format!(
            "nothing has moved for {} s; {open} tickets have not ended",
            STALL_MAX.as_secs()
        )))
    }

    fn finish(self, end: End) -> Streamed {
        let stream = self.last_move.duration_since(self.started);
        self.progress.end();
        Streamed {
            end,
            outcomes: self.outcomes,
            ended_now: self.ended_now,
            stream,
        }
    }
}

/// Hands a batch in. A ticket that is there already has a state to be asked for: it may never change again.
async fn submit(node: Node, batch: Vec<(usize, NewTask)>) -> Result<Done, Failure> {
    let (numbers, tasks): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let answer = node
        .tasks()
        .submit_batch(node.ask(SubmitBatchRequest { tasks }))
        .await;
    let mut ids = Vec::with_capacity(numbers.len());
    for (number, submitted) in numbers.into_iter().zip(node.open(answer)?.submitted) {
        let id = submitted.task_id;
        let state = match Submission::try_from(submitted.outcome) {
            Ok(Submission::Accepted | Submission::Unspecified) | Err(_) => None,
            Ok(Submission::Duplicate) => {
                let ask = GetTaskRequest {
                    task_id: id.clone(),
                    ..GetTaskRequest::default()
                };
                let task = node.open(node.tasks().get(node.ask(ask)).await)?.task;
                Some(task.unwrap_or_default().state)
            }
            Ok(Submission::Conflict) => {
                let what = format!("task {id} has the key of ticket {number} and another text");
                return Err(Failure::refused(what).with_hint("take another --data-dir"));
            }
        };
        ids.push((number, id, state));
    }
    Ok(Done::Submitted(ids))
}
