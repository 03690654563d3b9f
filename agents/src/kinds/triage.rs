//! `triage`: decides which queue a help-desk ticket belongs to.
//!
//! ```text
//!   text ─► normalise, embed ─► similar solved tickets ─► memory sure? ── yes ─► label
//!                                                          └─ no ─► model, among the candidates
//!   risky | new | uncertain ─► nothing is filed, a human is asked; the ruling is filed
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use colony_core::{
    cycle::{Deed, Doubt, Effect, ModelCall, Percept, Recall, Thought},
    task::{Answer, Source},
    unit::Share,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use unicode_normalization::UnicodeNormalization;

use crate::{
    desk::Desk,
    kind::{Kind, StepError, TypeSettings},
    port::{PortError, Prompt},
};

/// Settings of a type of kind `triage`: the table `[agents.NAME.settings]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TriageSettings {
    /// Memory decides alone at this confidence or above, 0 to 1. Lower: fewer model calls.
    pub sure: f64,
}

impl Default for TriageSettings {
    fn default() -> Self {
        Self { sure: 0.7 }
    }
}

/// The kind `triage`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Triage;

/// Characters kept of a ticket: what the embedding model reads is shorter still.
const TEXT_CHARS_MAX: usize = 4_000;

/// One line of plain text: canonical composition, no control characters, single spaces.
fn normalise(input: &str) -> String {
    let printable = input.nfkc().map(|c| if c.is_control() { ' ' } else { c });
    let text: String = printable.take(TEXT_CHARS_MAX).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[async_trait]
impl Kind for Triage {
    fn name(&self) -> &'static str {
        "triage"
    }

    fn check(&self, declared: &TypeSettings) -> Result<(), Vec<String>> {
        match TriageSettings::deserialize(&declared.settings) {
            Ok(settings) if (0.0..=1.0).contains(&settings.sure) => Ok(()),
            Ok(settings) => Err(vec![format!(
                "settings.sure: {} is not between 0 and 1",
                settings.sure
            )]),
            Err(error) => Err(vec![format!("settings: {error}")]),
        }
    }

    async fn perceive(&self, desk: &Desk) -> Result<Percept, StepError> {
        let text = normalise(&desk.spec.input);
        let vector = desk.embed(&text).await?;
        Ok(Percept {
            text,
            vector: Some(vector),
        })
    }

    async fn retrieve(&self, desk: &Desk) -> Result<Recall, StepError> {
        match &desk.work.percept {
            Some(percept) => Ok(desk.recall(percept).await?),
            None => Ok(Recall::default()),
        }
    }

    async fn reason(&self, desk: &Desk) -> Result<Thought, StepError> {
        let _ = (
            desk,
            Arc::new(()),
            json!({}),
            Doubt::New,
            Source::Memory,
            Share::ONE,
        );
        let _: Option<(Answer, Deed, Effect, ModelCall, Prompt, PortError)> = None;
        Err(StepError::Impossible("being written".to_owned()))
    }
}
