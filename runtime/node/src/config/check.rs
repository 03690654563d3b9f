//! The rules between and around values. Everything wrong is listed, not only the first.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use colony_core::{
    escalation::risk, id::TypeName, ledger::claim::WEIGHT_MAX, span, task, text::nearest,
};

use super::{Config, Finding, ModelRole, Risk, layer::Layers};

/// (key path, what is wrong and what would be right).
type Problems = Vec<(String, String)>;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(super) fn problems(config: &Config) -> Problems {
    let mut found = Checks::default();
    found.numbers(config);
    found.spans(config);
    found.weights(config);
    found.inference(config);
    found.names(config);
    found.texts(config);
    found.0
}

/// What is allowed, and probably not meant.
pub(super) fn warnings(config: &Config, layers: &Layers) -> Vec<Finding> {
    lost_patterns(config, layers).into_iter().collect()
}

/// A list of risk patterns takes the place of the ready-made ones. Whoever writes one pattern rarely means that.
fn lost_patterns(config: &Config, layers: &Layers) -> Option<Finding> {
    const KEY: &str = "risk.patterns";
    let patterns = &config.risk.patterns;
    if !layers.set.contains_key(KEY) || patterns.is_empty() {
        return None;
    }
    let ready_made = Risk::default().patterns;
    let lost: Vec<&str> = ready_made
        .iter()
        .map(|pattern| pattern.name.as_str())
        .filter(|name| patterns.iter().all(|pattern| pattern.name != *name))
        .collect();
    let (first, count) = (*lost.first()?, lost.len());
    let what = format!(
        "{} of your own replace all {} ready-made patterns; {count} of these hold no more ({first}{}). Copy those \
         that shall hold into your file",
        patterns.len(),
        ready_made.len(),
        if count > 1 { ", …" } else { "" }
    );
    Some(Finding::warning(KEY, what))
}

#[derive(Default)]
struct Checks(Problems);

impl Checks {
    fn say(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.0.push((key.into(), what.into()));
    }

    fn number(&mut self, key: &str, value: u64, range: RangeInclusive<u64>) {
        if !range.contains(&value) {
            let (min, max) = range.into_inner();
            self.say(key, format!("{value} is not between {min} and {max}"));
        }
    }

    fn span(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let (min, max) = range.into_inner();
            let [value, min, max] = [value, min, max].map(span::print);
            self.say(key, format!("{value} is not between {min} and {max}"));
        }
    }

    fn numbers(&mut self, config: &Config) {
        let ledger = &config.ledger;
        self.number("ledger.attempts_max", ledger.attempts_max.into(), 1..=1_000);
        self.number(
            "ledger.suspect_losses",
            ledger.suspect_losses.into(),
            1..=1_000,
        );
        for (tenant, weight) in &ledger.tenant_weights {
            self.number(
                &format!("ledger.tenant_weights.{tenant}"),
                (*weight).into(),
                1..=WEIGHT_MAX.into(),
            );
        }
        let failures = config.breaker.failures_max;
        self.number("breaker.failures_max", failures.into(), 1..=1_000);
        self.number("ledger.live_max", ledger.live_max, 1..=100_000_000);
        let admission = &config.admission;
        let sizes = [
            (
                "input_bytes_max",
                admission.input_bytes_max,
                task::INPUT_BYTES_MAX,
            ),
            (
                "attributes_max",
                admission.attributes_max,
                task::ATTRIBUTES_MAX,
            ),
            (
                "attribute_bytes_max",
                admission.attribute_bytes_max,
                task::ATTRIBUTE_BYTES_MAX,
            ),
            (
                "submits_in_flight_max",
                admission.submits_in_flight_max,
                100_000,
            ),
            ("batch_tasks_max", admission.batch_tasks_max, 10_000),
        ];
        for (key, value, max) in sizes {
            self.number(&format!("admission.{key}"), value as u64, 1..=max as u64);
        }
        self.number(
            "market.sample",
            config.market.rules.sample.into(),
            1..=1_024,
        );
        self.number(
            "market.claim_max",
            config.market.claim_max.into(),
            1..=4_096,
        );
        self.number(
            "roster.restarts_max",
            config.roster.restarts_max.into(),
            1..=1_000,
        );
        self.number(
            "field.cells_max",
            config.field.cells_max as u64,
            1_000..=10_000_000,
        );
        self.number(
            "memory.episodes_max",
            config.memory.episodes_max as u64,
            100..=10_000_000,
        );
        self.number("memory.shown", config.memory.shown as u64, 0..=100);
        self.number(
            "memory.neighbours",
            config.memory.rule.neighbours as u64,
            1..=100,
        );
        let gateway = &config.gateway;
        self.number(
            "gateway.message_bytes_max",
            gateway.message_bytes_max as u64,
            65_536..=67_108_864,
        );
        self.number(
            "gateway.connections_max",
            gateway.connections_max as u64,
            1..=100_000,
        );
        self.number(
            "gateway.streams_max",
            gateway.streams_max.into(),
            1..=10_000,
        );
        self.number(
            "gateway.requests_max",
            gateway.requests_max as u64,
            1..=100_000,
        );
        self.number(
            "gateway.watches_max",
            gateway.watches_max as u64,
            1..=100_000,
        );
        for (name, agents) in &config.agents {
            self.number(
                &format!("agents.{name}.count"),
                agents.count.into(),
                0..=100_000,
            );
            self.number(
                &format!("agents.{name}.version"),
                agents.version.into(),
                1..=u32::MAX.into(),
            );
        }
        if gateway.message_bytes_max < 2 * admission.input_bytes_max {
            let what = format!(
                "{} bytes cannot carry an input of admission.input_bytes_max = {} bytes; allow at least twice that",
                gateway.message_bytes_max, admission.input_bytes_max
            );
            self.say("gateway.message_bytes_max", what);
        }
    }

    fn spans(&mut self, config: &Config) {
        let ledger = &config.ledger;
        self.span(
            "ledger.backoff_base",
            ledger.backoff_base,
            MILLISECOND..=HOUR,
        );
        self.span(
            "ledger.backoff_max",
            ledger.backoff_max,
            ledger.backoff_base..=DAY,
        );
        self.span("ledger.head_start", ledger.head_start, Duration::ZERO..=DAY);
        let recheck = config.market.recheck_every;
        self.span("market.recheck_every", recheck, Duration::ZERO..=DAY);
        let breaker = &config.breaker;
        self.span("breaker.hold", breaker.hold, MILLISECOND..=HOUR);
        self.span("breaker.hold_max", breaker.hold_max, breaker.hold..=DAY);
        self.span(
            "ledger.dedupe_ttl",
            ledger.dedupe_ttl,
            MILLISECOND..=365 * DAY,
        );
        self.span(
            "ledger.outbox_ttl",
            ledger.outbox_ttl,
            MILLISECOND..=365 * DAY,
        );
        let roster = &config.roster;
        self.span(
            "roster.step_timeout",
            roster.step_timeout,
            10 * MILLISECOND..=HOUR,
        );
        self.span(
            "roster.drain_timeout",
            roster.drain_timeout,
            Duration::ZERO..=HOUR,
        );
        self.span(
            "roster.restart_window",
            roster.restart_window,
            MILLISECOND..=DAY,
        );
        self.span("roster.sleep_after", roster.sleep_after, MILLISECOND..=DAY);
        let half = &config.field.half_lives;
        let half_lives = [("danger", half.danger), ("success", half.success)];
        for (name, value) in half_lives {
            self.span(
                &format!("field.half_lives.{name}"),
                value,
                100 * MILLISECOND..=30 * DAY,
            );
        }
        for (name, agents) in &config.agents {
            let key = format!("agents.{name}.approvals.within");
            self.span(&key, agents.approvals.within, Duration::ZERO..=365 * DAY);
        }
        let gateway = &config.gateway;
        self.span(
            "gateway.request_timeout",
            gateway.request_timeout,
            10 * MILLISECOND..=HOUR,
        );
        self.span(
            "gateway.keepalive_interval",
            gateway.keepalive_interval,
            100 * MILLISECOND..=HOUR,
        );
        self.span(
            "gateway.keepalive_timeout",
            gateway.keepalive_timeout,
            100 * MILLISECOND..=HOUR,
        );
        self.span(
            "gateway.first_request_timeout",
            gateway.first_request_timeout,
            100 * MILLISECOND..=HOUR,
        );
        self.span(
            "gateway.idle_timeout",
            gateway.idle_timeout,
            100 * MILLISECOND..=DAY,
        );
        self.span(
            "gateway.connection_age_max",
            gateway.connection_age_max,
            Duration::ZERO..=365 * DAY,
        );
    }

    fn weights(&mut self, config: &Config) {
        let weights = &config.market.rules.weights;
        let all = [
            ("load", weights.load),
            ("history", weights.history),
            ("field", weights.field),
        ];
        for (name, value) in all {
            if !(0.0..=1_000.0).contains(&value) {
                let what = format!("{value} is not between 0 and 1000");
                self.say(format!("market.weights.{name}"), what);
            }
        }
        if all.iter().all(|(_, value)| *value <= 0.0) {
            self.say("market.weights", "at least one weight must be above 0");
        }
        let similarity = &config.risk.similarity;
        let ranges = [
            // What is divided by must not be 0.
            ("risk.similarity.width", similarity.width, 0.001..=2.0),
            (
                "risk.similarity.margin_min",
                similarity.margin_min,
                -2.0..=2.0,
            ),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                let (min, max) = range.into_inner();
                self.say(key, format!("{value} is not between {min} and {max}"));
            }
        }
        let shares = [
            ("telemetry.sample_ratio", config.telemetry.sample_ratio),
            ("memory.new_at", config.memory.rule.new_at),
            ("memory.unsure_below", config.memory.rule.unsure_below),
        ];
        for (key, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                self.say(key, format!("{share} is not between 0 and 1"));
            }
        }
    }

    fn inference(&mut self, config: &Config) {
        let embed = config.inference.embed.problems().into_iter();
        let generate = config.inference.generate.problems().into_iter();
        let all = embed
            .map(|p| ("inference.embed", p))
            .chain(generate.map(|p| ("inference.generate", p)));
        for (section, problem) in all {
            match problem.split_once(": ") {
                Some((key, what)) => self.say(format!("{section}.{key}"), what),
                None => self.say(section, problem),
            }
        }
    }

    fn names(&mut self, config: &Config) {
        for (name, model) in &config.models {
            if let Err(error) = TypeName::new(name) {
                self.say(format!("models.{name}"), error.to_string());
            }
            if model.source.is_empty() {
                let what = "must name a model of the catalog or a folder that holds model.json";
                self.say(format!("models.{name}.source"), what);
            }
        }
        for (name, agents) in &config.agents {
            if let Err(error) = TypeName::new(name) {
                self.say(format!("agents.{name}"), error.to_string());
            }
            let uses = [
                ("model", &agents.model, ModelRole::Generate),
                ("embedder", &agents.embedder, ModelRole::Embed),
            ];
            for (key, model, role) in uses {
                let Some(model) = model else { continue };
                if let Some(what) = misfit(config, model, role) {
                    self.say(format!("agents.{name}.{key}"), what);
                }
            }
        }
    }

    fn texts(&mut self, config: &Config) {
        let mut patterns: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (number, error) in risk::problems(&config.risk.patterns) {
            patterns.entry(number).or_default().push(error.to_string());
        }
        for (number, wrong) in patterns {
            self.say(format!("risk.patterns.{number}"), wrong.join("; "));
        }
        if config.telemetry.service_name.is_empty() {
            self.say("telemetry.service_name", "must not be empty");
        }
        if let Some(endpoint) = &config.telemetry.otlp_endpoint
            && !is_address(endpoint)
        {
            let what =
                format!("{endpoint:?} is no address; write it like \"http://127.0.0.1:4317\"");
            self.say("telemetry.otlp_endpoint", what);
        }
        let data_dir = config.node.data_dir.as_os_str().as_encoded_bytes();
        if data_dir.is_empty() {
            self.say("node.data_dir", "must not be empty");
        } else if data_dir.contains(&0) {
            self.say("node.data_dir", "no path has a NUL byte in it");
        }
        for (name, agents) in &config.agents {
            if !agents.settings.is_object() {
                let what = "must be a table of settings";
                self.say(format!("agents.{name}.settings"), what);
            }
        }
    }
}

/// Whether a receiver of spans can be reached at it.
fn is_address(endpoint: &str) -> bool {
    let uri = endpoint.parse::<tonic::codegen::http::Uri>().ok();
    uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
}

/// What is wrong with using `model` for `role`, if anything.
fn misfit(config: &Config, model: &str, role: ModelRole) -> Option<String> {
    match config.models.get(model) {
        Some(found) if found.kind == role => None,
        Some(_) => {
            let wanted = match role {
                ModelRole::Embed => "embed",
                ModelRole::Generate => "generate",
            };
            Some(format!("model {model:?} is not of kind {wanted:?}"))
        }
        None => {
            let names = config.models.keys().map(String::as_str);
            let hint = match nearest(model, names.clone()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("there are: {}", names.collect::<Vec<_>>().join(", ")),
            };
            Some(format!("[models] has no {model:?}; {hint}"))
        }
    }
}
