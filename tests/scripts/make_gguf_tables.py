"""Writes src/tensor/quant/grids.rs: the grids of llama.cpp's IQ1, IQ2 and IQ3 schemes, packed our way.

The grids are constants of the file format: which combinations of 8 (or 4) levels have a code. They are
read from the `gguf` package (MIT, `pip install gguf`), which holds them as text, and written as one
16-bit number per row: element i of a row of eight in bits 2i and 2i+1, of a row of four in bits 3i to
3i+2, each the index of its level.

    python tests/scripts/make_gguf_tables.py > src/tensor/quant/grids.rs && rustfmt src/tensor/quant/grids.rs
"""

import numpy as np
from gguf import quants

TABLES = [
    ("IQ1S", quants.IQ1_S, "Rows of `IQ1_S` and `IQ1_M`; levels -1, 0, 1."),
    ("IQ2XXS", quants.IQ2_XXS, "Rows of `IQ2_XXS`; levels 8, 25, 43."),
    ("IQ2XS", quants.IQ2_XS, "Rows of `IQ2_XS`; levels 8, 25, 43."),
    ("IQ2S", quants.IQ2_S, "Rows of `IQ2_S`; levels 8, 25, 43."),
    ("IQ3XXS", quants.IQ3_XXS, "Rows of `IQ3_XXS`; levels 4, 12, 20, 28, 36, 44, 52, 62."),
    ("IQ3S", quants.IQ3_S, "Rows of `IQ3_S`; levels 1, 3, 5, 7, 9, 11, 13, 15."),
]

print("//! The grids of llama.cpp's `IQ1`, `IQ2` and `IQ3` schemes, one number per row.")
print("//!")
print("//! Written by `tests/scripts/make_gguf_tables.py`, which says how rows are packed; not edited by hand.")
for name, scheme, doc in TABLES:
    scheme.init_grid()
    grid = scheme.grid.reshape(scheme.grid_shape)
    levels = np.array(scheme.grid_map, dtype=np.float32)
    index = np.searchsorted(levels, grid)
    assert (levels[index] == grid).all()
    bits = 2 if grid.shape[1] == 8 else 3
    rows = (index.astype(np.int64) << (bits * np.arange(grid.shape[1]))).sum(axis=1)
    print(f"\n/// {doc}\npub(super) static {name}: [u16; {len(rows)}] = [")
    for start in range(0, len(rows), 12):
        print("    " + " ".join(f"0x{row:04x}," for row in rows[start : start + 12]))
    print("];")
