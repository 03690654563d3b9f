use proptest::prelude::*;

use super::*;

fn example(text: &str, risky: bool, vector: &[f32]) -> Example {
    Example {
        text: Arc::from(text),
        risky,
        vector: Arc::from(vector),
    }
}

fn similarity(margin_min: f64) -> Similarity {
    Similarity {
        bounds: Bounds {
            width: 0.1,
            margin_min,
        },
        examples: vec![
            example("wipe it", true, &[1.0, 0.0]),
            example("clean it", false, &[0.6, 0.8]),
        ],
    }
}

#[test]
fn what_is_nearer_to_risky_examples_by_the_margin_resembles_them() {
    let similarity = similarity(0.3);
    let found = similarity.find(&[1.0, 0.0]).map(|found| found.to_string());
    let said =
        "resembles \"wipe it\" (cosine 1.00; nearer to risky than to harmless examples by 0.40)";
    assert_eq!(found.as_deref(), Some(said));
    // Near, but nearer to what is harmless.
    assert_eq!(similarity.find(&[0.8, 0.6]), None);
    // Far from both.
    assert_eq!(similarity.find(&[-0.8, -0.6]), None);
}

#[test]
fn the_nearest_example_is_named_and_the_others_have_a_say() {
    let mut similarity = similarity(-2.0);
    let margin = |similarity: &Similarity| similarity.find(&[1.0, 0.0]).map(|found| found.margin);
    let alone = margin(&similarity);
    similarity
        .examples
        .push(example("wipe much", true, &[0.95, 0.312]));
    let near = margin(&similarity);
    similarity
        .examples
        .push(example("far away", true, &[0.0, 1.0]));
    let far = margin(&similarity);
    assert!(alone > near && near > far, "{alone:?}, {near:?}, {far:?}");
    let named = similarity.find(&[1.0, 0.0]).map(|found| found.example);
    assert_eq!(named, Some("wipe it"));
}

#[test]
fn nothing_is_resembled_without_risky_examples_of_the_same_length() {
    assert_eq!(Similarity::default().find(&[1.0, 0.0]), None);
    assert_eq!(similarity(-2.0).find(&[1.0]), None);
    let mut only_harmless = similarity(-2.0);
    only_harmless.examples.retain(|example| !example.risky);
    assert_eq!(only_harmless.find(&[1.0, 0.0]), None);
}

#[test]
fn without_harmless_examples_the_cosine_alone_decides() {
    let mut only_risky = similarity(1.9);
    only_risky.examples.retain(|example| example.risky);
    assert!(only_risky.find(&[1.0, 0.0]).is_some());
    assert_eq!(only_risky.find(&[0.8, 0.6]), None);
}

proptest! {
    #[test]
    fn a_higher_margin_never_finds_more_and_every_margin_is_finite(
        vectors in prop::collection::vec((any::<bool>(), -1.0_f32..1.0, -1.0_f32..1.0), 0..8),
        query in (-1.0_f32..1.0, -1.0_f32..1.0),
        width in 0.001_f64..2.0,
        margin_min in -2.0_f64..2.0,
        raise in 0.0_f64..2.0,
    ) {
        let examples = vectors.iter().map(|&(risky, x, y)| example("e", risky, &[x, y])).collect();
        let mut similarity = Similarity { bounds: Bounds { width, margin_min }, examples };
        let query = [query.0, query.1];
        let before = similarity.find(&query).map(|found| found.margin);
        prop_assert!(before.is_none_or(f64::is_finite));
        similarity.bounds.margin_min += raise;
        prop_assert!(before.is_some() || similarity.find(&query).is_none());
    }
}
