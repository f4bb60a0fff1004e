//! The few numbers of a configuration that the derivations need, and the names of a layer's tensors.

use super::model::TestModel;
use serde_json::Value;

/// Sizes of a Llama-shaped model or of GPT-2.
pub struct Shape {
    pub gpt2: bool,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    /// Key-value heads; as many as heads where all have their own.
    pub groups: usize,
    pub head_dim: usize,
    pub units: usize,
}

impl Shape {
    pub fn of(model: &TestModel) -> Self {
        let config = &model.config;
        let number = |key: &str| config.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let needed =
            |key: &str| number(key).unwrap_or_else(|| panic!("config.json has no number {key}"));
        if config["model_type"] == "gpt2" {
            let (hidden, heads) = (needed("n_embd"), needed("n_head"));
            return Self {
                gpt2: true,
                hidden,
                layers: needed("n_layer"),
                heads,
                groups: heads,
                head_dim: hidden / heads,
                units: number("n_inner").unwrap_or(4 * hidden),
            };
        }
        let (hidden, heads) = (needed("hidden_size"), needed("num_attention_heads"));
        Self {
            gpt2: false,
            hidden,
            layers: needed("num_hidden_layers"),
            heads,
            groups: number("num_key_value_heads").unwrap_or(heads),
            head_dim: number("head_dim").unwrap_or(hidden / heads),
            units: needed("intermediate_size"),
        }
    }

    /// Heads that share one key-value head.
    pub fn per_group(&self) -> usize {
        self.heads / self.groups
    }

    /// What a layer's names begin with, up to and without the layer's number.
    pub fn layer_prefix(&self) -> &'static str {
        if self.gpt2 {
            "transformer.h."
        } else {
            "model.layers."
        }
    }

    /// Full name of a tensor of a layer.
    pub fn name(&self, layer: usize, part: &str) -> String {
        format!("{}{layer}.{part}", self.layer_prefix())
    }

    /// A derivation that knows only Llama's parts says so rather than fail on a name.
    pub fn expect_llama(self) -> Self {
        assert!(!self.gpt2, "this derivation is for Llama-shaped models");
        self
    }
}
