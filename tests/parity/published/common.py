"""What the families written here share: normalisation, rotary positions, causal attention."""

import math
from types import SimpleNamespace

import torch
from torch import nn


class RMSNorm(nn.Module):
    """x / rms(x) in float32, rounded to the model's type, then times the gain."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def inverse_frequencies(dim: int, base: float) -> torch.Tensor:
    """[dim / 2] angles per position."""
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def dynamic_ntk_base(base: float, dim: int, n_tokens: int, max_positions: int, factor: float) -> float:
    """The base that dynamic NTK scaling uses for a text of this length."""
    if n_tokens <= max_positions:
        return base
    return base * (factor * n_tokens / max_positions - (factor - 1)) ** (dim / (dim - 2))


def rotate(x: torch.Tensor, angles: torch.Tensor, magnitude: float = 1.0) -> torch.Tensor:
    """Rotates pairs (i, i + dim/2) of x [..., n_tokens, dim] by angles [n_tokens, dim / 2], in float32."""
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    cos, sin = angles.cos() * magnitude, angles.sin() * magnitude
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def causal_attention(q, k, v, scale: float) -> torch.Tensor:
    """softmax(q kᵀ · scale) v over the past. q [batch, n_heads, n_tokens, dim]; k, v may have fewer heads.

    The softmax runs in float32 and its result is rounded to the model's type. Returns
    [batch, n_tokens, n_heads * v_dim].
    """
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = q @ k.transpose(-1, -2) * scale
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.float().masked_fill(future, -math.inf).softmax(-1).to(q.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)


def heads(x: torch.Tensor, n_heads: int) -> torch.Tensor:
    """[batch, n_tokens, n_heads * dim] to [batch, n_heads, n_tokens, dim]."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def answer(logits, hidden_states):
    """What transformers calls a CausalLMOutput."""
    return SimpleNamespace(logits=logits, hidden_states=tuple(hidden_states))
