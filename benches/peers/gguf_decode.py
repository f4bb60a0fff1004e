"""How fast the `gguf` Python package dequantizes, for the bench `decode`: a type and GB/s of stored bytes a line.

    python gguf_decode.py FILE
"""

import sys
import time
import warnings

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

# Random bytes hold scales that overflow; that is no fault here.
warnings.filterwarnings("ignore")
np.seterr(all="ignore")
N_BYTES = 16 << 20

raw = np.fromfile(sys.argv[1], dtype=np.uint8, count=N_BYTES)
for kind in GGMLQuantizationType:
    elements, size = GGML_QUANT_SIZES[kind]
    rows = raw[: len(raw) // (64 * size) * 64 * size].reshape(-1, 64 * size)
    try:
        quants.dequantize(rows[:1], kind)
    except NotImplementedError:
        continue
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        quants.dequantize(rows, kind)
        seconds.append(time.perf_counter() - started)
    print(kind.name, rows.size / min(seconds) / 1e9)
