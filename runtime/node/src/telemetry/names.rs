//! Names of attributes: OpenTelemetry's semantic conventions where they exist (`gen_ai.*`, `error.type`),
//! `colony.*` for the rest. What each says to a reader: docs/guides/traces.md, held to this list by a test.

/// The task's id.
pub const TASK_ID: &str = "colony.task.id";
/// How the task ended: done, failed, rejected, cancelled, expired, dead.
pub const OUTCOME: &str = "colony.task.outcome";
/// Attempts that ended by the task's own failure.
pub const FAILED_ATTEMPTS: &str = "colony.task.failed_attempts";
/// The label that came out.
pub const ANSWER_LABEL: &str = "colony.answer.label";
/// How sure the agent was, 0 to 1.
pub const ANSWER_CONFIDENCE: &str = "colony.answer.confidence";
/// Who or what gave the answer: rule, memory, model, human.
pub const ANSWER_SOURCE: &str = "colony.answer.source";
/// The tenant.
pub const TENANT: &str = "colony.tenant";
/// Bids compared.
pub const BIDDERS: &str = "colony.market.bidders";
/// The winner's score.
pub const SCORE: &str = "colony.market.score";
/// What became of the claim: end, wait, release.
pub const SETTLEMENT: &str = "colony.claim.settlement";
/// Batch number.
pub const BATCH_ID: &str = "colony.batch.id";
/// What a batch was for: embed, prefill, decode.
pub const BATCH_KIND: &str = "colony.batch.kind";
/// Rows in a batch.
pub const BATCH_ROWS: &str = "colony.batch.rows";
/// Tokens read (embed, prefill) or written (decode) by a batch.
pub const BATCH_TOKENS: &str = "colony.batch.tokens";
/// Why a human was asked.
pub const ESCALATION_REASON: &str = "colony.escalation.reason";
/// What a human decided: accept, correct, reject.
pub const DECISION: &str = "colony.approval.decision";
/// Who decided.
pub const DECIDED_BY: &str = "colony.approval.decided_by";
/// What kind of error it was, in one word.
pub const ERROR_TYPE: &str = "error.type";
/// Operation of an agent, a model or a tool.
pub const GEN_AI_OPERATION: &str = "gen_ai.operation.name";
/// What computes: `colony` for an agent, the engine for a model.
pub const GEN_AI_PROVIDER: &str = "gen_ai.provider.name";
/// The agent.
pub const GEN_AI_AGENT_ID: &str = "gen_ai.agent.id";
/// The agent's type.
pub const GEN_AI_AGENT_NAME: &str = "gen_ai.agent.name";
/// The version of the type's declaration.
pub const GEN_AI_AGENT_VERSION: &str = "gen_ai.agent.version";
/// The model asked for.
pub const GEN_AI_MODEL: &str = "gen_ai.request.model";
/// Longest reply, in tokens.
pub const GEN_AI_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
/// What kind of reply was asked for: text, json.
pub const GEN_AI_OUTPUT_TYPE: &str = "gen_ai.output.type";
/// Why the model stopped: stop, length.
pub const GEN_AI_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
/// Tokens read.
pub const GEN_AI_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// Tokens written.
pub const GEN_AI_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
/// The tool called.
pub const GEN_AI_TOOL: &str = "gen_ai.tool.name";
/// The key of the effect: the same for every try of one call.
pub const GEN_AI_TOOL_CALL_ID: &str = "gen_ai.tool.call.id";

/// Operation names of the conventions.
pub mod operation {
    /// A task in an agent's hands.
    pub const INVOKE_AGENT: &str = "invoke_agent";
    /// A call of a language model.
    pub const CHAT: &str = "chat";
    /// A call of an embedding model.
    pub const EMBEDDINGS: &str = "embeddings";
    /// A call of a tool.
    pub const EXECUTE_TOOL: &str = "execute_tool";
}
