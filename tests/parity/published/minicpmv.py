"""MiniCPM-Llama3-V 2.5: an Idefics2 vision tower, a resampler, a Llama; code lives in its repository.

Facts from OpenBMB's modelling code and vLLM. The tower sees an image as one strip of patches, row after
row, [3, patch, n_patches * patch], with a patch mask of one row: so its positions are those of an image
one patch high, and lie in the first row of the position table. (Version 2.6 passes the true grid.)
`vision(..., as_grid=True)` gives the tower the image as it is. The last layer is kept unless
`drop_vision_last_layer`, and `post_layernorm` follows.

The resampler: `kv_proj` without bias, `ln_kv`; learned `query` through `ln_q`; one multi-head attention
whose keys carry fixed 2-D sine-cosine positions of the true grid and whose values do not; `ln_post`;
times the matrix `proj`. Its rows replace the embeddings between `<image>` and `</image>`.
"""

import numpy
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

RESAMPLER_EPS = 1e-6
RESAMPLER_HEAD_DIM = 128  # of the published model: embed_dim // 128 heads; tiny models state their own


def sine_cosine_1d(dim: int, positions: numpy.ndarray) -> numpy.ndarray:
    """[n, dim]: sines, then cosines, of position / 10000^(i / (dim / 2)), in float64."""
    frequencies = 1.0 / 10000 ** (numpy.arange(dim // 2, dtype=numpy.float64) / (dim / 2))
    angles = numpy.outer(positions.astype(numpy.float64), frequencies)
    return numpy.concatenate([numpy.sin(angles), numpy.cos(angles)], axis=1)


def sine_cosine_2d(dim: int, n_rows: int, n_columns: int) -> torch.Tensor:
    """[n_rows * n_columns, dim] in float32: the first half tells the column, the second the row."""
    rows, columns = (axis.ravel() for axis in numpy.indices((n_rows, n_columns)))
    both = [sine_cosine_1d(dim // 2, columns), sine_cosine_1d(dim // 2, rows)]
    return torch.from_numpy(numpy.concatenate(both, axis=1)).float()


class Resampler(nn.Module):
    def __init__(self, n_queries: int, dim: int, n_heads: int, input_dim: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(n_queries, dim))
        self.kv_proj = nn.Linear(input_dim, dim, bias=False)
        self.attn = nn.MultiheadAttention(dim, n_heads)
        self.ln_q = nn.LayerNorm(dim, eps=RESAMPLER_EPS)
        self.ln_kv = nn.LayerNorm(dim, eps=RESAMPLER_EPS)
        self.ln_post = nn.LayerNorm(dim, eps=RESAMPLER_EPS)
        self.proj = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """x [n_patches, input_dim] to [n_queries, dim]."""
        values = self.ln_kv(self.kv_proj(x))
        keys = values + sine_cosine_2d(values.shape[-1], *grid).to(values.dtype)
        attended = self.attn(self.ln_q(self.query), keys, values, need_weights=False)[0]
        return self.ln_post(attended) @ self.proj


class MiniCPMV(nn.Module):
    def __init__(self, **config):
        super().__init__()
        vision = {k: v for k, v in config["vision_config"].items() if k != "model_type"}
        vision = Idefics2VisionConfig(**vision)
        language = LlamaConfig(**{k: v for k, v in config.items() if k not in ("vision_config", "model_type")})
        vision._attn_implementation = language._attn_implementation = "eager"
        self.patch_size = vision.patch_size
        self.vpm = Idefics2VisionTransformer(vision)
        if config["drop_vision_last_layer"]:
            self.vpm.encoder.layers = self.vpm.encoder.layers[:-1]
        dim = config["hidden_size"]
        n_heads = config.get("resampler_n_heads", dim // RESAMPLER_HEAD_DIM)
        self.resampler = Resampler(config["query_num"], dim, n_heads, vision.hidden_size)
        self.llm = LlamaForCausalLM(language)

    def strip(self, pixels: torch.Tensor) -> torch.Tensor:
        """[3, height, width] to [1, 3, patch, n_patches * patch], patches row after row."""
        size = self.patch_size
        patches = pixels.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # [3, rows, size, columns, size]
        return patches.permute(0, 2, 1, 3, 4).flatten(2)[None]

    def vision(self, pixels: torch.Tensor, as_grid: bool = False) -> torch.Tensor:
        """Pixels [3, height, width] to [n_patches, vision_size]."""
        return self.vpm(pixels[None] if as_grid else self.strip(pixels)).last_hidden_state[0]

    def forward(self, input_ids, images: list[tuple[int, torch.Tensor]]):
        """Logits [n_tokens, vocab_size]; each image is (position of its first placeholder, features)."""
        embeddings = self.llm.model.embed_tokens(input_ids).clone()
        for start, features in images:
            embeddings[0, start:start + len(features)] = features
        return self.llm(inputs_embeds=embeddings, use_cache=False).logits[0]
