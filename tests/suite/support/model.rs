//! A checkpoint small enough to hold in `f64`: folder in, folder out, exact in between.

use super::safetensors_file::{self, Named};
use ndarray::{Array1, Array2, ArrayD, Ix1, Ix2};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A checkpoint in memory. Values stay `f64` until saved, so that exact claims can be tested exactly; `dtype` is the
/// type that saving rounds to.
#[derive(Clone)]
pub struct TestModel {
    pub config: Value,
    /// In file order.
    pub tensors: Named,
    /// Tokenizer and the like, carried along byte for byte.
    pub other_files: Vec<(String, Vec<u8>)>,
    pub dtype: Dtype,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl TestModel {
    /// Reads a folder: one file or the shards of an index.
    pub fn load(dir: &Path) -> Self {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let config = serde_json::from_slice(&read("config.json")).expect("config.json is JSON");
        let mut weight_files = BTreeSet::from([SINGLE.to_owned()]);
        if !dir.join(SINGLE).exists() {
            let index: Value = serde_json::from_slice(&read(INDEX)).expect("the index is JSON");
            let map = index["weight_map"]
                .as_object()
                .expect("weight_map is a map");
            weight_files = map
                .values()
                .map(|file| file.as_str().expect("a file name").to_owned())
                .collect();
        }
        let mut tensors = Named::new();
        let mut dtype = None;
        for file in &weight_files {
            let (part, part_dtype) = safetensors_file::decode(&read(file));
            assert_eq!(
                *dtype.get_or_insert(part_dtype),
                part_dtype,
                "shards share one type"
            );
            tensors.extend(part);
        }
        let mut other_files = Vec::new();
        for entry in fs::read_dir(dir).expect("the folder was just read from") {
            let name = entry
                .expect("a folder entry")
                .file_name()
                .into_string()
                .expect("names are UTF-8");
            if name != "config.json" && name != INDEX && !weight_files.contains(&name) {
                let bytes = read(&name);
                other_files.push((name, bytes));
            }
        }
        other_files.sort();
        let dtype = dtype.expect("a checkpoint has at least one weight file");
        Self {
            config,
            tensors,
            other_files,
            dtype,
        }
    }

    /// Writes the folder with all weights in one file.
    pub fn save(&self, dir: &Path) {
        self.save_rest(dir);
        write(
            dir,
            SINGLE,
            &safetensors_file::encode(&self.tensors, self.dtype),
        );
    }

    /// Writes the folder with the weights in `n_shards` files and an index, named as transformers names them.
    pub fn save_sharded(&self, dir: &Path, n_shards: usize) {
        assert!(
            (1..=self.tensors.len()).contains(&n_shards),
            "no shard may be empty"
        );
        self.save_rest(dir);
        let mut weight_map = Map::new();
        let mut start = 0;
        for shard in 1..=n_shards {
            let file = format!("model-{shard:05}-of-{n_shards:05}.safetensors");
            let end = self.tensors.len() * shard / n_shards;
            let part = &self.tensors[start..end];
            write(dir, &file, &safetensors_file::encode(part, self.dtype));
            weight_map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
            start = end;
        }
        let values: usize = self.tensors.iter().map(|(_, array)| array.len()).sum();
        let total_size = values * safetensors_file::width(self.dtype);
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        write(dir, INDEX, index.to_string().as_bytes());
    }

    fn save_rest(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let config = serde_json::to_vec_pretty(&self.config).expect("a JSON value prints");
        write(dir, "config.json", &config);
        for (name, bytes) in &self.other_files {
            write(dir, name, bytes);
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.iter().any(|(own, _)| own == name)
    }

    pub fn get(&self, name: &str) -> &ArrayD<f64> {
        let found = self.tensors.iter().find(|(own, _)| own == name);
        &found.unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    pub fn get_mut(&mut self, name: &str) -> &mut ArrayD<f64> {
        let found = self.tensors.iter_mut().find(|(own, _)| own == name);
        &mut found.unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    /// A copy of a tensor that must be a matrix.
    pub fn matrix(&self, name: &str) -> Array2<f64> {
        let array = self.get(name).clone();
        array
            .into_dimensionality::<Ix2>()
            .unwrap_or_else(|_| panic!("{name} is not a matrix"))
    }

    /// A copy of a tensor that must be a vector.
    pub fn vector(&self, name: &str) -> Array1<f64> {
        let array = self.get(name).clone();
        array
            .into_dimensionality::<Ix1>()
            .unwrap_or_else(|_| panic!("{name} is not a vector"))
    }

    /// The same model with other names, order kept.
    pub fn rename(&self, new_name: impl Fn(&str) -> String) -> Self {
        let tensors = self
            .tensors
            .iter()
            .map(|(name, array)| (new_name(name), array.clone()))
            .collect();
        Self {
            tensors,
            ..self.clone()
        }
    }

    /// The values that this type would keep.
    pub fn cast(&self, dtype: Dtype) -> Self {
        let mut cast = self.clone();
        cast.dtype = dtype;
        for (_, array) in &mut cast.tensors {
            array.mapv_inplace(|value| safetensors_file::rounded(value, dtype));
        }
        for key in ["dtype", "torch_dtype"] {
            if let Some(entry) = cast.config.get_mut(key) {
                *entry = json!(match dtype {
                    Dtype::F64 => "float64",
                    Dtype::F32 => "float32",
                    Dtype::F16 => "float16",
                    Dtype::BF16 => "bfloat16",
                    other => panic!("derivations are not made in {other:?}"),
                });
            }
        }
        cast
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
