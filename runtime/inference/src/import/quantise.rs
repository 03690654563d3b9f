//! Eight-bit blocks: 32 neighbouring weights share one fp32 scale.
//!
//! `weight ≈ (byte − 128) × scale`, the form MatMulNBits and GatherBlockQuantized read. The scale
//! is chosen so that the weight of largest magnitude lands exactly on −128, the longer end of the
//! signed range (negative scales are legal): of 255 steps none is wasted. A weight of the opposite
//! sign and the same magnitude would need +128 and is cut to +127, hence the bound below.

/// Weights that share a scale. MatMulNBits allows 16 to 256; 32 keeps the error smallest at a
/// cost of one eighth in size, and is the block of the GGUF types, whose blocks then fit exactly.
pub(super) const BLOCK: usize = 32;

/// The byte that stands for zero.
pub(super) const ZERO_POINT: u8 = 128;

/// Whole rows as bytes and scales.
#[derive(Debug)]
pub(super) struct Blocks {
    /// One byte a weight, in the order of the weights.
    pub(super) bytes: Vec<u8>,
    /// One scale for each [`BLOCK`] weights.
    pub(super) scales: Vec<f32>,
}

/// Quantises `weights`, whose length must be a multiple of [`BLOCK`] (the caller checks rows).
pub(super) fn quantise(weights: &[f32]) -> Blocks {
    let (blocks, rest) = weights.as_chunks::<BLOCK>();
    assert!(
        rest.is_empty(),
        "{} weights are not whole blocks of {BLOCK}",
        weights.len()
    );
    let mut bytes = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(blocks.len());
    for block in blocks {
        let largest = block
            .iter()
            .copied()
            .fold(0.0_f32, |a, b| if b.abs() > a.abs() { b } else { a });
        let scale = largest / -128.0;
        let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
        scales.push(scale);
        bytes.extend(block.iter().map(|weight| byte(weight * inverse)));
    }
    Blocks { bytes, scales }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=255; `as` fair_queue NaN into 0"
)]
fn byte(steps: f32) -> u8 {
    (steps.round() + f32::from(ZERO_POINT)).clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dequantise(blocks: &Blocks) -> Vec<f32> {
        let pairs = blocks.bytes.chunks(BLOCK).zip(&blocks.scales);
        pairs
            .flat_map(|(bytes, scale)| {
                bytes
                    .iter()
                    .map(move |byte| (f32::from(*byte) - f32::from(ZERO_POINT)) * scale)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn no_weight_moves_by_more_than_one_step_and_most_by_half(
            weights in prop::collection::vec(-4.0_f32..4.0, 1..6)
                .prop_flat_map(|sizes| sizes.into_iter().map(|size|
                    prop::collection::vec(-size.abs()..=size.abs(), BLOCK)).collect::<Vec<_>>())
                .prop_map(|blocks| blocks.concat())
        ) {
            let quantised = quantise(&weights);
            let back = dequantise(&quantised);
            prop_assert_eq!(back.len(), weights.len());
            for (index, (weight, back)) in weights.iter().zip(&back).enumerate() {
                let step = quantised.scales[index / BLOCK].abs();
                let cut = (weight / quantised.scales[index / BLOCK]) > 127.0;
                let bound = if cut { 1.0 } else { 0.5 };
                prop_assert!((weight - back).abs() <= step * bound * 1.001 + 1e-12,
                    "{} became {} with step {}", weight, back, step);
            }
        }
    }

    #[test]
    fn a_block_of_zeros_stays_zero() {
        assert_eq!(dequantise(&quantise(&[0.0; BLOCK])), [0.0; BLOCK]);
    }

    #[test]
    fn the_largest_weight_is_exact() {
        let mut weights = [0.01_f32; BLOCK];
        weights[7] = 0.5;
        assert!((dequantise(&quantise(&weights))[7] - 0.5).abs() < f32::EPSILON);
    }
}
