"""The table of cases: one configuration per family and per switch that changes the forward pass.

Configurations are written with the keys of the original repositories (`rope_theta`, `rope_scaling`).
`keys="published"` commits them so; `keys="saved"` commits what transformers' `save_pretrained` makes
of them. `without` lists changes that must alter the logits: `make.py --check` asserts it.
`strip_prefix` leaves out what the oldest repositories, saved without their head, leave out.
"""

from dataclasses import dataclass


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
    strip_prefix: str = ""
    n_tokens: int = 17
    attention: str = "eager"


CASES: dict[str, Case] = {}

LLAMA_MLP = "model.layers.1.mlp.down_proj"
LLAMA = {
    "model_type": "llama", "vocab_size": 97, "hidden_size": 36, "intermediate_size": 37,
    "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "hidden_act": "silu",
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None,
    "attention_bias": False, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}
GQA = {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
NARROW_GQA = {"hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3}
SMALL = {"hidden_size": 24, "num_attention_heads": 2}
SMALL_MHA = {**SMALL, "num_key_value_heads": 2}
SMALL_MQA = {**SMALL, "num_key_value_heads": 1}
SMALL_GQA = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}


def add(name: str, architecture: str, base: dict, changes: dict, mlp: str | None = LLAMA_MLP, **options) -> None:
    """Enters one case. A change to `...` removes the key."""
    config = {k: v for k, v in {**base, **changes}.items() if v is not ...}
    CASES[name] = Case(name, architecture, config, mlp, **options)


add("llama", "LlamaForCausalLM", LLAMA, {"tie_word_embeddings": True, "intermediate_size": 53})
add("llama-gqa-bias", "LlamaForCausalLM", LLAMA,
    {**GQA, "attention_bias": True, "mlp_bias": True, "intermediate_size": 57}, keys="saved")
add("llama31", "LlamaForCausalLM", LLAMA,
    {**GQA, "rope_theta": 500.0, "rope_scaling": {  # wavelengths of all three kinds: kept, blended, stretched
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32, "rope_type": "llama3"}}, without=({"rope_scaling": None},))
add("llama-linear", "LlamaForCausalLM", LLAMA, {**SMALL_MHA, "rope_scaling": {"type": "linear", "factor": 2.5}},
    keys="saved", without=({"rope_scaling": None},))
add("llama-dynamic", "LlamaForCausalLM", LLAMA,
    {**SMALL_MHA, "rope_scaling": {"type": "dynamic", "factor": 3.0}, "max_position_embeddings": 11},
    without=({"rope_scaling": None},))
add("llama-yarn", "LlamaForCausalLM", LLAMA,
    {**SMALL_MHA, "rope_theta": 100.0,  # so that the ramp has a value between 0 and 1
     "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    keys="saved", without=({"rope_scaling": None},))
add("mistral-window", "MistralForCausalLM", LLAMA,
    {**GQA, "model_type": "mistral", "attention_bias": ..., "sliding_window": 7},
    without=({"sliding_window": None},))

QWEN2 = {**LLAMA, **NARROW_GQA, "model_type": "qwen2", "attention_bias": ..., "rope_theta": 1000000.0,
         "rms_norm_eps": 1e-6, "use_sliding_window": False, "sliding_window": 7, "max_window_layers": 1}
add("qwen2", "Qwen2ForCausalLM", QWEN2, {**GQA, "tie_word_embeddings": True, "intermediate_size": 53})
add("qwen2-window", "Qwen2ForCausalLM", QWEN2,
    {"use_sliding_window": True, "num_hidden_layers": 3, **SMALL_GQA}, keys="saved",
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
add("gpt2-base-names", "GPT2LMHeadModel", GPT2,
    {"scale_attn_by_inverse_layer_idx": True, "n_inner": 53, "n_embd": 24, "n_head": 2, "n_positions": 20, "n_ctx": 20},
    "transformer.h.1.mlp.c_proj", strip_prefix="transformer.", without=({"scale_attn_by_inverse_layer_idx": False},))

OWN = "own module"
QWEN1 = {"model_type": "qwen", "vocab_size": 97, "hidden_size": 36, "intermediate_size": 106, "num_hidden_layers": 2,
         "num_attention_heads": 3, "kv_channels": 12, "layer_norm_epsilon": 1e-6, "rotary_pct": 1.0,
         "rotary_emb_base": 10000, "seq_length": 64, "max_position_embeddings": 128, "no_bias": True,
         "scale_attn_weights": True, "softmax_in_fp32": False, "use_dynamic_ntk": True, "use_logn_attn": True,
         "use_flash_attn": "auto", "use_cache": True, "tie_word_embeddings": False, "bf16": True, "fp16": False,
         "fp32": False, "attn_dropout_prob": 0.0, "emb_dropout_prob": 0.0, "initializer_range": 0.02,
         "tokenizer_class": "QWenTokenizer", "onnx_safe": None,
         "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig", "AutoModelForCausalLM":
                      "modeling_qwen.QWenLMHeadModel"}}
QWEN1_MLP = "transformer.h.1.mlp.c_proj"
add("qwen1", "QWenLMHeadModel", QWEN1, {}, QWEN1_MLP, oracle=OWN)
add("qwen1-beyond-length", "QWenLMHeadModel", QWEN1,
    {"seq_length": 11, "hidden_size": 24, "num_attention_heads": 2}, QWEN1_MLP, oracle=OWN,
    without=({"use_dynamic_ntk": False}, {"use_logn_attn": False}))

MOE = {**LLAMA, "num_key_value_heads": 1, "num_experts_per_tok": 2}
QWEN_MOE = {**MOE, "attention_bias": ..., "rms_norm_eps": 1e-6, "num_experts": 5, "moe_intermediate_size": 21,
            "decoder_sparse_step": 1, "norm_topk_prob": False, "use_sliding_window": False, "sliding_window": 7,
            "max_window_layers": 1, "output_router_logits": False, "router_aux_loss_coef": 0.001}
add("qwen2-moe", "Qwen2MoeForCausalLM", QWEN_MOE,
    {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 29, "mlp_only_layers": [1]},
    without=({"norm_topk_prob": True}, {"num_experts_per_tok": 1}))
add("qwen3", "Qwen3ForCausalLM", QWEN2,
    {**GQA, "model_type": "qwen3", "head_dim": 12, "hidden_size": 40, "attention_bias": False, "rope_theta": 1000000,
     "max_window_layers": 2}, keys="saved")
QWEN3_MOE = {**QWEN_MOE, "model_type": "qwen3_moe", "head_dim": 12, "hidden_size": 36, "attention_bias": False,
             "num_attention_heads": 4, "num_key_value_heads": 2, "mlp_only_layers": []}
add("qwen3-moe", "Qwen3MoeForCausalLM", QWEN3_MOE, {"norm_topk_prob": True, "hidden_size": 24}, None,
    without=({"norm_topk_prob": False},))
add("qwen3-moe-unnormalised", "Qwen3MoeForCausalLM", QWEN3_MOE, {"mlp_only_layers": [0], "hidden_size": 24},
    "model.layers.0.mlp.down_proj", keys="saved", without=({"norm_topk_prob": True},))
MIXTRAL = {**MOE, "model_type": "mixtral", "attention_bias": ..., "num_local_experts": 5, "intermediate_size": 21,
           "sliding_window": None, "output_router_logits": False, "router_aux_loss_coef": 0.02}
add("mixtral", "MixtralForCausalLM", MIXTRAL, SMALL, None)
add("mixtral-fused", "MixtralForCausalLM", MIXTRAL, {"sliding_window": 7, **SMALL}, None, keys="saved",
    save_original_format=False, without=({"sliding_window": None},))

MINICPM = {**LLAMA, "model_type": "minicpm", "attention_bias": ..., "tie_word_embeddings": ..., "scale_emb": 3,
           "scale_depth": 1.4, "dim_model_base": 24,
           "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMConfig",
                        "AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM"}}
SCALES = ({"scale_emb": 1}, {"scale_depth": 1.0}, {"dim_model_base": 36})
add("minicpm", "MiniCPMForCausalLM", MINICPM, {}, oracle=OWN, without=SCALES)
MINICPM3_ROPE = {"type": "longrope", "long_factor": [1.1, 1.7, 3.2], "short_factor": [1.0, 1.2, 1.5],
                 "original_max_position_embeddings": 16}
MINICPM3 = {**MINICPM, "model_type": "minicpm3", "q_lora_rank": 19, "kv_lora_rank": 17, "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 6, "tie_word_embeddings": ..., "attention_bias": False, "rms_norm_eps": 1e-5,
            "rope_scaling": MINICPM3_ROPE}
add("minicpm3", "MiniCPM3ForCausalLM", MINICPM3, {"auto_map": ...}, keys="saved",
    without=(*SCALES, {"rope_scaling": None}))

add("gemma", "GemmaForCausalLM", GEMMA, {"hidden_act": "gelu_pytorch_tanh"})
add("gemma2-saved", "Gemma2ForCausalLM", GEMMA2,
    {"query_pre_attn_scalar": 12, "hidden_size": 24}, keys="saved")
GEMMA3 = {**GEMMA, "model_type": "gemma3_text", "num_hidden_layers": 3, "num_key_value_heads": 2, "sliding_window": 7,
          "query_pre_attn_scalar": 20, "rope_theta": 1000000, "rope_local_base_freq": 10000,
          "sliding_window_pattern": 3, "attn_logit_softcapping": None, "final_logit_softcapping": None}
add("gemma3", "Gemma3ForCausalLM", GEMMA3, {"hidden_size": 24, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    without=({"sliding_window": 64}, {"rope_scaling": None}, {"rope_local_base_freq": 1000000},
             {"sliding_window_pattern": 2}, {"query_pre_attn_scalar": 12}))
add("gemma3-saved", "Gemma3ForCausalLM", GEMMA3,
    {"sliding_window_pattern": 2, "hidden_size": 24, "num_hidden_layers": 2},
    keys="saved", without=({"sliding_window": 64}, {"rope_local_base_freq": 1000000}))

add("phi2", "PhiForCausalLM", LLAMA,
    {"model_type": "phi", "rms_norm_eps": ..., "attention_bias": ..., "layer_norm_eps": 1e-5, "hidden_act": "gelu_new",
     "partial_rotary_factor": 0.5, "qk_layernorm": False, "embd_pdrop": 0.0,
     "resid_pdrop": 0.0, "attention_dropout": 0.0, "num_key_value_heads": 3}, "model.layers.1.mlp.fc2",
    without=({"partial_rotary_factor": 1.0},))
PHI3 = {**LLAMA, **NARROW_GQA, "model_type": "phi3", "original_max_position_embeddings": 64, "pad_token_id": 0,
        "sliding_window": 7, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attention_dropout": 0.0}
add("phi3", "Phi3ForCausalLM", PHI3, {}, without=({"sliding_window": None},))
LONGROPE = {"type": "longrope", "long_factor": [1.1, 2.1, 4.7], "short_factor": [1.0, 1.2, 1.7]}
add("phi3-longrope-short", "Phi3ForCausalLM", PHI3,
    {"rope_scaling": LONGROPE, "original_max_position_embeddings": 32, "sliding_window": 64, **SMALL_GQA},
    without=({"rope_scaling": None},))
add("phi3-longrope-long", "Phi3ForCausalLM", PHI3,
    {"rope_scaling": LONGROPE, "original_max_position_embeddings": 16, "sliding_window": 64}, keys="saved",
    without=({"rope_scaling": None}, {"original_max_position_embeddings": 32}))
add("phi4-mini", "Phi3ForCausalLM", PHI3,
    {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32, "partial_rotary_factor": 0.75,
     "tie_word_embeddings": True, "rope_scaling": LONGROPE, "original_max_position_embeddings": 16,
     "sliding_window": 64}, keys="saved", without=({"rope_scaling": None},))

NEOX = {"model_type": "gpt_neox", "vocab_size": 97, "hidden_size": 36, "intermediate_size": 53,
        "num_hidden_layers": 2, "num_attention_heads": 3, "hidden_act": "gelu", "rotary_pct": 0.5,
        "rotary_emb_base": 10000, "max_position_embeddings": 64, "layer_norm_eps": 1e-5,
        "use_parallel_residual": True, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0}
NEOX_MLP = "gpt_neox.layers.1.mlp.dense_4h_to_h"
add("gpt-neox", "GPTNeoXForCausalLM", NEOX, {}, NEOX_MLP,
    without=({"use_parallel_residual": False}, {"rotary_pct": 1.0}))
add("gpt-neox-sequential", "GPTNeoXForCausalLM", NEOX, {"use_parallel_residual": False, **SMALL}, NEOX_MLP,
    keys="saved", without=({"use_parallel_residual": True},))
add("gptj", "GPTJForCausalLM", GPT2,
    {"model_type": "gptj", "n_ctx": ..., "rotary_dim": 6, "n_inner": 53, "rotary": True,
     "tie_word_embeddings": False}, "transformer.h.1.mlp.fc_out", keys="saved", without=({"rotary_dim": 12},))
OPT = {"model_type": "opt", "vocab_size": 97, "hidden_size": 36, "num_hidden_layers": 2, "ffn_dim": 53,
       "num_attention_heads": 3, "max_position_embeddings": 32, "do_layer_norm_before": True,
       "word_embed_proj_dim": 36, "activation_function": "relu", "dropout": 0.0, "pad_token_id": 1, "bos_token_id": 2,
       "eos_token_id": 2, "prefix": "</s>"}
add("opt", "OPTForCausalLM", OPT, {"activation_dropout": 0.0}, "model.decoder.layers.1.fc2")
add("opt-350m", "OPTForCausalLM", OPT, {"word_embed_proj_dim": 20, "do_layer_norm_before": False},
    "model.decoder.layers.1.fc2", keys="saved", without=({"do_layer_norm_before": True},))
BLOOM = {"model_type": "bloom", "vocab_size": 97, "n_embed": 36, "n_layer": 2, "num_attention_heads": 3,
         "layer_norm_epsilon": 1e-5, "apply_residual_connection_post_layernorm": False, "hidden_dropout": 0.0,
         "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "offset_alibi": 100,
         "masked_softmax_fusion": True, "seq_length": 64, "skip_bias_add": True, "bias_dropout_fusion": True,
         "unk_token_id": 0, "use_cache": True}
BLOOM_MLP = "transformer.h.1.mlp.dense_4h_to_h"
add("bloom", "BloomForCausalLM", BLOOM, {}, BLOOM_MLP, strip_prefix="transformer.",
    without=({"apply_residual_connection_post_layernorm": True},))
add("bloom-saved", "BloomForCausalLM", BLOOM, {"apply_residual_connection_post_layernorm": True, "n_embed": 24,
                                               "num_attention_heads": 2}, BLOOM_MLP, keys="saved")
FALCON = {"model_type": "falcon", "vocab_size": 97, "hidden_size": 36, "num_hidden_layers": 2,
          "num_attention_heads": 3, "alibi": False, "bias": False, "multi_query": True,
          "new_decoder_architecture": False, "parallel_attn": True, "layer_norm_epsilon": 1e-5,
          "hidden_dropout": 0.0, "attention_dropout": 0.0, "bos_token_id": 11, "eos_token_id": 11}
add("falcon-7b", "FalconForCausalLM", FALCON, SMALL, BLOOM_MLP)
add("falcon-40b", "FalconForCausalLM", FALCON,
    {"new_decoder_architecture": True, "num_kv_heads": 3, "num_attention_heads": 6, "ffn_hidden_size": 53}, BLOOM_MLP,
    keys="saved")
add("falcon-11b", "FalconForCausalLM", FALCON,
    {"new_decoder_architecture": True, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1, "ff_factor": 4,
     "ffn_hidden_size": 53, "rope_theta": 500042.0, **SMALL, "tie_word_embeddings": False, "activation": "gelu"},
    BLOOM_MLP)
add("falcon-alibi", "FalconForCausalLM", FALCON,
    {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False, "ffn_hidden_size": 53}, BLOOM_MLP,
    # The eager path of transformers 5.24 adds the slopes twice: once in its mask, once to the scores.
    attention="sdpa", keys="saved", without=({"alibi": False},))

STABLELM = {**LLAMA, "model_type": "stablelm", "rms_norm_eps": ..., "attention_bias": ..., "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.25, "use_qkv_bias": False, "qk_layernorm": False,
            "use_parallel_residual": False, "hidden_size": 48, "rope_scaling": ...}
add("stablelm", "StableLmForCausalLM", STABLELM, {"use_qkv_bias": True}, without=({"partial_rotary_factor": 1.0},))
add("stablelm-qk", "StableLmForCausalLM", STABLELM,
    {"qk_layernorm": True, "use_parallel_residual": True, **SMALL_MQA,
     "partial_rotary_factor": 0.5, "attention_dropout": 0.0}, keys="saved",
    without=({"qk_layernorm": False}, {"use_parallel_residual": False}))

INTERNLM2 = {**LLAMA, **NARROW_GQA, "model_type": "internlm2", "attention_bias": ..., "bias": False,
             "attn_implementation": "eager", "rope_theta": 1000000, "rope_scaling": {"type": "dynamic", "factor": 2.0},
             "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config",
                          "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"}}
INTERNLM2_MLP = "model.layers.1.feed_forward.w2"
add("internlm2", "InternLM2ForCausalLM", INTERNLM2, SMALL_GQA, INTERNLM2_MLP, oracle=OWN)
add("internlm2-dynamic", "InternLM2ForCausalLM", INTERNLM2,
    {"bias": True, "max_position_embeddings": 11, **SMALL_GQA, "rope_scaling": {"type": "dynamic", "factor": 6.0}},
    INTERNLM2_MLP, oracle=OWN, without=({"rope_scaling": None},))

YARN = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1,
        "mscale": 0.707, "mscale_all_dim": 0.5}
DEEPSEEK = {**MOE, "model_type": "deepseek_v2", "num_key_value_heads": 3, "kv_lora_rank": 18, "q_lora_rank": None,
            "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 10, "n_routed_experts": 6,
            "n_shared_experts": 2, "moe_intermediate_size": 11, "first_k_dense_replace": 1, "moe_layer_freq": 1,
            "rope_theta": 10.0, "routed_scaling_factor": 1.0, "topk_method": "greedy", "scoring_func": "softmax",
            "norm_topk_prob": False, "n_group": 1, "topk_group": 1, "seq_aux": True, "aux_loss_alpha": 0.001, "ep_size": 1,
            "pretraining_tp": 1, "rope_scaling": YARN, "attention_dropout": 0.0}
DEEPSEEK_MLP = "model.layers.0.mlp.down_proj"
add("deepseek-v2-lite", "DeepseekV2ForCausalLM", DEEPSEEK, {"n_routed_experts": 5}, DEEPSEEK_MLP,
    without=({"rope_scaling": None}, {"rope_scaling": {**YARN, "mscale": 1.0}},
             {"rope_scaling": {**YARN, "mscale_all_dim": 0}}))
add("deepseek-v2", "DeepseekV2ForCausalLM", DEEPSEEK,
    {"q_lora_rank": 19, "topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 1,
     "routed_scaling_factor": 2.5}, DEEPSEEK_MLP, keys="saved",
    without=({"topk_method": "greedy"}, {"routed_scaling_factor": 1.0}))
add("deepseek-v3", "DeepseekV3ForCausalLM", DEEPSEEK,
    {"model_type": "deepseek_v3", "q_lora_rank": 19, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
     "norm_topk_prob": True, "n_group": 3, "topk_group": 2, "routed_scaling_factor": 2.5, "n_shared_experts": 1,
     "num_nextn_predict_layers": 0, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}, DEEPSEEK_MLP,
    without=({"rope_scaling": None}, {"topk_group": 3}, {"routed_scaling_factor": 1.0}, {"norm_topk_prob": False}))

OLMO = {**LLAMA, "model_type": "olmo", "rms_norm_eps": ..., "clip_qkv": 0.7, "pad_token_id": 1}
add("olmo", "OlmoForCausalLM", OLMO, {}, without=({"clip_qkv": None},))
add("olmo2", "Olmo2ForCausalLM", LLAMA, {**NARROW_GQA, "model_type": "olmo2", "rms_norm_eps": 1e-6}, keys="saved")
