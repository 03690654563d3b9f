//! From scores to the next token: pure, and the same whatever else is in the batch.

use toktrie::SimpleVob;

use crate::generator::Sampling;

/// The chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub(crate) token: u32,
    /// Natural logarithm of its probability among the allowed ones at temperature 1.
    pub(crate) logprob: f64,
    /// Whether another token was allowed.
    pub(crate) free: bool,
}

/// Tokens this far below the best (in units of the temperature) are not drawn: together they have
/// less than 49,152 · e⁻²⁰ = 0.0001 of the probability.
const CUT: f32 = 20.0;

/// Chooses among the tokens that `allowed` has (all without it), or `None` when there is none.
/// `position` numbers the choices of an answer: each has its own draw, from the request's seed.
pub(crate) fn choose(
    logits: &[f32],
    allowed: Option<&SimpleVob>,
    sampling: &Sampling,
    position: u64,
) -> Option<Choice> {
    // Not-a-number compares false and is never chosen.
    let better = |best: Option<(u32, f32)>, (token, logit): (u32, f32)| match best {
        Some((_, top)) if logit > top => Some((token, logit)),
        None if logit > f32::NEG_INFINITY => Some((token, logit)),
        kept => kept,
    };
    let (best, sum, free, mut candidates);
    if let Some(allowed) = allowed {
        let known = allowed
            .iter()
            .filter_map(|token| Some((token, *logits.get(token as usize)?)));
        candidates = known.collect::<Vec<_>>();
        best = candidates.iter().copied().fold(None, better)?;
        sum = candidates
            .iter()
            .map(|(_, logit)| f64::from(logit - best.1).exp())
            .sum::<f64>();
        free = candidates.len() > 1;
    } else {
        best = (0_u32..).zip(logits.iter().copied()).fold(None, better)?;
        sum = exp_sum(logits, best.1);
        free = logits.len() > 1;
        let near = best.1 - CUT * sampling.temperature;
        candidates = Vec::new();
        if sampling.temperature > 0.0 {
            let all = (0_u32..).zip(logits.iter().copied());
            candidates.extend(all.filter(|(_, logit)| *logit >= near));
        }
    }
    let top = best.1;
    let logprob = |logit: f32| f64::from(logit - top) - sum.ln();
    if sampling.temperature <= 0.0 {
        return Some(Choice {
            token: best.0,
            logprob: logprob(top),
            free,
        });
    }
    let weight = |logit: f32| f64::from((logit - top) / sampling.temperature).exp();
    candidates.retain(|(_, logit)| !logit.is_nan());
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let total: f64 = candidates.iter().map(|(_, logit)| weight(*logit)).sum();
    let (mut nucleus, mut share) = (0, 0.0);
    while nucleus < candidates.len() && (nucleus == 0 || share < f64::from(sampling.top_p) * total)
    {
        share += weight(candidates[nucleus].1);
        nucleus += 1;
    }
    let mut left = draw(sampling.seed, position) * share;
    let drawn = candidates[..nucleus].iter().find(|(_, logit)| {
        left -= weight(*logit);
        left < 0.0
    });
    let (token, logit) = *drawn.unwrap_or(&candidates[nucleus - 1]);
    Some(Choice {
        token,
        logprob: logprob(logit),
        free,
    })
}

/// Σ exp(logit − top), to four digits. A loop that the compiler fair_queue into vector instructions:
/// the library's `exp` over 49,152 tokens would cost a tenth of a decode step.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the exponent is between -126 and 0"
)]
#[expect(
    clippy::manual_clamp,
    reason = "`clamp` keeps not-a-number; `max` makes next to nothing of it"
)]
fn exp_sum(logits: &[f32], top: f32) -> f64 {
    let mut sums = [0.0_f32; 16];
    for chunk in logits.chunks(sums.len()) {
        for (sum, logit) in sums.iter_mut().zip(chunk) {
            let power = ((logit - top) * std::f32::consts::LOG2_E)
                .max(-126.0)
                .min(0.0);
            let whole = power as i32;
            let part = power - whole as f32;
            // 2^part on (-1, 0], to 5e-6.
            let value = 1.0
                + part
                    * (0.693_075_6 + part * (0.239_546_1 + part * (0.053_4 + part * 0.006_933_8)));
            *sum += value * f32::from_bits(((whole + 127) as u32) << 23);
        }
    }
    sums.iter().map(|sum| f64::from(*sum)).sum()
}

/// A number from 0 to below 1: the `position`-th of splitmix64 from `seed`.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn draw(seed: u64, position: u64) -> f64 {
    let mut mixed = seed.wrapping_add((position + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn sampling(temperature: f32, top_p: f32) -> Sampling {
        Sampling {
            temperature,
            top_p,
            seed: 7,
        }
    }

    fn only(tokens: &[u32], size: usize) -> SimpleVob {
        let mut allowed = SimpleVob::alloc(size);
        tokens.iter().for_each(|token| allowed.allow_token(*token));
        allowed
    }

    #[test]
    fn the_first_of_the_likeliest_is_chosen_without_temperature() {
        let choice = choose(&[1.0, 3.0, 3.0, f32::NAN], None, &sampling(0.0, 1.0), 0).unwrap();
        assert_eq!((choice.token, choice.free), (1, true));
        let odds = 1.0_f64 / (2.0 + (-2.0_f64).exp());
        assert!((choice.logprob - odds.ln()).abs() < 1e-3);
    }

    #[test]
    fn only_what_is_allowed_is_chosen_and_counts() {
        let logits = [9.0, 1.0, 0.0];
        let choice = choose(&logits, Some(&only(&[1], 3)), &sampling(0.0, 1.0), 0).unwrap();
        assert_eq!(
            choice,
            Choice {
                token: 1,
                logprob: 0.0,
                free: false
            }
        );
        assert_eq!(
            choose(&logits, Some(&only(&[], 3)), &sampling(0.0, 1.0), 0),
            None
        );
        assert_eq!(choose(&[f32::NAN], None, &sampling(1.0, 1.0), 0), None);
    }

    #[test]
    fn draws_follow_the_odds() {
        let logits = [0.0, 3.0_f32.ln(), -90.0];
        let mut counts = [0; 3];
        for position in 0..4_000 {
            counts[choose(&logits, None, &sampling(1.0, 1.0), position)
                .unwrap()
                .token as usize] += 1;
        }
        assert!(
            (950..1_050).contains(&counts[0]) && counts[2] == 0,
            "{counts:?}"
        );
        let cold = (0..100).map(|at| {
            choose(&logits, None, &sampling(0.05, 1.0), at)
                .unwrap()
                .token
        });
        assert!(cold.into_iter().all(|token| token == 1));
        let nucleus = (0..100).map(|at| {
            choose(&logits, None, &sampling(1.0, 0.7), at)
                .unwrap()
                .token
        });
        assert!(nucleus.into_iter().all(|token| token == 1));
    }
}
