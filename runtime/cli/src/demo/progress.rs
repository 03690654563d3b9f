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
pub(super) struct ProgressView<'a> {
    /// Tickets that have ended.
    pub(super) ended: usize,
    /// The others by state; those not handed in are not among them.
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
    agents: ProgressBar,
    models: ProgressBar,
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
            tickets: add("tickets   {wide_bar:.green} {pos}/{len}  {elapsed}{msg}"),
            agents: add("agents    {wide_msg}"),
            models: add("models    {wide_msg}"),
            curve: add("learning  {wide_msg}"),
            line_at,
            bars,
        };
        progress
            .tickets
            .enable_steady_tick(Duration::from_millis(500));
        progress
    }

    pub(super) fn show(&mut self, view: &ProgressView<'_>) {
        let states: Vec<String> = view
            .states
            .iter()
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        let batch = |kind: ModelKind| {
            let mut models = view
                .models
                .iter()
                .filter(|model| model.kind == i32::from(kind));
            models.next().map_or(0.0, |model| model.mean_batch)
        };
        let agents = format!("{} · {:.1} tickets a second", states.join(", "), view.per_s);
        let models = format!(
            "{:.1} texts an embedding call, {:.1} answers written at once",
            batch(ModelKind::Embed),
            batch(ModelKind::Generate)
        );
        let last = view.curve.last().map_or(0.0, |share| share * 100.0);
        let curve = format!(
            "{} {last:.0} % of the agents' own answers are right",
            sparkline(&view.curve)
        );
        let all = self.tickets.length().unwrap_or_default();
        let left = time_left(all.saturating_sub(view.ended as u64), view.per_s);
        let left = left.map_or_else(String::new, |left| format!(", about {left} left"));
        if self.line_at.is_some_and(|due| Instant::now() >= due) {
            say(&format!(
                "{}/{all} tickets{left} · {agents} · {models} · {curve}",
                view.ended
            ));
            self.line_at = Some(Instant::now() + LINE_EVERY);
        }
        self.tickets.set_position(view.ended as u64);
        self.tickets.set_message(left);
        self.agents.set_message(agents);
        self.models.set_message(models);
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

/// The time that `tickets` take at this rate, as people say it; none before there is a rate.
fn time_left(tickets: u64, per_s: f64) -> Option<String> {
    let tickets = u32::try_from(tickets).ok().map(f64::from)?;
    let left = Duration::try_from_secs_f64(tickets / per_s).ok()?.as_secs();
    Some(match left {
        0..60 => format!("{left} s"),
        60..3_600 => format!("{} min {:02} s", left / 60, left % 60),
        _ => format!("{} h {:02} min", left / 3_600, left / 60 % 60),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_said_as_people_say_it() {
        assert_eq!(time_left(100, 20.0).as_deref(), Some("5 s"));
        assert_eq!(time_left(2_000, 20.0).as_deref(), Some("1 min 40 s"));
        assert_eq!(time_left(200_000, 20.0).as_deref(), Some("2 h 46 min"));
        assert_eq!(time_left(0, 20.0).as_deref(), Some("0 s"));
        assert_eq!(time_left(100, 0.0), None);
    }
}
