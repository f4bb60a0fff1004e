"""Says an own module's model in the words of a class that transformers has, to check the module by it.

InternLM2 is a Llama whose `wqkv` is taken apart; Qwen (within its trained length) is a Qwen2 with other
names; MiniCPM is a Granite, which has the same three scales; MiniCPM3 is in transformers itself. What
such a class lacks (Qwen's NTK and log-n scaling) stays unchecked.
"""

import math

import torch
from transformers import (GraniteConfig, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM)

SHARED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling", "max_position_embeddings")


def renamed(tensors: dict, pairs: list[tuple[str, str]]) -> dict:
    """The tensors with each (old, new) replaced in their names, in order."""
    result = {}
    for name, tensor in tensors.items():
        for old, new in pairs:
            name = name.replace(old, new)
        result[name] = tensor
    return result


def internlm2(config: dict, tensors: dict):
    parts = {}
    for name, tensor in tensors.items():
        if "wqkv" not in name:
            parts[name] = tensor
            continue
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        groups = tensor.unflatten(0, (config["num_key_value_heads"], -1, head_dim))
        for part, rows in (("q", groups[:, :-2]), ("k", groups[:, -2]), ("v", groups[:, -1])):
            parts[name.replace("wqkv", f"{part}_proj")] = rows.reshape(-1, *tensor.shape[1:])
    names = [("tok_embeddings", "embed_tokens"), ("attention_norm", "input_layernorm"), (".attention.", ".self_attn."),
             ("ffn_norm", "post_attention_layernorm"), (".wo.", ".o_proj."), ("feed_forward.w1", "mlp.gate_proj"),
             ("feed_forward.w3", "mlp.up_proj"), ("feed_forward.w2", "mlp.down_proj"), ("output.", "lm_head.")]
    keys = {k: config[k] for k in SHARED} | {"attention_bias": config["bias"], "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig.from_dict(keys)), renamed(parts, names)


def qwen1(config: dict, tensors: dict):
    parts = {}
    for name, tensor in tensors.items():
        if "c_attn" not in name:
            parts[name] = tensor
            continue
        for part, rows in zip("qkv", tensor.chunk(3)):
            parts[name.replace("c_attn", f"{part}_proj")] = rows
    names = [("transformer.wte", "model.embed_tokens"), ("transformer.ln_f", "model.norm"),
             ("transformer.h.", "model.layers."), ("ln_1", "input_layernorm"), ("ln_2", "post_attention_layernorm"),
             ("attn.c_proj", "attn.o_proj"), (".attn.", ".self_attn."), ("mlp.w1", "mlp.up_proj"),
             ("mlp.w2", "mlp.gate_proj"), ("mlp.c_proj", "mlp.down_proj")]
    keys = {k: config[k] for k in SHARED if k in config} | {
        "intermediate_size": config["intermediate_size"] // 2, "num_key_value_heads": config["num_attention_heads"],
        "rms_norm_eps": config["layer_norm_epsilon"], "rope_theta": config["rotary_emb_base"],
        "tie_word_embeddings": False}
    return Qwen2ForCausalLM(Qwen2Config.from_dict(keys)), renamed(parts, names)


def minicpm(config: dict, tensors: dict):
    keys = {k: config[k] for k in SHARED} | {
        "embedding_multiplier": config["scale_emb"], "tie_word_embeddings": True,
        "residual_multiplier": config["scale_depth"] / math.sqrt(config["num_hidden_layers"]),
        "attention_multiplier": (config["hidden_size"] // config["num_attention_heads"]) ** -0.5,
        "logits_scaling": config["hidden_size"] / config["dim_model_base"]}
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    return GraniteForCausalLM(GraniteConfig.from_dict(keys)), tensors | head


# By case; a case that is not here has something that no class of transformers has.
CROSS = {"internlm2": internlm2, "internlm2-dynamic": internlm2, "qwen1": qwen1, "minicpm": minicpm}


@torch.no_grad()
def logits(case: str, config: dict, tensors: dict, input_ids: torch.Tensor) -> torch.Tensor:
    """[n_tokens, vocab_size] in float32, by the class of transformers; every tensor must find its place."""
    model, renamed_tensors = CROSS[case](config, {name: t.float() for name, t in tensors.items()})
    model.load_state_dict(renamed_tensors)
    return model.float().eval()(input_ids=input_ids, use_cache=False).logits[0]
