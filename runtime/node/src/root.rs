//! The root supervisor: it owns everything that must be alive for the node to be.
//!
//! ```text
//!   root ─┬─ market                 its state is the claims in hand: it cannot begin afresh
//!         ├─ supervisor per type    the same
//!         ├─ sweep                  restarted, RESTARTS_MAX times in RESTART_WINDOW
//!         ├─ API servers            own their listeners: cannot be opened again from here
//!         └─ ledger's writer        watched through Ledger::health
//! ```
//! Policy: what keeps no state is restarted. When anything else ends unasked, or a restart is not enough, the
//! node fails as a whole: it takes no more work, its health says NOT_SERVING with the reason, and the
//! process exits, so that whatever runs it starts it again. Nothing is lost by that: the ledger has
//! everything, and the next life takes up the claims. Nobody watches the root from inside: when it ends, its
//! [`Health`] channel closes, and whoever waits on that knows.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    sync::Arc,
    time::Duration,
};

use colony_core::{port::Clock, unit::Timestamp};
use colony_store::{Health as LedgerHealth, Ledger};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::watch;

use crate::{
    pipe::pipe_to_self,
    sweep::{Sweep, SweepArgs},
};

/// Restarts of the sweep within [`RESTART_WINDOW`] after which the node fails: it is stateless, so five
/// failures in a minute are no accident.
const RESTARTS_MAX: usize = 5;
/// The window of [`RESTARTS_MAX`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// How the node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// It is being started.
    #[default]
    Starting,
    /// It takes tasks.
    Serving,
    /// It takes tasks, but its ledger has not answered for a while, and why that is known. It serves again when that answers.
    Stalled(String),
    /// It is being stopped.
    Draining,
    /// A component has failed for good, and why. The process should exit.
    Failed(String),
}

/// Said to the root.
#[derive(Debug)]
enum Message {
    /// These actors must not end unasked.
    Watch(BTreeMap<ActorId, String>),
    /// Start the sweep.
    Sweep(SweepArgs),
    /// Everything runs.
    Started,
    /// The node is being stopped: from here on things end because they were asked to.
    Stopping,
    /// The ledger has not answered for as long; none: it does again.
    Stalled(Option<Duration>),
    /// The ledger's health has changed: it, to be listened to again.
    Ledger(watch::Receiver<LedgerHealth>),
    /// Something that is no actor has ended.
    Ended {
        /// What.
        name: String,
        /// How.
        reason: String,
    },
}

#[derive(Debug)]
struct Root {
    clock: Arc<dyn Clock>,
}

struct State {
    health: watch::Sender<Health>,
    watched: BTreeMap<ActorId, String>,
    /// Children that ended before anybody said what they are.
    ended: BTreeMap<ActorId, String>,
    sweep: Option<SweepArgs>,
    sweep_actor: Option<ActorRef<crate::sweep::Message>>,
    sweep_restarts: VecDeque<Timestamp>,
}

/// The way to the root. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    root: ActorRef<Message>,
    health: watch::Receiver<Health>,
}

impl Handle {
    /// Starts a root that watches the ledger.
    pub(crate) async fn start(
        ledger: &Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SpawnErr> {
        let (sender, health) = watch::channel(Health::Starting);
        let args = (sender, ledger.health());
        let (root, _) = Actor::spawn(None, Root { clock }, args).await?;
        Ok(Self { root, health })
    }

    /// What components are started under.
    pub(crate) fn cell(&self) -> ActorCell {
        self.root.get_cell()
    }

    /// These actors, by what they are called, must not end unasked.
    pub(crate) fn watch(&self, actors: BTreeMap<ActorId, String>) {
        self.tell(Message::Watch(actors));
    }

    /// Starts the sweep.
    pub(crate) fn sweep(&self, args: SweepArgs) {
        self.tell(Message::Sweep(args));
    }

    /// The ledger has not answered for as long; none: it does again.
    pub(crate) fn stalled(&self, since: Option<Duration>) {
        self.tell(Message::Stalled(since));
    }

    /// Runs `work` beside the actors; should it end before the node is stopped, the node fails.
    pub(crate) fn supervise(
        &self,
        name: &str,
        work: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let (root, name) = (self.root.clone(), name.to_owned());
        #[expect(
            clippy::disallowed_methods,
            reason = "its end, also by a panic, is told to the root"
        )]
        let task = tokio::spawn(work);
        #[expect(clippy::disallowed_methods, reason = "ends with the task it waits for")]
        tokio::spawn(async move {
            let reason = match task.await {
                Ok(Ok(())) => "it ended".to_owned(),
                Ok(Err(error)) => error,
                Err(panic) => panic.to_string(),
            };
            // A root that has ended needs no word of it.
            let _ = root.cast(Message::Ended { name, reason });
        })
    }

    /// Everything runs: health says so when this returns, unless something has failed already.
    pub(crate) async fn started(&self) {
        self.tell(Message::Started);
        let mut health = self.health.clone();
        // A root that has ended has closed the channel: whoever asks for health hears of it.
        let _ = health.wait_for(|health| *health != Health::Starting).await;
    }

    /// When this returns, things end because they were asked to. Ends are heard of before messages: had the root
    /// not heard this one yet, it would take the first of them for a failure.
    pub(crate) async fn stopping(&self) {
        self.tell(Message::Stopping);
        let mut health = self.health.clone();
        // A root that has ended hears of no more ends.
        let _ = health
            .wait_for(|health| matches!(health, Health::Draining | Health::Failed(_)))
            .await;
    }

    /// Ends the root.
    pub(crate) fn stop(&self) {
        self.root.stop(None);
    }

    /// How the node is; the channel closes when the root ends.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    fn tell(&self, message: Message) {
        // A root that has ended has closed its health channel: everybody knows.
        let _ = self.root.cast(message);
    }
}

impl Actor for Root {
    type Msg = Message;
    type State = State;
    type Arguments = (watch::Sender<Health>, watch::Receiver<LedgerHealth>);

    async fn pre_start(
        &self,
        me: ActorRef<Message>,
        (health, ledger): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        listen(&me, ledger);
        Ok(State {
            health,
            watched: BTreeMap::new(),
            ended: BTreeMap::new(),
            sweep: None,
            sweep_actor: None,
            sweep_restarts: VecDeque::new(),
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Watch(actors) => {
                for (actor, name) in actors {
                    match state.ended.remove(&actor) {
                        Some(reason) => fail(state, &name, &reason),
                        None => drop(state.watched.insert(actor, name)),
                    }
                }
            }
            Message::Sweep(args) => {
                state.sweep = Some(args);
                start_sweep(&me, state).await;
            }
            Message::Started => set(state, Health::Serving),
            Message::Stopping => {
                set(state, Health::Draining);
                if let Some(sweep) = state.sweep_actor.take() {
                    sweep.stop(None);
                }
            }
            Message::Ledger(health) => {
                let now = health.borrow().clone();
                match now {
                    LedgerHealth::Working => listen(&me, health),
                    LedgerHealth::Failed(reason) => fail(state, "the ledger", &reason),
                }
            }
            Message::Stalled(since) => stalled(state, since),
            Message::Ended { name, reason } => fail(state, &name, &reason),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, reason) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor.get_id(), error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                let reason = reason.unwrap_or_else(|| "it ended".to_owned());
                (actor.get_id(), reason)
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {
                return Ok(());
            }
        };
        let sweep = state.sweep_actor.as_ref();
        if sweep.is_some_and(|sweep| sweep.get_id() == actor) {
            let now = self.clock.now();
            let restarts = &mut state.sweep_restarts;
            restarts.push_back(now);
            restarts.retain(|at| now.since(*at) <= RESTART_WINDOW);
            if restarts.len() > RESTARTS_MAX {
                fail(state, "the sweep", &reason);
            } else {
                tracing::warn!(reason, "the sweep ended, starting it again");
                start_sweep(&me, state).await;
            }
        } else if let Some(name) = state.watched.remove(&actor) {
            fail(state, &name, &reason);
        } else {
            state.ended.insert(actor, reason);
        }
        Ok(())
    }
}

/// Waits for the next change of the ledger's health.
fn listen(me: &ActorRef<Message>, mut health: watch::Receiver<LedgerHealth>) {
    let me = me.clone();
    pipe_to_self(&me, async move {
        if health.changed().await.is_err() {
            // A ledger that was dropped was closed first.
            std::future::pending::<()>().await;
        }
        Message::Ledger(health)
    });
}

async fn start_sweep(me: &ActorRef<Message>, state: &mut State) {
    let Some(args) = state.sweep.clone() else {
        return;
    };
    match Actor::spawn_linked(None, Sweep, args, me.get_cell()).await {
        Ok((sweep, _)) => state.sweep_actor = Some(sweep),
        Err(error) => fail(state, "the sweep", &error.to_string()),
    }
}

fn set(state: &State, to: Health) {
    state.health.send_if_modified(|health| {
        // A node that has failed stays so, whatever is done with it afterwards.
        let changes = !matches!(health, Health::Failed(_)) && *health != to;
        if changes {
            *health = to;
        }
        changes
    });
}

/// Only a node that serves can stall, and only one that has stalled goes on.
fn stalled(state: &State, since: Option<Duration>) {
    let now = state.health.borrow().clone();
    match (now, since) {
        (Health::Serving, Some(since)) => {
            let reason = format!("the ledger has not answered for {} s", since.as_secs());
            tracing::error!(reason, "the ledger has stalled: its disk is slow or away");
            set(state, Health::Stalled(reason));
        }
        (Health::Stalled(_), None) => {
            tracing::info!("the ledger answers again");
            set(state, Health::Serving);
        }
        _ => {}
    }
}

fn fail(state: &State, name: &str, reason: &str) {
    if *state.health.borrow() == Health::Draining {
        return;
    }
    let reason = format!("{name}: {reason}");
    tracing::error!(reason, "the node has failed");
    set(state, Health::Failed(reason));
}
