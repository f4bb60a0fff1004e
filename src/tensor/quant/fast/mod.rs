//! The same values as the other files of this folder give, many at once: for reading whole models.
//!
//! 1. Plain: one function of an element's index says its value and its bound ([`super::k`], [`super::legacy`],
//!    [`super::codebook`], [`super::grid`]). That is the definition, and what bounds are read with.
//! 2. Here: values alone, in loops over arrays of a known length and without a branch, which compilers turn into
//!    vectors of the machine's width. The operations on an element are those of the plain version, in its order,
//!    so that no bit differs (but which NaN comes of two); a test holds the two against each other.
//!
//! What decides is how many bytes are shifted or looked up at once: codes that share bytes are taken apart in a
//! loop each, rows of grids lie as bytes, and signs are factors. One file per family, as above.

// Loops over arrays by number, several at once: compilers turn them into vectors.
#![allow(clippy::needless_range_loop)]

/// A function over whole blocks, for every width of vectors, from one over a block.
macro_rules! blocks {
    ($name:ident, $bytes:literal, $elements:literal, $block:ident) => {
        #[multiversion::multiversion(targets(
            "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
            "x86_64+avx2"
        ))]
        pub(in super::super) fn $name(bytes: &[u8], out: &mut [f32]) {
            let blocks = bytes.as_chunks::<$bytes>().0;
            for (block, out) in blocks.iter().zip(out.as_chunks_mut::<$elements>().0) {
                $block(block, out);
            }
        }
    };
}

pub(super) mod codebook;
pub(super) mod grid;
pub(super) mod k;
pub(super) mod legacy;

/// Writes the values of whole blocks.
pub(super) type Values = fn(&[u8], &mut [f32]);

/// `N` bytes from `at` on. Offsets lie within the block, whose length is known when this is compiled.
#[inline(always)]
fn part<const N: usize, const B: usize>(block: &[u8; B], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a part of a block")
}

/// `N` elements from `at` on.
#[inline(always)]
fn part_mut<const N: usize, const E: usize>(out: &mut [f32; E], at: usize) -> &mut [f32; N] {
    out[at..]
        .first_chunk_mut()
        .expect("a part of a block's elements")
}
