//! The arguments of `colony approve`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};

use super::{
    RetryArgs,
    values::{span, user},
};
use crate::complete;

/// Options that find questions. An empty one is refused: a variable that is not set must not decide everything.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ApprovalFilterArgs {
    /// Only this tenant
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) tenant: Option<String>,
    /// Only this agent type
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new(), add = complete::agent_types())]
    pub(crate) agent_type: Option<String>,
    /// Only those asked for this reason; may be repeated
    #[arg(
        long = "reason",
        visible_alias = "escalation-reason",
        value_name = "REASON"
    )]
    pub(crate) escalation_reasons: Vec<EscalationReasonChoice>,
    /// Only those that have waited at least this long
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) older_than: Option<Duration>,
    /// Only those that hold this text, in any case: in the task, the question or the proposal
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) search: Option<String>,
}

impl ApprovalFilterArgs {
    /// Whether it finds every question.
    pub(crate) const fn is_open(&self) -> bool {
        self.tenant.is_none()
            && self.agent_type.is_none()
            && self.escalation_reasons.is_empty()
            && self.older_than.is_none()
            && self.search.is_none()
    }
}

/// Why a human is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EscalationReasonChoice {
    /// The agent is not sure enough
    Uncertain,
    /// Unlike anything known
    New,
    /// Could do harm
    Risky,
    /// The submitter expected something else
    Contradiction,
}

/// Who decides, and for how long the request is repeated.
#[derive(Debug, Clone, Args)]
pub(crate) struct DecideArgs {
    /// Who decides [env: USER] [default: unknown]
    // Not by clap's `env`: see `--address`.
    #[arg(
        long,
        default_value_t = user(),
        hide_default_value = true,
        value_name = "NAME"
    )]
    pub(crate) by: String,
    #[command(flatten)]
    pub(crate) retry: RetryArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApproveCommand {
    /// List open questions, oldest first
    List {
        #[command(flatten)]
        filter: ApprovalFilterArgs,
        /// Decided and closed ones too
        #[arg(long)]
        all: bool,
        /// Most questions; 0 lists all
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Show a question: the whole text, what the agent had before it, and the labels that memory knows
    Show {
        /// Its id, or the beginning of it
        #[arg(add = complete::approvals())]
        id: String,
    },
    /// Decide questions one after the other, with single keys
    Review {
        #[command(flatten)]
        filter: ApprovalFilterArgs,
        /// Most questions; 0 takes all
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
        #[command(flatten)]
        decide: DecideArgs,
    },
    /// Follow questions: those that are open, then each as it is asked, decided or closed
    Watch {
        /// Only this tenant
        #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        tenant: Option<String>,
        /// Only this agent type
        #[arg(long = "type", value_name = "TYPE", add = complete::agent_types())]
        agent_type: Option<String>,
    },
    /// The proposal is right; or with --label, this is right instead
    Accept(AcceptArgs),
    /// It must not be done; the task fails
    Reject(RejectArgs),
}

/// Which questions to accept: some by their ids, or those that options find.
#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    /// Ids of the questions, or the beginnings of them
    #[arg(conflicts_with_all = ["tenant", "agent_type", "escalation_reasons", "older_than", "search"], add = complete::approvals())]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: ApprovalFilterArgs,
    /// Most questions that the options take; 0 takes all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
    /// What is right instead of the proposal
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: Option<String>,
    /// The label is meant though memory does not know it
    #[arg(long, requires = "label")]
    pub(crate) new_label: bool,
    /// Where there are several, accept risky ones too
    #[arg(long)]
    pub(crate) risky: bool,
    /// Memory shall not learn from it
    #[arg(long)]
    pub(crate) no_teach: bool,
    #[command(flatten)]
    pub(crate) decide: DecideArgs,
}

/// Which questions to reject: some by their ids, or those that options find.
#[derive(Debug, Args)]
pub(crate) struct RejectArgs {
    /// Ids of the questions, or the beginnings of them
    #[arg(conflicts_with_all = ["tenant", "agent_type", "escalation_reasons", "older_than", "search"], add = complete::approvals())]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: RejectFilterArgs,
    /// Most questions that the options take; 0 takes all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
    /// Why, in one line
    #[arg(long, default_value = "rejected by a human", value_name = "TEXT")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) decide: DecideArgs,
}

/// [`ApprovalFilterArgs`] beside a `--reason` that says why something is rejected.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RejectFilterArgs {
    /// Only this tenant
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) tenant: Option<String>,
    /// Only this agent type
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new(), add = complete::agent_types())]
    pub(crate) agent_type: Option<String>,
    /// Only those asked for this reason; may be repeated
    #[arg(long = "escalation-reason", value_name = "REASON")]
    pub(crate) escalation_reasons: Vec<EscalationReasonChoice>,
    /// Only those that have waited at least this long
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) older_than: Option<Duration>,
    /// Only those that hold this text, in any case: in the task, the question or the proposal
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) search: Option<String>,
}

impl From<RejectFilterArgs> for ApprovalFilterArgs {
    fn from(filter: RejectFilterArgs) -> Self {
        Self {
            tenant: filter.tenant,
            agent_type: filter.agent_type,
            escalation_reasons: filter.escalation_reasons,
            older_than: filter.older_than,
            search: filter.search,
        }
    }
}
