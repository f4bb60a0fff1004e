//! Reads rotary positions: the keys of old and new configs, and of lines of models with names of their
//! own for them.

use super::config::{Config, SpecError};
use super::rope::{RopeScaling, RopeSpec, RopeStyle, yarn_mscale};

/// Where a config states its rotary positions: `rope_parameters` (since transformers 5), or `rope_theta`
/// and `rope_scaling` beside each other.
struct Stated {
    theta: Option<f64>,
    partial: Option<f64>,
    scaling: RopeScaling,
}

/// How a line of models states its rotary positions, and what it supplies where a config does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct RopeKeys {
    /// Which dimensions turn together.
    pub style: RopeStyle,
    /// Key of theta beside `rope_scaling`.
    pub theta_key: &'static str,
    /// Theta where no key states it.
    pub theta: f64,
    /// Key of the part of a head that turns.
    pub partial_key: &'static str,
    /// That part where no key states it; 1 is not worth a word.
    pub partial: f64,
}

impl RopeKeys {
    /// Llama's: halves of whole heads, `rope_theta`.
    pub const LLAMA: Self = Self {
        style: RopeStyle::Halves,
        theta_key: "rope_theta",
        theta: 10000.0,
        partial_key: "partial_rotary_factor",
        partial: 1.0,
    };
}

impl RopeSpec {
    /// Reads the rotary positions of a model whose heads have `head_dim` dimensions, of which
    /// `partial_rotary_factor` turn.
    ///
    /// # Errors
    /// When a key is impossible or of a kind of scaling that the engine does not know.
    pub fn read(
        config: &mut Config,
        head_dim: usize,
        style: RopeStyle,
        theta: f64,
        max_positions: usize,
    ) -> Result<Self, SpecError> {
        let keys = RopeKeys {
            style,
            theta,
            ..RopeKeys::LLAMA
        };
        Self::read_with(config, head_dim, keys, max_positions)
    }

    /// As [`Self::read`], for a line of models with keys and defaults of its own.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn read_with(
        config: &mut Config,
        head_dim: usize,
        keys: RopeKeys,
        max_positions: usize,
    ) -> Result<Self, SpecError> {
        let trained = config.optional_size("original_max_position_embeddings")?;
        let top_theta = config.optional_number(keys.theta_key)?;
        let top_partial = config.optional_number(keys.partial_key)?;
        let section = if config.has("rope_parameters") {
            config.harmless(&["rope_scaling"]);
            Some("rope_parameters")
        } else {
            Some("rope_scaling").filter(|key| config.has(key))
        };
        let stated = match section {
            Some(key) => config.section(key, |section| {
                read_scaling(section, top_theta, max_positions, trained)
            })?,
            None => Stated {
                theta: top_theta,
                partial: None,
                scaling: RopeScaling::None,
            },
        };
        config.harmless(&["rope_scaling", "rope_parameters"]);
        let stated = Stated {
            partial: stated.partial.or(top_partial),
            ..stated
        };
        stated.spec(config, head_dim, keys)
    }

    /// Reads a section of its own kind of layer (Gemma 3: `rope_parameters.full_attention`).
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn read_section(
        section: &mut Config,
        head_dim: usize,
        keys: RopeKeys,
        max_positions: usize,
    ) -> Result<Self, SpecError> {
        read_scaling(section, None, max_positions, None)?.spec(section, head_dim, keys)
    }
}

impl Stated {
    /// Fills in what is not stated and checks what is.
    fn spec(
        self,
        config: &mut Config,
        head_dim: usize,
        keys: RopeKeys,
    ) -> Result<RopeSpec, SpecError> {
        let theta = self.theta.unwrap_or_else(|| {
            config.assume(keys.theta_key, keys.theta);
            keys.theta
        });
        if !(theta > 1.0) {
            return Err(config.wrong(keys.theta_key, "a number above 1"));
        }
        let partial = self.partial.unwrap_or_else(|| {
            if keys.partial != 1.0 {
                config.assume(keys.partial_key, keys.partial);
            }
            keys.partial
        });
        let rotated_dim = (head_dim as f64 * partial) as usize;
        if rotated_dim == 0 || rotated_dim > head_dim || !rotated_dim.is_multiple_of(2) {
            return Err(config.wrong(
                keys.partial_key,
                format!("an even number of the {head_dim} dimensions of a head"),
            ));
        }
        if let RopeScaling::Long { short, long, .. } = &self.scaling
            && (short.len() != rotated_dim / 2 || long.len() != rotated_dim / 2)
        {
            return Err(config.wrong(
                "rope_scaling",
                format!("lists of {} factors", rotated_dim / 2),
            ));
        }
        Ok(RopeSpec {
            style: keys.style,
            rotated_dim,
            offset: 0,
            theta,
            scaling: self.scaling,
            query_log_base: None,
        })
    }
}

/// Reads a section `rope_scaling` or `rope_parameters`.
fn read_scaling(
    section: &mut Config,
    top_theta: Option<f64>,
    max_positions: usize,
    top_trained: Option<usize>,
) -> Result<Stated, SpecError> {
    let theta = section.optional_number("rope_theta")?.or(top_theta);
    let partial = section.optional_number("partial_rotary_factor")?;
    // Both keys are in use; where both are there they agree.
    let old = section
        .has("type")
        .then(|| section.text("type"))
        .transpose()?;
    let kind = if section.has("rope_type") {
        section.text("rope_type")?
    } else {
        old.unwrap_or_else(|| "default".to_owned())
    };
    let trained = section.optional_size("original_max_position_embeddings")?;
    let trained = trained.or(top_trained);
    let scaling = match kind.as_str() {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: section.number("factor")?,
        },
        "dynamic" => RopeScaling::DynamicNtk {
            factor: section.number("factor")?,
            trained: max_positions,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: section.number("factor")?,
            low: section.number("low_freq_factor")?,
            high: section.number("high_freq_factor")?,
            trained: trained.unwrap_or(max_positions) as f64,
        },
        "yarn" => {
            let trained = trained.unwrap_or(max_positions) as f64;
            let factor = section.number("factor")?;
            let mscale = section.optional_number("mscale")?.filter(|&m| m != 0.0);
            let all = section
                .optional_number("mscale_all_dim")?
                .filter(|&m| m != 0.0);
            let attention_factor = match (section.optional_number("attention_factor")?, mscale, all)
            {
                (Some(stated), ..) => stated,
                (None, Some(mscale), Some(all)) => {
                    yarn_mscale(factor, mscale) / yarn_mscale(factor, all)
                }
                (None, ..) => yarn_mscale(factor, 1.0),
            };
            RopeScaling::Yarn {
                factor,
                beta_fast: section.optional_number("beta_fast")?.unwrap_or(32.0),
                beta_slow: section.optional_number("beta_slow")?.unwrap_or(1.0),
                trained,
                truncate: section
                    .has("truncate")
                    .then(|| section.flag_or("truncate", true))
                    .transpose()?
                    .unwrap_or(true),
                attention_factor,
            }
        }
        // "su" is LongRoPE's first name.
        "longrope" | "su" => {
            let stated = section.optional_number("factor")?;
            // Phi-3 states the lengths instead of the factor.
            let original = trained.unwrap_or(max_positions);
            let factor = match (stated, top_trained) {
                (_, Some(top)) => max_positions as f64 / top as f64,
                (Some(factor), None) => factor,
                (None, None) => max_positions as f64 / original as f64,
            };
            let attention_factor = match section.optional_number("attention_factor")? {
                Some(stated) => stated,
                None if factor <= 1.0 => 1.0,
                None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
            };
            RopeScaling::Long {
                short: section.numbers("short_factor")?,
                long: section.numbers("long_factor")?,
                trained: original,
                attention_factor,
            }
        }
        _ => {
            let key = if section.has("rope_type") {
                "rope_type"
            } else {
                "type"
            };
            return Err(section.wrong(key, "default, linear, dynamic, llama3, yarn or longrope"));
        }
    };
    Ok(Stated {
        theta,
        partial,
        scaling,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: serde_json::Value, head_dim: usize) -> Result<RopeSpec, SpecError> {
        let mut reader = Config::new(&config)?;
        let spec = RopeSpec::read(&mut reader, head_dim, RopeStyle::Halves, 10000.0, 131072)?;
        reader.finish()?;
        Ok(spec)
    }

    #[test]
    fn old_and_new_keys_say_the_same() {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let mut new = scaling.clone();
        new["rope_theta"] = json!(500000.0);
        let old = read(
            json!({"rope_theta": 500000.0, "rope_scaling": scaling}),
            128,
        )
        .unwrap();
        assert_eq!(old, read(json!({"rope_parameters": new}), 128).unwrap());
        assert_eq!(old.theta, 500000.0);
    }

    #[test]
    fn llama3_keeps_fast_dimensions_and_divides_slow_ones() {
        let spec = read(
            json!({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3",
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}}),
            128,
        )
        .unwrap();
        let plain = RopeSpec::plain(128, 500000.0).frequencies(1);
        let scaled = spec.frequencies(1);
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[63] / scaled[63] - 8.0).abs() < 1e-5);
    }

    #[test]
    fn unknown_scalings_and_keys_are_named() {
        let error = read(json!({"rope_scaling": {"type": "mrope"}}), 8).unwrap_err();
        assert!(error.to_string().contains("rope_scaling.type"), "{error}");
        let error = read(
            json!({"rope_scaling": {"type": "linear", "factor": 2.0, "odd": 1}}),
            8,
        )
        .unwrap_err();
        assert!(error.to_string().contains("rope_scaling.odd"), "{error}");
        assert!(read(json!({"partial_rotary_factor": 0.3}), 10).is_err());
    }
}
