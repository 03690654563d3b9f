//! Bare actors, as the library gives them: what a node's figures are compared with.
//!
//! ```text
//!   1,000 actors in a ring; each is given a task, sends itself six messages, and gives the next one a task
//! ```
//! Seven messages a task, no market, no ledger, no journal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, rpc::CallResult};
use tokio::{sync::Notify, time::Instant};

use super::{AGENTS, figure::Figure};
use crate::{
    errors::{Failure, chain},
    output::Output,
    stats::rate,
};

/// Messages that an actor sends itself for a task: one for each step.
const STEPS: u8 = 6;
/// Tasks of one run: about a second of work.
const TASKS: u64 = 1_000_000;
/// Questions asked one after the other for the latency.
const CALLS: usize = 20_000;
/// Longest wait for an answer, or for the end of a run.
const WAIT_MAX: Duration = Duration::from_secs(120);

#[derive(Debug)]
enum Message {
    /// Who comes next in the ring.
    Next(ActorRef<Message>),
    /// A task.
    Task,
    /// One of its steps; so many are left.
    Step(u8),
    /// Answer.
    Ask(RpcReplyPort<()>),
}

/// One actor of the ring.
#[derive(Debug)]
struct Member {
    goal: Arc<Goal>,
}

/// When a run is over.
#[derive(Debug, Default)]
struct Goal {
    done: AtomicU64,
    reached: Notify,
}

impl Actor for Member {
    type Msg = Message;
    type State = Option<ActorRef<Message>>;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(None)
    }

    async fn handle(
        &self,
        me: ActorRef<Message>,
        message: Message,
        next: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Next(member) => *next = Some(member),
            Message::Task => me.cast(Message::Step(STEPS))?,
            Message::Step(1) => {
                let done = self.goal.done.fetch_add(1, Ordering::Relaxed) + 1;
                if done == TASKS {
                    self.goal.reached.notify_one();
                } else if let Some(next) = next.as_ref().filter(|_| done < TASKS) {
                    next.cast(Message::Task)?;
                }
            }
            Message::Step(left) => me.cast(Message::Step(left - 1))?,
            Message::Ask(reply) => reply.send(())?,
        }
        Ok(())
    }
}

/// Spawns, tasks through the ring, and answered questions.
pub(super) async fn measure(runs: u32, out: Output) -> Result<Figure, Failure> {
    let (mut tasks, mut spawns, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=runs {
        out.note(&format!("actors: run {run} of {runs}"));
        let goal = Arc::new(Goal::default());
        let begun = Instant::now();
        let members = ring(&goal).await?;
        spawns.push(rate(u64::from(AGENTS), begun.elapsed()));

        let begun = Instant::now();
        for member in &members {
            tell(member, Message::Task)?;
        }
        let over = tokio::time::timeout(WAIT_MAX, goal.reached.notified()).await;
        over.map_err(|_| Failure::failed("the actors did not end in two minutes"))?;
        tasks.push(rate(TASKS, begun.elapsed()));

        for member in members.iter().cycle().take(CALLS) {
            let asked = Instant::now();
            match member.call(Message::Ask, Some(WAIT_MAX)).await {
                Ok(CallResult::Success(())) => waits.push(asked.elapsed()),
                Ok(CallResult::Timeout | CallResult::SenderError) => {
                    return Err(Failure::failed("an actor did not answer"));
                }
                Err(error) => return Err(Failure::failed(chain(&error))),
            }
        }
        for member in members {
            member.stop(None);
        }
    }
    let messages: Vec<f64> = tasks.iter().map(|run| run * f64::from(STEPS + 1)).collect();
    Ok(Figure::new("actors", "tasks/s", tasks)
        .with_latency("question to answer", waits)
        .with_runs("messages_per_s", &messages)
        .with_runs("spawns_per_s", &spawns)
        .with("agents", AGENTS)
        .with("messages_per_task", STEPS + 1))
}

async fn ring(goal: &Arc<Goal>) -> Result<Vec<ActorRef<Message>>, Failure> {
    let mut members = Vec::new();
    for _ in 0..AGENTS {
        let goal = Arc::clone(goal);
        let spawned = Actor::spawn(None, Member { goal }, ()).await;
        let (member, _) = spawned.map_err(|error| Failure::failed(chain(&error)))?;
        members.push(member);
    }
    for (member, next) in members.iter().zip(members.iter().cycle().skip(1)) {
        tell(member, Message::Next(next.clone()))?;
    }
    Ok(members)
}

fn tell(member: &ActorRef<Message>, message: Message) -> Result<(), Failure> {
    let told = member.cast(message);
    told.map_err(|error| Failure::failed(format!("an actor has ended: {error}")))
}
