//! Traces: every task is one, from submit to answer.
//!
//! ```text
//!   submit (root) ─┬─ admission
//!                  ├─ market.award
//!                  ├─ invoke_agent triage ─┬─ perceive ── embeddings minilm ·· link ·· batch embed (a trace of its own)
//!                  │  (one for each claim) ├─ retrieve
//!                  │                       ├─ reason ──── chat smollm2 ······· link ·· batch prefill, batch decode
//!                  │                       ├─ execute ─── execute_tool ticket.file
//!                  │                       ├─ verify
//!                  │                       └─ learn
//!                  ├─ approval (from question to decision)
//!                  └─ task (from submit to its end: how it ended)
//! ```
//! The provider is handed in: nothing here is global, so that several nodes live in one process. Whether a
//! task is traced is decided once, at submit; an untraced task costs nothing here. The root span ends with
//! the acknowledgement, so that a crash does not leave the trace without its root; everything later is a descendant
//! through the trace context that is written down with the task. How a task ended is told by `endings`, whoever
//! ended it. Why so: docs/adr/0003-telemetry.md; what a reader sees: docs/guides/traces.md.

pub(crate) mod endings;
pub mod names;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use colony_core::{port::RandomSource, task::TraceContext};
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _,
        TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span as SdkSpan};
use parking_lot::Mutex;
use rand::RngCore;

/// Makes spans.
#[derive(Clone)]
pub struct Telemetry {
    tracer: Option<SdkTracer>,
    sample_ratio: f64,
    random: Arc<Mutex<Box<dyn RngCore + Send>>>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("on", &self.tracer.is_some())
            .field("sample_ratio", &self.sample_ratio)
            .finish_non_exhaustive()
    }
}

impl Telemetry {
    /// From a provider, if there is one; `sample_ratio` is the share of tasks traced, 0 to 1.
    #[must_use]
    pub fn new(
        provider: Option<&SdkTracerProvider>,
        sample_ratio: f64,
        random: &dyn RandomSource,
    ) -> Self {
        Self {
            tracer: provider.map(|p| p.tracer("colony")),
            sample_ratio,
            random: Arc::new(Mutex::new(random.stream("telemetry", 0))),
        }
    }

    /// Whether spans go anywhere.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.tracer.is_some()
    }

    /// The parent named by a W3C `traceparent` header, or none.
    #[must_use]
    pub fn parent(traceparent: &str) -> Option<TraceContext> {
        let mut parts = traceparent.trim().split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 {
            return None;
        }
        let context = TraceContext {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(span, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (context.trace_id != 0 && context.span_id != 0).then_some(context)
    }

    /// Decides whether a new task is traced and opens its root span. A sampled parent is followed.
    #[must_use]
    pub fn root(&self, parent: Option<TraceContext>, name: &'static str) -> Span {
        if self.tracer.is_none() {
            return Span::untraced(parent.unwrap_or_default());
        }
        let sampled = match parent {
            Some(parent) => parent.sampled,
            None if self.sample_ratio >= 1.0 => true,
            None => {
                let draw = self.random.lock().next_u32();
                f64::from(draw) < self.sample_ratio * f64::from(u32::MAX)
            }
        };
        if !sampled {
            return Span::untraced(parent.unwrap_or_default());
        }
        self.start(
            parent.unwrap_or_default(),
            name,
            SpanKind::Server,
            &[],
            None,
        )
    }

    /// A span below `parent`; costs nothing when the parent is not sampled.
    #[must_use]
    pub fn child(&self, parent: TraceContext, name: impl Into<SpanName>) -> Span {
        if !parent.sampled || self.tracer.is_none() {
            return Span::untraced(parent);
        }
        self.start(parent, name, SpanKind::Internal, &[], None)
    }

    /// A span below `parent` for an operation of the GenAI conventions, named after it and what it is done with.
    #[must_use]
    pub fn operation(&self, parent: TraceContext, operation: &'static str, with: &str) -> Span {
        self.gen_ai(parent, operation, with, SpanKind::Internal)
    }

    /// The same for a call that leaves the agent.
    #[must_use]
    pub fn call(&self, parent: TraceContext, operation: &'static str, with: &str) -> Span {
        self.gen_ai(parent, operation, with, SpanKind::Client)
    }

    fn gen_ai(
        &self,
        parent: TraceContext,
        operation: &'static str,
        with: &str,
        kind: SpanKind,
    ) -> Span {
        if !parent.sampled || self.tracer.is_none() {
            return Span::untraced(parent);
        }
        let mut span = self.start(parent, format!("{operation} {with}"), kind, &[], None);
        span.set(names::GEN_AI_OPERATION, operation);
        span
    }

    /// A span below `parent` that began `ago`.
    #[must_use]
    pub fn since(&self, parent: TraceContext, name: &'static str, ago: Duration) -> Span {
        if !parent.sampled {
            return Span::untraced(parent);
        }
        self.start(parent, name, SpanKind::Internal, &[], Some(ago))
    }

    /// A span below `parent` that began and ended in the past.
    #[must_use]
    pub fn past(&self, parent: TraceContext, name: &'static str, past: Past) -> Span {
        let mut span = self.since(parent, name, past.began);
        span.ended = Some(wall_time(past.ended));
        span
    }

    /// The span of a batch: a trace of its own, linked to every call that rides in it. Nothing when none
    /// of them is sampled.
    #[must_use]
    pub fn batch(&self, links: &[TraceContext], name: impl Into<SpanName>, ago: Duration) -> Span {
        let sampled: Vec<TraceContext> = links.iter().copied().filter(|l| l.sampled).collect();
        if sampled.is_empty() {
            return Span::untraced(TraceContext::default());
        }
        self.start(
            TraceContext::default(),
            name,
            SpanKind::Internal,
            &sampled,
            Some(ago),
        )
    }

    fn start(
        &self,
        parent: TraceContext,
        name: impl Into<SpanName>,
        kind: SpanKind,
        links: &[TraceContext],
        ago: Option<Duration>,
    ) -> Span {
        let Some(tracer) = &self.tracer else {
            return Span::untraced(parent);
        };
        let mut builder = SpanBuilder::from_name(name.into().0).with_kind(kind);
        if let Some(ago) = ago {
            builder = builder.with_start_time(wall_time(ago));
        }
        if !links.is_empty() {
            let links = links
                .iter()
                .map(|l| Link::with_context(to_otel(*l)))
                .collect();
            builder = builder.with_links(links);
        }
        let context = if parent.trace_id == 0 {
            Context::new()
        } else {
            Context::new().with_remote_span_context(to_otel(parent))
        };
        let span = tracer.build_with_context(builder, &context);
        let made = span.span_context();
        let context = TraceContext {
            trace_id: u128::from_be_bytes(made.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(made.span_id().to_bytes()),
            sampled: true,
        };
        Span {
            context,
            span: Some(Box::new(span)),
            ended: None,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "span times are wall times by OpenTelemetry's rules"
)]
fn wall_time(ago: Duration) -> SystemTime {
    SystemTime::now() - ago
}

/// How long ago something began and ended.
#[derive(Debug, Clone, Copy)]
pub struct Past {
    /// Its beginning.
    pub began: Duration,
    /// Its end; shorter.
    pub ended: Duration,
}

/// The name of a span: a constant, or built for model and tool calls.
#[derive(Debug, Clone)]
pub struct SpanName(std::borrow::Cow<'static, str>);

impl From<&'static str> for SpanName {
    fn from(name: &'static str) -> Self {
        Self(name.into())
    }
}

impl From<String> for SpanName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

fn to_otel(context: TraceContext) -> SpanContext {
    let flags = if context.sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::default()
    };
    SpanContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        SpanId::from_bytes(context.span_id.to_be_bytes()),
        flags,
        true,
        TraceState::default(),
    )
}

/// One span; ends when dropped. An untraced one only carries the context on.
#[derive(Debug)]
pub struct Span {
    context: TraceContext,
    span: Option<Box<SdkSpan>>,
    /// When it ended, if that was before it is dropped.
    ended: Option<SystemTime>,
}

impl Span {
    /// No span: calls below see `context` as their parent.
    #[must_use]
    pub const fn untraced(context: TraceContext) -> Self {
        Self {
            context,
            span: None,
            ended: None,
        }
    }

    /// What children and other processes name as their parent.
    #[must_use]
    pub const fn context(&self) -> TraceContext {
        self.context
    }

    /// Whether anything is recorded: ask before building costly attributes.
    #[must_use]
    pub const fn is_recording(&self) -> bool {
        self.span.is_some()
    }

    /// Notes a fact.
    pub fn set(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks it as failed: the kind of error in one word, and what happened.
    pub fn fail(&mut self, error_type: &'static str, what: &str) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(names::ERROR_TYPE, error_type));
            span.set_status(Status::error(what.to_owned()));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let (Some(span), Some(ended)) = (&mut self.span, self.ended) {
            span.end_with_timestamp(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_or_refused_whole() {
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = Telemetry::parent(header).expect("a valid header");
        assert_eq!(context.span_id, 0xb7ad_6b71_6920_3331);
        assert!(context.sampled);
        for bad in [
            "",
            "00-00-00-00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Telemetry::parent(bad), None, "{bad:?}");
        }
    }
}
