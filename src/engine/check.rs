//! The noise floor: how far a device's logits are from double precision on the CPU, and whether they
//! depend on how a text is cut.

use super::EngineError;
use super::backend::Backend;
use super::forward::{Chunk, Decoder, Logits, Piece, Wanted};
use super::generate::greatest;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How far logits are from exact ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Σ(a − b)² / Σb².
    pub nmse: f64,
    /// Greatest |a − b|.
    pub max_difference: f64,
    /// Tokens after which another token is the most likely one.
    pub n_other_first: usize,
    /// A text in chunks gives the bits of the whole text.
    pub chunks_equal: bool,
}

/// Token ids drawn at random.
pub fn text(vocab_size: usize, n_tokens: usize, seed: u64) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n_tokens)
        .map(|_| random.random_range(0..vocab_size as u32))
        .collect()
}

fn logits_of_chunks<B: Backend>(
    decoder: &Decoder<B>,
    ids: &[u32],
    size: usize,
) -> Result<Vec<f32>, EngineError> {
    let mut cache = decoder.cache(ids.len())?;
    let mut values = Vec::new();
    let wanted = Wanted {
        logits: Logits::All,
        ..Wanted::default()
    };
    for ids in ids.chunks(size.max(1)) {
        let mut chunks = [Chunk {
            cache: &mut cache,
            pieces: vec![Piece::Tokens(ids)],
        }];
        let logits = decoder.forward(&mut chunks, &wanted)?.logits;
        values.extend(logits.map(|l| l.values).unwrap_or_default());
    }
    Ok(values)
}

/// Logits of every token of a text `[n_tokens, vocab_size]`.
///
/// # Errors
/// As [`Decoder::forward`].
pub fn logits<B: Backend>(decoder: &Decoder<B>, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
    logits_of_chunks(decoder, ids, ids.len())
}

/// Measures a device against exact logits of the same text.
///
/// # Errors
/// As [`Decoder::forward`].
pub fn noise<B: Backend>(
    decoder: &Decoder<B>,
    ids: &[u32],
    exact: &[f32],
) -> Result<Noise, EngineError> {
    let whole = logits(decoder, ids)?;
    let pieces = logits_of_chunks(decoder, ids, 5)?;
    let (mut squares, mut power, mut greatest_difference) = (0.0, 0.0, 0.0f64);
    for (&a, &b) in whole.iter().zip(exact) {
        let difference = (f64::from(a) - f64::from(b)).abs();
        squares += difference * difference;
        power += f64::from(b) * f64::from(b);
        // NaN is greater than all, and stays.
        if !(difference <= greatest_difference) && !greatest_difference.is_nan() {
            greatest_difference = difference;
        }
    }
    let n_cols = decoder.spec().vocab_size;
    let rows = whole.chunks(n_cols).zip(exact.chunks(n_cols));
    Ok(Noise {
        nmse: squares / power,
        max_difference: greatest_difference,
        n_other_first: rows.filter(|(a, b)| greatest(a) != greatest(b)).count(),
        chunks_equal: whole
            .iter()
            .map(|x| x.to_bits())
            .eq(pieces.iter().map(|x| x.to_bits())),
    })
}
