#![allow(missing_docs, unused)]
pub fn rng(seed: u64, s: &str) -> rand_chacha::ChaCha8Rng { todo!() }
