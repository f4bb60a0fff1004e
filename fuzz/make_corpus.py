#!/usr/bin/env python3
"""Writes fuzz/corpus: small inputs for every fuzz target, made of the tests' own files.

Needs Python alone. Run from anywhere: python3 fuzz/make_corpus.py
A folder per target; the entry points say what each input is (fuzz/parsers.rs). Inputs that a
run of the fuzzer found are not here: what fails becomes a test of the parser that failed.
"""

import io
import json
import pathlib
import pickle
import shutil
import struct
import sys
import types
import zipfile
from collections import OrderedDict

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
DATA = TESTS / "data"
OUT = ROOT / "fuzz" / "corpus"

# llama.cpp's number of each block-quantized type, elements and bytes of a block.
BLOCKS = {
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 29: (256, 56), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36),
}  # fmt: skip


def put(target, name, data):
    folder = OUT / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def noise(n):
    """Bytes without a pattern, the same in every run."""
    state, out = 1, bytearray()
    while len(out) < n:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out += struct.pack("<Q", state)
    return bytes(out[:n])


def as_safetensors(tensors, metadata=None):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, values) in tensors.items():
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += values
    header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def read_safetensors(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + n])
    header.pop("__metadata__", None)
    cut = lambda offsets: raw[8 + n + offsets[0] : 8 + n + offsets[1]]  # noqa: E731
    return {k: (v["dtype"], v["shape"], cut(v["data_offsets"])) for k, v in header.items()}


def layer(prefix, hidden, mlp, size):
    """Shapes of a Llama layer."""
    shapes = {
        "input_layernorm": [hidden], "post_attention_layernorm": [hidden],
        "self_attn.q_proj": [hidden, hidden], "self_attn.k_proj": [hidden, hidden],
        "self_attn.v_proj": [hidden, hidden], "self_attn.o_proj": [hidden, hidden],
        "mlp.gate_proj": [mlp, hidden], "mlp.up_proj": [mlp, hidden], "mlp.down_proj": [hidden, mlp],
    }  # fmt: skip
    return {f"{prefix}.{k}.weight": (s, noise(size * s[0] * (s + [1])[1])) for k, s in shapes.items()}


def make_safetensors():
    model = {"model.embed_tokens.weight": ([6, 4], noise(48)), "model.norm.weight": ([4], noise(8))}
    for i in range(2):
        model |= layer(f"model.layers.{i}", 4, 6, 2)
    tensors = {k: ("BF16", s, b) for k, (s, b) in model.items()}
    put("safetensors", "llama", as_safetensors(tensors, {"format": "pt"}))
    sizes = {
        "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4,
        "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    }  # fmt: skip
    for dtype, size in sizes.items():
        put("safetensors", dtype, as_safetensors({"a": (dtype, [2, 3], noise(6 * size))}))
    put("safetensors", "none", as_safetensors({}))
    put("safetensors", "empty-and-scalar", as_safetensors({"a": ("F32", [0, 7], b""), "b": ("F32", [], noise(4))}))


def make_index():
    shard = "model-00001-of-00001.safetensors"
    whole = {"metadata": {"total_size": 4}, "weight_map": {"a": shard}}
    put("shard_index", "whole", json.dumps(whole).encode())
    put("shard_index", "float-size", json.dumps(whole | {"metadata": {"total_size": 4.0}}).encode())
    for name, other in [("above", "../" + shard), ("absolute", "/" + shard), ("absent", "b.safetensors")]:
        put("shard_index", name, json.dumps({"weight_map": {"a": other}}).encode())


def gguf_text(text):
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value):
    """Type and bytes of a value."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, (str, bytes)):
        return 8, gguf_text(value)
    items = [gguf_value(item) for item in value]
    kind = items[0][0] if items else 4
    return 9, struct.pack("<IQ", kind, len(items)) + b"".join(raw for _, raw in items)


def as_gguf(metadata, tensors, version=3):
    """tensors: name -> (number of the type, shape slowest first, bytes)."""
    head = struct.pack("<IIQQ", 0x46554747, version, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind, raw = gguf_value(value)
        head += gguf_text(key) + struct.pack("<I", kind) + raw
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        head += gguf_text(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", n) for n in reversed(shape))
        head += struct.pack("<IQ", kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + data


def make_gguf():
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab", "\u2581a", "<0x0A>"]
    arch = lambda name: {  # noqa: E731
        "general.architecture": name, f"{name}.block_count": 1, f"{name}.embedding_length": 32,
        f"{name}.attention.head_count": 2, f"{name}.attention.head_count_kv": 1,
        f"{name}.feed_forward_length": 32, f"{name}.context_length": 64,
        f"{name}.attention.layer_norm_rms_epsilon": 1e-5, f"{name}.rope.freq_base": 1e4,
        f"{name}.rope.dimension_count": 16,
    }  # fmt: skip
    spoken = lambda model: {  # noqa: E731
        "tokenizer.ggml.model": model, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 6], "tokenizer.ggml.scores": [float(-i) for i in range(8)],
        "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }  # fmt: skip
    f16 = lambda *shape: (1, list(shape), noise(2 * shape[0] * (shape + (1,))[1]))  # noqa: E731
    names = {
        "token_embd.weight": f16(8, 32), "output_norm.weight": f16(32), "blk.0.attn_norm.weight": f16(32),
        "blk.0.attn_q.weight": f16(32, 32), "blk.0.attn_k.weight": f16(16, 32), "blk.0.attn_v.weight": f16(16, 32),
        "blk.0.attn_output.weight": f16(32, 32), "blk.0.ffn_norm.weight": f16(32), "blk.0.ffn_gate.weight": f16(32, 32),
        "blk.0.ffn_up.weight": f16(32, 32), "blk.0.ffn_down.weight": f16(32, 32),
    }  # fmt: skip
    put("gguf", "llama", as_gguf(arch("llama") | spoken("llama"), names))
    put("gguf", "llama-v2", as_gguf(arch("llama"), {k: names[k] for k in list(names)[:4]}, version=2))
    for model in ["gpt2", "bert", "t5", "llama"]:
        put("gguf", f"vocabulary-{model}", as_gguf({"general.architecture": "llama"} | spoken(model), {}))
    every = {f"t{kind}": (kind, [2, n], noise(2 * size)) for kind, (n, size) in BLOCKS.items()}
    put("gguf", "every-type", as_gguf({"general.alignment": 32}, every))
    odd = {"a": b"\xff\xfe", "b": [[1, 2], [3]], "c": [True, False], "d": ["x", "y"], "split.no": 0, "split.count": 1}
    put("gguf", "odd-metadata", as_gguf(odd, {"a": (0, [3], noise(12))}))
    half = {"blk.0.attn_k_b.weight": (1, [2, 32, 4], noise(512)), "blk.0.attn_v_b.weight": (1, [2, 3, 32], noise(384))}
    coded = {"blk.1.attn_k_b.weight": (8, [2, 8, 32], noise(544)), "blk.1.attn_v_b.weight": (0, [2, 3, 8], noise(192))}
    put("gguf", "latents", as_gguf(arch("deepseek2"), half | coded))
    for at, (_, size) in enumerate(BLOCKS.values()):
        put("gguf_blocks", f"type-{at:02}", bytes([at]) + noise(2 * size))


def make_pytorch():
    for path in sorted((DATA / "pytorch").iterdir()):
        if path.suffix not in (".pt", ".pth", ".ckpt"):
            continue
        raw = path.read_bytes()
        if raw.startswith(b"PK"):
            put("pytorch_zip", path.name, raw)
            with zipfile.ZipFile(path) as archive:
                inner = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                put("pytorch_pickle", path.name, archive.read(inner[0]))
        else:
            put("pytorch_legacy", path.name, raw)

    class Calls:
        def __reduce__(self):
            return print, ("executed",)

    for protocol in range(6):
        put("pytorch_pickle", f"tensors-{protocol}", tensors(protocol))
        put("pytorch_pickle", f"call-{protocol}", pickle.dumps({"a": Calls()}, protocol))
        put("pytorch_pickle", f"plain-{protocol}", pickle.dumps({"a": [1, 2.5, "x", None, (True, {1, 2})]}, protocol))


def tensors(protocol):
    """The pickle of two tensors in storages of 64 bytes, which the entry point's archive has."""
    names = {"torch._utils": ["_rebuild_tensor_v2", "_rebuild_parameter"], "torch": ["FloatStorage", "HalfStorage"]}
    made = {}
    for module, attributes in names.items():
        sys.modules[module] = types.ModuleType(module)
        for name in attributes:
            made[name] = type(name, (), {"__module__": module, "__qualname__": name})
            setattr(sys.modules[module], name, made[name])

    class Reduced:
        def __init__(self, *parts):
            self.parts = parts

        def __reduce__(self):
            return self.parts

    class Storage(tuple):
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return tuple(value) if isinstance(value, Storage) else None

    def tensor(kind, key, n, shape, stride):
        storage = Storage(("storage", made[kind], key, "cpu", n))
        return Reduced(made["_rebuild_tensor_v2"], (storage, 0, shape, stride, False, OrderedDict()))

    half = tensor("HalfStorage", "1", 32, (4, 8), (1, 4))
    state = OrderedDict(a=tensor("FloatStorage", "0", 16, (4, 4), (4, 1)), b=half)
    state["c"] = Reduced(made["_rebuild_parameter"], (half, True, OrderedDict()))
    out = io.BytesIO()
    Pickler(out, max(protocol, 1)).dump({"state_dict": state, "epoch": 3})
    for module in names:
        del sys.modules[module]
    return out.getvalue()


def make_quantized():
    for folder in sorted((DATA / "quantized").iterdir()):
        if not (folder / "quantization.json").is_file() or folder.name.endswith("-tuned"):
            continue
        stated = json.loads((folder / "quantization.json").read_text())
        parts = read_safetensors(folder / "parts.safetensors")
        kept = {k: v for k, v in parts.items() if k.startswith("model.layers.0.self_attn.k_proj")}
        config = json.dumps({"quantization_config": stated.get("quantization_config", stated)}).encode()
        put("quantized", folder.name, struct.pack("<H", len(config)) + config + as_safetensors(kept))


def make_adapters():
    """The modules of one layer, of which the base has as much as it takes."""
    for name in ["dora", "embedding-and-norm", "gpt2-dora", "lora", "rslora-patterns"]:
        folder = DATA / "adapters" / name
        path = folder / "adapter_model.safetensors"
        stated = json.loads((folder / "adapter_config.json").read_text())
        config = json.dumps({k: v for k, v in stated.items() if v not in (None, [], {}, False)}).encode()
        parts = read_safetensors(path)
        kept = {k: v for k, v in parts.items() if "q_proj" in k or "c_attn" in k or "norm" in k}
        kept = {k: v for k, v in kept.items() if "layers.1" not in k and "h.1" not in k}
        base = {}
        for name, (_, shape, _) in kept.items():
            name = name.removeprefix("base_model.model.")
            if ".lora_B." in name:
                stem = name.split(".lora_B.")[0]
                n_in = kept[next(k for k in kept if stem + ".lora_A." in k)][1][1]
                shape = [n_in, shape[0]] if stated["fan_in_fan_out"] else [shape[0], n_in]
                base[stem + ".weight"] = ("BF16", shape, noise(2 * shape[0] * shape[1]))
            elif ".lora_" not in name:
                base[name] = ("BF16", shape, noise(2 * shape[0]))
        factors = as_safetensors(kept)
        data = config + factors + as_safetensors(base)
        put("adapter", folder.name, struct.pack("<HH", len(config), len(factors)) + data)


def make_text():
    for path in sorted((TESTS / "parity" / "models").glob("*/config.json")):
        put("config", path.parent.name, path.read_bytes())
    for path in sorted((DATA / "text" / "chat").glob("*.jinja")):
        put("chat_template", path.name, path.read_bytes())
    for path in sorted((DATA / "text").glob("spm-*/tokenizer.model")):
        put("tokenizer_model", path.parent.name, path.read_bytes())
    lines = b"".join(b"%s %d\n" % (token, at) for at, token in enumerate([b"YQ==", b"Yg==", b"YWI="]))
    put("tokenizer_model", "tiktoken", lines)
    put("tokenizer_json", "bytes", (DATA / "text" / "bytes-json" / "tokenizer.json").read_bytes())
    put("tokenizer_json", "zoo", (TESTS / "zoo" / "llama-a" / "tokenizer.json").read_bytes())
    vocab = {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "##b": 4, "\u2581": 5}
    models = {
        "wordlevel": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        "wordpiece": {
            "type": "WordPiece", "vocab": vocab, "unk_token": "<unk>", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "unigram": {"type": "Unigram", "unk_id": 0, "vocab": [[t, -float(i)] for t, i in vocab.items()], "byte_fallback": False},
        "bpe": {
            "type": "BPE", "vocab": vocab, "merges": ["a b"], "unk_token": "<unk>", "dropout": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
        },
    }  # fmt: skip
    around = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\w+|\\s+"}, "behavior": "Isolated", "invert": False},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    }  # fmt: skip
    for name, model in models.items():
        put("tokenizer_json", name, json.dumps(around | {"model": model}).encode())
    files = [(DATA / "text" / "bytes-files" / n).read_bytes() for n in ["vocab.json", "merges.txt", "tokenizer_config.json"]]
    put("tokenizer_files", "bytes", b"\0".join(files))
    put("tokenizer_files", "small", b'{"a":0,"b":1,"ab":2}\0#version: 0.2\na b\n\0{"bos_token":"a"}\0{"<x>":3}')


def make_arrays():
    arrays = DATA / "arrays"
    for name in ["types.npz", "head.npy", "objects.npy"]:
        put("npz", name, (arrays / name).read_bytes())
    put("onnx", "typed", (arrays / "typed.onnx").read_bytes())
    put("onnx", "external", (arrays / "external" / "net.onnx").read_bytes())


def make_answers():
    sha = "0123456789abcdef" * 4
    put("server_answers", "pointer", f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize 12345\n".encode())
    put("server_answers", "git-config", b'[core]\n\tbare = false\n[remote "origin"]\n\turl = https://example.org/o/m.git\n[lfs]\n\turl = "https://lfs.example.org/o/m"\n')
    layers = [
        {"mediaType": kind, "digest": f"sha256:{sha}", "size": 5, "annotations": title and {"org.opencontainers.image.title": title}}
        for kind, title in [
            ("application/vnd.ollama.image.model", None),
            ("application/octet-stream", "a/model.safetensors"),
            ("application/vnd.ollama.image.license", None),
        ]
    ]
    put("server_answers", "manifest", json.dumps({"schemaVersion": 2, "layers": layers}).encode())
    files = [
        {"Path": "model.safetensors", "Type": "blob", "Size": 9, "Sha256": sha, "Revision": "r"},
        {"Path": "config.json", "Type": "blob", "Size": 2, "Sha256": "", "Revision": "r"},
        {"Path": "sub", "Type": "tree"},
    ]
    put("server_answers", "modelscope", json.dumps({"Success": True, "Data": {"Files": files}}).encode())
    put(
        "server_answers", "s3",
        b'<?xml version="1.0"?>\n<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>n</NextContinuationToken>'
        b'<Contents><Key>a &amp; b.json</Key><ETag>&quot;x-2&quot;</ETag><Size>11</Size></Contents></ListBucketResult>',
    )  # fmt: skip
    put(
        "server_answers", "azure",
        b'\xef\xbb\xbf<?xml version="1.0"?><EnumerationResults><Blobs><Blob><Name>p/m.gguf</Name><Properties><Etag>0x8C</Etag>'
        b'<Content-Length>100</Content-Length></Properties></Blob></Blobs><NextMarker /></EnumerationResults>',
    )  # fmt: skip


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    make_safetensors()
    make_index()
    make_gguf()
    make_pytorch()
    make_quantized()
    make_adapters()
    make_text()
    make_arrays()
    make_answers()
    files = [path for path in OUT.rglob("*") if path.is_file()]
    print(f"{len(files)} inputs, {sum(path.stat().st_size for path in files)} bytes")
