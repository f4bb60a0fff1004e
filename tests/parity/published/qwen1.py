"""Qwen (first generation; Qwen-7B and its kin), whose code lives in its repositories.

Facts from QwenLM/Qwen and vLLM: a fused `c_attn` with bias, everything else without; the MLP
multiplies `w1(x)` by silu(`w2(x)`), each half of `intermediate_size` wide. Beyond the trained
`seq_length`, the rotary base grows in powers of two (`use_dynamic_ntk`) and queries are multiplied by
log_{seq_length}(position) (`use_logn_attn`).
"""

import math

import torch
from torch import nn

from published.common import RMSNorm, answer, causal_attention, heads, inverse_frequencies, rotate


class Attention(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        width = config["kv_channels"] * config["num_attention_heads"]
        self.config = config
        self.c_attn = nn.Linear(config["hidden_size"], 3 * width)
        self.c_proj = nn.Linear(width, config["hidden_size"], bias=not config["no_bias"])

    def angles(self, n_tokens: int) -> torch.Tensor:
        config, alpha = self.config, 1
        if config["use_dynamic_ntk"]:
            alpha = max(1, 2 ** math.ceil(math.log2(n_tokens / config["seq_length"]) + 1) - 1)
        dim = int(config["kv_channels"] * config["rotary_pct"])
        base = config["rotary_emb_base"] * alpha ** (dim / (dim - 2))
        return torch.outer(torch.arange(n_tokens, dtype=torch.float32), inverse_frequencies(dim, base))

    def forward(self, x):
        n_tokens = x.shape[1]
        q, k, v = (heads(part, self.config["num_attention_heads"]) for part in self.c_attn(x).chunk(3, dim=-1))
        angles = self.angles(n_tokens)
        q, k = rotate(q, angles), rotate(k, angles)
        if self.config["use_logn_attn"]:
            length = self.config["seq_length"]
            factors = [math.log(n, length) if n > length else 1.0 for n in range(1, n_tokens + 1)]
            q = q * torch.tensor(factors, dtype=torch.float32)[:, None].to(q.dtype)
        return self.c_proj(causal_attention(q, k, v, self.config["kv_channels"] ** -0.5))


class MLP(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        width, bias = config["intermediate_size"] // 2, not config["no_bias"]
        self.w1 = nn.Linear(config["hidden_size"], width, bias=bias)
        self.w2 = nn.Linear(config["hidden_size"], width, bias=bias)
        self.c_proj = nn.Linear(width, config["hidden_size"], bias=bias)

    def forward(self, x):
        return self.c_proj(self.w1(x) * nn.functional.silu(self.w2(x)))


class Block(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.ln_1 = RMSNorm(config["hidden_size"], config["layer_norm_epsilon"])
        self.attn = Attention(config)
        self.ln_2 = RMSNorm(config["hidden_size"], config["layer_norm_epsilon"])
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class QWenLMHeadModel(nn.Module):
    def __init__(self, **config):
        super().__init__()
        size = config["hidden_size"]
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config["vocab_size"], size),
            "h": nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"])),
            "ln_f": RMSNorm(size, config["layer_norm_epsilon"]),
        })
        self.lm_head = nn.Linear(size, config["vocab_size"], bias=False)

    def forward(self, input_ids, **_):
        x = self.transformer["wte"](input_ids)
        states = [x]
        for block in self.transformer["h"]:
            x = block(x)
            states.append(x)
        states[-1] = self.transformer["ln_f"](x)
        return answer(self.lm_head(states[-1]), states)
