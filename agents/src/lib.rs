//! What an agent is: six steps, the ports they may use, and ready-made kinds.
//!
//! A *kind* is code: a Rust type that implements [`Kind`] for the steps it cares about. An agent *type*
//! is data: a table in `colony.toml` that names a kind, a model, a prompt. A third thing, the *agent*,
//! is one member of a type with its own track record; the node runs it.

mod context;
mod kind;
mod kinds;
mod port;
pub mod tickets;
mod tool;

pub use context::StepContext;
pub use kind::{Kind, Kinds, StepError, TypeSettings, UnknownKind};
pub use kinds::{
    echo::Echo,
    triage::{Triage, TriageSettings, normalise, printable},
};
pub use port::{
    CallContext, Effects, Embed, Examples, Generate, MemoryPort, PortError, Ports, Prompt,
    PromptFormat, Reply, Unconfigured,
};
pub use tool::{EffectKind, FileTicket, OutboxMessage, Tool, ToolOutcome, Tools};
