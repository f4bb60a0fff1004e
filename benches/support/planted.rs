//! Models of Llama's shape that nobody stores: every value is a function of its place, so that any range of
//! bytes of any shard can be made when it is asked for.
//!
//! Weights are normal, with four directions in each matrix that stand out as what was learned does. A
//! candidate is the reference changed in one of a few ways, or drawn anew.

use super::{Normals, llama_tensors, mix};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::OnceLock;

/// Standard deviation of the weights.
const SPREAD: f32 = 0.02;
/// Singular value of a learned direction over the largest one of the noise around it.
const LEARNED: f32 = 3.0;

/// Sizes of a model.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub hidden: usize,
    pub mlp: usize,
    pub kv: usize,
    pub vocabulary: usize,
    pub n_layers: usize,
    pub n_shards: usize,
}

/// How the values of a model come about.
#[derive(Clone, Copy, Default)]
pub struct Recipe {
    pub seed: u64,
    /// Standard deviation of noise on everything.
    pub noise: f32,
    /// Height of four further directions in each matrix, as a multiple of those that were planted.
    pub tuned: f32,
    /// Whether the units of every MLP stand in another order.
    pub permuted: bool,
    /// Stream of noise, of further directions and of the order.
    pub change_seed: u64,
}

/// A stored tensor: name, shape, place in its shard.
struct Stored {
    name: String,
    shape: Vec<usize>,
    index: u64,
    bytes: Range<u64>,
    order: OnceLock<Vec<u32>>,
}

impl Stored {
    fn n_cols(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }
}

/// One shard: header, then tensors.
pub struct Shard {
    pub name: String,
    pub n_bytes: u64,
    header: Vec<u8>,
    tensors: Vec<Stored>,
}

/// A model whose bytes are made when they are asked for.
pub struct Planted {
    pub sizes: Sizes,
    pub recipe: Recipe,
    pub shards: Vec<Shard>,
    normals: Normals,
}

fn n_bytes(shape: &[usize]) -> u64 {
    shape.iter().product::<usize>() as u64 * 2
}

impl Planted {
    pub fn new(sizes: Sizes, recipe: Recipe) -> Self {
        let Sizes {
            hidden,
            mlp,
            kv,
            vocabulary,
            n_layers,
            n_shards,
        } = sizes;
        let tensors = llama_tensors(hidden, mlp, kv, vocabulary, n_layers);
        let total: u64 = tensors.iter().map(|(_, shape)| n_bytes(shape)).sum();
        let mut cut: Vec<Vec<usize>> = vec![Vec::new(); n_shards];
        let mut before = 0;
        for (index, (_, shape)) in tensors.iter().enumerate() {
            let shard = (before * n_shards as u64 / total) as usize;
            before += n_bytes(shape);
            cut[shard.min(n_shards - 1)].push(index);
        }
        let shards = cut.into_iter().enumerate();
        let shards = shards.map(|(number, indices)| {
            let mut header = serde_json::Map::new();
            header.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
            let mut offset = 0;
            let mut stored = Vec::new();
            for index in indices {
                let (name, shape) = tensors[index].clone();
                let bytes = offset..offset + n_bytes(&shape);
                header.insert(
                    name.clone(),
                    serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [bytes.start, bytes.end]}),
                );
                offset = bytes.end;
                stored.push(Stored { name, shape, index: index as u64, bytes, order: OnceLock::new() });
            }
            let mut json = serde_json::to_vec(&header).expect("a map prints");
            json.resize(json.len().div_ceil(8) * 8, b' ');
            let header = [(json.len() as u64).to_le_bytes().to_vec(), json].concat();
            Shard {
                name: format!("model-{:05}-of-{n_shards:05}.safetensors", number + 1),
                n_bytes: header.len() as u64 + offset,
                header,
                tensors: stored,
            }
        });
        Self {
            sizes,
            recipe,
            shards: shards.collect(),
            normals: Normals::new(),
        }
    }

    /// The index of the shards.
    pub fn index(&self) -> serde_json::Value {
        let shards = self.shards.iter();
        let map: serde_json::Map<String, serde_json::Value> = shards
            .flat_map(|shard| {
                shard
                    .tensors
                    .iter()
                    .map(|t| (t.name.clone(), shard.name.clone().into()))
            })
            .collect();
        let total: u64 = self
            .shards
            .iter()
            .flat_map(|s| &s.tensors)
            .map(|t| n_bytes(&t.shape))
            .sum();
        serde_json::json!({"metadata": {"total_size": total}, "weight_map": map})
    }

    pub fn config(&self) -> serde_json::Value {
        let Sizes {
            hidden,
            mlp,
            kv,
            vocabulary,
            n_layers,
            ..
        } = self.sizes;
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
            "intermediate_size": mlp, "num_hidden_layers": n_layers, "num_attention_heads": hidden / 128,
            "num_key_value_heads": kv / 128, "vocab_size": vocabulary, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu", "max_position_embeddings": 4096,
            "tie_word_embeddings": false, "attention_bias": false, "torch_dtype": "bfloat16"
        })
    }

    /// A range of the bytes of a shard.
    pub fn read(&self, shard: &Shard, range: Range<u64>) -> Vec<u8> {
        let head = shard.header.len() as u64;
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        if range.start < head {
            bytes.extend(&shard.header[range.start as usize..range.end.min(head) as usize]);
        }
        for tensor in &shard.tensors {
            let (start, end) = (head + tensor.bytes.start, head + tensor.bytes.end);
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                bytes.extend(self.tensor(tensor, from - start..to - start));
            }
        }
        bytes
    }

    /// A range of the bytes of a tensor, whole rows of it being made.
    fn tensor(&self, tensor: &Stored, range: Range<u64>) -> Vec<u8> {
        if tensor.shape.len() == 1 {
            let all = self.vector(tensor);
            return all[range.start as usize..range.end as usize].to_vec();
        }
        let row_bytes = tensor.n_cols() as u64 * 2;
        let rows = range.start / row_bytes..range.end.div_ceil(row_bytes);
        let directions = [
            (self.recipe.seed, 1.0),
            (self.recipe.change_seed, self.recipe.tuned),
        ];
        let cols: Vec<Vec<[f32; 4]>> = directions
            .iter()
            .filter(|(_, height)| *height > 0.0)
            .map(|(seed, _)| {
                (0..tensor.n_cols())
                    .map(|c| self.side(*seed, tensor, 1, c))
                    .collect()
            })
            .collect();
        let made: Vec<Vec<u8>> = (rows.start as usize..rows.end as usize)
            .into_par_iter()
            .map(|row| self.row(tensor, row, &cols))
            .collect();
        let made = made.concat();
        let skip = (range.start - rows.start * row_bytes) as usize;
        made[skip..skip + (range.end - range.start) as usize].to_vec()
    }

    fn stream(seed: u64, tensor: &Stored) -> u64 {
        mix(seed, tensor.index << 40)
    }

    /// Coordinates of a row (axis 0) or column (axis 1) in four directions.
    fn side(&self, seed: u64, tensor: &Stored, axis: u64, at: usize) -> [f32; 4] {
        let seed = mix(Self::stream(seed, tensor), u64::MAX - axis);
        self.normals.four(mix(seed, at as u64))
    }

    fn vector(&self, tensor: &Stored) -> Vec<u8> {
        let value = |i: u64| {
            let [gain, ..] = self
                .normals
                .four(mix(Self::stream(self.recipe.seed, tensor), i));
            let [noise, ..] = self
                .normals
                .four(mix(Self::stream(self.recipe.change_seed, tensor), i));
            let stored = bf16::from_f32(1.0 + 0.1 * gain).to_f32();
            bf16::from_f32(stored + self.recipe.noise * noise).to_le_bytes()
        };
        (0..tensor.shape[0] as u64).flat_map(value).collect()
    }

    /// The units of a layer's MLP in the order in which they stand.
    fn order<'a>(&self, tensor: &'a Stored) -> &'a [u32] {
        tensor.order.get_or_init(|| {
            let layer: u64 = tensor
                .name
                .split('.')
                .nth(2)
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            let seed = mix(self.recipe.change_seed, 0x0DE5 + layer);
            let mut order: Vec<u32> = (0..self.sizes.mlp as u32).collect();
            order.sort_by_key(|&unit| mix(seed, u64::from(unit)));
            order
        })
    }

    /// A row of a matrix. `cols`: coordinates of the columns, of what was learned first and of what was tuned.
    fn row(&self, tensor: &Stored, row: usize, cols: &[Vec<[f32; 4]>]) -> Vec<u8> {
        let n_cols = tensor.n_cols();
        let permuted = |suffix: &str| self.recipe.permuted && tensor.name.ends_with(suffix);
        let from = match permuted("gate_proj.weight") || permuted("up_proj.weight") {
            true => self.order(tensor)[row] as usize,
            false => row,
        };
        let stream = Self::stream(self.recipe.seed, tensor);
        let (n, m) = (tensor.shape[0] as f32, n_cols as f32);
        // An outer product of normals has the singular value √(n·m).
        let scale = LEARNED * SPREAD * (n.powf(-0.5) + m.powf(-0.5));
        let learned = self.side(self.recipe.seed, tensor, 0, from);
        let dot = |a: [f32; 4], b: [f32; 4]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let mut values: Vec<f32> = (0..n_cols / 4)
            .flat_map(|quad| {
                self.normals
                    .four(mix(stream, (from * n_cols / 4 + quad) as u64))
            })
            .zip(&cols[0])
            .map(|(noise, col)| SPREAD * noise + scale * dot(learned, *col))
            .map(|value| bf16::from_f32(value).to_f32())
            .collect();
        if self.recipe.tuned > 0.0 {
            let tuned = self.side(self.recipe.change_seed, tensor, 0, from);
            for (value, col) in values.iter_mut().zip(&cols[1]) {
                *value += self.recipe.tuned * scale * dot(tuned, *col);
            }
        }
        if permuted("down_proj.weight") {
            let order = self.order(tensor);
            values = order.iter().map(|&unit| values[unit as usize]).collect();
        }
        if self.recipe.noise > 0.0 {
            let stream = Self::stream(self.recipe.change_seed, tensor);
            let quads = 0..n_cols / 4;
            let noise = quads.flat_map(|quad| {
                self.normals
                    .four(mix(stream, (row * n_cols / 4 + quad) as u64))
            });
            for (value, noise) in values.iter_mut().zip(noise) {
                *value += self.recipe.noise * noise;
            }
        }
        values
            .iter()
            .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
            .collect()
    }
}
