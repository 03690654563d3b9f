//! `echo`: answers with its input. For trying the colony out and for measuring it.

use async_trait::async_trait;
use colony_core::{cycle::Thought, task::Answer};

use crate::{
    context::StepContext,
    kind::{Kind, StepError},
};

/// The kind `echo`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

#[async_trait]
impl Kind for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError> {
        let text = context
            .work
            .percept
            .as_ref()
            .map_or("", |p| p.text.as_str());
        let answer = Answer::by_rule(text, "echoed");
        Ok(Thought {
            answer,
            escalation_reason: None,
            model_calls: vec![],
            findings: Vec::new(),
        })
    }
}
