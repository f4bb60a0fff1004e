"""Writes GGUF files of zoo models into tests/data/gguf/: llama-a and llama-a-tuned, quantized, and gpt2-a.

Names, metadata and the order of q's and k's rows are those of llama.cpp's converter, the writer and the
quantizers those of the `gguf` package (`pip install gguf==0.19.0 safetensors numpy`). Rows of which no
whole number of blocks can be made, and vectors, are F32, as llama.cpp has it.

    python tests/scripts/make_gguf_zoo.py tests/zoo tests/data/gguf
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, quants
from gguf.constants import GGMLQuantizationType as T

LLAMA = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2 = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}
OUTSIDE = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm",
}


def tensors(folder):
    raw = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, end = (8 + length + at for at in entry["data_offsets"])
        data = raw[start:end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        yield name, values.astype(np.float32).reshape(entry["shape"])


def permute(weights, n_heads):
    shape = weights.shape
    split = weights.reshape(n_heads, 2, shape[0] // n_heads // 2, *shape[1:])
    return split.swapaxes(1, 2).reshape(shape)


def convert(folder, target, kind):
    config = json.loads((folder / "config.json").read_text())
    is_llama = config["model_type"] == "llama"
    writer = GGUFWriter(target, config["model_type"])
    writer.add_name(folder.name)
    key = (lambda llama, gpt2: config[llama if is_llama else gpt2])
    writer.add_block_count(key("num_hidden_layers", "n_layer"))
    writer.add_embedding_length(key("hidden_size", "n_embd"))
    writer.add_context_length(key("max_position_embeddings", "n_positions"))
    n_heads = key("num_attention_heads", "n_head")
    writer.add_head_count(n_heads)
    n_kv_heads = config.get("num_key_value_heads", n_heads)
    writer.add_head_count_kv(n_kv_heads)
    if is_llama:
        writer.add_feed_forward_length(config["intermediate_size"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    special = {t["id"] for t in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.get)
    assert [vocabulary[token] for token in tokens] == list(range(len(tokens)))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in special else 1 for i in range(len(tokens))])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, values in tensors(folder):
        stem, part = name.rsplit(".", 1)
        pieces = stem.split(".")
        if stem in OUTSIDE:
            new = f"{OUTSIDE[stem]}.{part}"
        else:
            at = next(i for i, piece in enumerate(pieces) if piece.isdigit())
            local = ".".join(pieces[at + 1 :])
            new = f"blk.{pieces[at]}.{(LLAMA if is_llama else GPT2)[local]}.{part}"
        if is_llama and ".attn_q." in new:
            values = permute(values, n_heads)
        if is_llama and ".attn_k." in new:
            values = permute(values, n_kv_heads)
        if not is_llama and values.ndim == 2 and "embd" not in new:
            values = values.T.copy()
        block = 256 if kind == T.TQ2_0 else 32
        if values.ndim == 1 or (kind != T.F16 and values.shape[-1] % block):
            writer.add_tensor(new, values)
        else:
            writer.add_tensor(new, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


zoo, out = Path(sys.argv[1]), Path(sys.argv[2])
for model, kind in [
    ("llama-a", T.Q8_0), ("llama-a", T.Q4_0), ("llama-a-tuned", T.Q4_0), ("gpt2-a", T.Q4_0),
]:
    convert(zoo / model, out / f"{model}-{kind.name.lower()}.gguf", kind)
