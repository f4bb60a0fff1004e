//! Element types as checkpoints store them, little-endian, and their values as f32.

use super::{BlockType, Coding};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::OnceLock;

/// Type of a stored element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 8-bit float, 4 exponent and 3 mantissa bits, finite and NaN only (OCP MX, `E4M3FN`).
    F8E4M3,
    /// 8-bit float, 5 exponent and 2 mantissa bits, with infinities (OCP MX, `E5M2`).
    F8E5M2,
    /// Signed integers.
    I64,
    /// 32-bit signed.
    I32,
    /// 16-bit signed.
    I16,
    /// 8-bit signed.
    I8,
    /// 64-bit unsigned.
    U64,
    /// 32-bit unsigned.
    U32,
    /// 16-bit unsigned.
    U16,
    /// 8-bit unsigned.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// A code in a block that shares its scales (llama.cpp's quantized types).
    Block(BlockType),
    /// A code in another tensor, with scales in a third (see [`super::coded`]).
    Coded(Coding),
}

/// The plain types with the names that safetensors gives them.
const NAMES: &[(DType, &str)] = &[
    (DType::F64, "F64"),
    (DType::F32, "F32"),
    (DType::F16, "F16"),
    (DType::BF16, "BF16"),
    (DType::F8E4M3, "F8_E4M3"),
    (DType::F8E5M2, "F8_E5M2"),
    (DType::I64, "I64"),
    (DType::I32, "I32"),
    (DType::I16, "I16"),
    (DType::I8, "I8"),
    (DType::U64, "U64"),
    (DType::U32, "U32"),
    (DType::U16, "U16"),
    (DType::U8, "U8"),
    (DType::Bool, "BOOL"),
];

impl DType {
    /// Size of one block: of one element, except in block-quantized types. 0 for coded tensors, whose
    /// elements have no bytes of their own.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 | Self::Bool => 1,
            Self::Block(block) => block.block_bytes(),
            Self::Coded(_) => 0,
        }
    }

    /// Elements that [`Self::size_bytes`] bytes hold: 1, except in block-quantized types.
    pub fn block_elements(self) -> usize {
        match self {
            Self::Block(block) => block.block_elements(),
            _ => 1,
        }
    }

    /// The elements of the whole blocks that a range of elements touches.
    pub fn whole_blocks(self, elements: Range<usize>) -> Range<usize> {
        let size = self.block_elements();
        elements.start / size * size..elements.end.div_ceil(size).saturating_mul(size)
    }

    /// The bytes of the whole blocks that a range of elements touches.
    pub fn bytes_of(self, elements: Range<usize>) -> Range<u64> {
        let (size, bytes) = (self.block_elements(), self.size_bytes() as u64);
        (elements.start / size) as u64 * bytes..elements.end.div_ceil(size) as u64 * bytes
    }

    /// The name in safetensors headers, e.g. `BF16`; that of llama.cpp for block-quantized types, that of
    /// the scheme for coded tensors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block(block) => return block.name(),
            Self::Coded(coding) => return coding.0,
            _ => {}
        }
        NAMES
            .iter()
            .find(|(dtype, _)| *dtype == self)
            .map_or("unknown", |(_, name)| name)
    }

    /// The type of a safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(dtype, _)| *dtype)
    }

    /// Whether the elements are floating-point numbers: integers hold codes, indices or masks, and
    /// no evidence about values is taken from them. Blocks of codes with their scales are numbers.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Self::F64
                | Self::F32
                | Self::F16
                | Self::BF16
                | Self::F8E4M3
                | Self::F8E5M2
                | Self::Block(_)
                | Self::Coded(_)
        )
    }

    /// Whether elements are codes that share scales with others, so that rounding to the type depends
    /// on more than the value.
    pub fn is_quantized(self) -> bool {
        match self {
            Self::Block(_) => true,
            Self::Coded(coding) => coding.is_quantized(),
            _ => false,
        }
    }

    /// Whether elements are what an adapter adds to weights, and no weights.
    pub fn is_change(self) -> bool {
        matches!(self, Self::Coded(coding) if coding.is_change())
    }

    /// Decodes little-endian elements into f32. F64 and wide integers are rounded to f32.
    ///
    /// Decodes as many elements, or whole blocks of them, as both sides hold. A coded tensor has no bytes
    /// from which this could be done: NaN.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
            let (elements, _) = bytes.as_chunks::<N>();
            for (out, element) in out.iter_mut().zip(elements) {
                *out = value(*element);
            }
        }
        match self {
            Self::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => each(bytes, out, f32::from_le_bytes),
            Self::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => {
                each(bytes, out, |b| {
                    f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
                });
            }
            Self::F8E4M3 => each(bytes, out, |[b]| e4m3()[usize::from(b)]),
            Self::F8E5M2 => each(bytes, out, |[b]| e5m2_value(b)),
            Self::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f32),
            Self::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
            Self::I16 => each(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
            Self::I8 => each(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
            Self::U64 => each(bytes, out, |b| u64::from_le_bytes(b) as f32),
            Self::U32 => each(bytes, out, |b| u32::from_le_bytes(b) as f32),
            Self::U16 => each(bytes, out, |b| f32::from(u16::from_le_bytes(b))),
            Self::U8 | Self::Bool => each(bytes, out, |[b]| f32::from(b)),
            Self::Block(block) => block.dequantize(bytes, out),
            Self::Coded(_) => out.fill(f32::NAN),
        }
    }

    /// How far rounding to this type may move a value: half its last place. Types of no floats of their own are
    /// taken for f32.
    pub fn half_step(self, value: f32) -> f32 {
        let (mantissa_bits, smallest) = match self {
            Self::F16 => (10, -14),
            Self::BF16 => (7, -126),
            Self::F8E4M3 => (3, -6),
            Self::F8E5M2 => (2, -14),
            _ => (23, -126),
        };
        // The exponent of a value that is normal in f32; zero, NaN and infinity end at the limits.
        let exponent = (value.to_bits() >> 23 & 0xff) as i32 - 127;
        2f32.powi(exponent.max(smallest) - mantissa_bits - 1)
    }

    /// The nearest value that this type can hold (ties to even); other than floats are unchanged.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
            Self::F8E4M3 => nearest(e4m3(), value),
            // The upper byte of an f16, but rounding twice (to f16, then to f8) would be wrong.
            Self::F8E5M2 => nearest(e5m2(), value),
            _ => value,
        }
    }
}

/// Value of an E4M3 code: no infinities; all ones is NaN.
fn e4m3_value(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(code >> 3 & 0xf);
    let mantissa = f32::from(code & 7);
    match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * mantissa * 2f32.powi(-9),
        _ => sign * (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    }
}

/// Value of an E5M2 code: the upper byte of an IEEE half.
fn e5m2_value(code: u8) -> f32 {
    f16::from_bits(u16::from(code) << 8).to_f32()
}

fn e4m3() -> &'static [f32; 256] {
    static TABLE: OnceLock<[f32; 256]> = OnceLock::new();
    TABLE.get_or_init(|| std::array::from_fn(|code| e4m3_value(code as u8)))
}

fn e5m2() -> &'static [f32; 256] {
    static TABLE: OnceLock<[f32; 256]> = OnceLock::new();
    TABLE.get_or_init(|| std::array::from_fn(|code| e5m2_value(code as u8)))
}

/// The nearest finite value of a table of codes in which magnitude grows with the lower seven bits;
/// ties go to the even code, what lies beyond the largest goes to the largest (as casts saturate).
fn nearest(table: &[f32; 256], value: f32) -> f32 {
    if value.is_nan() {
        return value;
    }
    let n_finite = table[..128].iter().take_while(|v| v.is_finite()).count();
    let size = value.abs();
    let above = table[..n_finite].partition_point(|&v| v < size);
    let size = if above == n_finite {
        table[n_finite - 1]
    } else if above == 0 {
        table[0]
    } else {
        let (low, high) = (table[above - 1], table[above]);
        match (size - low).total_cmp(&(high - size)) {
            std::cmp::Ordering::Less => low,
            std::cmp::Ordering::Greater => high,
            std::cmp::Ordering::Equal if (above - 1) % 2 == 0 => low,
            std::cmp::Ordering::Equal => high,
        }
    };
    size.copysign(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(dtype: DType, bytes: &[u8]) -> f32 {
        let mut out = [f32::NAN];
        dtype.decode(bytes, &mut out);
        out[0]
    }

    #[test]
    fn every_name_is_read_back() {
        for (dtype, name) in NAMES {
            assert_eq!(DType::from_name(name), Some(*dtype));
            assert_eq!(dtype.name(), *name);
        }
        assert_eq!(DType::from_name("F7"), None);
    }

    #[test]
    fn known_bit_patterns_have_their_values() {
        assert_eq!(one(DType::F64, &(-2.5f64).to_le_bytes()), -2.5);
        assert_eq!(one(DType::F32, &1.5e-42f32.to_le_bytes()), 1.5e-42);
        assert_eq!(one(DType::F16, &[0x01, 0x00]), 2f32.powi(-24));
        assert_eq!(one(DType::BF16, &[0x80, 0x3f]), 1.0);
        // Largest and smallest E4M3 and E5M2 of the OCP 8-bit floating point specification.
        assert_eq!(one(DType::F8E4M3, &[0x7e]), 448.0);
        assert_eq!(one(DType::F8E4M3, &[0x01]), 2f32.powi(-9));
        assert!(one(DType::F8E4M3, &[0xff]).is_nan());
        assert_eq!(one(DType::F8E5M2, &[0x7b]), 57344.0);
        assert_eq!(one(DType::F8E5M2, &[0x01]), 2f32.powi(-16));
        assert_eq!(one(DType::F8E5M2, &[0xfc]), f32::NEG_INFINITY);
        assert_eq!(one(DType::I8, &[0xff]), -1.0);
        assert_eq!(one(DType::U8, &[0xff]), 255.0);
        assert_eq!(one(DType::I64, &(-7i64).to_le_bytes()), -7.0);
        assert_eq!(one(DType::Bool, &[1]), 1.0);
    }

    #[test]
    fn rounding_a_value_of_the_type_changes_nothing_and_ties_go_to_even() {
        for dtype in [DType::F8E4M3, DType::F8E5M2] {
            for code in 0..=255u8 {
                let value = one(dtype, &[code]);
                if value.is_finite() {
                    assert_eq!(
                        dtype.round(value).to_bits(),
                        value.to_bits(),
                        "{dtype:?} {code}"
                    );
                }
            }
        }
        // Between 16 (code 0x58) and 18 (code 0x59).
        assert_eq!(DType::F8E4M3.round(17.0), 16.0);
        assert_eq!(DType::F8E4M3.round(17.1), 18.0);
        assert_eq!(DType::F8E4M3.round(-1e9), -448.0);
        assert!(DType::F8E4M3.round(f32::NAN).is_nan());
        assert_eq!(DType::BF16.round(1.0 + 2f32.powi(-8)), 1.0);
    }

    #[test]
    fn half_a_step_is_the_largest_that_rounding_moves() {
        for dtype in [DType::F16, DType::BF16, DType::F8E4M3, DType::F8E5M2] {
            for i in 0..2000 {
                let value = (i as f32 - 1000.0) * 1.000_1e-3;
                let moved = (dtype.round(value) - value).abs();
                assert!(moved <= dtype.half_step(value), "{dtype:?} {value}");
            }
            let moved = (dtype.round(1.3) - 1.3f32).abs();
            assert!(moved > 0.05 * dtype.half_step(1.3), "{dtype:?}");
        }
    }
}
