"""MiniCPM and MiniCPM3, whose code lives in their repositories.

Facts from OpenBMB's modelling code and vLLM: a Llama whose embeddings are multiplied by `scale_emb`,
whose branches are multiplied by `scale_depth / sqrt(n_layers)` before they join the residual stream,
and whose final hidden states are divided by `hidden_size / dim_model_base` before the head.
MiniCPM3 has multi-head latent attention. Its two inner norms use epsilon 1e-6 whatever the config
says, its rotary part pairs (i, i + dim/2), and its LongRoPE multiplies both cosine and sine by
sqrt(1 + ln(max / original) / ln(original)). The published cache is filled for
`max_position_embeddings` at once, so the long factors apply to every text when that exceeds the
original length; the cases stay where both readings agree.
"""

import math

import torch
from torch import nn

from published.common import (RMSNorm, answer, causal_attention, dynamic_ntk_base, heads,
                              inverse_frequencies, rotate)

INNER_EPS = 1e-6  # of MiniCPM3's q_a_layernorm and kv_a_layernorm


def angles_of(config: dict, dim: int, n_tokens: int) -> tuple[torch.Tensor, float]:
    """Rotary angles [n_tokens, dim / 2] and the magnitude that LongRoPE gives them."""
    scaling = config.get("rope_scaling") or {"type": "default"}
    base, longest = config.get("rope_theta", 10000.0), config["max_position_embeddings"]
    positions, magnitude = torch.arange(n_tokens, dtype=torch.float32), 1.0
    if scaling["type"] == "linear":
        positions = positions / scaling["factor"]
    if scaling["type"] == "dynamic":
        base = dynamic_ntk_base(base, dim, n_tokens, longest, scaling["factor"])
    frequencies = inverse_frequencies(dim, base)
    if scaling["type"] == "longrope":
        original = scaling["original_max_position_embeddings"]
        is_long = max(n_tokens, longest) > original
        frequencies = frequencies / torch.tensor(scaling["long_factor" if is_long else "short_factor"],
                                                 dtype=torch.float32)
        magnitude = math.sqrt(1 + math.log(longest / original) / math.log(original))
    return torch.outer(positions, frequencies), magnitude


class Attention(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        size, self.n_heads = config["hidden_size"], config["num_attention_heads"]
        self.n_kv_heads = config["num_key_value_heads"]
        self.head_dim = size // self.n_heads
        self.q_proj = nn.Linear(size, self.n_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(size, self.n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(size, self.n_kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, size, bias=False)

    def forward(self, x):
        angles, magnitude = angles_of(self.config, self.head_dim, x.shape[1])
        q = rotate(heads(self.q_proj(x), self.n_heads), angles, magnitude)
        k = rotate(heads(self.k_proj(x), self.n_kv_heads), angles, magnitude)
        v = heads(self.v_proj(x), self.n_kv_heads)
        return self.o_proj(causal_attention(q, k, v, self.head_dim ** -0.5))


class LatentAttention(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        size, self.n_heads = config["hidden_size"], config["num_attention_heads"]
        self.nope, self.rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
        self.v_dim, self.rank = size // self.n_heads, config["kv_lora_rank"]
        self.q_a_proj = nn.Linear(size, config["q_lora_rank"], bias=False)
        self.q_a_layernorm = RMSNorm(config["q_lora_rank"], INNER_EPS)
        self.q_b_proj = nn.Linear(config["q_lora_rank"], self.n_heads * (self.nope + self.rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(size, self.rank + self.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(self.rank, INNER_EPS)
        self.kv_b_proj = nn.Linear(self.rank, self.n_heads * (self.nope + self.v_dim), bias=False)
        self.o_proj = nn.Linear(self.n_heads * self.v_dim, size, bias=False)

    def forward(self, x):
        angles, magnitude = angles_of(self.config, self.rope, x.shape[1])
        q = heads(self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))), self.n_heads)
        q_plain, q_rotary = q.split([self.nope, self.rope], dim=-1)
        latent, k_rotary = self.kv_a_proj_with_mqa(x).split([self.rank, self.rope], dim=-1)
        kv = heads(self.kv_b_proj(self.kv_a_layernorm(latent)), self.n_heads)
        k_plain, v = kv.split([self.nope, self.v_dim], dim=-1)
        # One rotary key for all heads.
        k_rotary = rotate(heads(k_rotary, 1), angles, magnitude).expand(-1, self.n_heads, -1, -1)
        q = torch.cat([q_plain, rotate(q_rotary, angles, magnitude)], dim=-1)
        k = torch.cat([k_plain, k_rotary], dim=-1)
        return self.o_proj(causal_attention(q, k, v, (self.nope + self.rope) ** -0.5))


class MLP(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.gate_proj = nn.Linear(config["hidden_size"], config["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(config["hidden_size"], config["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(config["intermediate_size"], config["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: dict, attention: type):
        super().__init__()
        self.branch_scale = config["scale_depth"] / math.sqrt(config["num_hidden_layers"])
        self.input_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.self_attn = attention(config)
        self.post_attention_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x)) * self.branch_scale
        return x + self.mlp(self.post_attention_layernorm(x)) * self.branch_scale


class MiniCPMForCausalLM(nn.Module):
    """The head is tied unless the config says otherwise, as the published default is."""

    attention = Attention

    def __init__(self, **config):
        super().__init__()
        size = config["hidden_size"]
        self.embedding_scale = config["scale_emb"]
        self.head_divisor = size / config["dim_model_base"]
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(config["vocab_size"], size),
            "layers": nn.ModuleList(Block(config, self.attention) for _ in range(config["num_hidden_layers"])),
            "norm": RMSNorm(size, config["rms_norm_eps"]),
        })
        tied = config.get("tie_word_embeddings", True)
        self.lm_head = None if tied else nn.Linear(size, config["vocab_size"], bias=False)

    def forward(self, input_ids, **_):
        x = self.model["embed_tokens"](input_ids) * self.embedding_scale
        states = [x]
        for layer in self.model["layers"]:
            x = layer(x)
            states.append(x)
        states[-1] = self.model["norm"](x)
        head = (self.lm_head or self.model["embed_tokens"]).weight
        return answer(nn.functional.linear(states[-1] / self.head_divisor, head), states)


class MiniCPM3ForCausalLM(MiniCPMForCausalLM):
    attention = LatentAttention
