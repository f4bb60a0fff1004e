"""InternLM2, whose code lives in its repositories.

Facts from InternLM and vLLM: a Llama with other names, whose `wqkv` holds, for each key-value head in
turn, that group's query heads, then its key, then its value. Dynamic NTK beyond the trained length.
"""

import torch
from torch import nn

from published.common import (RMSNorm, answer, causal_attention, dynamic_ntk_base, inverse_frequencies,
                              rotate)


class Attention(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        size, n_heads = config["hidden_size"], config["num_attention_heads"]
        self.n_kv_heads, self.head_dim = config["num_key_value_heads"], size // n_heads
        self.wqkv = nn.Linear(size, (n_heads + 2 * self.n_kv_heads) * self.head_dim, bias=config["bias"])
        self.wo = nn.Linear(n_heads * self.head_dim, size, bias=config["bias"])

    def angles(self, n_tokens: int) -> torch.Tensor:
        scaling, base = self.config.get("rope_scaling"), self.config["rope_theta"]
        if scaling:
            if scaling["type"] != "dynamic":
                raise ValueError(f"rope_scaling {scaling}")
            base = dynamic_ntk_base(base, self.head_dim, n_tokens, self.config["max_position_embeddings"],
                                    scaling["factor"])
        return torch.outer(torch.arange(n_tokens, dtype=torch.float32), inverse_frequencies(self.head_dim, base))

    def forward(self, x):
        angles = self.angles(x.shape[1])
        # [batch, n_tokens, n_kv_heads, group + 2, head_dim]
        groups = self.wqkv(x).unflatten(-1, (self.n_kv_heads, -1, self.head_dim))
        q = groups[..., :-2, :].flatten(2, 3).transpose(1, 2)
        k, v = groups[..., -2, :].transpose(1, 2), groups[..., -1, :].transpose(1, 2)
        return self.wo(causal_attention(rotate(q, angles), rotate(k, angles), v, self.head_dim ** -0.5))


class FeedForward(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.w1 = nn.Linear(config["hidden_size"], config["intermediate_size"], bias=False)
        self.w3 = nn.Linear(config["hidden_size"], config["intermediate_size"], bias=False)
        self.w2 = nn.Linear(config["intermediate_size"], config["hidden_size"], bias=False)

    def forward(self, x):
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.attention_norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.feed_forward = FeedForward(config)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class InternLM2ForCausalLM(nn.Module):
    def __init__(self, **config):
        super().__init__()
        size = config["hidden_size"]
        self.model = nn.ModuleDict({
            "tok_embeddings": nn.Embedding(config["vocab_size"], size),
            "layers": nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"])),
            "norm": RMSNorm(size, config["rms_norm_eps"]),
        })
        self.output = nn.Linear(size, config["vocab_size"], bias=False)

    def forward(self, input_ids, **_):
        x = self.model["tok_embeddings"](input_ids)
        states = [x]
        for layer in self.model["layers"]:
            x = layer(x)
            states.append(x)
        states[-1] = self.model["norm"](x)
        return answer(self.output(states[-1]), states)
