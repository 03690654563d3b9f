//! What lies before an agent while it does one step.

use std::sync::Arc;

use colony_core::{
    cycle::{Effect, Percept, Recall, Work},
    escalation::risk::Patterns,
    task::{Answer, Source, Spec},
};
use serde_json::Value;

use crate::{
    kind::TypeSettings,
    port::{CallContext, Effects, PortError, Ports, Prompt, Reply},
};

/// The task, the work so far, and the ports. Cheap to make: everything large is shared.
#[derive(Debug, Clone)]
pub struct StepContext {
    /// What is asked.
    pub spec: Arc<Spec>,
    /// What the steps so far gave.
    pub work: Arc<Work>,
    /// The declaration of the agent's type.
    pub settings: Arc<TypeSettings>,
    /// On whose behalf ports are called.
    pub call: CallContext,
    /// The ports of the type.
    pub ports: Arc<Ports>,
    /// What counts as risky on this node.
    pub risk: Arc<Patterns>,
    /// Makes effects; only execute should.
    pub effects: Arc<dyn Effects>,
}

impl StepContext {
    /// Embeds `text` with the type's embedding model.
    ///
    /// # Errors
    /// [`PortError`].
    pub async fn embed(&self, text: &str) -> Result<Arc<[f32]>, PortError> {
        self.ports.embed.embed(text, &self.call).await
    }

    /// Recalls what is like `percept`.
    ///
    /// # Errors
    /// [`PortError`].
    pub async fn recall(&self, percept: &Percept) -> Result<Recall, PortError> {
        self.ports.memory.recall(percept, &self.call).await
    }

    /// What a human should read when the text of `vector` resembles examples of harm.
    ///
    /// # Errors
    /// [`PortError`].
    pub async fn resembled(&self, vector: &[f32]) -> Result<Option<String>, PortError> {
        self.ports.examples.resembled(vector, &self.call).await
    }

    /// Asks the type's language model.
    ///
    /// # Errors
    /// [`PortError`].
    pub async fn ask(&self, prompt: Prompt) -> Result<Reply, PortError> {
        self.ports.generate.generate(prompt, &self.call).await
    }

    /// The answer, if it may be acted on: a human decided it, or there is no reason to ask one and the submitter expected
    /// nothing else. None before reason. Where it is none, execute does nothing and verify asks:
    /// docs/adr/0004-nothing-is-filed-before-it-stands.md.
    #[must_use]
    pub fn standing(&self) -> Option<&Answer> {
        let thought = self.work.thought.as_ref()?;
        let answer = &thought.answer;
        let expected = self.spec.expected.as_ref();
        let contradicted = expected.is_some_and(|expected| *expected != answer.text);
        let ruled = answer.source == Source::Human;
        (ruled || (thought.escalation_reason.is_none() && !contradicted)).then_some(answer)
    }

    /// Makes an effect through a tool.
    ///
    /// # Errors
    /// [`PortError`].
    pub async fn perform(&self, effect: Effect) -> Result<Value, PortError> {
        self.effects.perform(effect, &self.call).await
    }
}
