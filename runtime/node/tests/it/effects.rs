//! Effects of a step that is tried again: made once, or again under the same key.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use colony_agents::{
    CallContext, EffectKind, Kind, Kinds, PortError, StepContext, StepError, Tool, ToolOutcome,
    Tools,
};
use colony_core::{
    cycle::{Effect, ExecutionResult, Thought},
    journal::EffectKey,
    task::{Answer, Spec, State},
};
use colony_node::Node;
use serde_json::{Value, json};

use crate::walk::{agent_type, config, dependencies, ledger, submit, tickets, until};

/// Makes these effects, one after the other.
#[derive(Debug)]
pub(crate) struct Caller(pub(crate) Vec<Effect>);

#[async_trait]
impl Kind for Caller {
    fn name(&self) -> &'static str {
        "caller"
    }

    async fn reason(&self, _: &StepContext) -> Result<Thought, StepError> {
        Ok(Thought {
            answer: Answer::by_rule("it", "always"),
            escalation_reason: None,
            model_calls: vec![],
            findings: Vec::new(),
        })
    }

    async fn execute(&self, context: &StepContext) -> Result<ExecutionResult, StepError> {
        let mut effects = Vec::new();
        for effect in &self.0 {
            let value = context.perform(effect.clone()).await?;
            effects.push((effect.clone(), value));
        }
        Ok(ExecutionResult { effects })
    }
}

/// A call to somebody outside, through the tool `call`.
pub(crate) fn call() -> Effect {
    Effect {
        tool: "call".to_owned(),
        arguments: Value::Null,
    }
}

/// Answers every third time it is called, and remembers under which keys it was.
#[derive(Debug, Default)]
struct BusyLine {
    keys: Mutex<Vec<EffectKey>>,
}

#[async_trait]
impl Tool for BusyLine {
    fn name(&self) -> &'static str {
        "call"
    }

    fn effect_kind(&self) -> EffectKind {
        EffectKind::AtLeastOnce
    }

    async fn call(
        &self,
        _: &Value,
        key: &EffectKey,
        _: &CallContext,
    ) -> Result<ToolOutcome, PortError> {
        let mut keys = self.keys.lock().expect("no panic");
        keys.push(key.clone());
        if !keys.len().is_multiple_of(3) {
            let what = "engaged".to_owned();
            return Err(PortError::Busy { port: "call", what });
        }
        let (value, messages) = (json!(keys.len()), vec![]);
        Ok(ToolOutcome { value, messages })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_tried_again_keeps_the_keys_of_its_effects_and_files_once() {
    let line = Arc::new(BusyLine::default());
    let file = Effect {
        tool: "ticket.file".to_owned(),
        arguments: json!({ "queue": "it", "confidence": 1.0 }),
    };
    // The same call twice is two calls.
    let caller = Caller(vec![file, call(), call()]);
    let mut dependencies = dependencies(ledger());
    dependencies.kinds = Kinds::builtin().with(Arc::new(caller));
    dependencies.tools = Tools::builtin().with(Arc::clone(&line) as _);
    let node = Node::start(&config(&[("caller", 1)]), dependencies)
        .await
        .expect("starts");
    let handle = node.handle();
    let ids = submit(&handle, vec![Spec::new(agent_type("caller"), "help")]).await;
    until(&handle, &ids, &[State::Done]).await;
    let filed = handle.outbox(tickets()).await;
    assert_eq!(filed.expect("readable").items.len(), 1);
    let keys = line.keys.lock().expect("no panic").clone();
    assert_eq!(keys.len(), 6);
    assert!(keys[..3].iter().all(|key| *key == keys[0]), "{keys:?}");
    assert!(keys[3..].iter().all(|key| *key == keys[3]), "{keys:?}");
    assert_ne!(keys[0], keys[3]);
    node.stop().await;
}
