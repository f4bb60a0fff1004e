//! `.npz`, `.npy` and ONNX files, written by NumPy and the `onnx` package: `tests/data/arrays`.

use crate::audits::{compare, model_ref};
use modelkin::audit::{self, Unwatched};
use modelkin::source::FetchOptions;
use modelkin::tensor::Tensor;
use modelkin::verdict::Relation;
use std::fs;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/arrays")
        .join(name)
}

fn open(path: &Path) -> Result<Vec<Tensor>, String> {
    let opened = audit::open(&model_ref(path), &FetchOptions::default(), &Unwatched);
    let (model, _) = opened.map_err(|error| error.to_string())?;
    Ok(model.tensors)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor
        .read_elements(0..tensor.shape().iter().product())
        .unwrap()
}

#[test]
fn the_same_weights_are_read_from_every_file() {
    let npz = open(&data("net.npz")).unwrap();
    assert_eq!(npz.len(), 5);
    let bytes: Vec<f32> = fs::read(data("head.npy")).unwrap()[128..]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let head =
        |tensors: &[Tensor], name: &str| values(tensors.iter().find(|t| t.name() == name).unwrap());
    assert_eq!(head(&npz, "head.weight"), bytes);
    assert_eq!(head(&open(&data("head.npy")).unwrap(), "head"), bytes);
    for other in ["net.onnx", "external"] {
        let onnx = open(&data(other)).unwrap();
        assert_eq!(onnx.len(), npz.len(), "{other}");
        for tensor in &npz {
            let theirs = onnx.iter().find(|t| t.name() == tensor.name()).unwrap();
            assert_eq!(tensor.shape(), theirs.shape(), "{other}");
            assert_eq!(values(tensor), values(theirs), "{other}: {}", tensor.name());
        }
    }
}

#[test]
fn a_network_in_another_format_is_called_repackaged() {
    for (reference, candidate) in [("net.npz", "net.onnx"), ("net.onnx", "external")] {
        let report = compare(&data(reference), &data(candidate));
        let relation = report.finding.overall.relation;
        assert_eq!(relation, Relation::Repackaged, "{reference} {candidate}");
    }
}

#[test]
fn every_type_is_read_as_it_is_written() {
    for tensor in open(&data("types.npz")).unwrap() {
        let expected = match tensor.name() {
            "bool" => [0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
            _ => [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        };
        assert_eq!(values(&tensor), expected, "{}", tensor.name());
    }
    let typed = open(&data("typed.onnx")).unwrap();
    assert_eq!(typed.len(), 9, "strings are left aside");
    for tensor in typed {
        let expected = match tensor.name() {
            "bool" => [0.0, 1.0, 0.0, 1.0, 1.0, 1.0],
            "int32" | "int8" => [0.0, 1.0, 2.0, 3.0, 4.0, -5.0],
            _ => [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        };
        assert_eq!(values(&tensor), expected, "{}", tensor.name());
    }
}

#[test]
fn what_cannot_be_read_is_an_error_that_says_so() {
    for (name, says) in [
        ("objects.npy", "one of the types"),
        ("columns.npy", "ascontiguousarray"),
        ("compressed.npz", "compress"),
        ("external/net.onnx", "named by its folder"),
    ] {
        let error = open(&data(name)).unwrap_err();
        assert!(error.contains(says), "{name}: {error}");
    }
}

#[test]
fn external_data_outside_of_the_folder_is_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("model");
    fs::create_dir(&inside).unwrap();
    let secret = fs::read(data("external/net.onnx.data")).unwrap();
    fs::write(folder.path().join("net.onnx.x"), &secret).unwrap();
    let model = fs::read(data("external/net.onnx")).unwrap();
    // As long as the location that is there, so that the messages around it stay whole.
    for location in [b"../net.onnx.x", b"/etc/hostname"] {
        let mut changed = model.clone();
        let places: Vec<usize> = (0..changed.len() - location.len())
            .filter(|&at| changed[at..].starts_with(b"net.onnx.data"))
            .collect();
        assert!(!places.is_empty());
        for at in places {
            changed[at..at + location.len()].copy_from_slice(location);
        }
        fs::write(inside.join("net.onnx"), &changed).unwrap();
        let error = open(&inside).unwrap_err();
        assert!(error.contains("external data"), "{error}");
    }
}

#[test]
fn a_file_that_is_cut_short_or_changed_anywhere_is_an_error_or_another_model() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["typed.onnx", "head.npy", "types.npz"] {
        let whole = fs::read(data(name)).unwrap();
        let path = folder.path().join(name);
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            if let Ok(tensors) = open(&path) {
                // What follows the graph may be missing; the graph itself may not.
                assert!(
                    name == "typed.onnx" && tensors.len() == 9,
                    "{name} of {end} bytes"
                );
            }
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            fs::write(&path, &changed).unwrap();
            if let Ok(tensors) = open(&path) {
                tensors.iter().for_each(|tensor| {
                    let _ = tensor.read_elements(0..tensor.shape().iter().product());
                });
            }
        }
    }
}
