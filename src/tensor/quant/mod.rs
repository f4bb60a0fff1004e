//! Block-quantized element types, as llama.cpp stores them: what a block holds, and what it stands for.
//!
//! A block is a fixed number of elements in a fixed number of bytes: codes, and the scales that turn
//! codes into values. One file per family of schemes; [`SCHEMES`] is the table. Every scheme is one
//! function that says, for each element of a block, its value and how far from it the value that was
//! quantized can have been; [`fast`] computes the values alone, many at once. Layouts: <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>;
//! values are those of the reference `dequantize`, operation by operation, so that they are equal bit
//! for bit.
//!
//! Nothing here quantizes.

mod codebook;
mod fast;
mod grid;
mod grids;
mod k;
mod legacy;

use half::f16;

/// A block-quantized type, by llama.cpp's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the names are the documentation; the files of the families say what they mean"
)]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
}

/// Writes one number per element of a block: its value, or its bound.
type PerElement = fn(&[u8], &mut [f32]);

/// What a block-quantized type is.
struct Scheme {
    block: BlockType,
    name: &'static str,
    elements: usize,
    bytes: usize,
    /// Values of a block, by the definition.
    values: PerElement,
    /// The same of many blocks; `None` where the definition is as fast.
    fast: Option<fast::Values>,
    /// `None` where codes are not the nearest of a grid of steps, so that no bound can be stated.
    bounds: Option<PerElement>,
}

/// A scheme whose bounds are known.
macro_rules! bounded {
    ($block:ident, $name:literal, $elements:literal, $bytes:literal, $each:path) => {
        Scheme {
            bounds: Some(|block, out| $each(block, &mut |i, _, bound| out[i] = bound)),
            ..unbounded!($block, $name, $elements, $bytes, $each)
        }
    };
}

/// A scheme without bounds.
macro_rules! unbounded {
    ($block:ident, $name:literal, $elements:literal, $bytes:literal, $each:path) => {
        Scheme {
            block: BlockType::$block,
            name: $name,
            elements: $elements,
            bytes: $bytes,
            values: |block, out| $each(block, &mut |i, value, _| out[i] = value),
            fast: None,
            bounds: None,
        }
    };
}

/// A scheme whose values are also computed many at once.
macro_rules! fast {
    ($fast:path, $scheme:ident!($($of:tt)*)) => {
        Scheme {
            fast: Some($fast),
            ..$scheme!($($of)*)
        }
    };
}

/// All schemes, in the order of [`BlockType`].
static SCHEMES: [Scheme; 25] = [
    fast!(
        fast::legacy::q4_0,
        bounded!(Q4_0, "Q4_0", 32, 18, legacy::q4_0)
    ),
    fast!(
        fast::legacy::q4_1,
        bounded!(Q4_1, "Q4_1", 32, 20, legacy::q4_1)
    ),
    fast!(
        fast::legacy::q5_0,
        bounded!(Q5_0, "Q5_0", 32, 22, legacy::q5_0)
    ),
    fast!(
        fast::legacy::q5_1,
        bounded!(Q5_1, "Q5_1", 32, 24, legacy::q5_1)
    ),
    fast!(
        fast::legacy::q8_0,
        bounded!(Q8_0, "Q8_0", 32, 34, legacy::q8_0)
    ),
    fast!(
        fast::legacy::q8_1,
        bounded!(Q8_1, "Q8_1", 32, 36, legacy::q8_1)
    ),
    fast!(fast::k::q2_k, bounded!(Q2K, "Q2_K", 256, 84, k::q2)),
    fast!(fast::k::q3_k, bounded!(Q3K, "Q3_K", 256, 110, k::q3)),
    fast!(fast::k::q4_k, bounded!(Q4K, "Q4_K", 256, 144, k::q4)),
    fast!(fast::k::q5_k, bounded!(Q5K, "Q5_K", 256, 176, k::q5)),
    fast!(fast::k::q6_k, bounded!(Q6K, "Q6_K", 256, 210, k::q6)),
    bounded!(Q8K, "Q8_K", 256, 292, k::q8),
    fast!(
        fast::grid::iq1_s,
        unbounded!(Iq1S, "IQ1_S", 256, 50, grid::iq1_s)
    ),
    fast!(
        fast::grid::iq1_m,
        unbounded!(Iq1M, "IQ1_M", 256, 56, grid::iq1_m)
    ),
    fast!(
        fast::grid::iq2_xxs,
        unbounded!(Iq2Xxs, "IQ2_XXS", 256, 66, grid::iq2_xxs)
    ),
    fast!(
        fast::grid::iq2_xs,
        unbounded!(Iq2Xs, "IQ2_XS", 256, 74, grid::iq2_xs)
    ),
    fast!(
        fast::grid::iq2_s,
        unbounded!(Iq2S, "IQ2_S", 256, 82, grid::iq2_s)
    ),
    fast!(
        fast::grid::iq3_xxs,
        unbounded!(Iq3Xxs, "IQ3_XXS", 256, 98, grid::iq3_xxs)
    ),
    fast!(
        fast::grid::iq3_s,
        unbounded!(Iq3S, "IQ3_S", 256, 110, grid::iq3_s)
    ),
    fast!(
        fast::codebook::iq4_nl,
        bounded!(Iq4Nl, "IQ4_NL", 32, 18, codebook::iq4_nl)
    ),
    fast!(
        fast::codebook::iq4_xs,
        bounded!(Iq4Xs, "IQ4_XS", 256, 136, codebook::iq4_xs)
    ),
    fast!(
        fast::codebook::tq1_0,
        bounded!(Tq1_0, "TQ1_0", 256, 54, codebook::tq1_0)
    ),
    fast!(
        fast::codebook::tq2_0,
        bounded!(Tq2_0, "TQ2_0", 256, 66, codebook::tq2_0)
    ),
    fast!(
        fast::codebook::mxfp4,
        bounded!(Mxfp4, "MXFP4", 32, 17, codebook::mxfp4)
    ),
    fast!(
        fast::codebook::nvfp4,
        bounded!(Nvfp4, "NVFP4", 64, 36, codebook::nvfp4)
    ),
];

impl BlockType {
    fn scheme(self) -> &'static Scheme {
        &SCHEMES[self as usize]
    }

    /// All types.
    pub fn all() -> impl Iterator<Item = Self> {
        SCHEMES.iter().map(|scheme| scheme.block)
    }

    /// llama.cpp's name, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        self.scheme().name
    }

    /// Elements of a block.
    pub fn block_elements(self) -> usize {
        self.scheme().elements
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.scheme().bytes
    }

    /// Writes the values of whole blocks; as many blocks as both sides hold.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        match self.scheme().fast {
            Some(fast) => fast(bytes, out),
            None => self.each(self.scheme().values, bytes, out),
        }
    }

    /// Writes, for each element of whole blocks, the largest distance from its value at which a
    /// number can lie that was rounded to the nearest code of its block. `false`, and nothing written,
    /// where the scheme allows no such statement.
    ///
    /// The bound is half a step, and what storing the scale as f16 adds. The codes at the ends of the
    /// range stand for what was cut off as well: there it is as wide as the published quantizers cut.
    pub fn rounding_bounds(self, bytes: &[u8], out: &mut [f32]) -> bool {
        match self.scheme().bounds {
            Some(bounds) => {
                self.each(bounds, bytes, out);
                // Quantizers compute in f32.
                for bound in out {
                    *bound = *bound * 1.001 + 1e-15;
                }
                true
            }
            None => false,
        }
    }

    fn each(self, write: PerElement, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.block_elements())) {
            write(block, out);
        }
    }
}

/// Receives the elements of a block: index, value, bound.
trait Put: FnMut(usize, f32, f32) {}
impl<T: FnMut(usize, f32, f32)> Put for T {}

/// The two bytes at `at`. Blocks come from `chunks_exact`: offsets below the block's size exist.
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The four bytes at `at`.
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The f16 at `at`.
fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(block, at)).to_f32()
}

/// How far a number can have been from the f16 at `at` that it was rounded to: half its last place.
fn f16_slack(block: &[u8], at: usize) -> f32 {
    let exponent = i32::from(u16_at(block, at) >> 10 & 31).max(1);
    2f32.powi(exponent - 26)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_types_and_names_are_unique() {
        for (at, block) in BlockType::all().enumerate() {
            assert_eq!(block as usize, at);
            assert!(BlockType::all().all(|b| b == block || b.name() != block.name()));
        }
    }

    #[test]
    fn every_block_of_any_bytes_is_read_without_a_fault() {
        for block in BlockType::all() {
            for byte in 0..=255u8 {
                let mut bytes = vec![byte; 2 * block.block_bytes()];
                bytes
                    .iter_mut()
                    .skip(byte as usize % 7)
                    .step_by(3)
                    .for_each(|b| *b = !*b);
                let mut out = vec![f32::NAN; 2 * block.block_elements()];
                block.dequantize(&bytes, &mut out);
                block.rounding_bounds(&bytes, &mut out);
            }
        }
    }

    #[test]
    fn many_at_once_are_what_one_by_one_gives_bit_for_bit() {
        let mut state = 7u64;
        let mut byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        for block in BlockType::all() {
            // A byte more than whole blocks, which is no block.
            let n = 3000 * block.block_bytes() + 1;
            let bytes: Vec<u8> = (0..n).map(|_| byte()).collect();
            let n = 3000 * block.block_elements();
            let (mut one, mut many) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            block.each(block.scheme().values, &bytes, &mut one);
            block.dequantize(&bytes, &mut many);
            for (i, (one, many)) in one.iter().zip(&many).enumerate() {
                // Which of two NaNs a sum gives is the processor's choice.
                let same = one.to_bits() == many.to_bits() || one.is_nan() && many.is_nan();
                assert!(same, "{}, element {i}: {many} is not {one}", block.name());
            }
            // Fewer elements than blocks, and none.
            let mut few = vec![1.0; block.block_elements() + 1];
            block.dequantize(&bytes, &mut few);
            assert_eq!(few[block.block_elements()], 1.0);
            block.dequantize(&[], &mut few);
        }
    }

    #[test]
    fn the_slack_of_an_f16_is_half_its_last_place() {
        let slack = |value: f32| f16_slack(&f16::from_f32(value).to_le_bytes(), 0);
        assert_eq!(slack(1.0), 2f32.powi(-11));
        assert_eq!(slack(1.9), 2f32.powi(-11));
        assert_eq!(slack(0.0), 2f32.powi(-25));
    }

    fn data(name: &str) -> serde_json::Value {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/gguf");
        let text = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn from_hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn values_are_those_of_the_reference_bit_for_bit() {
        let reference = data("blocks.json");
        let cases = reference["cases"].as_array().unwrap();
        for block in BlockType::all() {
            let name = block.name();
            let case = cases.iter().find(|case| case["type"] == name);
            let case = case.unwrap_or_else(|| panic!("no reference values for {name}"));
            let bytes = from_hex(case["blocks"].as_str().unwrap());
            let expected = from_hex(case["values"].as_str().unwrap());
            let (expected, _) = expected.as_chunks::<4>();
            let mut out = vec![f32::NAN; expected.len()];
            block.dequantize(&bytes, &mut out);
            for (i, (found, bytes)) in out.iter().zip(expected).enumerate() {
                let expected = f32::from_le_bytes(*bytes);
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "{name}, element {i}: {found} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn what_the_published_quantizers_round_lies_within_the_bounds_and_what_was_moved_does_not() {
        let data = data("quantized.json");
        let values = from_hex(data["values"].as_str().unwrap());
        let values: Vec<f32> = values
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let mut wrong = Vec::new();
        for case in data["cases"].as_array().unwrap() {
            let name = case["type"].as_str().unwrap();
            let block = BlockType::all().find(|b| b.name() == name).unwrap();
            let bytes = from_hex(case["blocks"].as_str().unwrap());
            let mut found = vec![f32::NAN; values.len()];
            let mut bounds = vec![f32::NAN; values.len()];
            block.dequantize(&bytes, &mut found);
            assert!(block.rounding_bounds(&bytes, &mut bounds));
            let outside = |moved: f32| {
                let all = values.iter().zip(&found).zip(&bounds);
                all.filter(|((value, found), bound)| {
                    let moved = (*value + moved * *bound) - *found;
                    moved.abs() > **bound || moved.is_nan()
                })
                .count()
            };
            // A change of a third of the bound pushes many values over their edge.
            let (n, n_moved) = (outside(0.0), outside(0.33));
            if n > 0 || n_moved * 50 < values.len() {
                wrong.push(format!(
                    "{name} by {}: {n} outside, {n_moved} moved",
                    case["by"]
                ));
            }
        }
        assert!(
            wrong.is_empty(),
            "of {}: {}",
            values.len(),
            wrong.join("; ")
        );
    }
}
