"""The table of cases: one configuration per family and per switch that changes the forward pass.

Configurations are written with the keys of the original repositories (`rope_theta`, `rope_scaling`).
`keys="published"` commits them so; `keys="saved"` commits what transformers' `save_pretrained` makes
of them. `without` lists changes that must alter the logits: `make.py --check` asserts it.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    name: str
    architecture: str
    config: dict
    mlp: str | None
    keys: str = "published"
    oracle: str = "transformers"
    without: tuple[dict, ...] = ()
    save_original_format: bool = True
    n_tokens: int = 23
    extra: dict = field(default_factory=dict)


CASES: dict[str, Case] = {}

LLAMA_MLP = "model.layers.1.mlp.down_proj"
LLAMA = {
    "model_type": "llama", "vocab_size": 97, "hidden_size": 36, "intermediate_size": 53,
    "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "hidden_act": "silu",
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None,
    "attention_bias": False, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}
GQA = {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}


def add(name: str, architecture: str, base: dict, changes: dict, mlp: str | None = LLAMA_MLP, **options) -> None:
    """Enters one case. A change to `...` removes the key."""
    config = {k: v for k, v in {**base, **changes}.items() if v is not ...}
    CASES[name] = Case(name, architecture, config, mlp, **options)


add("llama", "LlamaForCausalLM", LLAMA, {"tie_word_embeddings": True})
add("llama-gqa-bias", "LlamaForCausalLM", LLAMA,
    {**GQA, "attention_bias": True, "mlp_bias": True, "intermediate_size": 57}, keys="saved")
add("llama31", "LlamaForCausalLM", LLAMA,
    {**GQA, "rope_theta": 500000.0, "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16, "rope_type": "llama3"}}, without=({"rope_scaling": None},))
add("llama-linear", "LlamaForCausalLM", LLAMA, {"rope_scaling": {"type": "linear", "factor": 2.5}},
    without=({"rope_scaling": None},))
add("llama-dynamic", "LlamaForCausalLM", LLAMA,
    {"rope_scaling": {"type": "dynamic", "factor": 3.0}, "max_position_embeddings": 11},
    without=({"rope_scaling": None},))
add("llama-yarn", "LlamaForCausalLM", LLAMA,
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    keys="saved", without=({"rope_scaling": None},))
add("mistral-window", "MistralForCausalLM", LLAMA,
    {**GQA, "model_type": "mistral", "attention_bias": ..., "sliding_window": 7},
    without=({"sliding_window": None},))

QWEN2 = {**LLAMA, **GQA, "model_type": "qwen2", "attention_bias": ..., "rope_theta": 1000000.0,
         "rms_norm_eps": 1e-6, "use_sliding_window": False, "sliding_window": 7, "max_window_layers": 1}
add("qwen2", "Qwen2ForCausalLM", QWEN2, {"tie_word_embeddings": True})
add("qwen2-window", "Qwen2ForCausalLM", QWEN2,
    {"use_sliding_window": True, "num_hidden_layers": 3}, keys="saved",
    without=({"use_sliding_window": False}, {"max_window_layers": 0}))

GEMMA = {**LLAMA, "model_type": "gemma", "hidden_act": ..., "rope_scaling": ..., "head_dim": 12, "hidden_size": 40,
         "num_attention_heads": 4, "num_key_value_heads": 1, "rms_norm_eps": 1e-6, "tie_word_embeddings": ...,
         "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0}
GEMMA2 = {**GEMMA, "model_type": "gemma2", "num_key_value_heads": 2, "sliding_window": 7,
          "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 20}
add("gemma2", "Gemma2ForCausalLM", GEMMA2, {"hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"},
    without=({"sliding_window": 64}, {"attn_logit_softcapping": None}, {"final_logit_softcapping": None},
             {"query_pre_attn_scalar": 12}))

GPT2 = {"model_type": "gpt2", "vocab_size": 97, "n_positions": 32, "n_ctx": 32, "n_embd": 36, "n_layer": 2, "n_head": 3,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 1, "eos_token_id": 2}
add("gpt2", "GPT2LMHeadModel", GPT2, {}, "transformer.h.1.mlp.c_proj")
