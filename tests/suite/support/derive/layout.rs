//! The same weights in the layouts of other families: fused projections, other names, mixtures.

use crate::support::linear::{generator, normals};
use crate::support::model::TestModel;
use crate::support::shape::Shape;
use ndarray::{ArrayD, Axis, Slice, concatenate};
use serde_json::json;

type Named = Vec<(String, ArrayD<f64>)>;

fn rows(tensor: &ArrayD<f64>, from: usize, to: usize) -> ArrayD<f64> {
    tensor.slice_axis(Axis(0), Slice::from(from..to)).to_owned()
}

fn stack(parts: &[ArrayD<f64>]) -> ArrayD<f64> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    concatenate(Axis(0), &views).expect("parts of one width")
}

/// Every layer's tensors through `layer`, the others through `outside` names; order kept.
fn relaid(
    model: &TestModel,
    model_type: &str,
    outside: &[(&str, &str)],
    layer: impl Fn(&TestModel, &Shape, usize) -> Named,
) -> TestModel {
    let shape = Shape::of(model);
    let mut tensors = Named::new();
    for index in 0..shape.layers {
        tensors.extend(layer(model, &shape, index));
    }
    for (old, new) in outside {
        if model.has(old) {
            tensors.push(((*new).to_owned(), model.get(old).clone()));
        }
    }
    let mut config = model.config.clone();
    config["model_type"] = json!(model_type);
    TestModel {
        tensors,
        config,
        ..model.clone()
    }
}

const LLAMA_OUTSIDE: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "model.embed_tokens.weight"),
    ("model.norm.weight", "model.norm.weight"),
    ("lm_head.weight", "lm_head.weight"),
];

const META_OUTSIDE: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "tok_embeddings.weight"),
    ("model.norm.weight", "norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Phi-3: q, k, v in one tensor, gate and up in another.
pub fn as_phi3(model: &TestModel) -> TestModel {
    relaid(model, "phi3", LLAMA_OUTSIDE, |m, shape, layer| {
        let get = |part: &str| m.get(&shape.name(layer, part)).clone();
        let qkv = ["q", "k", "v"].map(|p| get(&format!("self_attn.{p}_proj.weight")));
        let gate_up = ["gate", "up"].map(|p| get(&format!("mlp.{p}_proj.weight")));
        let mut named: Named = vec![
            ("self_attn.qkv_proj.weight".into(), stack(&qkv)),
            ("mlp.gate_up_proj.weight".into(), stack(&gate_up)),
        ];
        for same in [
            "self_attn.o_proj.weight",
            "mlp.down_proj.weight",
            "input_layernorm.weight",
            "post_attention_layernorm.weight",
        ] {
            named.push((same.into(), get(same)));
        }
        prefixed(named, &shape.name(layer, ""))
    })
}

/// InternLM2: group by group the queries, then key and value.
pub fn as_internlm2(model: &TestModel) -> TestModel {
    let outside: Vec<(&str, &str)> = vec![
        ("model.embed_tokens.weight", "model.tok_embeddings.weight"),
        ("model.norm.weight", "model.norm.weight"),
        ("lm_head.weight", "output.weight"),
    ];
    relaid(model, "internlm2", &outside, |m, shape, layer| {
        let get = |part: &str| m.get(&shape.name(layer, part)).clone();
        let [q, k, v] = ["q", "k", "v"].map(|p| get(&format!("self_attn.{p}_proj.weight")));
        let (d, per) = (shape.head_dim, shape.per_group());
        let mut parts = Vec::new();
        for group in 0..shape.groups {
            parts.push(rows(&q, group * per * d, (group + 1) * per * d));
            parts.push(rows(&k, group * d, (group + 1) * d));
            parts.push(rows(&v, group * d, (group + 1) * d));
        }
        let named = vec![
            ("attention.wqkv.weight".into(), stack(&parts)),
            ("attention.wo.weight".into(), get("self_attn.o_proj.weight")),
            ("feed_forward.w1.weight".into(), get("mlp.gate_proj.weight")),
            ("feed_forward.w3.weight".into(), get("mlp.up_proj.weight")),
            ("feed_forward.w2.weight".into(), get("mlp.down_proj.weight")),
            (
                "attention_norm.weight".into(),
                get("input_layernorm.weight"),
            ),
            (
                "ffn_norm.weight".into(),
                get("post_attention_layernorm.weight"),
            ),
        ];
        prefixed(named, &shape.name(layer, ""))
    })
}

/// The names of Llama's original release.
pub fn as_meta_llama(model: &TestModel) -> TestModel {
    relaid(model, "llama", META_OUTSIDE, |m, shape, layer| {
        let get = |part: &str| m.get(&shape.name(layer, part)).clone();
        let named = [
            ("attention.wq", "self_attn.q_proj"),
            ("attention.wk", "self_attn.k_proj"),
            ("attention.wv", "self_attn.v_proj"),
            ("attention.wo", "self_attn.o_proj"),
            ("feed_forward.w1", "mlp.gate_proj"),
            ("feed_forward.w3", "mlp.up_proj"),
            ("feed_forward.w2", "mlp.down_proj"),
            ("attention_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
        ]
        .map(|(new, old)| (format!("{new}.weight"), get(&format!("{old}.weight"))));
        prefixed(named.to_vec(), &format!("layers.{layer}."))
    })
}

/// Mixtral: the dense MLP as expert 0, two of random weights beside it, and a router.
pub fn as_mixtral(model: &TestModel, seed: u64) -> TestModel {
    relaid(model, "mixtral", LLAMA_OUTSIDE, |m, shape, layer| {
        let mut rng = generator(seed, 50 + layer as u64);
        let get = |part: &str| m.get(&shape.name(layer, part)).clone();
        let mut named = Named::new();
        for same in [
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
            "self_attn.o_proj.weight",
            "input_layernorm.weight",
            "post_attention_layernorm.weight",
        ] {
            named.push((same.into(), get(same)));
        }
        for expert in 0..3 {
            for (new, old) in [("w1", "gate"), ("w3", "up"), ("w2", "down")] {
                let dense = get(&format!("mlp.{old}_proj.weight"));
                let weight = match expert {
                    0 => dense,
                    _ => normals(dense.shape(), &mut rng) * 0.05,
                };
                named.push((
                    format!("block_sparse_moe.experts.{expert}.{new}.weight"),
                    weight,
                ));
            }
        }
        let router = normals(&[3, shape.hidden], &mut rng) * 0.05;
        named.push(("block_sparse_moe.gate.weight".into(), router));
        prefixed(named, &shape.name(layer, ""))
    })
}

/// GPT-2 as GPT-NeoX: weights `[out, in]`, and head by head q, k, v.
pub fn as_gpt_neox(model: &TestModel) -> TestModel {
    let outside = [
        ("transformer.wte.weight", "gpt_neox.embed_in.weight"),
        (
            "transformer.ln_f.weight",
            "gpt_neox.final_layer_norm.weight",
        ),
        ("transformer.ln_f.bias", "gpt_neox.final_layer_norm.bias"),
    ];
    let mut neox = relaid(model, "gpt_neox", &outside, |m, shape, layer| {
        let get = |part: &str| m.get(&shape.name(layer, part)).clone();
        let by_head = |fused: &ArrayD<f64>| {
            let d = shape.head_dim;
            let mut parts = Vec::new();
            for head in 0..shape.heads {
                for part in 0..3 {
                    let from = part * shape.hidden + head * d;
                    parts.push(rows(fused, from, from + d));
                }
            }
            stack(&parts)
        };
        let transposed = |part: &str| get(part).reversed_axes().as_standard_layout().to_owned();
        let mut named: Named = vec![
            (
                "attention.query_key_value.weight".into(),
                by_head(&transposed("attn.c_attn.weight")),
            ),
            (
                "attention.query_key_value.bias".into(),
                by_head(&get("attn.c_attn.bias")),
            ),
        ];
        for (new, old) in [
            ("attention.dense", "attn.c_proj"),
            ("mlp.dense_h_to_4h", "mlp.c_fc"),
            ("mlp.dense_4h_to_h", "mlp.c_proj"),
        ] {
            named.push((
                format!("{new}.weight"),
                transposed(&format!("{old}.weight")),
            ));
            named.push((format!("{new}.bias"), get(&format!("{old}.bias"))));
        }
        for (new, old) in [
            ("input_layernorm", "ln_1"),
            ("post_attention_layernorm", "ln_2"),
        ] {
            for part in ["weight", "bias"] {
                named.push((format!("{new}.{part}"), get(&format!("{old}.{part}"))));
            }
        }
        prefixed(named, &format!("gpt_neox.layers.{layer}."))
    });
    let shape = Shape::of(model);
    neox.config["num_attention_heads"] = json!(shape.heads);
    neox.config["num_hidden_layers"] = json!(shape.layers);
    neox.config["hidden_size"] = json!(shape.hidden);
    neox
}

fn prefixed(named: Named, prefix: &str) -> Named {
    named
        .into_iter()
        .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
        .collect()
}

/// What a vision-language model calls its parts.
pub struct Prefixes {
    pub language: &'static str,
    pub vision: &'static str,
    pub projector: &'static str,
}

/// A vision-language model: a backbone, a CLIP-like tower and a resampler, the latter two of random
/// weights from their seeds.
pub fn composite(
    backbone: &TestModel,
    prefixes: &Prefixes,
    tower_seed: u64,
    projector_seed: u64,
) -> TestModel {
    const D: usize = 48;
    const UNITS: usize = 128;
    let hidden = Shape::of(backbone).hidden;
    let mut composite = backbone.rename(|name| format!("{}{name}", prefixes.language));
    let mut rng = generator(tower_seed, 60);
    let mut push = |name: String, shape: &[usize], rng: &mut _| {
        let tensor = match shape {
            [n] => ArrayD::ones(vec![*n]),
            _ => normals(shape, rng) * 0.05,
        };
        composite.tensors.push((name, tensor));
    };
    for layer in 0..3 {
        for (part, shape) in [
            ("layer_norm1.weight", vec![D]),
            ("self_attn.q_proj.weight", vec![D, D]),
            ("self_attn.k_proj.weight", vec![D, D]),
            ("self_attn.v_proj.weight", vec![D, D]),
            ("self_attn.out_proj.weight", vec![D, D]),
            ("layer_norm2.weight", vec![D]),
            ("mlp.fc1.weight", vec![UNITS, D]),
            ("mlp.fc2.weight", vec![D, UNITS]),
        ] {
            let name = format!("{}encoder.layers.{layer}.{part}", prefixes.vision);
            push(name, &shape, &mut rng);
        }
    }
    let name = format!("{}embeddings.patch_embedding.weight", prefixes.vision);
    push(name, &[D, 3, 4, 4], &mut rng);
    let mut rng = generator(projector_seed, 61);
    for (part, shape) in [
        ("query", vec![32, hidden]),
        ("kv_proj.weight", vec![hidden, D]),
        ("attn.in_proj_weight", vec![3 * hidden, hidden]),
        ("attn.out_proj.weight", vec![hidden, hidden]),
        ("proj", vec![hidden, hidden]),
    ] {
        push(format!("{}{part}", prefixes.projector), &shape, &mut rng);
    }
    composite
}
