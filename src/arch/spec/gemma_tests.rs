//! Published configs of Gemma, and what must come out of them.

use super::super::testing::{error, read, refuses_strangers, with};
use super::super::{Activation, MlpSpec, ModelSpec, RopeScaling};
use serde_json::{Value, json};

fn gemma_2b() -> Value {
    json!({
        "architectures": ["GemmaForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "bos_token_id": 2, "eos_token_id": 1, "head_dim": 256,
        "hidden_act": "gelu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 16384, "max_position_embeddings": 8192, "model_type": "gemma",
        "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
        "pad_token_id": 0, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10000.0,
        "torch_dtype": "bfloat16", "transformers_version": "4.38.0.dev0", "use_cache": true,
        "vocab_size": 256000
    })
}

fn gemma2_27b() -> Value {
    json!({
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "attn_logit_softcapping": 50.0, "bos_token_id": 2,
        "cache_implementation": "hybrid", "eos_token_id": 1, "final_logit_softcapping": 30.0,
        "head_dim": 128, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 4608,
        "initializer_range": 0.02, "intermediate_size": 36864,
        "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 32,
        "num_hidden_layers": 46, "num_key_value_heads": 16, "pad_token_id": 0,
        "query_pre_attn_scalar": 144, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
        "sliding_window": 4096, "sliding_window_size": 4096, "torch_dtype": "float32",
        "use_cache": true, "vocab_size": 256000
    })
}

/// `text_config` of Gemma 3 4B, with the keys that were published with it.
fn gemma3_4b() -> Value {
    json!({
        "attention_bias": false, "attention_dropout": 0.0, "attn_logit_softcapping": null,
        "cache_implementation": "hybrid", "final_logit_softcapping": null, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2560,
        "initializer_range": 0.02, "intermediate_size": 10240,
        "max_position_embeddings": 131072, "model_type": "gemma3_text",
        "num_attention_heads": 8, "num_hidden_layers": 34, "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1000000.0,
        "sliding_window": 1024, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
        "use_cache": true, "vocab_size": 262208
    })
}

fn mlp_activation(spec: &ModelSpec) -> Activation {
    match &spec.layers[0].mlp {
        MlpSpec::Dense(mlp) => mlp.activation,
        MlpSpec::Mixture(_) => panic!("a dense MLP"),
    }
}

#[test]
fn published_configs_read_and_strange_keys_do_not() {
    for config in [gemma_2b(), gemma2_27b(), gemma3_4b()] {
        let spec = read(&config);
        assert!(spec.head.tied);
        refuses_strangers(&config);
        let both = with(config, "use_bidirectional_attention", true);
        assert!(error(&both).contains("use_bidirectional_attention"));
    }
}

#[test]
fn gelu_in_early_configs_of_gemma_is_the_tanh_form() {
    assert_eq!(mlp_activation(&read(&gemma_2b())), Activation::GeluTanh);
    let exact = with(gemma_2b(), "hidden_activation", "gelu");
    assert_eq!(mlp_activation(&read(&exact)), Activation::Gelu);
}

#[test]
fn the_scale_of_the_embeddings_is_that_of_single_precision() {
    assert_eq!(read(&gemma_2b()).embedding.scale, 2048f32.sqrt());
}

#[test]
fn gemma2_alternates_and_caps() {
    let spec = read(&gemma2_27b());
    let window = |i: usize| spec.layers[i].attention.window;
    assert_eq!((window(0), window(1), window(45)), (Some(4096), None, None));
    let attention = &spec.layers[0].attention;
    assert_eq!(
        (attention.scale, attention.softcap),
        (1.0 / 12.0, Some(50.0))
    );
    assert_eq!(spec.head.softcap, Some(30.0));
    assert!(
        spec.layers[0]
            .attention_post_norm
            .is_some_and(|n| n.plus_one)
    );
    let uncapped = with(gemma2_27b(), "final_logit_softcapping", Value::Null);
    assert_eq!(read(&uncapped).head.softcap, None);
}

#[test]
fn every_sixth_layer_of_gemma3_sees_everything_at_scaled_positions() {
    let spec = read(&gemma3_4b());
    let (local, full) = (&spec.layers[4].attention, &spec.layers[5].attention);
    assert_eq!((local.window, full.window), (Some(1024), None));
    let rope = |attention: &super::AttentionSpec| {
        let rope = attention.rope.clone().expect("rotary positions");
        (rope.theta, rope.scaling)
    };
    assert_eq!(rope(local), (1e4, RopeScaling::None));
    assert_eq!(rope(full), (1e6, RopeScaling::Linear { factor: 8.0 }));
    assert!(full.qk_norm.is_some_and(|n| n.norm.plus_one) && full.softcap.is_none());
}

#[test]
fn what_the_composite_of_gemma3_leaves_unsaid_is_assumed_and_said() {
    let published = json!({
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024, "torch_dtype": "bfloat16"
    });
    let spec = read(&published);
    assert_eq!(spec.layers, read(&gemma3_4b()).layers);
    assert_eq!(spec.vocab_size, 262_208);
    let said = spec.assumptions.join(" ");
    assert!(said.contains("num_attention_heads: 8"), "{said}");
}

#[test]
fn old_and_new_keys_of_gemma3_say_the_same() {
    let mut new = gemma3_4b();
    let object = new.as_object_mut().unwrap();
    for key in [
        "rope_theta",
        "rope_scaling",
        "rope_local_base_freq",
        "sliding_window_pattern",
    ] {
        object.remove(key);
    }
    let types: Vec<&str> = (1..=34)
        .map(|i| {
            if i % 6 == 0 {
                "full_attention"
            } else {
                "sliding_attention"
            }
        })
        .collect();
    object.insert("layer_types".to_owned(), json!(types));
    object.insert("_sliding_window_pattern".to_owned(), json!(6));
    object.insert(
        "rope_parameters".to_owned(),
        json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}
        }),
    );
    assert_eq!(read(&new).layers, read(&gemma3_4b()).layers);
}
