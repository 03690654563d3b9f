//! What lies in the columns: the core's types as `colony.store.v1` messages, and back.

use std::sync::Arc;

use colony_core::{
    cycle::{Decision, DecisionKind, EscalationReason, Neighbour, Output, Percept, Teaching},
    escalation::{Evidence, Finding},
    id::{Tenant, TypeName},
    journal::{Entry, Note},
    memory::Candidate,
    task::{Answer, Ending, Priority, Source, Spec, TraceContext},
    unit::{Ratio, Timestamp},
};
use colony_proto::store::v1;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::ledger::{LedgerError, Question};

/// The layout this version writes and the newest it reads.
pub(crate) const SCHEMA: u32 = 1;

/// Why a blob was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// A newer version wrote it.
    #[error("{what} has schema {schema}, this version knows up to {SCHEMA}; run a newer colony")]
    Newer {
        /// Which blob.
        what: &'static str,
        /// Its schema.
        schema: u32,
    },
    /// It is damaged.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Which blob.
        what: &'static str,
        /// What does not fit.
        why: String,
    },
}

impl From<CodecError> for LedgerError {
    fn from(error: CodecError) -> Self {
        Self::Unreadable {
            what: error.to_string(),
        }
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn damaged(what: &'static str, why: impl Into<Cause>) -> CodecError {
    CodecError::Damaged {
        what,
        why: why.into().to_string(),
    }
}

fn opened<M: Message + Default>(
    what: &'static str,
    bytes: &[u8],
    schema: impl Fn(&M) -> u32,
) -> Result<M, CodecError> {
    let message = M::decode(bytes).map_err(|e| damaged(what, e))?;
    match schema(&message) {
        schema if schema > SCHEMA => Err(CodecError::Newer { what, schema }),
        0 => Err(damaged(what, "it has no schema number")),
        _ => Ok(message),
    }
}

pub(crate) fn spec(spec: &Spec) -> Vec<u8> {
    let trace = &spec.trace;
    v1::Spec {
        schema: SCHEMA,
        tenant: spec.tenant.as_str().to_owned(),
        agent_type: spec.agent_type.as_str().to_owned(),
        input: spec.input.to_string(),
        attributes: spec.attributes.clone(),
        priority: u32::from(spec.priority.get()),
        deadline_us: spec.deadline.map(Timestamp::as_micros),
        dedupe_key: spec.dedupe_key.clone(),
        expected: spec.expected.clone(),
        trace_id: if trace.trace_id == 0 {
            Vec::new()
        } else {
            trace.trace_id.to_be_bytes().to_vec()
        },
        span_id: trace.span_id,
        sampled: trace.sampled,
    }
    .encode_to_vec()
}

pub(crate) fn read_spec(bytes: &[u8]) -> Result<Spec, CodecError> {
    const WHAT: &str = "spec";
    let spec = opened(WHAT, bytes, |m: &v1::Spec| m.schema)?;
    let trace_id = match spec.trace_id.as_slice() {
        [] => 0,
        bytes => u128::from_be_bytes(
            bytes
                .try_into()
                .map_err(|_| damaged(WHAT, "its trace id is not 16 bytes long"))?,
        ),
    };
    let priority = u8::try_from(spec.priority).unwrap_or(u8::MAX);
    Ok(Spec {
        tenant: Tenant::new(&spec.tenant).map_err(|e| damaged(WHAT, e))?,
        agent_type: TypeName::new(&spec.agent_type).map_err(|e| damaged(WHAT, e))?,
        input: Arc::from(spec.input),
        attributes: spec.attributes,
        priority: Priority::new(priority).map_err(|e| damaged(WHAT, e))?,
        deadline: spec.deadline_us.map(Timestamp::from_micros),
        dedupe_key: spec.dedupe_key,
        expected: spec.expected,
        trace: TraceContext {
            trace_id,
            span_id: spec.span_id,
            sampled: spec.sampled,
        },
    })
}

/// Equal for specs with the same payload ([`Spec::same_payload`]), whatever the version that wrote it.
pub(crate) fn payload_hash(spec: &Spec) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(spec.tenant.as_str().as_bytes());
    part(spec.agent_type.as_str().as_bytes());
    part(spec.input.as_bytes());
    part(&[spec.priority.get()]);
    match &spec.expected {
        Some(expected) => part(expected.as_bytes()),
        None => part(&[]),
    }
    part(&[u8::from(spec.expected.is_some())]);
    for (key, value) in &spec.attributes {
        part(key.as_bytes());
        part(value.as_bytes());
    }
    hash.finalize().into()
}

fn to_answer(answer: &Answer) -> v1::Answer {
    let source = match answer.source {
        Source::Rule => v1::Source::Rule,
        Source::Memory => v1::Source::Memory,
        Source::Model => v1::Source::Model,
        Source::Human => v1::Source::Human,
    };
    v1::Answer {
        schema: SCHEMA,
        text: answer.text.clone(),
        confidence: answer.confidence.get(),
        source: source.into(),
        reason: answer.reason.clone(),
    }
}

fn from_answer(what: &'static str, answer: v1::Answer) -> Result<Answer, CodecError> {
    let source = match answer.source() {
        v1::Source::Unspecified => return Err(damaged(what, "its answer has no source")),
        v1::Source::Rule => Source::Rule,
        v1::Source::Memory => Source::Memory,
        v1::Source::Model => Source::Model,
        v1::Source::Human => Source::Human,
    };
    Ok(Answer {
        text: answer.text,
        confidence: Ratio::new(answer.confidence).map_err(|e| damaged(what, e))?,
        source,
        reason: answer.reason,
    })
}

pub(crate) fn ending(ending: &Ending) -> Vec<u8> {
    let kind = match ending {
        Ending::Done(answer) => v1::ending::Kind::Done(to_answer(answer)),
        Ending::Failed { reason } => v1::ending::Kind::Failed(reason.clone()),
    };
    v1::Ending {
        schema: SCHEMA,
        kind: Some(kind),
    }
    .encode_to_vec()
}

pub(crate) fn read_ending(bytes: &[u8]) -> Result<Ending, CodecError> {
    const WHAT: &str = "ending";
    match opened(WHAT, bytes, |m: &v1::Ending| m.schema)?.kind {
        Some(v1::ending::Kind::Done(answer)) => Ok(Ending::Done(from_answer(WHAT, answer)?)),
        Some(v1::ending::Kind::Failed(reason)) => Ok(Ending::Failed { reason }),
        None => Err(damaged(WHAT, "it says nothing")),
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("the core's types have text keys only and are not recursive")
}

pub(crate) fn entry(entry: &Entry) -> Vec<u8> {
    let (note_json, vector) = if let Note::Output(Output::Perceive(Percept {
        text,
        vector: Some(vector),
    })) = &entry.note
    {
        let bare = Note::Output(Output::Perceive(Percept {
            text: text.clone(),
            vector: None,
        }));
        let values = vector.to_vec();
        (json(&bare), Some(v1::Vector { values }))
    } else {
        (json(&entry.note), None)
    };
    v1::Entry {
        schema: SCHEMA,
        note_json,
        vector,
    }
    .encode_to_vec()
}

pub(crate) fn read_entry(sequence: u32, at: Timestamp, bytes: &[u8]) -> Result<Entry, CodecError> {
    const WHAT: &str = "journal entry";
    let entry = opened(WHAT, bytes, |m: &v1::Entry| m.schema)?;
    let mut note = serde_json::from_slice(&entry.note_json).map_err(|e| damaged(WHAT, e))?;
    if let Some(vector) = entry.vector {
        let Note::Output(Output::Perceive(percept)) = &mut note else {
            return Err(damaged(WHAT, "only a percept has an embedding"));
        };
        percept.vector = Some(Arc::from(vector.values));
    }
    Ok(Entry { sequence, at, note })
}

pub(crate) fn question(question: &Question) -> Vec<u8> {
    let escalation_reason = match question.escalation_reason {
        EscalationReason::Uncertain => v1::EscalationReason::Uncertain,
        EscalationReason::New => v1::EscalationReason::New,
        EscalationReason::Risky => v1::EscalationReason::Risky,
        EscalationReason::Contradiction => v1::EscalationReason::Contradiction,
    };
    v1::Question {
        schema: SCHEMA,
        escalation_reason: escalation_reason.into(),
        question: question.question.clone(),
        proposal: Some(to_answer(&question.proposal)),
        // A row that is written again has the bytes that an older version wrote, and so its checksum.
        evidence: (question.evidence != Evidence::default())
            .then(|| to_evidence(&question.evidence)),
    }
    .encode_to_vec()
}

fn to_evidence(evidence: &Evidence) -> v1::Evidence {
    let findings = evidence.findings.iter().map(|finding| v1::Finding {
        why: finding.why.clone(),
        words: finding.words.clone(),
    });
    let candidates = evidence.candidates.iter().map(|candidate| v1::Candidate {
        label: candidate.label.clone(),
        share: candidate.share,
    });
    let neighbours = evidence.neighbours.iter().map(|neighbour| v1::Neighbour {
        episode: neighbour.episode,
        label: neighbour.label.clone(),
        similarity: neighbour.similarity,
        text: neighbour.text.clone(),
    });
    v1::Evidence {
        findings: findings.collect(),
        candidates: candidates.collect(),
        neighbours: neighbours.collect(),
    }
}

fn from_evidence(evidence: v1::Evidence) -> Evidence {
    let findings = evidence.findings.into_iter().map(|finding| Finding {
        why: finding.why,
        words: finding.words,
    });
    let candidates = evidence.candidates.into_iter().map(|candidate| Candidate {
        label: candidate.label,
        share: candidate.share,
    });
    let neighbours = evidence.neighbours.into_iter().map(|neighbour| Neighbour {
        episode: neighbour.episode,
        label: neighbour.label,
        similarity: neighbour.similarity,
        text: neighbour.text,
    });
    Evidence {
        findings: findings.collect(),
        candidates: candidates.collect(),
        neighbours: neighbours.collect(),
    }
}

pub(crate) fn read_question(
    id: colony_core::id::ApprovalId,
    bytes: &[u8],
) -> Result<Question, CodecError> {
    const WHAT: &str = "question";
    let question = opened(WHAT, bytes, |m: &v1::Question| m.schema)?;
    let escalation_reason = match question.escalation_reason() {
        v1::EscalationReason::Unspecified => return Err(damaged(WHAT, "it has no doubt")),
        v1::EscalationReason::Uncertain => EscalationReason::Uncertain,
        v1::EscalationReason::New => EscalationReason::New,
        v1::EscalationReason::Risky => EscalationReason::Risky,
        v1::EscalationReason::Contradiction => EscalationReason::Contradiction,
    };
    let proposal = question
        .proposal
        .ok_or_else(|| damaged(WHAT, "it proposes nothing"))?;
    Ok(Question {
        id,
        escalation_reason,
        question: question.question,
        proposal: from_answer(WHAT, proposal)?,
        evidence: question.evidence.map(from_evidence).unwrap_or_default(),
    })
}

pub(crate) fn decision(decision: &Decision) -> Vec<u8> {
    use v1::decision::{Accept, Kind as Wire};
    let kind = match &decision.kind {
        DecisionKind::Accept => Wire::Accept(Accept {}),
        DecisionKind::Correct(text) => Wire::Correct(text.clone()),
        DecisionKind::Reject { reason } => Wire::Reject(reason.clone()),
    };
    v1::Decision {
        schema: SCHEMA,
        kind: Some(kind),
        teach: decision.teaching == Teaching::Teach,
        by: decision.by.clone(),
    }
    .encode_to_vec()
}

pub(crate) fn read_decision(bytes: &[u8]) -> Result<Decision, CodecError> {
    use v1::decision::Kind as Wire;
    const WHAT: &str = "decision";
    let decision = opened(WHAT, bytes, |m: &v1::Decision| m.schema)?;
    let kind = match decision.kind {
        Some(Wire::Accept(_)) => DecisionKind::Accept,
        Some(Wire::Correct(text)) => DecisionKind::Correct(text),
        Some(Wire::Reject(reason)) => DecisionKind::Reject { reason },
        None => return Err(damaged(WHAT, "it rules nothing")),
    };
    let teaching = if decision.teach {
        Teaching::Teach
    } else {
        Teaching::Keep
    };
    Ok(Decision {
        kind,
        teaching,
        by: decision.by,
    })
}

/// Text, label and embedding of an episode.
pub(crate) fn episode(text: &str, label: &str, vector: &[f32]) -> Vec<u8> {
    v1::Episode {
        schema: SCHEMA,
        text: text.to_owned(),
        label: label.to_owned(),
        vector: Some(v1::Vector {
            values: vector.to_vec(),
        }),
    }
    .encode_to_vec()
}

pub(crate) fn read_episode(bytes: &[u8]) -> Result<(String, String, Arc<[f32]>), CodecError> {
    let episode = opened("episode", bytes, |m: &v1::Episode| m.schema)?;
    let vector = episode.vector.unwrap_or_default().values;
    Ok((episode.text, episode.label, Arc::from(vector)))
}

pub(crate) fn delivery(payload: &serde_json::Value) -> Vec<u8> {
    v1::Delivery {
        schema: SCHEMA,
        payload_json: json(payload),
    }
    .encode_to_vec()
}

pub(crate) fn read_delivery(bytes: &[u8]) -> Result<serde_json::Value, CodecError> {
    const WHAT: &str = "outbox record";
    let delivery = opened(WHAT, bytes, |m: &v1::Delivery| m.schema)?;
    serde_json::from_slice(&delivery.payload_json).map_err(|e| damaged(WHAT, e))
}

pub(crate) fn snapshot(body: &[u8]) -> Vec<u8> {
    v1::Snapshot {
        schema: SCHEMA,
        body: body.to_vec(),
    }
    .encode_to_vec()
}

pub(crate) fn read_snapshot(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    Ok(opened("snapshot", bytes, |m: &v1::Snapshot| m.schema)?.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_version_wrote_is_refused_by_name() {
        let newer = v1::Ending {
            schema: SCHEMA + 1,
            kind: None,
        };
        let error = read_ending(&newer.encode_to_vec()).expect_err("newer");
        assert_eq!(
            error.to_string(),
            "ending has schema 2, this version knows up to 1; run a newer colony"
        );
        assert!(matches!(
            read_spec(b"\xff\xff"),
            Err(CodecError::Damaged { what: "spec", .. })
        ));
        assert!(matches!(read_spec(b""), Err(CodecError::Damaged { .. })));
    }

    /// A checksum covers these bytes, and is made anew when a question is decided.
    #[test]
    fn a_question_without_evidence_has_the_bytes_of_an_older_version() {
        let old = v1::Question {
            schema: SCHEMA,
            escalation_reason: v1::EscalationReason::Risky.into(),
            question: "shall I?".into(),
            proposal: Some(to_answer(&Answer::by_rule("yes", "a test"))),
            evidence: None,
        };
        let bytes = old.encode_to_vec();
        let id = colony_core::id::ApprovalId::new(Timestamp::from_micros(1), [0; 10]);
        let read = read_question(id, &bytes).expect("readable");
        assert_eq!(read.evidence, Evidence::default());
        assert_eq!(question(&read), bytes);
    }

    #[test]
    fn an_embedding_is_not_spelled_out_in_json() {
        let vector: Arc<[f32]> = (0..384_u16).map(|i| f32::from(i) / 384.0).collect();
        let original = Entry {
            sequence: 3,
            at: Timestamp::from_micros(7),
            note: Note::Output(Output::Perceive(Percept {
                text: "x".into(),
                vector: Some(vector),
            })),
        };
        let bytes = entry(&original);
        assert!(bytes.len() < 384 * 4 + 100, "{} bytes", bytes.len());
        let back = read_entry(3, original.at, &bytes).expect("just written");
        assert_eq!(back, original);
    }

    #[test]
    fn the_hash_agrees_with_same_payload() {
        let plain = Spec::new(TypeName::new("t").expect("legal"), "x");
        let mut traced = plain.clone();
        traced.trace.span_id = 7;
        traced.deadline = Some(Timestamp::from_micros(1));
        traced.dedupe_key = Some("k".into());
        assert!(plain.same_payload(&traced));
        assert_eq!(payload_hash(&plain), payload_hash(&traced));
        let mut expecting = plain.clone();
        expecting.expected = Some(String::new());
        assert_ne!(payload_hash(&plain), payload_hash(&expecting));
        let mut attributed = plain.clone();
        attributed.attributes.insert("a".into(), "b".into());
        assert_ne!(payload_hash(&plain), payload_hash(&attributed));
    }
}
