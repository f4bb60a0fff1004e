"""Writes tests/data/formats/: one small Llama-shaped model in formats that the zoo's narrow rows cannot take.

K-quants need rows of 256. The weights are numbers that the test computes as well (`tests/suite/formats.rs`), so
that only the packed files are committed, and of those that hold every value whole (`.head`, `.pkl`) only the
part before the values. Writers: the `gguf` package, `torch.save`, and for the k-quants llama.cpp's own quantizers
out of the shared library of the `ctransformers` wheel (`pip download --no-deps ctransformers==0.2.27`; ggml of
September 2023). `IQ4_XS` and `IQ2_XXS` are packed here after the published layouts: a scale per block by the
largest value, then the nearest code.

    pip install gguf==0.19.0 torch numpy
    python tests/scripts/make_formats.py libctransformers.so tests/data/formats
"""

import ctypes
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as T

HIDDEN, HEADS, HEAD_DIM, MLP, VOCABULARY, LAYERS = 256, 2, 16, 32, 32, 2


class Parameters(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def load_library(path):
    """llama.cpp's quantizers; they need its tables, which the first context fills."""
    library = ctypes.CDLL(path)
    library.ggml_init.argtypes = [Parameters]
    library.ggml_init.restype = ctypes.c_void_p
    library.ggml_init(Parameters(1 << 16, None, False))
    return library


def shapes():
    """Names in transformers' terms, in the order of publication, with GGUF's."""
    inner = HEADS * HEAD_DIM
    yield "model.embed_tokens", "token_embd", (VOCABULARY, HIDDEN)
    for i in range(LAYERS):
        for name, new, shape in [
            ("input_layernorm", "attn_norm", (HIDDEN,)), ("self_attn.q_proj", "attn_q", (inner, HIDDEN)),
            ("self_attn.k_proj", "attn_k", (inner, HIDDEN)), ("self_attn.v_proj", "attn_v", (inner, HIDDEN)),
            ("self_attn.o_proj", "attn_output", (HIDDEN, inner)), ("post_attention_layernorm", "ffn_norm", (HIDDEN,)),
            ("mlp.gate_proj", "ffn_gate", (MLP, HIDDEN)), ("mlp.up_proj", "ffn_up", (MLP, HIDDEN)),
            ("mlp.down_proj", "ffn_down", (HIDDEN, MLP)),
        ]:  # fmt: skip
            yield f"model.layers.{i}.{name}", f"blk.{i}.{new}", shape
    yield "model.norm", "output_norm", (HIDDEN,)
    yield "lm_head", "output", (VOCABULARY, HIDDEN)


def mix(seed, index):
    """SplitMix64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def weights(seed, shape, tuned):
    """Near Gaussian, as weights are: sums of eight bytes, as whole numbers over 2048; tuned ones are moved by up to 8."""
    index = np.arange(np.prod(shape), dtype=np.uint64)
    summed = mix(seed, index).astype("<u8").view(np.uint8).reshape(-1, 8).astype(np.int64).sum(axis=1)
    whole = (summed - 1020) // 8
    if tuned:
        whole += (mix(seed + 1000, index) % np.uint64(17)).astype(np.int64) - 8
    return (whole / 2048).astype(np.float32).reshape(shape)


def model(tuned=False):
    for seed, (name, new, shape) in enumerate(shapes()):
        yield name, new, weights(seed, shape, tuned)


def permute(values, n_heads):
    split = values.reshape(n_heads, 2, len(values) // n_heads // 2, -1)
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))


def by_library(library, kind, values):
    elements, size = GGML_QUANT_SIZES[kind]
    values = np.ascontiguousarray(values, np.float32)
    out = np.zeros(values.size // elements * size, np.uint8)
    histogram = (ctypes.c_int64 * 16)()
    quantize = getattr(library, f"ggml_quantize_{kind.name.replace('Q', 'q', 1)}")
    quantize.restype = ctypes.c_size_t
    pointers = (values.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
    n = ctypes.c_int(values.size)
    assert quantize(*pointers, n, n, histogram) == out.size
    return out.reshape(len(values), -1)


def iq4_xs(values):
    """f16 d, u16 high bits of eight 6-bit scales, u8[4] low bits, 128 bytes of codes: low halves first."""
    table = np.array(quants.IQ4_NL.kvalues, np.float32)
    blocks = values.reshape(-1, 8, 32)
    largest = np.abs(blocks).max(axis=2)
    d = (largest.max(axis=1) / 127 / 31).astype(np.float16)
    step = d.astype(np.float32)[:, None]
    scales = np.clip(np.ceil(largest / 127 / step), 1, 31).astype(np.uint16)
    scaled = blocks / (scales * step)[:, :, None]
    codes = np.abs(scaled[..., None] - table).argmin(axis=-1).astype(np.uint8)
    stored = scales + 32
    high = np.zeros(len(blocks), np.uint16)
    low = np.zeros((len(blocks), 4), np.uint8)
    for i in range(8):
        high |= (stored[:, i] >> 4) << (2 * i)
        low[:, i // 2] |= ((stored[:, i] & 15) << (4 * (i % 2))).astype(np.uint8)
    packed = codes[:, :, :16] | codes[:, :, 16:] << 4
    parts = [d.view(np.uint8).reshape(-1, 2), high.view(np.uint8).reshape(-1, 2), low, packed.reshape(-1, 128)]
    return np.concatenate(parts, axis=1).reshape(len(values), -1)


def iq2_xxs(values):
    """f16 d; per 32 values four bytes of grid indices, then 4 bits of scale over four times 7 bits of signs."""
    quants.IQ2_XXS.init_grid()
    grid = quants.IQ2_XXS.grid.reshape(-1, 8).astype(np.float32)
    blocks = values.reshape(-1, 8, 4, 8)
    signs = blocks < 0
    # Of seven stored signs the eighth is the parity: where it is not, the smallest value's is turned.
    odd = signs.sum(axis=-1) % 2 == 1
    smallest = np.abs(blocks).argmin(axis=-1)
    turn = odd[..., None] & (np.arange(8) == smallest[..., None])
    signs ^= turn
    magnitudes = np.where(turn, 0, np.abs(blocks))
    d = (np.abs(blocks).max(axis=(1, 2, 3)) / 43 / (0.5 + 15) * 4).astype(np.float16)
    step = d.astype(np.float32)[:, None]
    largest = np.abs(blocks).max(axis=(2, 3))
    scales = np.clip(np.round(largest / 43 * 4 / step - 0.5), 0, 15).astype(np.uint32)
    unit = (step * (0.5 + scales) * 0.25)[:, :, None, None]
    scaled = magnitudes / unit
    distance = ((scaled[..., None, :] - grid) ** 2).sum(axis=-1)
    indices = distance.argmin(axis=-1).astype(np.uint8)
    bits = (signs[..., :7] << np.arange(7)).sum(axis=-1).astype(np.uint32)
    word = scales << 28
    for i in range(4):
        word |= bits[:, :, i] << np.uint32(7 * i)
    words = np.concatenate([indices, word.astype("<u4").view(np.uint8).reshape(-1, 8, 4)], axis=2)
    parts = [d.view(np.uint8).reshape(-1, 2), words.reshape(-1, 64)]
    return np.concatenate(parts, axis=1).reshape(len(values), -1)


def packed(library, kind, values):
    """Rows `[n, width]` in the bytes of a type."""
    if kind == T.F32:
        return values
    if kind in (T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K):
        return by_library(library, kind, values)
    if kind not in (T.IQ4_XS, T.IQ2_XXS):
        return quants.quantize(values, kind)
    rows = (iq4_xs if kind == T.IQ4_XS else iq2_xxs)(values)
    read = quants.dequantize(rows, kind)
    assert np.abs(read - values).mean() < 0.6 * np.abs(values).mean(), kind
    return rows


def write(library, target, tensors, kinds, sizes):
    """A Llama's GGUF.

    tensors: names of both kinds and values; kinds: what a matrix becomes, by its GGUF name and shape;
    sizes: n_layers, hidden, heads of q, heads of k and v, head_dim, mlp.
    """
    n_layers, hidden, heads, kv_heads, head_dim, mlp = sizes
    writer = GGUFWriter(target, "llama")
    writer.add_name("wide")
    writer.add_block_count(n_layers)
    writer.add_embedding_length(hidden)
    writer.add_context_length(64)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_feed_forward_length(mlp)
    for new, values in tensors:
        if ".attn_q" in new or ".attn_k" in new:
            values = permute(values, heads if ".attn_q" in new else kv_heads)
        kind = kinds(new, values.shape) if values.ndim == 2 else T.F32
        writer.add_tensor(f"{new}.weight", packed(library, kind, values), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def one(kind, narrow):
    return lambda _, shape: kind if shape[1] % 256 == 0 else narrow


def q4_k_m(name, shape):
    better = any(part in name for part in ("attn_v", "ffn_down", "output.weight"))
    return one(T.Q6_K, T.Q8_0)(name, shape) if better else one(T.Q4_K, T.Q5_0)(name, shape)


def main():
    library, out = load_library(sys.argv[1]), Path(sys.argv[2])

    def put(name, kinds, tuned=False):
        tensors = ((new, values) for _, new, values in model(tuned))
        write(library, out / name, tensors, kinds, (LAYERS, HIDDEN, HEADS, HEADS, HEAD_DIM, MLP))

    put("f16.gguf", one(T.F16, T.F16))
    raw = (out / "f16.gguf").read_bytes()
    n_values = sum(values.size * (4 if values.ndim == 1 else 2) for _, _, values in model())
    (out / "f16.gguf.head").write_bytes(raw[: len(raw) - n_values])
    (out / "f16.gguf").unlink()
    for name, tuned in [("", False), ("-tuned", True)]:
        put(f"q4_k_m{name}.gguf", q4_k_m, tuned)
        put(f"q2_k{name}.gguf", one(T.Q2_K, T.Q4_0), tuned)
        put(f"iq4_xs{name}.gguf", one(T.IQ4_XS, T.Q5_0), tuned)
    put("iq2_xxs.gguf", one(T.IQ2_XXS, T.Q4_0))
    state = {f"{name}.weight": torch.from_numpy(values).to(torch.bfloat16) for name, _, values in model()}
    torch.save(state, out / "wide.bin")
    with zipfile.ZipFile(out / "wide.bin") as archive:
        (out / "wide.pkl").write_bytes(archive.read("wide/data.pkl"))
    (out / "wide.bin").unlink()


if __name__ == "__main__":
    main()
