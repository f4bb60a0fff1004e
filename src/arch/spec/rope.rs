//! Rotary positions: which dimensions turn, how fast, and how the speed depends on the length.
//!
//! Frequencies are computed in f64 and rounded to f32, angles are f32 products of a position and a
//! frequency, as the published implementations round them: beyond a few thousand positions that
//! rounding is visible, and part of the model.

use std::f64::consts::PI;

/// Which two dimensions of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// i and i + rotated/2 (GPT-NeoX, Llama as transformers stores it).
    Halves,
    /// 2i and 2i + 1 (GPT-J, DeepSeek).
    Interleaved,
}

/// Rotary positions of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Which dimensions turn together.
    pub style: RopeStyle,
    /// Dimensions of a head that turn; even.
    pub rotated_dim: usize,
    /// First of them within the head.
    pub offset: usize,
    /// Base of the frequencies, `rope_theta`.
    pub theta: f64,
    /// How the frequencies are changed for long texts.
    pub scaling: RopeScaling,
    /// n: queries of token i, counted from 0, grow by log_n(i + 1) from i = n on (Qwen 1's log-n
    /// attention). Only where whole heads turn.
    pub query_log_base: Option<usize>,
}

/// How frequencies are changed for long texts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// They are not.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// The base grows with the length of the text, beyond the trained length.
    DynamicNtk {
        /// The factor.
        factor: f64,
        /// The trained length.
        trained: usize,
    },
    /// The base grows in powers of two with the length of the text (Qwen 1).
    PowerNtk {
        /// The trained length.
        trained: usize,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, smooth between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above trained / this are divided.
        low: f64,
        /// Wavelengths below trained / this are kept.
        high: f64,
        /// The trained length.
        trained: f64,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// The factor.
        factor: f64,
        /// Rotations at the trained length above which a frequency is kept.
        beta_fast: f64,
        /// … below which it is divided.
        beta_slow: f64,
        /// The trained length.
        trained: f64,
        /// Ends of the ramp are rounded to whole dimensions.
        truncate: bool,
        /// Factor of cos and sin.
        attention_factor: f64,
    },
    /// LongRoPE (Phi-3): published factors, one list for short and one for long texts.
    Long {
        /// For texts up to the trained length.
        short: Vec<f64>,
        /// For longer ones.
        long: Vec<f64>,
        /// The trained length.
        trained: usize,
        /// Factor of cos and sin.
        attention_factor: f64,
    },
}

impl RopeSpec {
    /// Plain rotary positions over a whole head.
    pub fn plain(head_dim: usize, theta: f64) -> Self {
        Self {
            style: RopeStyle::Halves,
            rotated_dim: head_dim,
            offset: 0,
            theta,
            scaling: RopeScaling::None,
            query_log_base: None,
        }
    }

    /// Frequencies in radians per position `[rotated_dim / 2]`, for a text of `length` tokens.
    ///
    /// Source: `modeling_rope_utils.py` of transformers, and the papers named at [`RopeScaling`].
    pub fn frequencies(&self, length: usize) -> Vec<f32> {
        let dim = self.rotated_dim as f64;
        let plain = |theta: f64| -> Vec<f64> {
            (0..self.rotated_dim / 2)
                .map(|i| theta.powf(-((2 * i) as f64) / dim))
                .collect()
        };
        let frequencies: Vec<f64> = match &self.scaling {
            RopeScaling::None => plain(self.theta),
            RopeScaling::Linear { factor } => {
                plain(self.theta).into_iter().map(|f| f / factor).collect()
            }
            RopeScaling::DynamicNtk { factor, trained } => {
                let (length, trained) = (length.max(*trained) as f64, *trained as f64);
                let grown = (factor * length / trained) - (factor - 1.0);
                plain(self.theta * grown.powf(dim / (dim - 2.0)))
            }
            RopeScaling::PowerNtk { trained } => {
                let doublings = (length as f64 / *trained as f64).log2() + 1.0;
                let grown = (2f64.powf(doublings.ceil()) - 1.0).max(1.0);
                plain(self.theta * grown.powf(dim / (dim - 2.0)))
            }
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                trained,
            } => plain(self.theta)
                .into_iter()
                .map(|f| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength < trained / high {
                        f
                    } else if wavelength > trained / low {
                        f / factor
                    } else {
                        let smooth = (trained / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect(),
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                trained,
                truncate,
                ..
            } => {
                // The dimension that turns `rotations` times within the trained length.
                let dimension = |rotations: f64| {
                    dim * (trained / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                plain(self.theta)
                    .into_iter()
                    .enumerate()
                    .map(|(i, f)| {
                        let kept = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        f / factor * (1.0 - kept) + f * kept
                    })
                    .collect()
            }
            RopeScaling::Long {
                short,
                long,
                trained,
                ..
            } => {
                let factors = if length > *trained { long } else { short };
                plain(self.theta)
                    .into_iter()
                    .zip(factors)
                    .map(|(f, factor)| f / factor)
                    .collect()
            }
        };
        frequencies.into_iter().map(|f| f as f32).collect()
    }

    /// Factor of cos and sin.
    pub fn attention_factor(&self) -> f32 {
        match &self.scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            }
            | RopeScaling::Long {
                attention_factor, ..
            } => *attention_factor as f32,
            _ => 1.0,
        }
    }

    /// Factor of the query at a position.
    pub fn query_factor(&self, position: usize) -> f32 {
        match self.query_log_base {
            Some(n) if position >= n => (((position + 1) as f64).ln() / (n as f64).ln()) as f32,
            _ => 1.0,
        }
    }

    /// Cosines and sines `[n_positions, rotated_dim / 2]` of positions `start..start + n_positions` in a
    /// text of `length` tokens, the attention factor included.
    pub fn table(&self, start: usize, n_positions: usize, length: usize) -> (Vec<f32>, Vec<f32>) {
        let frequencies = self.frequencies(length);
        let factor = self.attention_factor();
        let mut cos = Vec::with_capacity(n_positions * frequencies.len());
        let mut sin = Vec::with_capacity(n_positions * frequencies.len());
        for position in start..start + n_positions {
            for frequency in &frequencies {
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32 * factor);
                sin.push(angle.sin() as f32 * factor);
            }
        }
        (cos, sin)
    }
}

/// YaRN's factor of attention for a text `factor` times longer.
pub(super) fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_ntk_changes_nothing_within_the_trained_length() {
        let spec = RopeSpec {
            scaling: RopeScaling::DynamicNtk {
                factor: 4.0,
                trained: 64,
            },
            ..RopeSpec::plain(16, 10000.0)
        };
        assert_eq!(
            spec.frequencies(64),
            RopeSpec::plain(16, 10000.0).frequencies(64)
        );
        assert_ne!(spec.frequencies(65), spec.frequencies(64));
    }
}
