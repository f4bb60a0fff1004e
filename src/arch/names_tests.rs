//! Specs and names held against each other: what the reader of a config says a model has is what the
//! names of its tensors give roles to, no more and no less, in the shapes that follow from the spec.
//!
//! Configs and names are what transformers 5 saves (tests/scripts/make_transformers_*.py).

use super::spec::{
    DenseSpec, LayerSpec, MixtureSpec, MlpSpec, ModelSpec, NormSpec, Projections, QkNormScope,
};
use super::{Component, Part, Role, RoleBasis, RoleKind as K, split};
use crate::tensor::{DType, Tensor, TensorBytes, TensorError};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Nothing here reads a weight.
#[derive(Debug)]
struct Nowhere;

impl TensorBytes for Nowhere {
    fn read(&self, _: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        Err(TensorError::Io {
            file: self.file().to_owned(),
            error: std::io::ErrorKind::NotFound.into(),
        })
    }

    fn file(&self) -> &'static str {
        "nowhere"
    }
}

fn tensors(shapes: &Value) -> Vec<Tensor> {
    let shapes = shapes.as_object().expect("names").iter();
    shapes
        .map(|(name, shape)| {
            let shape = serde_json::from_value(shape.clone()).expect("a shape");
            Tensor::new(name.clone(), DType::F32, shape, Arc::new(Nowhere), 0).expect("a tensor")
        })
        .collect()
}

fn component(tensors: &[Tensor], config: &Value) -> Component {
    let mut notes = Vec::new();
    let mut found = split::components(tensors, Some(config), &mut notes).expect("components");
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].basis, RoleBasis::Names);
    found.remove(0)
}

/// Roles and shapes that a spec asks for.
#[derive(Default)]
struct Expected(BTreeMap<Role, (usize, usize)>);

impl Expected {
    fn of(spec: &ModelSpec) -> Self {
        let mut all = Self::default();
        let (vocab, hidden, width) = (spec.vocab_size, spec.hidden_size, spec.embedding.width);
        all.matrix(Role::outside(K::TokenEmbedding), vocab, width, false);
        if width != hidden {
            all.matrix(Role::outside(K::EmbeddingIn), hidden, width, false);
            all.matrix(Role::outside(K::EmbeddingOut), width, hidden, false);
        }
        if let Some(positions) = spec.embedding.positions {
            let rows = positions.n_rows;
            all.matrix(Role::outside(K::PositionEmbedding), rows, hidden, false);
        }
        all.norm(Role::outside(K::EmbeddingNorm), spec.embedding.norm, hidden);
        all.norm(Role::outside(K::FinalNorm), spec.final_norm, hidden);
        if !spec.head.tied {
            let role = Role::outside(K::OutputHead);
            all.matrix(role, vocab, width, spec.head.bias);
        }
        for (i, layer) in spec.layers.iter().enumerate() {
            all.layer(layer, hidden, &|kind| Role::in_layer(kind, i as u32));
        }
        all
    }

    fn matrix(&mut self, role: Role, n_rows: usize, n_cols: usize, bias: bool) {
        self.0.insert(role, (n_rows, n_cols));
        if bias {
            self.0.insert(role.bias(), (n_rows, 1));
        }
    }

    fn norm(&mut self, role: Role, norm: Option<NormSpec>, width: usize) {
        if norm.is_some_and(|n| n.gain) {
            self.0.insert(role, (width, 1));
        }
        if norm.is_some_and(|n| n.bias) {
            self.0.insert(role.bias(), (width, 1));
        }
    }

    fn layer(&mut self, layer: &LayerSpec, hidden: usize, role: &dyn Fn(K) -> Role) {
        self.norm(role(K::AttentionNorm), layer.attention_norm, hidden);
        self.norm(
            role(K::AttentionPostNorm),
            layer.attention_post_norm,
            hidden,
        );
        self.norm(role(K::MlpNorm), layer.mlp_norm, hidden);
        self.norm(role(K::MlpPostNorm), layer.mlp_post_norm, hidden);
        self.attention(layer, hidden, role);
        match &layer.mlp {
            MlpSpec::Dense(mlp) => self.mlp([K::Gate, K::Up, K::Down], *mlp, hidden, role),
            MlpSpec::Mixture(mixture) => self.mixture(mixture, hidden, role),
        }
    }

    fn attention(&mut self, layer: &LayerSpec, hidden: usize, role: &dyn Fn(K) -> Role) {
        let a = &layer.attention;
        let (q, k) = (a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim);
        match a.projections {
            Projections::Full => {
                self.matrix(role(K::Query), q, hidden, a.qkv_bias);
                self.matrix(role(K::Key), k, hidden, a.qkv_bias);
                let v = a.n_kv_heads * a.value_dim;
                self.matrix(role(K::Value), v, hidden, a.qkv_bias);
            }
            Projections::Latent {
                q_rank,
                kv_rank,
                nope_dim,
                norm,
            } => {
                if let Some(rank) = q_rank {
                    self.matrix(role(K::QueryDown), rank, hidden, false);
                    self.norm(role(K::QueryDownNorm), Some(norm), rank);
                    self.matrix(role(K::QueryUp), q, rank, false);
                } else {
                    self.matrix(role(K::Query), q, hidden, false);
                }
                let turning = a.head_dim - nope_dim;
                self.matrix(role(K::KvDown), kv_rank + turning, hidden, false);
                self.norm(role(K::KvDownNorm), Some(norm), kv_rank);
                let kv = a.n_heads * (nope_dim + a.value_dim);
                self.matrix(role(K::KvUp), kv, kv_rank, false);
            }
        }
        let written = a.n_heads * a.value_dim;
        self.matrix(role(K::AttentionOutput), hidden, written, a.output_bias);
        let Some(norm) = a.qk_norm else { return };
        for (kind, n_heads) in [(K::QueryNorm, a.n_heads), (K::KeyNorm, a.n_kv_heads)] {
            let gains = Some(norm.norm);
            match norm.scope {
                QkNormScope::Head => self.norm(role(kind), gains, a.head_dim),
                QkNormScope::Width => self.norm(role(kind), gains, n_heads * a.head_dim),
                QkNormScope::EachHead => {
                    for head in 0..n_heads as u32 {
                        self.norm(role(kind).of_expert(Some(head)), gains, a.head_dim);
                    }
                }
            }
        }
    }

    fn mlp(
        &mut self,
        [gate, up, down]: [K; 3],
        mlp: DenseSpec,
        hidden: usize,
        role: &dyn Fn(K) -> Role,
    ) {
        if mlp.gated {
            self.matrix(role(gate), mlp.intermediate_size, hidden, mlp.up_bias);
        }
        self.matrix(role(up), mlp.intermediate_size, hidden, mlp.up_bias);
        self.matrix(role(down), hidden, mlp.intermediate_size, mlp.down_bias);
    }

    fn mixture(&mut self, mixture: &MixtureSpec, hidden: usize, role: &dyn Fn(K) -> Role) {
        self.matrix(role(K::Router), mixture.n_experts, hidden, false);
        if mixture.router.correction_bias {
            self.0.insert(role(K::RouterBias), (mixture.n_experts, 1));
        }
        for expert in 0..mixture.n_experts as u32 {
            let role = |kind| role(kind).of_expert(Some(expert));
            self.mlp([K::Gate, K::Up, K::Down], mixture.expert, hidden, &role);
        }
        if let Some(shared) = mixture.shared {
            let kinds = [K::SharedGate, K::SharedUp, K::SharedDown];
            self.mlp(kinds, shared.mlp, hidden, role);
            if shared.gated_output {
                self.matrix(role(K::SharedRouter), 1, hidden, false);
            }
        }
    }
}

fn data(text: &str) -> serde_json::Map<String, Value> {
    serde_json::from_str(text).expect("an object")
}

#[test]
fn the_roles_of_a_model_are_those_that_its_spec_asks_for() {
    let configs = data(include_str!("../../tests/data/transformers-5-configs.json"));
    let saved = data(include_str!("../../tests/data/transformers-5-tensors.json"));
    assert!(saved.len() >= 30, "{}", saved.len());
    for (case, shapes) in &saved {
        let name = case.trim_end_matches(", as held");
        let config = &configs[name];
        let spec = ModelSpec::read(config).expect("a spec");
        let tensors = tensors(shapes);
        let component = component(&tensors, config);
        let found: BTreeMap<Role, (usize, usize)> = component
            .roles
            .iter()
            .map(|(role, matrix)| (*role, (matrix.n_rows(), matrix.n_cols())))
            .collect();
        let expected = Expected::of(&spec).0;
        let missing = expected.iter().find(|(r, s)| found.get(r) != Some(s));
        if let Some((role, shape)) = missing {
            panic!("{case}: {role} of {shape:?}, found {:?}", found.get(role));
        }
        let further = found.keys().find(|role| !expected.contains_key(role));
        assert_eq!(further.map(ToString::to_string), None, "{case}");
        let used: BTreeSet<&str> = component
            .roles
            .values()
            .map(|m| m.tensor().name())
            .collect();
        assert_eq!(used.len(), tensors.len(), "{case}: a tensor has no role");
        assert_eq!(component.hidden_size, Some(spec.hidden_size), "{case}");
    }
}

#[test]
fn qwen_1_is_not_taken_for_gpt2_and_its_gate_is_w2() {
    let mut shapes = serde_json::json!({"transformer.wte.weight": [64, 32],
        "transformer.ln_f.weight": [32], "lm_head.weight": [64, 32]});
    for layer in 0..2 {
        let parts: [(&str, &[usize]); 8] = [
            ("ln_1.weight", &[32]),
            ("attn.c_attn.weight", &[96, 32]),
            ("attn.c_attn.bias", &[96]),
            ("attn.c_proj.weight", &[32, 32]),
            ("ln_2.weight", &[32]),
            ("mlp.w1.weight", &[48, 32]),
            ("mlp.w2.weight", &[48, 32]),
            ("mlp.c_proj.weight", &[32, 48]),
        ];
        for (part, shape) in parts {
            shapes[format!("transformer.h.{layer}.{part}")] = shape.into();
        }
    }
    let config = serde_json::json!({"model_type": "qwen", "vocab_size": 64, "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "kv_channels": 8,
        "intermediate_size": 96, "seq_length": 64});
    let found = component(&tensors(&shapes), &config);
    assert_eq!(found.family, "qwen");
    let gate = found.role(Role::in_layer(K::Gate, 1)).expect("a gate");
    assert_eq!(gate.tensor().name(), "transformer.h.1.mlp.w2.weight");
    let expected = Expected::of(&ModelSpec::read(&config).expect("a spec")).0;
    assert!(expected.keys().eq(found.roles.keys()));
}

#[test]
fn gguf_names_of_routers_lose_a_dimension_and_call_a_weight_a_bias() {
    let mut shapes = serde_json::json!({"token_embd.weight": [64, 32]});
    for (part, shape) in [
        ("attn_norm.weight", vec![32]),
        ("attn_q_a.weight", vec![16, 32]),
        ("attn_kv_b.weight", vec![64, 16]),
        ("ffn_norm.weight", vec![32]),
        ("ffn_gate_inp.weight", vec![4, 32]),
        ("ffn_gate_inp_shexp.weight", vec![32]),
        ("exp_probs_b.bias", vec![4]),
    ] {
        shapes[format!("blk.0.{part}")] = shape.into();
    }
    let found = component(&tensors(&shapes), &serde_json::json!({}));
    let shape = |kind| {
        let matrix = found.role(Role::in_layer(kind, 0)).expect("a role");
        (matrix.n_rows(), matrix.n_cols())
    };
    assert_eq!(shape(K::SharedRouter), (1, 32));
    assert_eq!(shape(K::RouterBias), (4, 1));
    assert!(found.roles.keys().all(|role| role.part == Part::Weight));
}
