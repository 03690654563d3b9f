//! What Prometheus is told, in the text form of OpenMetrics.
//!
//! Nothing is counted for it on the way: every scrape asks the components what they count anyhow, so a node that nobody scrapes
//! pays nothing. Names, units and labels stand in docs/reference/metrics.md, which a test holds against a scrape.

use std::{collections::BTreeMap, fmt, sync::atomic::AtomicU64};

use colony_inference::WorkerState;
use colony_store::ApprovalFilter;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{NodeHandle, Problem, breakers::model_port};

/// The type of what [`exposition`] gives.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
/// The samples of one metric.
type Samples<T> = Vec<(Labels, T)>;

/// All metrics, as they stand.
///
/// # Errors
/// Those of [`NodeHandle::status`], storage.
pub(super) async fn exposition(node: &NodeHandle) -> Result<String, Problem> {
    let mut page = MetricsPage(Registry::with_prefix("colony"));
    page.node(node).await?;
    page.approvals(node).await?;
    page.models(node);
    let mut text = String::new();
    // Nothing that is written to a string fails.
    let written: fmt::Result = encode(&mut text, &page.0);
    debug_assert!(written.is_ok(), "a metric cannot be written");
    Ok(text)
}

struct MetricsPage(Registry);

impl MetricsPage {
    fn gauges(&mut self, name: &str, help: &str, samples: Samples<f64>) {
        self.0.register(name, help, gauges(samples));
    }

    fn seconds(&mut self, name: &str, help: &str, samples: Samples<f64>) {
        let family = gauges(samples);
        self.0.register_with_unit(name, help, Unit::Seconds, family);
    }

    fn counters(&mut self, name: &str, help: &str, samples: Samples<u64>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    async fn node(&mut self, node: &NodeHandle) -> Result<(), Problem> {
        let status = node.status().await?;
        let counts = &status.counts;
        let info = vec![
            ("node", status.node.to_string()),
            ("version", status.version.to_owned()),
        ];
        self.gauges(
            "build_info",
            "The node and its version; always 1",
            vec![(info, 1.0)],
        );
        self.seconds(
            "uptime",
            "Time since the node started",
            one(status.uptime.as_secs_f64()),
        );
        self.gauges(
            "ready",
            "Whether the node takes tasks: 1, or 0",
            one(u8::from(status.ready).into()),
        );
        let tasks = counts.by_state.iter().map(|(state, tasks)| {
            let labels = vec![("state", state.as_str().to_owned())];
            (labels, float(*tasks))
        });
        self.gauges("tasks", "Tasks by state", tasks.collect());
        self.counters(
            "tasks_accepted",
            "Tasks accepted since the ledger began",
            one(counts.accepted),
        );
        self.counters(
            "tasks_awarded",
            "Tasks given to agents since the node started",
            one(status.awarded),
        );
        self.counters(
            "ledger_group_commits",
            "Group commits made durable since the node started",
            one(counts.syncs),
        );
        self.gauges(
            "ledger_quarantined_rows",
            "Rows that could not be read and were set aside",
            one(float(counts.quarantined)),
        );
        let agents = status.agents.iter().flat_map(|(name, (all, busy))| {
            let labels = |state: &str| {
                vec![
                    ("agent_type", name.to_string()),
                    ("state", state.to_owned()),
                ]
            };
            let free = all.saturating_sub(*busy);
            [
                (labels("busy"), float(*busy)),
                (labels("free"), float(free)),
            ]
        });
        self.gauges("agents", "Agents by type, at work or not", agents.collect());
        self.gauges(
            "agents_down",
            "Agents that crashed too often and are not started for a while",
            one(float(status.down)),
        );
        let models = node.models().into_iter();
        let closed = models.map(|model| (model_port(&model.name), 0.0));
        let open = status.open_ports.into_iter().map(|open| (open.port, 1.0));
        let ports: BTreeMap<String, f64> = closed.chain(open).collect();
        let ports = ports
            .into_iter()
            .map(|(port, open)| (vec![("port", port)], open));
        self.gauges(
            "breaker_open",
            "Whether a model, or a tool that has failed, is taken for away: 1, or 0",
            ports.collect(),
        );
        self.gauges(
            "memory_episodes",
            "Episodes in memory",
            one(float(status.episodes)),
        );
        Ok(())
    }

    async fn approvals(&mut self, node: &NodeHandle) -> Result<(), Problem> {
        let first = ApprovalFilter {
            limit: 1,
            ..ApprovalFilter::default()
        };
        let oldest = node.approvals(first).await?.items.pop();
        let age = oldest.map(|oldest| node.now().since(oldest.asked_at));
        self.seconds(
            "approval_oldest_age",
            "Time since the oldest open question was asked; 0 when there is none",
            one(age.unwrap_or_default().as_secs_f64()),
        );
        Ok(())
    }

    fn models(&mut self, node: &NodeHandle) {
        let models = node.models();
        let of = |value: &dyn Fn(&crate::view::ModelView) -> u64| -> Samples<u64> {
            let samples = models.iter().map(|model| {
                let labels = vec![("model", model.name.clone())];
                (labels, value(model))
            });
            samples.collect()
        };
        let waiting = of(&|model| model.figures.waiting);
        let ready = of(&|model| u64::from(matches!(model.figures.state, WorkerState::Ready)));
        self.gauges(
            "model_ready",
            "Whether the model's worker can answer: 1, or 0",
            floats(ready),
        );
        self.gauges(
            "model_requests_waiting",
            "Requests that the model has taken and not answered yet",
            floats(waiting),
        );
        self.counters(
            "model_requests",
            "Requests taken",
            of(&|model| model.figures.requests),
        );
        let outcomes = models.iter().flat_map(|model| {
            let figures = &model.figures;
            let outcomes = [
                ("answered", figures.answered),
                ("refused", figures.refused),
                ("late", figures.late),
                ("cancelled", figures.cancelled),
                ("failed", figures.failed),
            ];
            outcomes.map(|(outcome, count)| {
                let labels = vec![
                    ("model", model.name.clone()),
                    ("outcome", outcome.to_owned()),
                ];
                (labels, count)
            })
        });
        self.counters(
            "model_requests_ended",
            "Requests by how they ended; refused ones were never taken",
            outcomes.collect(),
        );
        self.counters(
            "model_batches",
            "Batched model calls: encoder calls, or decode steps",
            of(&|model| model.figures.batches),
        );
        self.counters(
            "model_batch_rows",
            "Rows of all batched calls together: divided by the calls, the mean batch",
            of(&|model| model.figures.rows),
        );
        let tokens = models.iter().flat_map(|model| {
            let figures = &model.figures;
            let kinds = [
                ("prompt", figures.prompt_tokens),
                ("prefix", figures.prefix_tokens),
                ("completion", figures.completion_tokens),
            ];
            kinds.map(|(kind, count)| {
                let labels = vec![("model", model.name.clone()), ("kind", kind.to_owned())];
                (labels, count)
            })
        });
        self.counters(
            "model_tokens",
            "Tokens read, taken from the prefix cache, and written",
            tokens.collect(),
        );
        self.counters(
            "model_panics",
            "Panics of the engine that were caught",
            of(&|model| model.figures.panics),
        );
    }
}

fn one<T>(value: T) -> Samples<T> {
    vec![(Labels::new(), value)]
}

fn gauges(samples: Samples<f64>) -> Family<Labels, Gauge<f64, AtomicU64>> {
    let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    for (labels, value) in samples {
        family.get_or_create(&labels).set(value);
    }
    family
}

fn floats(samples: Samples<u64>) -> Samples<f64> {
    let samples = samples.into_iter();
    samples
        .map(|(labels, value)| (labels, float(value)))
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn float(value: u64) -> f64 {
    value as f64
}
