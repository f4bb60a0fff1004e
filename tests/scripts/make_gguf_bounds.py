"""Writes tests/data/gguf/quantized.json: numbers, and the blocks that llama.cpp's own quantizers make of them.

The k-quants' quantizers are not in the `gguf` package; they are taken from the shared library of the
`ctransformers` wheel (`pip download --no-deps ctransformers==0.2.27`; ggml of September 2023), the other
schemes' from `gguf` 0.19.0. Numbers: weights of the zoo, Gaussian and heavy-tailed noise, a constant, zeros.
A fourth argument sets how many rows of each, for a trial on many.

    python tests/scripts/make_gguf_bounds.py libctransformers.so tests/zoo/llama-a tests/data/gguf/quantized.json
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as T

N = int(sys.argv[4]) if len(sys.argv) > 4 else 2
library = ctypes.CDLL(sys.argv[1])
rng = np.random.default_rng(21)


class Parameters(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


# Fills the table of f16 values, without which the quantizers take every scale for 0.
library.ggml_init.argtypes = [Parameters]
library.ggml_init.restype = ctypes.c_void_p
library.ggml_init(Parameters(1 << 16, None, False))


def by_library(kind, values):
    elements, size = GGML_QUANT_SIZES[kind]
    out = np.zeros(values.size // elements * size, np.uint8)
    histogram = (ctypes.c_int64 * 16)()
    quantize = getattr(library, f"ggml_quantize_{kind.name.replace('Q', 'q', 1)}")
    quantize.restype = ctypes.c_size_t
    pointers = (values.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
    n = ctypes.c_int(values.size)
    assert quantize(*pointers, n, n, histogram) == out.size
    return out


def zoo(folder):
    raw = (Path(folder) / "model.safetensors").read_bytes()
    bits = np.frombuffer(raw[len(raw) - 2 * 256 * 1024 :], "<u2").astype("<u4") << 16
    return bits.view("<f4").reshape(-1, 256)


weights = zoo(sys.argv[2])
parts = [
    weights[rng.permutation(len(weights))[:N]],
    rng.standard_normal((N, 256)) * 0.02,
    rng.standard_t(2, (N, 256)) * 10.0 ** rng.integers(-4, 2, (N, 1)),
    np.abs(rng.standard_normal((N, 256))),
    # So small that the scale of scales is a subnormal f16.
    rng.standard_t(2, (2, 256)) * 1e-4,
    np.full((1, 256), 0.3),
    np.zeros((1, 256)),
]
values = np.concatenate([part.astype(np.float32) for part in parts]).reshape(-1)
cases = []
for kind in [T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K]:
    cases.append({"type": kind.name, "by": "ggml", "blocks": by_library(kind, values).tobytes().hex()})
for kind in [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.TQ1_0, T.TQ2_0, T.MXFP4]:
    made = quants.quantize(values, kind)
    cases.append({"type": kind.name, "by": "gguf", "blocks": made.tobytes().hex()})
with open(sys.argv[3], "w") as file:
    json.dump({"values": values.astype("<f4").tobytes().hex(), "cases": cases}, file, indent=0)
    file.write("\n")
