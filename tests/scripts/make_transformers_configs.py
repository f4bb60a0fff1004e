"""Writes tests/data/transformers-5-configs.json: small configs as transformers saves them.

Keys move between versions of transformers, so that readers of config.json are held to what the
library itself writes. Run: python make_transformers_configs.py (transformers 5, no network).
"""

import json
from pathlib import Path

import transformers
from transformers import CONFIG_MAPPING

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WITH_HEADS = {**SIZES, "head_dim": 8}
GPT = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LATENT = {
    **SIZES,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 2.1, 2.2, 2.3],
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
DEEPSEEK = {**LATENT, **EXPERTS, "n_routed_experts": 8, "first_k_dense_replace": 1}
FALCON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}

# Name of the case (its first word is the model type) and what the config is made of.
CASES = {
    "llama": {**WITH_HEADS, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "mistral": {**WITH_HEADS, "sliding_window": 16},
    "mixtral": {**SIZES, "num_local_experts": 4},
    "qwen2": SIZES,
    "qwen2 windows": {**SIZES, "use_sliding_window": True, "max_window_layers": 1},
    "qwen2_moe": {**SIZES, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 24},
    "qwen3": WITH_HEADS,
    "qwen3_moe": {**WITH_HEADS, **EXPERTS, "num_experts": 4},
    "gemma": WITH_HEADS,
    "gemma2": WITH_HEADS,
    "gemma3_text": {**WITH_HEADS, "num_hidden_layers": 7},
    "gemma3_text linear": {**WITH_HEADS, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "phi": SIZES,
    "phi3": {**SIZES, "pad_token_id": 0},
    "phi3 longrope": {**SIZES, "pad_token_id": 0, "rope_parameters": LONG, "max_position_embeddings": 131072},
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt_neox": {k: v for k, v in SIZES.items() if k != "num_key_value_heads"},
    "opt": {**FALCON, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": FALCON,
    "falcon groups": {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon alibi": {**FALCON, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    "stablelm": {**SIZES, "qk_layernorm": True},
    "minicpm3": LATENT,
    "minicpm3 longrope": {**LATENT, "rope_parameters": {
        "rope_type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [2.0, 2.1],
        "original_max_position_embeddings": 32768}},
    "deepseek_v2": {**DEEPSEEK, "rope_parameters": YARN},
    "deepseek_v2 groups": {**DEEPSEEK, "q_lora_rank": None, "topk_method": "group_limited_greedy",
                           "n_group": 4, "topk_group": 2},
    "deepseek_v3": {**DEEPSEEK, "rope_parameters": YARN, "n_group": 4, "topk_group": 2},
    "olmo": {**SIZES, "clip_qkv": 8.0},
    "olmo2": SIZES,
}

configs = {
    name: json.loads(CONFIG_MAPPING[name.split()[0]](**values).to_json_string())
    for name, values in CASES.items()
}
path = Path(__file__).parent.parent / "data" / "transformers-5-configs.json"
path.write_text(json.dumps(configs, indent=1) + "\n")
print(f"{len(configs)} configs of transformers {transformers.__version__}: {path}")
