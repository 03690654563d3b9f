//! Live progress on stderr: bars where it is a terminal, a line now and then where it is not.

use std::{collections::BTreeMap, time::Duration};

use colony_proto::v1::{Model, ModelKind};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::report::sparkline;
use crate::output::{Output, say};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct Picture<'a> {
    pub(super) settled: usize,
    /// Tickets by state; those not handed in are not among them.
    pub(super) states: BTreeMap<&'static str, usize>,
    pub(super) curve: Vec<f64>,
    pub(super) models: &'a [Model],
    pub(super) per_s: f64,
}

/// The bars.
#[derive(Debug)]
pub(super) struct Progress {
    out: Output,
    bars: MultiProgress,
    tickets: ProgressBar,
    states: ProgressBar,
    curve: ProgressBar,
    /// When the next line is due; none on a terminal.
    line_at: Option<Instant>,
}

impl Progress {
    pub(super) fn start(tickets: usize, out: Output) -> Self {
        let target = if out.is_talkative() {
            ProgressDrawTarget::stderr_with_hz(8)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bars = MultiProgress::with_draw_target(target);
        let line_at = (bars.is_hidden() && out.is_talkative()).then(|| Instant::now() + LINE_EVERY);
        let style = |template: &str| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        let add =
            |template: &str| bars.add(ProgressBar::new(tickets as u64).with_style(style(template)));
        let progress = Self {
            out,
            tickets: add("tickets   {wide_bar:.green} {pos}/{len}  {elapsed}"),
            states: add("          {msg}"),
            curve: add("learning  {msg}"),
            line_at,
            bars,
        };
        progress
            .tickets
            .enable_steady_tick(Duration::from_millis(500));
        progress
    }

    pub(super) fn show(&mut self, picture: &Picture<'_>) {
        let states: Vec<String> = picture
            .states
            .iter()
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        let batch = |kind: ModelKind| {
            let mut models = picture
                .models
                .iter()
                .filter(|model| model.kind == i32::from(kind));
            models.next().map_or(0.0, |model| model.mean_batch)
        };
        let (embed, decode) = (batch(ModelKind::Embed), batch(ModelKind::Generate));
        let what = format!(
            "{} · {:.1}/s · batches: embed {embed:.1}, decode {decode:.1}",
            states.join(", "),
            picture.per_s
        );
        let last = picture.curve.last().map_or(0.0, |share| share * 100.0);
        let curve = format!("{} {last:.0} % right lately", sparkline(&picture.curve));
        if self.line_at.is_some_and(|due| Instant::now() >= due) {
            let (done, all) = (picture.settled, self.tickets.length().unwrap_or_default());
            say(&format!("{done}/{all} tickets · {what} · {curve}"));
            self.line_at = Some(Instant::now() + LINE_EVERY);
        }
        self.tickets.set_position(picture.settled as u64);
        self.states.set_message(what);
        self.curve.set_message(curve);
    }

    /// A line above the bars.
    pub(super) fn note(&self, text: &str) {
        if self.out.is_talkative() {
            self.bars.suspend(|| say(text));
        }
    }

    pub(super) fn end(self) {
        // A terminal that went away is no reason to fail.
        let _ = self.bars.clear();
    }
}
