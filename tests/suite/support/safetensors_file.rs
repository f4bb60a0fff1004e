//! Bytes of a safetensors file, from and to `f64`.
//!
//! The writer is spelt out here: the `safetensors` crate sorts tensors by type and name, and some derivations are
//! about nothing but the order.

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

/// Name and values, in file order.
pub type Named = Vec<(String, ArrayD<f64>)>;

/// Tensors of a file in the order of their data, and their common type.
pub fn decode(bytes: &[u8]) -> (Named, Dtype) {
    let file =
        SafeTensors::deserialize(bytes).expect("a file of the tests' own making is well formed");
    let (_, header) = SafeTensors::read_metadata(bytes).expect("the header was just read");
    let mut dtype = None;
    let mut named = Named::new();
    for name in header.offset_keys() {
        let view = file.tensor(&name).expect("the header lists this tensor");
        assert_eq!(
            *dtype.get_or_insert(view.dtype()),
            view.dtype(),
            "{name}: one type per file"
        );
        let values = values_of(view.data(), view.dtype());
        let array = ArrayD::from_shape_vec(IxDyn(view.shape()), values)
            .expect("the reader checked the size");
        named.push((name, array));
    }
    (named, dtype.expect("a checkpoint has tensors"))
}

/// A file of these tensors in this order, aligned to eight bytes as published ones are.
pub fn encode(named: &[(String, ArrayD<f64>)], dtype: Dtype) -> Vec<u8> {
    let mut entries = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut data = Vec::new();
    for (name, array) in named {
        let start = data.len();
        for &value in array {
            push(&mut data, value, dtype);
        }
        let entry = json!({
            "dtype": dtype_name(dtype), "shape": array.shape(), "data_offsets": [start, data.len()],
        });
        assert!(
            entries.insert(name.clone(), entry).is_none(),
            "two tensors named {name}"
        );
    }
    with_header(&Value::Object(entries).to_string(), &data)
}

/// Length, header padded with spaces to a multiple of eight, data: whatever the header says.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let length = header.len().next_multiple_of(8);
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(8 + length, b' ');
    bytes.extend_from_slice(data);
    bytes
}

/// Value after a round trip through the type.
pub fn rounded(value: f64, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F64 => value,
        Dtype::F32 => f64::from(value as f32),
        Dtype::F16 => f16::from_f64(value).to_f64(),
        // From f64 directly, `half` drops the lowest bits of an f32 before it looks for a tie.
        Dtype::BF16 => bf16::from_f32(value as f32).to_f64(),
        other => panic!("derivations are not made in {other:?}"),
    }
}

/// Bytes of one value.
pub fn width(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F64 => 8,
        Dtype::F32 => 4,
        Dtype::F16 | Dtype::BF16 => 2,
        other => panic!("derivations are not made in {other:?}"),
    }
}

fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "F64",
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::BF16 => "BF16",
        other => panic!("derivations are not made in {other:?}"),
    }
}

fn push(data: &mut Vec<u8>, value: f64, dtype: Dtype) {
    match dtype {
        Dtype::F64 => data.extend(value.to_le_bytes()),
        Dtype::F32 => data.extend((value as f32).to_le_bytes()),
        Dtype::F16 => data.extend(f16::from_f64(value).to_le_bytes()),
        Dtype::BF16 => data.extend(bf16::from_f32(value as f32).to_le_bytes()),
        other => panic!("derivations are not made in {other:?}"),
    }
}

fn values_of(data: &[u8], dtype: Dtype) -> Vec<f64> {
    let whole = "chunks have the width of the type";
    data.chunks_exact(width(dtype))
        .map(|chunk| match dtype {
            Dtype::F64 => f64::from_le_bytes(chunk.try_into().expect(whole)),
            Dtype::F32 => f64::from(f32::from_le_bytes(chunk.try_into().expect(whole))),
            Dtype::F16 => f16::from_le_bytes(chunk.try_into().expect(whole)).to_f64(),
            Dtype::BF16 => bf16::from_le_bytes(chunk.try_into().expect(whole)).to_f64(),
            other => panic!("derivations are not made in {other:?}"),
        })
        .collect()
}
