"""Writes tests/data/gguf/blocks.json: random blocks of every quantized type, and what they stand for.

Values are those of the `gguf` package (`pip install gguf==0.19.0`), llama.cpp's own; for Q8_1 and Q8_K,
which the package does not decode, the product of scale and code. Blocks are hexadecimal; values are
the bits of each f32, little-endian, so that the comparison is one of bits. Scales are made finite.

    python tests/scripts/make_gguf_reference.py tests/data/gguf/blocks.json
"""

import json
import sys

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as T

# Where the f16 scales of a block lie.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q8_1: [0, 2],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ1_S: [0], T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.TQ1_0: [52], T.TQ2_0: [64],
}
# ggml stores the two scales of Q8_1 as f16; the package's table still has the f32 of older versions.
SIZES = dict(GGML_QUANT_SIZES) | {T.Q8_1: (32, 36)}
OTHERS = [T.Q8_K, T.IQ1_M, T.MXFP4, T.NVFP4]
rng = np.random.default_rng(20)


def block(kind, n):
    _, size = SIZES[kind]
    made = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in HALVES.get(kind, []):
        scale = (rng.standard_normal(n) * 10.0 ** rng.integers(-6, 2, n)).astype(np.float16)
        made[:, at : at + 2] = scale.view(np.uint8).reshape(n, 2)
    if kind == T.Q8_K:
        made[:, :4] = rng.standard_normal(n).astype("<f4").view(np.uint8).reshape(n, 4)
    if kind == T.IQ1_M:
        made[:, 55] &= 0xBF  # The exponent's highest bit: no infinities.
    if kind == T.MXFP4:
        made[:, 0] = [0, 1, 2, 130][:n]
    if kind == T.NVFP4:
        made[:, :4] &= 0x7F
    return made


def values(kind, made):
    if kind == T.Q8_1:
        d = made[:, :2].copy().view("<f2").astype(np.float32)
        return d * made[:, 4:].view(np.int8).astype(np.float32)
    if kind == T.Q8_K:
        d = made[:, :4].copy().view("<f4")
        return d * made[:, 4:260].view(np.int8).astype(np.float32)
    return quants.dequantize(made, kind)


cases = []
for kind in list(HALVES) + OTHERS:
    elements, _ = SIZES[kind]
    made = block(kind, 4 if elements < 256 else 2)
    out = values(kind, made).astype("<f4").reshape(-1)
    assert out.size == elements * len(made) and np.isfinite(out).all(), kind
    cases.append({"type": kind.name, "blocks": made.tobytes().hex(), "values": out.tobytes().hex()})
with open(sys.argv[1], "w") as file:
    json.dump({"source": "gguf 0.19.0", "cases": cases}, file, indent=0)
    file.write("\n")
