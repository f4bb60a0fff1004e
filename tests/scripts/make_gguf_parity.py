"""Writes tests/data/gguf/parity/: tiny models as GGUF, and the logits that transformers computes of them.

Names come from the `gguf` package's own map, metadata and changes of weights are those of llama.cpp's converter
(https://github.com/ggml-org/llama.cpp, conversion/): queries and keys of Llama interleaved, 1 added to Gemma's
gains, GPT-2's matrices turned, experts stacked, Llama 3.1's frequencies as divisors, q, k and v of GPT-NeoX,
BLOOM and Falcon one after the other, those of InternLM2 apart, gains of StableLM's heads stacked, latent keys and
values of DeepSeek apart, the keys turned. Models are those of tests/parity with the changes below, where GGUF cannot
say what a case says.

    pip install gguf==0.19.0 torch transformers safetensors
    python tests/scripts/make_gguf_parity.py tests/data/gguf/parity
"""

import dataclasses
import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))

import make  # noqa: E402
import numpy as np  # noqa: E402
import oracle  # noqa: E402
import torch  # noqa: E402
from cases import CASES, YARN  # noqa: E402
from gguf import ExpertGatingFuncType, GGUFWriter, RopeScalingType, get_tensor_name_map, quants  # noqa: E402
from gguf.constants import MODEL_ARCH, GGMLQuantizationType  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

# Case of tests/parity, architecture of llama.cpp, changed keys.
MODELS = [
    ("llama31", MODEL_ARCH.LLAMA, {}),
    ("llama-linear", MODEL_ARCH.LLAMA, {}),
    ("llama-yarn", MODEL_ARCH.LLAMA, {}),
    ("mixtral", MODEL_ARCH.LLAMA, {}),
    ("qwen2-moe", MODEL_ARCH.QWEN2MOE, {"mlp_only_layers": []}),
    ("qwen3-moe", MODEL_ARCH.QWEN3MOE, {}),
    ("gemma", MODEL_ARCH.GEMMA, {}),
    # llama.cpp takes the width of a head.
    ("gemma2", MODEL_ARCH.GEMMA2, {"query_pre_attn_scalar": 12}),
    # Every sixth layer sees everything.
    ("gemma3", MODEL_ARCH.GEMMA3,
     {"query_pre_attn_scalar": 12, "num_hidden_layers": 6, "sliding_window_pattern": 6}),
    ("phi3", MODEL_ARCH.PHI3, {}),
    ("phi3-longrope-long", MODEL_ARCH.PHI3, {}),
    ("gpt2", MODEL_ARCH.GPT2, {}),
    # The converter states four times the width, whatever the MLP has.
    ("phi2", MODEL_ARCH.PHI2, {"intermediate_size": 144}),
    ("gpt-neox", MODEL_ARCH.GPTNEOX, {}),
    ("gpt-neox-sequential", MODEL_ARCH.GPTNEOX, {}),
    ("bloom", MODEL_ARCH.BLOOM, {}),
    ("falcon-7b", MODEL_ARCH.FALCON, {}),
    ("falcon-40b", MODEL_ARCH.FALCON, {"ffn_hidden_size": 144}),
    ("stablelm", MODEL_ARCH.STABLELM, {}),
    ("stablelm-qk", MODEL_ARCH.STABLELM, {}),
    # Scaling by length is not written.
    ("internlm2", MODEL_ARCH.INTERNLM2, {"rope_scaling": None}),
    ("minicpm", MODEL_ARCH.MINICPM, {}),
    ("olmo", MODEL_ARCH.OLMO, {}),
    ("olmo2", MODEL_ARCH.OLMO2, {}),
    # What llama.cpp knows of the one model that there is; the trained length is that of the context.
    ("minicpm3", MODEL_ARCH.MINICPM3,
     {"scale_emb": 12, "dim_model_base": 256, "max_position_embeddings": 16}),
    # One number is written for both.
    ("deepseek-v2-lite", MODEL_ARCH.DEEPSEEK2, {"rope_scaling": {**YARN, "mscale_all_dim": YARN["mscale"]}}),
    ("deepseek-v2", MODEL_ARCH.DEEPSEEK2, {"rope_scaling": {**YARN, "mscale_all_dim": YARN["mscale"]}}),
    ("deepseek-v3", MODEL_ARCH.DEEPSEEK2, {}),
    # Up to the trained length.
    ("qwen1", MODEL_ARCH.QWEN, {}),
]
# As the converter wrote files before it took keys and values apart.
WHOLE_LATENTS = ("deepseek-v2-lite",)


def interleaved(weights, n_heads):
    shape = weights.shape
    return weights.reshape(n_heads, 2, shape[0] // n_heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def llama3_divisors(config, scaling, head_dim):
    """What each frequency of Llama 3.1 is divided by."""
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    trained = scaling["original_max_position_embeddings"]
    divisors = []
    for i in range(0, head_dim, 2):
        length = 2 * math.pi * config["rope_theta"] ** (i / head_dim)
        if length < trained / high:
            divisors.append(1.0)
        elif length > trained / low:
            divisors.append(factor)
        else:
            smooth = (trained / length - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def describe_older(writer, arch, config):
    """Metadata of the architectures whose converters write every key on their own."""
    hidden = config.get("hidden_size", config.get("n_embed"))
    n_heads = config["num_attention_heads"]
    writer.add_embedding_length(hidden)
    writer.add_block_count(config.get("num_hidden_layers", config.get("n_layer")))
    writer.add_head_count(n_heads)
    writer.add_layer_norm_eps(config.get("layer_norm_eps", config.get("layer_norm_epsilon")))
    if arch == MODEL_ARCH.PHI2:
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_feed_forward_length(4 * hidden)
        writer.add_head_count_kv(n_heads)
        writer.add_rope_dimension_count(int(config["partial_rotary_factor"] * hidden) // n_heads)
        writer.add_add_bos_token(False)
    if arch == MODEL_ARCH.GPTNEOX:
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_rope_dimension_count(int(config["rotary_pct"] * (hidden // n_heads)))
        writer.add_parallel_residual(config["use_parallel_residual"])
    if arch == MODEL_ARCH.BLOOM:
        writer.add_context_length(config["seq_length"])
        writer.add_feed_forward_length(4 * hidden)
        writer.add_head_count_kv(n_heads)
    if arch == MODEL_ARCH.FALCON:
        writer.add_context_length(2048)
        writer.add_tensor_data_layout("jploski")
        writer.add_feed_forward_length(4 * hidden)
        writer.add_head_count_kv(config.get("num_kv_heads", 1))
    if arch == MODEL_ARCH.STABLELM:
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_rope_dimension_count(int(config["partial_rotary_factor"] * (hidden // n_heads)))
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_parallel_residual(config["use_parallel_residual"])


def describe_sizes(writer, config):
    """What most converters write first."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])


def describe_qwen(writer, config):
    """Metadata of Qwen 1."""
    describe_sizes(writer, config)
    writer.add_rope_freq_base(config["rotary_emb_base"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])


def describe_latent(writer, arch, config, is_whole):
    """Metadata of multi-head latent attention: MiniCPM3, and DeepSeek-V2 and V3 before and after the split."""
    n_heads, rotated = config["num_attention_heads"], config["qk_rope_head_dim"]
    key_length = config["qk_nope_head_dim"] + rotated
    describe_sizes(writer, config)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if config["q_lora_rank"] is not None:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(config["kv_lora_rank"])
    writer.add_rope_dimension_count(rotated)
    scaling = config["rope_scaling"]
    if arch == MODEL_ARCH.MINICPM3:
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(key_length)
        for name in ("long", "short"):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(scaling[f"{name}_factor"], np.float32))
        return
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if is_whole:
        writer.add_head_count_kv(n_heads)
        writer.add_key_length(key_length)
        writer.add_value_length(config["v_head_dim"])
    else:
        writer.add_head_count_kv(1)
        writer.add_key_length(config["kv_lora_rank"] + rotated)
        writer.add_value_length(config["kv_lora_rank"])
        writer.add_key_length_mla(key_length)
        writer.add_value_length_mla(config["v_head_dim"])
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])
        gating = {"sigmoid": ExpertGatingFuncType.SIGMOID, "softmax": ExpertGatingFuncType.SOFTMAX}
        writer.add_expert_gating_func(gating[config["scoring_func"]])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(scaling["factor"])
    writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])


OLDER = (MODEL_ARCH.PHI2, MODEL_ARCH.GPTNEOX, MODEL_ARCH.BLOOM, MODEL_ARCH.FALCON, MODEL_ARCH.STABLELM)


def describe(writer, arch, config):
    """Metadata, as the converter of the architecture adds it."""
    if arch in OLDER:
        describe_older(writer, arch, config)
        return
    if arch == MODEL_ARCH.QWEN:
        describe_qwen(writer, config)
        return
    if arch == MODEL_ARCH.GPT2:
        writer.add_block_count(config["n_layer"])
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_feed_forward_length(4 * config["n_embd"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    n_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // n_heads
    describe_sizes(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    if arch == MODEL_ARCH.OLMO:
        writer.add_layer_norm_eps(1e-5)
        writer.add_clamp_kqv(config["clip_qkv"])
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if arch == MODEL_ARCH.MINICPM:
        writer.add_embedding_scale(float(config["scale_emb"]))
        writer.add_residual_scale(config["scale_depth"] / config["num_hidden_layers"] ** 0.5)
        writer.add_logit_scale(config["hidden_size"] / config["dim_model_base"])
    stated = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or stated
    if arch in (MODEL_ARCH.LLAMA, MODEL_ARCH.PHI3):
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_dim)
    if arch != MODEL_ARCH.PHI3 and (config.get("head_dim") or "gemma" in arch.name.lower()):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if arch not in (MODEL_ARCH.GEMMA, MODEL_ARCH.GEMMA2):
        writer.add_rope_freq_base(stated.get("rope_theta", config.get("rope_theta")))
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if arch == MODEL_ARCH.PHI3:
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
        writer.add_sliding_window(config["sliding_window"])
        if kind == "longrope":
            scale = config["max_position_embeddings"] / config["original_max_position_embeddings"]
            length = config["original_max_position_embeddings"]
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(length)))
            for name in ("long", "short"):
                factors = np.array(scaling[f"{name}_factor"], np.float32)
                writer.add_tensor(f"rope_factors_{name}.weight", factors)
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config, scaling, head_dim))
    for key in ("num_local_experts", "num_experts"):
        if key in config:
            writer.add_expert_count(config[key])
            writer.add_expert_used_count(config["num_experts_per_tok"])
    if arch in (MODEL_ARCH.QWEN2MOE, MODEL_ARCH.QWEN3MOE):
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if arch == MODEL_ARCH.QWEN2MOE:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if arch in (MODEL_ARCH.GEMMA2, MODEL_ARCH.GEMMA3):
        writer.add_sliding_window(config["sliding_window"])
    if arch == MODEL_ARCH.GEMMA2:
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def stack_experts(tensors, n_experts):
    """Experts one by one become one tensor, [n_experts, out, in]."""
    stacked = {}
    for name, values in tensors.items():
        if ".experts.0." not in name:
            if ".experts." not in name:
                stacked[name] = values
            continue
        each = [tensors[name.replace(".experts.0.", f".experts.{i}.")] for i in range(n_experts)]
        stacked[name.replace(".experts.0.", ".experts.")] = np.stack(each)
    return stacked


def apart(tensors, arch, config, is_whole):
    """Fused q, k and v as llama.cpp has them, the gains of StableLM's heads in one tensor, latents in two."""
    changed = {}
    n_heads = config.get("num_attention_heads")
    for name, values in tensors.items():
        if "query_key_value" in name:
            if arch == MODEL_ARCH.FALCON:
                n_kv = config.get("num_kv_heads", 1)
                groups = values.reshape(n_kv, n_heads // n_kv + 2, -1, values.shape[-1])
                parts = [groups[:, :-2], groups[:, -2:-1], groups[:, -1:]]
            else:
                heads = values.reshape(n_heads, 3, -1, *values.shape[1:])
                parts = [heads[:, i] for i in range(3)]
            changed[name] = np.concatenate([part.reshape(-1, *values.shape[1:]) for part in parts])
        elif arch == MODEL_ARCH.INTERNLM2 and "wqkv" in name:
            n_kv = config["num_key_value_heads"]
            groups = values.reshape(n_kv, n_heads // n_kv + 2, -1, values.shape[-1])
            q, k, v = (part.reshape(-1, values.shape[-1])
                       for part in (groups[:, :-2], groups[:, -2], groups[:, -1]))
            layer = name.split(".layers.")[1].split(".")[0]
            changed[f"blk.{layer}.attn_q.weight"] = interleaved(q, n_heads)
            changed[f"blk.{layer}.attn_k.weight"] = interleaved(k, n_kv)
            changed[f"blk.{layer}.attn_v.weight"] = v
        elif arch == MODEL_ARCH.DEEPSEEK2 and ".kv_b_proj." in name and not is_whole:
            n_keys = config["qk_nope_head_dim"]
            heads = values.reshape(n_heads, n_keys + config["v_head_dim"], -1)
            changed[name.replace(".kv_b_proj.", ".k_b_proj.")] = heads[:, :n_keys].swapaxes(1, 2).copy()
            changed[name.replace(".kv_b_proj.", ".v_b_proj.")] = heads[:, n_keys:].copy()
        elif name.endswith(".e_score_correction_bias"):
            changed[name.replace("_correction_bias", "_correction.bias")] = values
        elif "_layernorm.norms." in name:
            if ".norms.0." in name:
                n = n_heads if ".q_layernorm." in name else config["num_key_value_heads"]
                each = [tensors[name.replace(".norms.0.", f".norms.{i}.")] for i in range(n)]
                changed[name.replace(".norms.0.", ".")] = np.stack(each)
        else:
            changed[name] = values
    return changed


def convert(folder, target, arch, config, is_whole):
    tensors = {name: t.float().numpy() for name, t in load_file(folder / "model.safetensors").items()}
    n_experts = config.get("num_local_experts", config.get("num_experts", config.get("n_routed_experts", 0)))
    n_layers = config.get("num_hidden_layers", config.get("n_layer"))
    names = get_tensor_name_map(arch, n_layers)
    writer = GGUFWriter(target, {"LLAMA": "llama"}.get(arch.name, arch.name.lower()))
    if arch in (MODEL_ARCH.MINICPM3, MODEL_ARCH.DEEPSEEK2):
        describe_latent(writer, arch, config, is_whole)
    else:
        describe(writer, arch, config)
    interleaves = arch in (MODEL_ARCH.LLAMA, MODEL_ARCH.MINICPM, MODEL_ARCH.OLMO)
    for name, values in stack_experts(apart(tensors, arch, config, is_whole), n_experts).items():
        is_gemma = arch in (MODEL_ARCH.GEMMA, MODEL_ARCH.GEMMA2, MODEL_ARCH.GEMMA3)
        if name == "lm_head.weight" and is_gemma or name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if is_gemma and name.endswith("norm.weight"):
            values = values + 1
        if interleaves and ".q_proj." in name:
            values = interleaved(values, config["num_attention_heads"])
        if interleaves and ".k_proj." in name:
            values = interleaved(values, config["num_key_value_heads"])
        if arch == MODEL_ARCH.GPT2 and name.endswith(
                (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            values = values.T.copy()
        new = name if name.startswith("blk.") else names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise ValueError(f"{target.name}: the gguf package has no name for {name}")
        kind = GGMLQuantizationType.F32 if values.ndim == 1 or "_norm" in new else GGMLQuantizationType.BF16
        if kind == GGMLQuantizationType.F32:
            writer.add_tensor(new, values.astype(np.float32))
        else:
            writer.add_tensor(new, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    for name, arch, changes in MODELS:
        case = CASES[name]
        case = dataclasses.replace(case, config={**case.config, **changes})
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            make.write_model(case, folder)
            inputs = {"input_ids": make.ids_of(case)}
            logits = oracle.run(make.load(case, folder, torch.float32), inputs)["logits"]
            convert(folder, out / f"{name}.gguf", arch, case.config, name in WHOLE_LATENTS)
        save_file({"input_ids": inputs["input_ids"][0].contiguous(), "logits": logits.contiguous()},
                  out / f"{name}.safetensors")


main(Path(sys.argv[1]))
