#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]

use proptest::prelude::*;

use super::{calibrator::SCORES_MAX, *};

const RULE: Rule = Rule {
    neighbours: 16,
    new_at: 0.055,
    unsure_below: 0.6,
};

fn unit(values: &[f32]) -> Vec<f32> {
    let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-6);
    values.iter().map(|v| v / norm).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}

/// The smallest whole memory: every lesson is an episode, found by brute force.
#[derive(Default)]
struct Memory {
    experience: Experience,
    episodes: Vec<(Vec<f32>, String)>,
}

impl Memory {
    fn near(&self, query: &[f32]) -> Vec<Near<'_>> {
        let episodes = self.episodes.iter();
        episodes
            .map(|(vector, label)| Near {
                label,
                similarity: dot(vector, query),
            })
            .collect()
    }

    fn judge(&self, query: &[f32]) -> MemoryVerdict {
        self.experience.judge(query, &self.near(query), &RULE)
    }

    fn teach(&mut self, query: &[f32], label: &str) {
        let mut experience = std::mem::take(&mut self.experience);
        experience
            .learn(query, &self.near(query), label, &RULE)
            .unwrap();
        self.experience = experience;
        self.episodes.push((query.to_vec(), label.to_owned()));
    }
}

fn label(found: &MemoryVerdict) -> Option<&str> {
    found.candidates.first().map(|best| best.label.as_str())
}

/// A point of a small cloud around axis `axis`, spread by a fixed pattern.
fn point(axis: usize, i: usize) -> Vec<f32> {
    let mut values = vec![0.0_f32; 12];
    values[axis] = 1.0;
    for (d, value) in values.iter_mut().enumerate() {
        let wobble = ((i * 31 + d * 17 + axis * 7) % 23) as f32 / 23.0 - 0.5;
        *value += 0.5 * wobble;
    }
    unit(&values)
}

/// Forty lessons for each of four labels.
fn taught() -> Memory {
    let mut memory = Memory::default();
    for i in 0..40 {
        for (axis, label) in ["bill", "leave", "printer", "vpn"].iter().enumerate() {
            memory.teach(&point(axis, i), label);
        }
    }
    memory
}

#[test]
fn an_empty_memory_finds_everything_new() {
    let blank = Memory::default().judge(&point(0, 0));
    assert_eq!(blank, MemoryVerdict::blank());
    assert_eq!(
        (blank.candidates.len(), blank.certainty, blank.typicality),
        (0, Certainty::New, 0.0)
    );
}

#[test]
fn the_label_of_the_neighbourhood_wins() {
    let memory = taught();
    for (axis, name) in ["bill", "leave", "printer", "vpn"].iter().enumerate() {
        let found = memory.judge(&point(axis, 77));
        assert_eq!(label(&found), Some(*name));
        assert_eq!(found.certainty, Certainty::Sure, "{found:?}");
        assert!(found.confidence > 0.9, "{found:?}");
    }
}

#[test]
fn what_is_unlike_everything_is_new() {
    let found = taught().judge(&point(9, 3));
    assert_eq!(found.certainty, Certainty::New, "{found:?}");
    assert!(found.confidence < 0.2, "{found:?}");
}

#[test]
fn what_lies_between_two_labels_is_unsure() {
    let memory = taught();
    let mut values = vec![0.0_f32; 12];
    (values[0], values[1]) = (1.0, 1.0);
    let rule = Rule {
        new_at: 0.0,
        ..RULE
    };
    let query = unit(&values);
    let found = memory.experience.judge(&query, &memory.near(&query), &rule);
    let labels: Vec<&str> = found.candidates.iter().map(|c| c.label.as_str()).collect();
    assert!(
        labels[..2].contains(&"bill") && labels[..2].contains(&"leave"),
        "{found:?}"
    );
    assert!(found.candidates[0].share < 0.8, "{found:?}");
}

#[test]
fn what_was_learned_as_out_of_scope_goes_to_a_human() {
    let mut memory = taught();
    for i in 0..20 {
        memory.teach(&point(9, i), "Out-of-Scope");
    }
    let found = memory.judge(&point(9, 50));
    assert_eq!(
        (label(&found), found.certainty),
        (Some("Out-of-Scope"), Certainty::New)
    );
    let ordinary = memory.judge(&point(2, 50));
    assert_eq!(
        (label(&ordinary), ordinary.certainty),
        (Some("printer"), Certainty::Sure)
    );
}

#[test]
fn names_of_nothing_are_known() {
    for label in [
        "oos",
        "OOS",
        "out_of_scope",
        "Out of scope",
        "out-of-domain",
        "none",
    ] {
        assert!(is_out_of_scope(label), "{label}");
    }
    for label in ["", "other", "scope", "vpn_access"] {
        assert!(!is_out_of_scope(label), "{label}");
    }
}

#[test]
fn a_lesson_taken_back_leaves_no_label_behind() {
    let mut memory = taught();
    memory.teach(&point(5, 0), "typo");
    assert!(memory.experience.prototypes.get("typo").is_some());
    memory.experience.unlearn(&point(5, 0), "typo");
    assert_eq!(memory.experience.prototypes.get("typo"), None);
    memory.experience.unlearn(&point(5, 0), "typo");
}

#[test]
fn a_vector_of_another_length_is_refused_and_nothing_is_learned() {
    let mut memory = taught();
    let before = memory.experience.clone();
    let refused = memory.experience.learn(&[1.0, 0.0], &[], "bill", &RULE);
    assert_eq!(refused, Err(WrongLength { got: 2, want: 12 }));
    assert_eq!(memory.experience, before);
}

#[test]
fn experience_survives_json() {
    let memory = taught();
    let text = serde_json::to_string(&memory.experience).unwrap();
    let again: Experience = serde_json::from_str(&text).unwrap();
    assert_eq!(again, memory.experience, "to the last bit");
}

#[test]
fn about_the_asked_share_of_ordinary_queries_is_new() {
    let memory = taught();
    let queries = (100..300).flat_map(|i| (0..4).map(move |axis| point(axis, i)));
    let new = queries
        .filter(|q| memory.judge(q).certainty == Certainty::New)
        .count();
    assert!(new <= 80, "{new} of 800 are called new at a limit of 5.5 %");
}

fn vector() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-1.0_f32..1.0, 6).prop_map(|v| unit(&v))
}

fn lessons() -> impl Strategy<Value = Vec<(Vec<f32>, String)>> {
    let label = prop::sample::select(vec!["a", "b", "c", "oos"]).prop_map(str::to_owned);
    prop::collection::vec((vector(), label), 0..80)
}

proptest! {
    #[test]
    fn every_number_is_a_share(lessons in lessons(), query in vector()) {
        let mut memory = Memory::default();
        for (vector, label) in &lessons {
            memory.teach(vector, label);
        }
        let found = memory.judge(&query);
        for value in [found.confidence, found.typicality] {
            prop_assert!((0.0..=1.0).contains(&value), "{found:?}");
        }
        let total: f64 = found.candidates.iter().map(|c| c.share).sum();
        prop_assert!(total <= 1.0 + 1e-9);
        prop_assert!(found.candidates.is_sorted_by(|a, b| a.share >= b.share));
        prop_assert!(found.confidence <= found.candidates.first().map_or(0.0, |c| c.share));
    }

    #[test]
    fn the_order_of_the_neighbours_does_not_matter(lessons in lessons(), query in vector(), turn in 0_usize..80) {
        let mut memory = Memory::default();
        for (vector, label) in &lessons {
            memory.teach(vector, label);
        }
        let mut near = memory.near(&query);
        let straight = memory.experience.judge(&query, &near, &RULE);
        let turn = turn.min(near.len());
        near.rotate_left(turn);
        near[turn / 2..].reverse();
        prop_assert_eq!(memory.experience.judge(&query, &near, &RULE), straight);
    }

    #[test]
    fn only_the_voters_and_the_closest_matter(lessons in lessons(), query in vector()) {
        let mut memory = Memory::default();
        for (vector, label) in &lessons {
            memory.teach(vector, label);
        }
        let mut near = memory.near(&query);
        let all = memory.experience.judge(&query, &near, &RULE);
        near.push(Near { label: "never taught", similarity: 1.0 });
        near.push(Near { label: "a", similarity: f64::NAN });
        prop_assert_eq!(memory.experience.judge(&query, &near, &RULE), all);
    }

    #[test]
    fn an_equal_episode_never_costs_its_label_the_lead(lessons in lessons(), query in vector()) {
        let mut memory = Memory::default();
        for (vector, label) in &lessons {
            memory.teach(vector, label);
        }
        if let Some(lead) = label(&memory.judge(&query)).map(str::to_owned) {
            memory.teach(&query, &lead);
            let after = memory.judge(&query);
            prop_assert_eq!(label(&after), Some(lead.as_str()));
        }
    }

    #[test]
    fn typicality_rises_with_the_score(scores in prop::collection::vec(-2.0..2.0_f64, 0..700), a in -3.0..3.0_f64, b in -3.0..3.0_f64) {
        let calibrator = Calibrator::from(scores.clone());
        prop_assert_eq!(Vec::from(calibrator.clone()).len(), scores.len().min(SCORES_MAX));
        let (low, high) = (a.min(b), a.max(b));
        prop_assert!(calibrator.typicality(low) <= calibrator.typicality(high));
        prop_assert!(calibrator.typicality(high) < 1.0);
    }

    #[test]
    fn the_calibrator_keeps_only_finite_scores(score in prop::num::f64::ANY) {
        let mut calibrator = Calibrator::default();
        calibrator.observe(score);
        prop_assert_eq!(calibrator.typicality(score), 0.0);
        prop_assert_eq!(Vec::from(calibrator).len(), usize::from(score.is_finite()));
    }
}
