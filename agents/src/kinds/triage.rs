//! `triage`: decides which queue a help-desk ticket belongs to.
//!
//! ```text
//!   text ─► normalise, embed ─► similar solved tickets ─► memory sure? ── yes ─► label
//!                                                          └─ no ─► model, among the candidates
//!   risky | new | uncertain ─► nothing is filed, a human is asked; the decision is filed
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use colony_core::{
    cycle::{
        DecisionKind, Effect, EscalationReason, ExecutionResult, Learning, ModelCall, Percept,
        Recall, Thought,
    },
    escalation::Finding,
    memory::{Certainty, MemoryVerdict},
    task::{Answer, Source},
    unit::Ratio,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use unicode_normalization::UnicodeNormalization;

use crate::{
    context::StepContext,
    kind::{Kind, StepError, TypeSettings, lesson_of, settings_of},
    port::{PortError, Prompt, PromptFormat},
};

/// What the model is told when the type's declaration has no prompt.
const PROMPT: &str = "Each request goes to one queue.\n\n";
/// The answer while nothing was learned: no queue has this name.
const UNKNOWN: &str = "unknown";

/// The kind `triage`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Triage;

/// The settings of the kind, under `[agents.NAME.settings]`; ranges and effects stand in `colony.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TriageSettings {
    /// Likelihood of the model's choice at which it replaces memory's, 0 to 1: see docs/adr/0007.
    pub overrules_at: f64,
    /// Confidence in the model's choice, as a share of its likelihood, 0 to 1; memory's counts when it is higher.
    pub model_trust: f64,
    /// Confidence below which nobody files the answer unseen, 0 to 1: measured, fewer than one in three such
    /// answers is right.
    pub uncertain_below: f64,
    /// Characters of a ticket that the model reads: prefill is what a call costs.
    pub prompt_chars_max: usize,
    /// Longest reply, in tokens: a label of the schema with its braces.
    pub reply_tokens_max: u32,
}

impl Default for TriageSettings {
    fn default() -> Self {
        Self {
            overrules_at: 0.8,
            model_trust: 0.5,
            uncertain_below: 0.3,
            prompt_chars_max: 240,
            reply_tokens_max: 48,
        }
    }
}

impl TriageSettings {
    /// Those of a type, checked.
    fn of(declared: &TypeSettings) -> Result<Self, Vec<String>> {
        let settings: Self = settings_of(Triage.name(), declared)?;
        let problems = settings.problems();
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(problems)
        }
    }

    fn problems(&self) -> Vec<String> {
        let shares = [
            ("overrules_at", self.overrules_at),
            ("model_trust", self.model_trust),
            ("uncertain_below", self.uncertain_below),
        ];
        let shares = shares
            .into_iter()
            .filter(|(_, share)| !(0.0..=1.0).contains(share))
            .map(|(key, share)| format!("settings.{key}: {share} is not between 0 and 1"));
        let counts = [
            ("prompt_chars_max", self.prompt_chars_max, 65_536),
            ("reply_tokens_max", self.reply_tokens_max as usize, 4_096),
        ];
        let counts = counts
            .into_iter()
            .filter(|(_, count, max)| !(1..=*max).contains(count))
            .map(|(key, count, max)| format!("settings.{key}: {count} is not between 1 and {max}"));
        shares.chain(counts).collect()
    }
}

/// Characters kept of a ticket: what the embedding model reads is shorter still.
const TEXT_CHARS_MAX: usize = 4_000;

/// A ticket as the kind embeds it: one line of plain text, canonical composition, no control characters, single
/// spaces.
#[must_use]
pub fn normalise(input: &str) -> String {
    let text: String = printable(input).take(TEXT_CHARS_MAX).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A ticket as the kind searches it for risky words: all of it, canonical composition, no control characters.
pub fn printable(input: &str) -> impl Iterator<Item = char> {
    input.nfkc().map(|c| if c.is_control() { ' ' } else { c })
}

/// What gives away the harm that the ticket could do: words, or else the risky example that it resembles. The whole ticket is searched for words: what is asked for at the end of a
/// long one counts too. Its vector speaks for as much as the embedding model reads.
async fn risk(context: &StepContext) -> Result<Vec<Finding>, StepError> {
    let text: String = printable(&context.spec.input).collect();
    let found: Vec<Finding> = context.risk.hits(&text).iter().map(Finding::from).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let percept = context.work.percept.as_ref();
    let resembled = match percept.and_then(|percept| percept.vector.as_ref()) {
        Some(vector) => context.resembled(vector).await?,
        None => None,
    };
    let finding = resembled.map(|why| Finding {
        why,
        words: String::new(),
    });
    Ok(finding.into_iter().collect())
}

#[async_trait]
impl Kind for Triage {
    fn name(&self) -> &'static str {
        "triage"
    }

    fn check(&self, settings: &TypeSettings) -> Result<(), Vec<String>> {
        let mut problems = TriageSettings::of(settings).err().unwrap_or_default();
        if settings.embedder.is_none() {
            problems.push(
                "embedder: kind triage remembers tickets by their embeddings; name an embedding model"
                    .to_owned(),
            );
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    async fn perceive(&self, context: &StepContext) -> Result<Percept, StepError> {
        let text = normalise(&context.spec.input);
        let vector = context.embed(&text).await?;
        Ok(Percept {
            text,
            vector: Some(vector),
        })
    }

    async fn retrieve(&self, context: &StepContext) -> Result<Recall, StepError> {
        match &context.work.percept {
            Some(percept) => Ok(context.recall(percept).await?),
            None => Ok(Recall::default()),
        }
    }

    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError> {
        // First: what fails here is tried again, and the model should not be asked twice for that.
        let findings = risk(context).await?;
        let verdict = context
            .work
            .recall
            .as_ref()
            .and_then(|recall| recall.verdict.as_ref());
        let text = context
            .work
            .percept
            .as_ref()
            .map_or("", |percept| percept.text.as_str());
        let Some(verdict) = verdict.filter(|r| !r.candidates.is_empty()) else {
            return Ok(nothing_known(findings));
        };
        let best = &verdict.candidates[0];
        let mut thought = Thought {
            answer: Answer {
                text: best.label.clone(),
                confidence: Ratio::clamped(verdict.confidence),
                source: Source::Memory,
                reason: format!(
                    "nearest solved tickets, {:.0} % of their say",
                    best.share * 100.0
                ),
            },
            escalation_reason: None,
            model_calls: Vec::new(),
            findings,
        };
        match verdict.certainty {
            Certainty::Sure => {}
            Certainty::New => {
                thought.escalation_reason = Some(EscalationReason::New);
                thought.answer.reason = "unlike the tickets solved so far".to_owned();
            }
            Certainty::Unsure => {
                second_opinion(context, text, verdict, &mut thought).await?;
                if thought.answer.confidence.get() < settings(context)?.uncertain_below {
                    thought.escalation_reason = Some(EscalationReason::Uncertain);
                }
            }
        }
        if let Some(gravest) = thought.findings.first() {
            thought.escalation_reason = Some(EscalationReason::Risky);
            thought.answer.reason = gravest.to_string();
        }
        Ok(thought)
    }

    async fn execute(&self, context: &StepContext) -> Result<ExecutionResult, StepError> {
        let Some(answer) = context.standing() else {
            // Nothing is filed before it stands: verify asks, and the decision comes back here.
            return Ok(ExecutionResult::default());
        };
        let effect = Effect {
            tool: "ticket.file".to_owned(),
            arguments: json!({
                "queue": answer.text,
                "confidence": answer.confidence.get(),
            }),
        };
        let value = context.perform(effect.clone()).await?;
        Ok(ExecutionResult {
            effects: vec![(effect, value)],
        })
    }

    async fn learn(&self, context: &StepContext) -> Result<Learning, StepError> {
        let mut learning = lesson_of(context);
        let accepted = matches!(&context.work.decision, Some(d) if d.kind == DecisionKind::Accept);
        // Who accepts "unknown" has not said where the ticket belongs.
        learning.teach = learning
            .teach
            .filter(|label| !(accepted && label == UNKNOWN));
        Ok(learning)
    }
}

/// The settings of the agent's type; the check at the start found nothing wrong with them.
fn settings(context: &StepContext) -> Result<TriageSettings, StepError> {
    let settings = TriageSettings::of(&context.settings);
    settings.map_err(|problems| StepError::Impossible(problems.join("; ")))
}

/// What is said while nothing was learned yet.
fn nothing_known(findings: Vec<Finding>) -> Thought {
    let (escalation_reason, reason) = match findings.first() {
        Some(gravest) => (EscalationReason::Risky, gravest.to_string()),
        None => (EscalationReason::New, "no solved tickets yet".to_owned()),
    };
    Thought {
        answer: Answer {
            text: UNKNOWN.to_owned(),
            confidence: Ratio::ZERO,
            source: Source::Memory,
            reason,
        },
        escalation_reason: Some(escalation_reason),
        model_calls: Vec::new(),
        findings,
    }
}

/// Asks the language model to choose among memory's candidates. Its choice replaces memory's where it is
/// likely enough: measured on unsure tickets, such choices are right more often than memory's first label,
/// and the others less often.
async fn second_opinion(
    context: &StepContext,
    text: &str,
    verdict: &MemoryVerdict,
    thought: &mut Thought,
) -> Result<(), StepError> {
    if context.settings.model.is_none() {
        thought.escalation_reason = Some(EscalationReason::Uncertain);
        return Ok(());
    }
    let settings = settings(context)?;
    let labels: Vec<&str> = verdict
        .candidates
        .iter()
        .map(|c| c.label.as_str())
        .collect();
    let words: Vec<String> = labels.iter().map(|label| in_words(label)).collect();
    let prompt = Prompt {
        format: PromptFormat::Completion,
        system: Arc::from(context.settings.prompt.as_deref().unwrap_or(PROMPT)),
        user: question(
            &settings,
            text,
            &labels,
            &words,
            context.work.recall.as_ref(),
        ),
        schema: Some(json!({
            "type": "object",
            "properties": { "queue": { "enum": words } },
            "required": ["queue"],
            "additionalProperties": false,
            "x-guidance": { "whitespace_flexible": false },
        })),
        tokens_max: settings.reply_tokens_max,
    };
    let reply = match context.ask(prompt).await {
        Ok(reply) => reply,
        // A model that cannot answer, or none at all, is no reason to lose the ticket: memory's answer goes to
        // a human.
        Err(
            error @ (PortError::Refused { .. }
            | PortError::Failed { .. }
            | PortError::Unconfigured { .. }),
        ) => {
            thought.escalation_reason = Some(EscalationReason::Uncertain);
            thought.answer.reason = error.to_string();
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let chosen = serde_json::from_str::<Chosen>(&reply.text).ok();
    let place = chosen.and_then(|chosen| words.iter().position(|word| *word == chosen.queue));
    if let Some(place) = place
        && reply.likelihood.get() >= settings.overrules_at
    {
        let trusted = reply.likelihood.get() * settings.model_trust;
        thought.answer = Answer {
            text: labels[place].to_owned(),
            confidence: Ratio::clamped(verdict.confidence.max(trusted)),
            source: Source::Model,
            reason: format!("{} chose among {}", reply.model, labels.join(", ")),
        };
    }
    thought.model_calls.push(ModelCall {
        model: reply.model,
        reply: reply.text,
        prompt_tokens: reply.prompt_tokens,
        completion_tokens: reply.completion_tokens,
        choice: place.map(|place| labels[place].to_owned()),
        likelihood: reply.likelihood,
    });
    Ok(())
}

/// The reply that the schema allows.
#[derive(Debug, Deserialize)]
struct Chosen {
    queue: String,
}

/// A label as words, which a model knows better than identifiers.
fn in_words(label: &str) -> String {
    label.replace(['_', '-'], " ")
}

/// The examples and the ticket: the nearest solved ticket of each candidate, the best candidate last.
fn question(
    settings: &TriageSettings,
    text: &str,
    labels: &[&str],
    words: &[String],
    recall: Option<&Recall>,
) -> String {
    let shortened =
        |text: &str| -> String { text.chars().take(settings.prompt_chars_max).collect() };
    let neighbours = recall.map_or(&[][..], |recall| &recall.neighbours);
    let mut question = String::new();
    for (label, word) in labels.iter().zip(words).rev() {
        let example = neighbours
            .iter()
            .find(|neighbour| neighbour.label == *label);
        let example = example.map_or(word.as_str(), |neighbour| &neighbour.text);
        question += &format!(
            "Request: {}\n{{\"queue\":\"{word}\"}}\n\n",
            shortened(example)
        );
    }
    question + &format!("Request: {}\n", shortened(text))
}

#[cfg(test)]
mod tests {
    use colony_core::id::TypeName;

    use super::*;

    fn declared(settings: serde_json::Value) -> TypeSettings {
        TypeSettings {
            name: TypeName::new("mine").expect("a legal name"),
            kind: "triage".to_owned(),
            version: 1,
            model: None,
            embedder: Some("minilm".to_owned()),
            prompt: None,
            approvals: colony_core::escalation::Due::default(),
            settings,
        }
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        let settings = TriageSettings::of(&declared(json!({ "overrules_at": 0.9 })));
        let expected = TriageSettings {
            overrules_at: 0.9,
            ..TriageSettings::default()
        };
        assert_eq!(settings, Ok(expected));
        assert_eq!(Triage.check(&declared(json!({}))), Ok(()));
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let wrong = declared(json!({ "overules_at": 0.9, "uncertain_below": "low" }));
        let problems = Triage.check(&wrong).expect_err("two are wrong");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0]
                .starts_with("settings.overules_at: kind triage has no such setting; there are: ")
        );
        assert!(problems[1].starts_with("settings.uncertain_below: invalid type"));
        let out_of_range = declared(json!({
            "overrules_at": 1.5,
            "model_trust": -0.1,
            "uncertain_below": 2,
            "prompt_chars_max": 65_537,
            "reply_tokens_max": 0,
        }));
        let problems = Triage.check(&out_of_range).expect_err("all are wrong");
        let expected = [
            "settings.overrules_at: 1.5 is not between 0 and 1",
            "settings.model_trust: -0.1 is not between 0 and 1",
            "settings.uncertain_below: 2 is not between 0 and 1",
            "settings.prompt_chars_max: 65537 is not between 1 and 65536",
            "settings.reply_tokens_max: 0 is not between 1 and 4096",
        ];
        assert_eq!(problems, expected);
    }
}
