"""MiniCPM-V 2.0's way from an image to rows of its decoder; code lives in its repository and in timm.

Facts from OpenBMB's modelling code, vLLM and timm 0.9. The tower is timm's SigLIP so400m without its
pooling head: fused qkv, GELU by the error function, LayerNorms of epsilon 1e-6, one norm after the last
layer; `drop_vision_last_layer` takes the last layer away before the weights are read. Its positions, a
square `pos_embed` [1, n_side^2, dim], are resized to the patches of an image by `F.interpolate` in
float32: bicubic, antialiased.

The resampler is that of 2.5, but for its queries: a stored `pos_embed` of their own square is added to
them after `ln_q`. 2.5 has it not.
"""

import torch
from torch import nn
from torch.nn import functional as F

from published.minicpmv import Resampler, sine_cosine_2d

EPS = 1e-6


class Block(nn.Module):
    def __init__(self, dim: int, n_heads: int, mlp_dim: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, mlp_dim), "fc2": nn.Linear(mlp_dim, dim)})

    def forward(self, x):
        """x [n, dim]."""
        n, dim = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(n, 3, self.n_heads, dim // self.n_heads).permute(1, 2, 0, 3)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.attn["proj"]((weights @ v).transpose(0, 1).reshape(n, dim))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Tower(nn.Module):
    def __init__(self, dim: int, n_heads: int, mlp_dim: int, n_layers: int, patch: int, n_side: int):
        super().__init__()
        self.n_side = n_side
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, stride=patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, n_side * n_side, dim))
        self.blocks = nn.ModuleList([Block(dim, n_heads, mlp_dim) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """[rows * columns, dim]."""
        if grid == (self.n_side, self.n_side):
            return self.pos_embed[0]
        square = self.pos_embed.view(1, self.n_side, self.n_side, -1).permute(0, 3, 1, 2)
        return F.interpolate(square, size=grid, mode="bicubic", antialias=True)[0].flatten(1).T

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [3, height, width] to [n_patches, dim]."""
        patches = self.patch_embed["proj"](pixels[None])[0]  # [dim, rows, columns]
        x = patches.flatten(1).T + self.positions(tuple(patches.shape[1:]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class QueryPositionsResampler(Resampler):
    def __init__(self, n_side: int, dim: int, n_heads: int, input_dim: int):
        super().__init__(n_side * n_side, dim, n_heads, input_dim)
        self.pos_embed = nn.Parameter(sine_cosine_2d(dim, n_side, n_side))

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        values = self.ln_kv(self.kv_proj(x))
        keys = values + sine_cosine_2d(values.shape[-1], *grid).to(values.dtype)
        queries = self.ln_q(self.query) + self.pos_embed
        attended = self.attn(queries, keys, values, need_weights=False)[0]
        return self.ln_post(attended) @ self.proj
