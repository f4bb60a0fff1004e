//! Quantities computed from one model, on which the evidence tests stand. One file per kind.

pub mod folded;
pub mod learned;
pub mod lens;
pub mod product;
pub mod sentencepiece;
pub mod sketch;
pub mod tiktoken;
pub mod tokenizer_settings;
pub mod units;
pub mod vocabulary;
