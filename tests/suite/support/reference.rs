//! What a published implementation computed, as the scripts of `tests/parity` wrote it, and how far from it we are.

use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Tensors by name: shape and values.
pub struct Reference(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Reference {
    /// Reads `reference.safetensors` of a case.
    pub fn read(folder: &Path) -> Self {
        Self::read_file(&folder.join("reference.safetensors"))
    }

    /// Reads a file of such values.
    pub fn read_file(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, tensor)| {
            let data = tensor.data();
            let values = match tensor.dtype() {
                Dtype::I64 => {
                    let numbers = data.as_chunks::<8>().0.iter();
                    numbers.map(|b| i64::from_le_bytes(*b) as f64).collect()
                }
                Dtype::F64 => {
                    let numbers = data.as_chunks::<8>().0.iter();
                    numbers.map(|b| f64::from_le_bytes(*b)).collect()
                }
                Dtype::F32 => {
                    let numbers = data.as_chunks::<4>().0.iter();
                    numbers.map(|b| f32::from_le_bytes(*b).into()).collect()
                }
                other => panic!("{name}: {other:?}"),
            };
            (name.to_owned(), (tensor.shape().to_vec(), values))
        });
        Self(tensors.collect())
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }

    pub fn values(&self, name: &str) -> &[f64] {
        &self.0[name].1
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Token ids of the text.
    pub fn ids(&self) -> Vec<u32> {
        let ids = self.values("input_ids").iter();
        ids.map(|&id| id as u32).collect()
    }

    /// Numbers that follow a prefix in the names of tensors: 0 and 2 of `hidden.0`, `hidden.2`.
    pub fn numbered<C: FromIterator<usize>>(&self, prefix: &str) -> C {
        let rest = self.names().filter_map(|name| name.strip_prefix(prefix));
        rest.filter_map(|number| number.parse().ok()).collect()
    }

    /// Holds values to the reference.
    pub fn check(&self, name: &str, ours: &[f32], most: f64) {
        let (nmse, _) = errors(ours, self.values(name));
        println!("{name}: NMSE {nmse:.1e}");
        assert!(nmse < most, "{name}: NMSE {nmse:.1e}");
    }
}

/// Σ(a − b)² / Σb², and the greatest |a − b|; NaN where a value is.
pub fn errors(ours: &[f32], theirs: &[f64]) -> (f64, f64) {
    assert_eq!(ours.len(), theirs.len(), "number of values");
    let (mut squares, mut power, mut greatest) = (0.0, 0.0, 0.0f64);
    for (a, b) in ours.iter().zip(theirs) {
        let difference = (f64::from(*a) - b).abs();
        squares += difference * difference;
        power += b * b;
        if !(difference <= greatest) && !greatest.is_nan() {
            greatest = difference;
        }
    }
    (squares / power, greatest)
}

#[test]
fn nan_anywhere_is_the_error_of_the_whole() {
    let (nmse, greatest) = errors(&[f32::NAN, 5.0], &[1.0, 1.0]);
    assert!(nmse.is_nan() && greatest.is_nan());
    assert_eq!(errors(&[1.0, 3.0], &[1.0, 2.0]), (0.2, 1.0));
}
