//! The figures as a table.

use super::{Fairness, Figures, Learning};
use crate::output::sheet;

/// A line of small bars, one for each share.
pub(crate) fn sparkline(shares: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=7 before"
    )]
    let bar = |share: &f64| BARS[(share * 8.0).floor().clamp(0.0, 7.0) as usize];
    shares.iter().map(bar).collect()
}

/// The summary that ends a demo.
pub(crate) fn describe(figures: &Figures) -> String {
    let states: Vec<String> = figures
        .states
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let deciles = &figures.learning.accuracy_by_decile;
    let curve: Vec<String> = deciles
        .iter()
        .map(|share| format!("{:.0}", share * 100.0))
        .collect();
    let (test, models, speed) = (&figures.test, &figures.models, &figures.speed);
    let books = match (figures.all_ended, figures.conserved) {
        (true, true) => "every ticket ended, every task is accounted for".to_owned(),
        (false, true) => "NOT EVERY TICKET HAS ENDED; every task is accounted for".to_owned(),
        (_, false) => "TASKS ARE NOT ACCOUNTED FOR: please report this".to_owned(),
    };
    let mut rows = vec![
        (
            "tickets",
            format!(
                "{} by {} agents: {}",
                figures.tickets,
                figures.agents,
                states.join(", ")
            ),
        ),
        ("nothing lost", books),
        (
            "learning",
            format!(
                "{}  agents' own answers right, in % of each tenth of the stream: {}",
                sparkline(deciles),
                curve.join(" ")
            ),
        ),
        (
            "right at the end",
            format!(
                "{} of {} test tickets that belong to a queue; {} where no human was asked",
                percent(test.accuracy),
                test.in_scope,
                percent(test.accuracy_unescalated)
            ),
        ),
        (
            "asked a human",
            format!(
                "about {} of the tickets it learned from; {} of the test tickets, {} of those that belong to a queue",
                percent(figures.learning.share_escalated),
                percent(test.share_escalated),
                percent(test.share_escalated_in_scope)
            ),
        ),
        (
            "no queue fits",
            format!(
                "{} of {} such test tickets went to a human",
                percent(test.out_of_scope_recall),
                test.out_of_scope
            ),
        ),
        (
            "risky",
            format!(
                "{} of {} went to a human",
                percent(figures.risky_caught),
                figures.risky
            ),
        ),
        (
            "memory decided",
            format!(
                "{} tickets, {} right",
                models.memory_answers,
                percent(models.memory_accuracy)
            ),
        ),
        (
            "model decided",
            format!(
                "{} tickets, {} right; {} calls, {} tokens read, {} written",
                models.model_answers,
                percent(models.model_accuracy),
                models.model_calls,
                models.prompt_tokens,
                models.completion_tokens
            ),
        ),
        (
            "model asked",
            format!(
                "on {} tickets where memory was unsure: memory alone {} right, model alone {}, both together {}",
                models.asked.tickets,
                percent(models.asked.memory_accuracy),
                percent(models.asked.model_accuracy),
                percent(models.asked.agent_accuracy)
            ),
        ),
        (
            "batches",
            format!(
                "{} texts an embedding call, {} answers written at once",
                number(models.mean_batch_embed),
                number(models.mean_batch_decode)
            ),
        ),
        (
            "speed",
            format!(
                "{:.1} tickets/s; {} ms median, {} ms p99 where no human was asked",
                speed.tasks_per_s,
                number(speed.latency_p50_ms),
                number(speed.latency_p99_ms)
            ),
        ),
    ];
    rows.push((
        "at once",
        format!(
            "{:.0} tickets under way on average, {} at most (--window): later ones learn from earlier ones",
            speed.under_way, speed.window
        ),
    ));
    for (name, fair) in &figures.fairness {
        let what = match fair.gini {
            Some(gini) => format!(
                "; Gini {gini:.2} over the {} with 20 tasks or more",
                fair.eligible
            ),
            None => String::new(),
        };
        let all = fair.gini_all.map_or_else(String::new, |gini| {
            format!(", Gini {gini:.2} (0: all had as many)")
        });
        let Fairness { agents, worked, .. } = fair;
        let said = format!("{worked} of {agents} {name} agents have had a ticket{all}{what}");
        rows.push(("evenness", said));
    }
    let memory = figures.peak_rss_bytes.div_ceil(1024 * 1024);
    rows.push((
        "cost",
        format!(
            "{:.0} s, {memory} MiB at the peak, {} group commits",
            speed.wall_s, speed.syncs
        ),
    ));
    sheet(rows)
}

/// What to do next, in lines of eighty columns.
const NEXT: &str = "\
What next:
  colony demo --tasks FILE.jsonl   your own tickets
  colony demo --reviewer person    you decide, with `colony approve`
  colony config init               a colony.toml, for a node that stays";

/// What has been seen, for somebody who sees it for the first time, and what to do next.
pub(crate) fn in_words(learning: &Learning) -> String {
    let deciles = &learning.accuracy_by_decile;
    let learning = match (deciles.first(), deciles.last()) {
        (Some(first), Some(last)) => format!(
            "The agents began with an empty memory. Their own answers were right for\n\
             {} of the first tenth of the tickets, and for {} of the last.\n",
            percent(Some(*first)),
            percent(Some(*last))
        ),
        _ => String::new(),
    };
    format!(
        "\n{learning}What was new, uncertain or risky was not filed before somebody had decided, and\n\
         agents remember what was decided.\n\n{NEXT}"
    )
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"))
}
