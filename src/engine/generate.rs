//! Generation: the next token, again and again; and how likely a model finds a given continuation.

use super::EngineError;
use super::backend::Backend;
use super::forward::{Chunk, Decoder, Logits, Piece, TextCache, Wanted};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Tokens of a prompt that are computed at once; the rest waits, so that memory does not grow with the
/// prompt. The result does not depend on it.
const PREFILL_TOKENS: usize = 512;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampling {
    /// The most likely one; of equal ones the lower id.
    Greedy,
    /// At random, by probability.
    Random {
        /// Logits are divided by it; above 0.
        temperature: f32,
        /// Only among this many of the most likely ones.
        top_k: Option<usize>,
        /// Only among the most likely ones that together reach this probability.
        top_p: Option<f32>,
        /// Equal seeds choose equal tokens.
        seed: u64,
    },
}

/// Chooses tokens.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

/// The highest value's number; of equal ones the lower. NaN is never chosen, unless there is nothing else.
pub fn greatest(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, &value) in values.iter().enumerate() {
        if value > values[best] || values[best].is_nan() && !value.is_nan() {
            best = i;
        }
    }
    best
}

/// ln of the softmax of logits, in f64.
pub fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let highest = f64::from(logits[greatest(logits)]);
    let total: f64 = logits.iter().map(|&x| (f64::from(x) - highest).exp()).sum();
    let ln_total = total.ln();
    logits
        .iter()
        .map(|&x| f64::from(x) - highest - ln_total)
        .collect()
}

impl Sampler {
    /// A sampler at its beginning.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn new(sampling: Sampling) -> Result<Self, EngineError> {
        let mut seed = 0;
        if let Sampling::Random {
            temperature,
            top_k,
            top_p,
            seed: stated,
        } = &sampling
        {
            let fine = *temperature > 0.0
                && temperature.is_finite()
                && *top_k != Some(0)
                && top_p.is_none_or(|p| p > 0.0 && p <= 1.0);
            if !fine {
                return Err(EngineError::Request(
                    "temperature must be above 0, top-k at least 1, top-p above 0 and at most 1"
                        .to_owned(),
                ));
            }
            seed = *stated;
        }
        Ok(Self {
            sampling,
            random: ChaCha8Rng::seed_from_u64(seed),
        })
    }

    /// The next token by its logits.
    ///
    /// # Errors
    /// When no logit is a number.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32, EngineError> {
        let best = greatest(logits);
        if logits[best].is_nan() {
            return Err(EngineError::Request(
                "the model's logits are not numbers; its weights may be damaged".to_owned(),
            ));
        }
        let Sampling::Random {
            temperature,
            top_k,
            top_p,
            ..
        } = self.sampling
        else {
            return Ok(best as u32);
        };
        let mut order: Vec<usize> = (0..logits.len()).filter(|&i| !logits[i].is_nan()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        order.truncate(top_k.unwrap_or(order.len()));
        let highest = f64::from(logits[best]);
        let weights: Vec<f64> = order
            .iter()
            .map(|&i| ((f64::from(logits[i]) - highest) / f64::from(temperature)).exp())
            .collect();
        let all: f64 = weights.iter().sum();
        let limit = all * f64::from(top_p.unwrap_or(1.0));
        let mut kept = 0;
        let mut sum = 0.0;
        while kept < weights.len() && (kept == 0 || sum < limit) {
            sum += weights[kept];
            kept += 1;
        }
        let mut at = self.random.random::<f64>() * sum;
        for (&id, weight) in order[..kept].iter().zip(&weights) {
            at -= weight;
            if at < 0.0 {
                return Ok(id as u32);
            }
        }
        Ok(order[kept - 1] as u32)
    }
}

/// Computes a prompt in pieces of bounded size; logits of its last token.
///
/// # Errors
/// As [`Decoder::forward`]; when the prompt is empty.
pub fn prefill<B: Backend>(
    decoder: &Decoder<B>,
    cache: &mut TextCache<B>,
    ids: &[u32],
) -> Result<Vec<f32>, EngineError> {
    let mut logits = None;
    let n_chunks = ids.len().div_ceil(PREFILL_TOKENS);
    for (number, ids) in ids.chunks(PREFILL_TOKENS).enumerate() {
        let wanted = Wanted {
            logits: if number + 1 == n_chunks {
                Logits::Last
            } else {
                Logits::None
            },
            ..Wanted::default()
        };
        logits = step(decoder, cache, vec![Piece::Tokens(ids)], &wanted)?;
    }
    logits.ok_or_else(|| EngineError::Request("the prompt has no tokens".to_owned()))
}

fn step<B: Backend>(
    decoder: &Decoder<B>,
    cache: &mut TextCache<B>,
    pieces: Vec<Piece<'_, B>>,
    wanted: &Wanted,
) -> Result<Option<Vec<f32>>, EngineError> {
    let mut chunks = [Chunk { cache, pieces }];
    let computed = decoder.forward(&mut chunks, wanted)?;
    Ok(computed.logits.map(|logits| logits.values))
}

/// A text that is being generated: its cache, the logits after its last token, and who chooses the next.
pub struct Turn<B: Backend> {
    /// What was computed of the text.
    pub cache: TextCache<B>,
    /// Logits after its last token `[vocab_size]`.
    pub logits: Vec<f32>,
    /// Chooses its tokens.
    pub sampler: Sampler,
}

/// Generates up to `n_tokens` tokens after each of several prompts at once. `heard` gets the number of a text
/// and every token of it as it is chosen, and says whether that text goes on. The tokens of a text are those
/// that it has alone: no result depends on its company.
///
/// # Errors
/// As [`Decoder::forward`] and [`Sampler::choose`], and what `heard` returns.
pub fn generate<B: Backend>(
    decoder: &Decoder<B>,
    turns: &mut [Turn<B>],
    n_tokens: usize,
    heard: &mut dyn FnMut(usize, u32) -> Result<bool, EngineError>,
) -> Result<(), EngineError> {
    let mut active: Vec<(usize, &mut Turn<B>)> = turns.iter_mut().enumerate().collect();
    for number in 0..n_tokens {
        let mut chosen = Vec::with_capacity(active.len());
        let mut going = Vec::with_capacity(active.len());
        for (text, turn) in active {
            let id = turn.sampler.choose(&turn.logits)?;
            if heard(text, id)? && number + 1 < n_tokens {
                chosen.push(id);
                going.push((text, turn));
            }
        }
        if going.is_empty() {
            return Ok(());
        }
        let mut chunks = Vec::with_capacity(going.len());
        for ((_, turn), id) in going.iter_mut().zip(&chosen) {
            chunks.push(Chunk {
                cache: &mut turn.cache,
                pieces: vec![Piece::Tokens(std::slice::from_ref(id))],
            });
        }
        let computed = decoder.forward(&mut chunks, &Wanted::default())?;
        let logits = computed.logits.map(|logits| logits.values);
        let logits = logits.unwrap_or_default();
        let n_vocab = logits.len() / going.len();
        for ((_, turn), logits) in going.iter_mut().zip(logits.chunks(n_vocab.max(1))) {
            turn.logits = logits.to_vec();
        }
        active = going;
    }
    Ok(())
}

/// ln p of every token of a continuation, given the prompt and the tokens before it.
///
/// # Errors
/// As [`Decoder::forward`]; when the prompt is empty.
pub fn score<B: Backend>(
    decoder: &Decoder<B>,
    prompt: &[u32],
    continuation: &[u32],
) -> Result<Vec<f64>, EngineError> {
    let Some((&first, rest)) = continuation.split_first() else {
        return Ok(Vec::new());
    };
    let mut cache = decoder.cache(prompt.len() + rest.len())?;
    let logits = prefill(decoder, &mut cache, prompt)?;
    let mut ln_p = vec![log_probabilities(&logits)[first as usize]];
    let all = Wanted {
        logits: Logits::All,
        ..Wanted::default()
    };
    // The last token is scored, and not computed: nothing follows it.
    let read = continuation[..rest.len()].chunks(PREFILL_TOKENS);
    for (read, next) in read.zip(rest.chunks(PREFILL_TOKENS)) {
        let rows = step(decoder, &mut cache, vec![Piece::Tokens(read)], &all)?;
        let rows = rows.unwrap_or_default();
        for (row, &id) in rows.chunks(logits.len()).zip(next) {
            ln_p.push(log_probabilities(row)[id as usize]);
        }
    }
    Ok(ln_p)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(top_k: Option<usize>, top_p: Option<f32>) -> Sampler {
        Sampler::new(Sampling::Random {
            temperature: 1.0,
            top_k,
            top_p,
            seed: 7,
        })
        .unwrap()
    }

    #[test]
    fn the_first_of_equals_is_chosen_and_nan_never() {
        let mut sampler = Sampler::new(Sampling::Greedy).unwrap();
        assert_eq!(sampler.choose(&[f32::NAN, 1.0, 3.0, 3.0]).unwrap(), 2);
        assert!(sampler.choose(&[f32::NAN]).is_err());
    }

    #[test]
    fn random_choice_follows_the_probabilities_and_the_seed() {
        let logits = [0.0, (3.0f32).ln(), f32::NEG_INFINITY];
        let draw = |sampler: &mut Sampler| -> Vec<u32> {
            (0..4000)
                .map(|_| sampler.choose(&logits).unwrap())
                .collect()
        };
        let drawn = draw(&mut random(None, None));
        let share = drawn.iter().filter(|&&id| id == 1).count() as f64 / 4000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
        assert_eq!(drawn, draw(&mut random(None, None)));
        assert!(draw(&mut random(Some(1), None)).iter().all(|&id| id == 1));
        assert!(draw(&mut random(None, Some(0.7))).iter().all(|&id| id == 1));
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for (temperature, top_k, top_p) in [
            (0.0, None, None),
            (f32::NAN, None, None),
            (1.0, Some(0), None),
            (1.0, None, Some(0.0)),
        ] {
            let sampling = Sampling::Random {
                temperature,
                top_k,
                top_p,
                seed: 0,
            };
            assert!(Sampler::new(sampling).is_err());
        }
    }

    #[test]
    fn probabilities_sum_to_one() {
        let ln_p = log_probabilities(&[1000.0, 999.0, -5.0]);
        let total: f64 = ln_p.iter().map(|x| x.exp()).sum();
        assert!((total - 1.0).abs() < 1e-12);
    }
}
