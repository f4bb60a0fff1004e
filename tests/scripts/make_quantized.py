"""Quantizes weights of zoo models as published packers store them, into tests/data/quantized/.

Each variant is a folder: `quantization.json` (the quantization_config), `parts.safetensors` (what stands in place
of the weights of the first two layers; the tests take everything else from the zoo) and `reference.safetensors`
(what some of these weights are once they are dequantized, f32).

GPTQ, AWQ and int8 are packed and unpacked here by hand, after the layouts of AutoGPTQ, GPTQModel, AutoAWQ and
bitsandbytes; nf4 and fp4 by bitsandbytes itself, F8 by torch, and what is called ct by compressed-tensors. `gpt-oss` is a model of
its own, in bf16 as transformers saves it and with experts in MXFP4, which transformers dequantizes.

    pip install torch==2.15.0 safetensors numpy bitsandbytes==0.50.2 compressed-tensors==0.20.0 transformers==5.24.0 hqq==0.2.8.post1
    python tests/scripts/make_quantized.py tests/zoo tests/data/quantized
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

MODULES = [
    f"model.layers.{layer}.{module}_proj"
    for layer in (0, 1)
    for module in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
]
# Weights whose values are written down: few rows, and many columns.
REFERENCE = ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"]


def pack_stream(codes, bits):
    """Codes [n, columns] as a stream of bits down each column: int32 [n * bits / 32, columns]."""
    n, columns = codes.shape
    assert n * bits % 32 == 0
    stream = ((codes[:, None, :] >> np.arange(bits)[None, :, None]) & 1).reshape(n * bits // 32, 32, columns)
    words = (stream.astype(np.uint64) << np.arange(32, dtype=np.uint64)[None, :, None]).sum(axis=1)
    return words.astype(np.uint32).view(np.int32)


def unpack_stream(words, bits):
    stream = (words.view(np.uint32)[:, None, :] >> np.arange(32, dtype=np.uint32)[None, :, None]) & 1
    stream = stream.reshape(-1, bits, words.shape[1]).astype(np.int64)
    return (stream << np.arange(bits)[None, :, None]).sum(axis=1)


def grid(values, bits, symmetric):
    """Scale (as f16) and zero point of each row."""
    top = 2**bits - 1
    low, high = np.minimum(values.min(1), 0), np.maximum(values.max(1), 0)
    if symmetric:
        high = np.maximum(-low, high)
        scale = np.maximum(2 * high / top, 1e-6)
        return scale.astype(np.float16), np.full(scale.shape, (top + 1) // 2)
    scale = np.maximum((high - low) / top, 1e-6)
    return scale.astype(np.float16), np.round(-low / scale).astype(np.int64)


def gptq_codes(weight, bits, group_size, symmetric, order, hessian):
    """Codes [out, in], scales and zeros [out, groups], group of each input. With a Hessian, rounding errors
    are moved on to the inputs that follow, as in the paper (Frantar et al., 2023); without, codes are nearest."""
    n_out, n_in = weight.shape
    size = n_in if group_size == -1 else group_size
    left = weight.astype(np.float64).copy()
    codes = np.zeros((n_out, n_in), np.int64)
    n_groups = -(-n_in // size)
    scales, zeros = np.zeros((n_out, n_groups), np.float16), np.zeros((n_out, n_groups), np.int64)
    groups = np.zeros(n_in, np.int32)
    if hessian is not None:
        damped = hessian + 0.01 * np.mean(np.diag(hessian)) * np.eye(n_in)
        upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    for place, column in enumerate(order):
        group = place // size
        if place % size == 0:
            scales[:, group], zeros[:, group] = grid(left[:, order[place : place + size]], bits, symmetric)
        groups[column] = group
        scale = scales[:, group].astype(np.float64)
        codes[:, column] = np.clip(np.round(left[:, column] / scale) + zeros[:, group], 0, 2**bits - 1)
        if hessian is not None:
            error = (left[:, column] - scale * (codes[:, column] - zeros[:, group])) / upper[place, place]
            left[:, order[place + 1 :]] -= np.outer(error, upper[place, place + 1 :])
    return codes, scales, zeros, groups


def gptq(bits, group_size, symmetric=True, act_order=False, version=1, compensate=False):
    config = {
        "quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": act_order, "sym": symmetric,
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2", "lm_head": False, "true_sequential": True,
    }
    generator = np.random.default_rng(bits)

    def pack(stem, weight):
        n_in = weight.shape[1]
        mixed = generator.standard_normal((4 * n_in, n_in)) @ generator.standard_normal((n_in, n_in))
        inputs = mixed * generator.uniform(0.2, 3, n_in)
        hessian = inputs.T @ inputs
        order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(n_in)
        codes, scales, zeros, groups = gptq_codes(
            weight, bits, group_size, symmetric, order, hessian if compensate else None)
        stored = zeros - 1 if version == 1 else zeros
        assert (stored >= 0).all()
        parts = {
            "qweight": pack_stream(codes.T, bits), "scales": np.ascontiguousarray(scales.T),
            "qzeros": np.ascontiguousarray(pack_stream(stored, bits).T),
        }
        # The first packers wrote no g_idx where the order was that of the inputs.
        if act_order or version == 2:
            parts["g_idx"] = groups
        return {f"{stem}.{part}": tensor for part, tensor in parts.items()}

    def unpack(stem, parts):
        part = lambda name: parts[f"{stem}.{name}"]
        codes = unpack_stream(part("qweight"), bits)
        zeros = unpack_stream(np.ascontiguousarray(part("qzeros").T), bits).T + (2 - version)
        size = codes.shape[0] if group_size == -1 else group_size
        groups = parts.get(f"{stem}.g_idx", np.arange(codes.shape[0]) // size)
        scales = part("scales").astype(np.float32)
        return (scales[groups] * (codes - zeros[groups]).astype(np.float32)).T

    return config, pack, unpack


# Where AutoAWQ puts the codes of eight neighbouring outputs within a word.
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def awq_pack(codes):
    """Codes [rows, columns] as int32 [rows, columns / 8]."""
    grouped = codes.reshape(codes.shape[0], -1, 8)[:, :, AWQ_ORDER].astype(np.uint64)
    words = (grouped << (4 * np.arange(8, dtype=np.uint64))).sum(axis=2)
    return words.astype(np.uint32).view(np.int32)


def awq_unpack(words):
    nibbles = (words.view(np.uint32)[:, :, None] >> (4 * np.arange(8, dtype=np.uint32))) & 15
    codes = np.zeros_like(nibbles)
    codes[:, :, AWQ_ORDER] = nibbles
    return codes.reshape(words.shape[0], -1).astype(np.int64)


def awq(group_size):
    config = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": "gemm",
              "modules_to_not_convert": None}

    def pack(stem, weight):
        n_out, n_in = weight.shape
        grouped = weight.reshape(-1, group_size)
        scales, zeros = grid(grouped, 4, symmetric=False)
        codes = np.round(grouped / scales.astype(np.float32)[:, None]) + zeros[:, None]
        codes = np.clip(codes, 0, 15).astype(np.int64).reshape(n_out, n_in)
        by_group = lambda values: np.ascontiguousarray(values.reshape(n_out, n_in // group_size).T)
        return {f"{stem}.qweight": awq_pack(np.ascontiguousarray(codes.T)),
                f"{stem}.scales": by_group(scales), f"{stem}.qzeros": awq_pack(by_group(zeros))}

    def unpack(stem, parts):
        codes, zeros = awq_unpack(parts[f"{stem}.qweight"]), awq_unpack(parts[f"{stem}.qzeros"])
        groups = np.arange(codes.shape[0]) // group_size
        scales = parts[f"{stem}.scales"].astype(np.float32)
        return (scales[groups] * (codes - zeros[groups]).astype(np.float32)).T

    return config, pack, unpack


def fp8(block):
    """DeepSeek's blocks, or one scale for a tensor where there is no block."""
    config = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    if block:
        config |= {"fmt": "e4m3", "weight_block_size": list(block)}

    def spread(scales, shape):
        if not block:
            return scales.reshape(1, 1)
        rows, columns = (np.arange(n) // size for n, size in zip(shape, block))
        return scales[rows][:, columns]

    def pack(stem, weight):
        n_out, n_in = weight.shape
        high, wide = block or weight.shape
        blocks = [[weight[r : r + high, c : c + wide] for c in range(0, n_in, wide)] for r in range(0, n_out, high)]
        scales = np.array([[np.abs(b).max() / 448 for b in row] for row in blocks], np.float32)
        codes = torch.from_numpy(weight / spread(scales, weight.shape)).to(torch.float8_e4m3fn)
        name = "weight_scale_inv" if block else "weight_scale"
        stored = torch.from_numpy(scales if block else scales.reshape(()))
        return {f"{stem}.weight": codes, f"{stem}.{name}": stored}

    def unpack(stem, parts):
        codes = parts[f"{stem}.weight"].to(torch.float32).numpy()
        scales = parts[f"{stem}.weight_scale_inv" if block else f"{stem}.weight_scale"].numpy()
        return codes * spread(scales, codes.shape)

    return config, pack, unpack


def bitsandbytes_4bit(kind, nested):
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
              "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested, "bnb_4bit_compute_dtype": "float32"}

    def pack(stem, weight):
        from bitsandbytes.functional import quantize_4bit

        codes, state = quantize_4bit(torch.from_numpy(weight), blocksize=64, quant_type=kind, compress_statistics=nested)
        parts = {f"{stem}.weight": codes}
        return parts | {f"{stem}.weight.{part}": value for part, value in state.as_dict(packed=True).items()}

    def unpack(stem, parts):
        from bitsandbytes.functional import QuantState, dequantize_4bit

        prefix = f"{stem}.weight."
        state = {name.removeprefix(prefix): value for name, value in parts.items() if name.startswith(prefix)}
        state = QuantState.from_dict(state, device=torch.device("cpu"))
        packed = parts[f"{stem}.weight"].flatten()
        codes = torch.stack([packed >> 4, packed & 15], 1).flatten().long()
        scales = state.absmax
        if state.nested:
            inner = state.state2
            scales = inner.code[scales.long()] * inner.absmax.repeat_interleave(inner.blocksize)[: len(scales)]
            scales = scales + state.offset
        values = state.code[codes] * scales.repeat_interleave(state.blocksize)[: len(codes)]
        values = values.reshape(state.shape).to(torch.float32)
        # bitsandbytes 0.50.2 is wrong on CPUs where rows are not whole blocks; elsewhere both agree.
        if state.shape[1] % state.blocksize == 0:
            assert torch.allclose(values, dequantize_4bit(parts[f"{stem}.weight"], state).float(), rtol=1e-6)
        return values.numpy()

    return config, pack, unpack


def int8():
    config = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}

    def pack(stem, weight):
        scales = np.abs(weight).max(1).astype(np.float32)
        codes = np.round(weight * (127 / scales[:, None])).astype(np.int8)
        return {f"{stem}.weight": codes, f"{stem}.SCB": scales, f"{stem}.weight_format": np.array(0, np.uint8)}

    def unpack(stem, parts):
        return parts[f"{stem}.weight"] * (parts[f"{stem}.SCB"][:, None] / np.float32(127))

    return config, pack, unpack


def compressed(name, more=None, **weights):
    """compressed-tensors' own packers, with scales and zero points by its own observers' arithmetic."""
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    packer = BaseCompressor.get_value_from_registry(name)
    config = {
        "quant_method": "compressed-tensors", "format": name, "quantization_status": "compressed", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}},
    }

    def pack(stem, weight):
        weight = torch.tensor(weight)
        size = args.group_size if args.group_size and args.group_size > 0 else weight.shape[1]
        grouped = weight.reshape(weight.shape[0], -1, size)
        more = {}
        if name == "nvfp4-pack-quantized":
            more["weight_global_scale"] = generate_gparam(weight.min(), weight.max()).reshape(1)
        scale, zero = calculate_qparams(
            grouped.amin(2), grouped.amax(2), args, global_scale=more.get("weight_global_scale"))
        if name == "mxfp4-pack-quantized":
            # The rule of the OCP specification: the largest value's power of two, over that of 6.
            scale = torch.exp2(torch.floor(torch.log2(grouped.abs().amax(2))) - 2)
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero, **more}
        if args.symmetric:
            del state["weight_zero_point"]
        packed = packer.compress(state, scheme)
        return {f"{stem}.{part}": tensor.contiguous() for part, tensor in packed.items()}

    def unpack(stem, parts):
        own = {n.removeprefix(stem + "."): t for n, t in parts.items() if n.startswith(stem + ".")}
        if name == "nvfp4-pack-quantized":
            # The package multiplies in bf16; codes are its own, the product is f32.
            from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

            rows, columns = own["weight_packed"].shape
            codes = unpack_fp4_from_uint8(own["weight_packed"], rows, 2 * columns).to(torch.float32)
            scales = own["weight_scale"].to(torch.float32) / own["weight_global_scale"]
            return (codes * scales.repeat_interleave(16, 1)).numpy()
        return packer.decompress(own, scheme)["weight"].to(torch.float32).numpy()

    return config, pack, unpack


def hqq_linear(weight, **params):
    """A weight as the package's own layer quantizes and saves it, and what it stands for, in f32."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer

    channel_wise = params.pop("channel_wise", True)
    config = BaseQuantizeConfig(**params)
    config["weight_quant_params"]["channel_wise"] = channel_wise
    layer = HQQLinear.from_weights(weight, None, config, compute_dtype=torch.bfloat16, device="cpu")
    state = {name: value.contiguous() for name, value in layer.state_dict().items()}
    meta = dict(layer.meta, compute_dtype=torch.float32)
    meta |= {name: meta[name].to(torch.float32) for name in ("scale", "zero")}
    # The package computes in the type of the layer; codes, scales and zero points are its own, the product is f32.
    return state, Quantizer.dequantize(layer.W_q.data, meta)


def hqq(nbits, group_size, axis):
    """As transformers saves it."""
    params = dict(nbits=nbits, group_size=group_size, axis=axis)
    config = {"quant_method": "hqq", "skip_modules": ["lm_head"], "quant_config": {
        "weight_quant_params": params | {"channel_wise": True, "optimize": True, "round_zero": nbits == 4}}}
    values = {}

    def pack(stem, weight):
        state, values[stem] = hqq_linear(torch.tensor(weight).to(torch.bfloat16), **params)
        return {f"{stem}.{name}": value for name, value in state.items()}

    def unpack(stem, parts):
        return values[stem].detach().numpy()

    return config, pack, unpack


def save_layers(out, folder, config, layers):
    """A folder of single weights: (name of the scheme, parts, values, original) each, by number. Names of schemes are the
    metadata of the values' file."""
    folder = out / folder
    folder.mkdir(parents=True, exist_ok=True)
    parts, reference, names = {}, {}, {}
    for at, (scheme, own, values, original) in enumerate(layers):
        stem = f"model.layers.{at}.mlp.up_proj"
        parts |= {f"{stem}.{name}": value for name, value in own.items()}
        reference[f"{stem}.weight"] = values.to(torch.float32).contiguous()
        reference[f"{stem}.original"] = original.to(torch.bfloat16)
        names[f"{stem}.weight"] = scheme
        error = (values - original).float().norm() / original.float().norm()
        print(f"{folder.name:26} {at:2} {scheme:34} relative error {error:.4f}")
    save_torch(parts, folder / "model.safetensors", metadata={"format": "pt"})
    save_torch(reference, folder / "reference.safetensors", metadata=names)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config, indent=1) + "\n")


def hqq_layers(out):
    """Every packing of HQQ, over both axes, in one model as the package's own writer saves it: no config states it."""
    settings = [
        dict(nbits=8, group_size=16, axis=1), dict(nbits=8, group_size=64, axis=0, channel_wise=False),
        dict(nbits=6, group_size=32, axis=0), dict(nbits=5, group_size=64, axis=1),
        dict(nbits=4, group_size=64, axis=1), dict(nbits=4, group_size=64, axis=0, view_as_float=True),
        dict(nbits=3, group_size=64, axis=0), dict(nbits=3, group_size=16, axis=1, view_as_float=True),
        dict(nbits=2, group_size=16, axis=1), dict(nbits=2, group_size=256, axis=0),
        dict(nbits=1.58, group_size=32, axis=1), dict(nbits=1, group_size=64, axis=0),
        dict(nbits=1, group_size=8, axis=1),
    ]
    torch.manual_seed(0)
    layers = []
    for setting in settings:
        weight = (torch.randn(16, 64) / 50).to(torch.bfloat16)
        state, values = hqq_linear(weight.clone(), **setting)
        layers.append((f"HQQ {setting['nbits']}-bit", state, values.detach(), weight))
    save_layers(out, "hqq-layers", {}, layers)


def pack_loose(codes, bits, dim):
    """As compressed-tensors up to 0.10 packs: as many codes as fit whole into a word of 32 bits."""
    codes = (codes if dim == 1 else codes.T).astype(np.int64) + 2 ** (bits - 1)
    per_word = 32 // bits
    padded = np.pad(codes, [(0, 0), (0, -codes.shape[1] % per_word)])
    words = (padded.reshape(codes.shape[0], -1, per_word) << (bits * np.arange(per_word))).sum(2)
    words = words.astype(np.uint32).view(np.int32)
    return torch.from_numpy(np.ascontiguousarray(words if dim == 1 else words.T))


def compressed_layers(out):
    """compressed-tensors' formats, bits and strategies in one model, packed by the package; `loose` are its older files, and
    `ordered` one with groups by the order of activations."""
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    pack, naive = "pack-quantized", "naive-quantized"
    integers, floats = dict(num_bits=8, type="int"), dict(num_bits=8, type="float", symmetric=True)
    settings = [
        (pack, dict(num_bits=2, type="int", strategy="group", group_size=16, symmetric=False)),
        (pack, dict(num_bits=3, type="int", strategy="group", group_size=16, symmetric=False)),
        (pack, dict(num_bits=4, type="int", strategy="group", group_size=16, symmetric=False)),
        ("ordered", dict(num_bits=4, type="int", strategy="group", group_size=16, symmetric=False)),
        (pack, dict(num_bits=5, type="int", strategy="channel", symmetric=True)),
        (pack, dict(num_bits=6, type="int", strategy="group", group_size=32, symmetric=False)),
        (pack, dict(num_bits=7, type="int", strategy="channel", symmetric=False)),
        (pack, dict(integers, strategy="tensor", symmetric=True)),
        ("loose", dict(num_bits=3, type="int", strategy="group", group_size=16, symmetric=False)),
        ("loose", dict(num_bits=5, type="int", strategy="channel", symmetric=True)),
        ("loose", dict(num_bits=6, type="int", strategy="group", group_size=32, symmetric=False)),
        ("int-quantized", dict(integers, strategy="channel", symmetric=False)),
        ("int-quantized", dict(integers, strategy="tensor", symmetric=True)),
        (naive, dict(integers, strategy="group", group_size=32, symmetric=False)),
        ("float-quantized", dict(floats, strategy="block", block_structure=[8, 32])),
        ("float-quantized", dict(floats, strategy="tensor")),
        (naive, dict(floats, strategy="channel")),
    ]
    torch.manual_seed(0)
    layers, groups = [], {}
    for name, setting in settings:
        args = QuantizationArgs(**setting)
        # Older versions packed zero points only where they filled whole words.
        n_out = 20 if name == "loose" else 16
        weight = (torch.randn(n_out, 64) / 50).to(torch.bfloat16)
        state = {}
        if args.strategy == "block":
            grouped = weight.reshape(2, 8, 2, 32).transpose(1, 2).reshape(2, 2, -1)
        elif args.strategy == "tensor":
            grouped = weight.reshape(1, 1, -1)
        elif name == "ordered":
            # Groups in the order of the inputs by some activations, which the package no longer makes.
            order = torch.randperm(64)
            state["weight_g_idx"] = (torch.argsort(order) // args.group_size).to(torch.int32)
            grouped = weight[:, order].reshape(n_out, -1, args.group_size)
        else:
            grouped = weight.reshape(n_out, -1, args.group_size if args.strategy == "group" else 64)
        scale, zero = calculate_qparams(grouped.amin(2), grouped.amax(2), args)
        if args.strategy == "tensor":
            scale, zero = scale.reshape(1), zero.reshape(1)
        scale = scale.to(torch.bfloat16)
        kept = dict(scale=scale, zero_point=None if args.symmetric else zero, args=args)
        if name == "ordered":
            index = state["weight_g_idx"].long()
            scales, zeros = scale.to(torch.float32)[:, index], zero.to(torch.float32)[:, index]
            codes = torch.clamp(torch.round(weight / scales + zeros), -8, 7).to(torch.int8)
            values = (codes - zeros) * scales
        else:
            codes = quantize(weight, **kept, dtype=torch.int8 if args.type == "int" else torch.float8_e4m3fn)
            kept["scale"] = scale.to(torch.float32)
            values = dequantize(codes, **kept, dtype=torch.float32)
        if name in ("loose", "ordered"):
            packed = pack_loose if name == "loose" else pack_dense
            state |= {"weight_packed": packed(codes.numpy(), args.num_bits, 1), "weight_scale": scale,
                      "weight_shape": torch.tensor(weight.shape)}
            if not args.symmetric:
                state["weight_zero_point"] = packed(zero.numpy(), args.num_bits, 0)
        else:
            full = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
            if args.symmetric:
                del full["weight_zero_point"]
            scheme = QuantizationScheme(targets=["Linear"], weights=args)
            packer = BaseCompressor.get_value_from_registry(name)
            packed = packer.compress(full, scheme)
            theirs = packer.decompress(dict(packed), scheme)["weight"].to(torch.float32)
            assert torch.allclose(theirs, values, rtol=0.02, atol=1e-4), (name, setting)
            state |= {part: tensor.contiguous() for part, tensor in packed.items()}
        groups[f"group_{len(groups)}"] = {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}
        bits = args.num_bits
        scheme = "FP8 E4M3" if args.type == "float" else f"packed {bits}-bit" if "weight_packed" in state else "int8"
        scheme = scheme if args.type == "float" else f"compressed-tensors {scheme}"
        layers.append((scheme, state, values, weight))
    config = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}
    save_layers(out, "ct-layers", {"quantization_config": config}, layers)


def pack_dense(codes, bits, dim):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    return pack_to_int32(torch.from_numpy(codes).to(torch.int8), bits, packed_dim=dim).contiguous()


def mxfp4(weight):
    """Weights [..., rows, in] as blocks and scales, rounded as the OCP specification has it: the scale of a block is
    the power of two of its largest value over that of 6, codes are nearest and saturate."""
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    grouped = weight.to(torch.float32).unflatten(-1, (-1, 32))
    exponents = torch.floor(torch.log2(grouped.abs().amax(-1))) - 2
    scaled = grouped / torch.exp2(exponents)[..., None]
    codes = (scaled.abs()[..., None] - grid).abs().argmin(-1) + 8 * (scaled < 0)
    return (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8), (exponents + 127).to(torch.uint8)


def gpt_oss(out):
    """A model as transformers makes and saves it, in bf16 (`gpt-oss-bf16`), and the same with experts in MXFP4 as gpt-oss
    publishes them (`gpt-oss`), beside them what transformers makes of the blocks."""
    from transformers import GptOssConfig, GptOssForCausalLM
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    sizes = dict(num_hidden_layers=2, num_local_experts=2, hidden_size=32, intermediate_size=64, vocab_size=48,
                 num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    torch.manual_seed(0)
    model = GptOssForCausalLM(GptOssConfig(**sizes)).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data = torch.randn(parameter.shape).to(torch.bfloat16) / 8
    folder = out / "gpt-oss-bf16"
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = {"model_type": "gpt_oss"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    parts, reference = load_torch(folder / "model.safetensors"), {}
    for name in [name for name in parts if name.endswith(("gate_up_proj", "down_proj"))]:
        weight = parts.pop(name)
        # [expert, in, row] in bf16 files, [expert, row, in] in blocks.
        blocks, scales = mxfp4(weight.transpose(1, 2))
        parts[f"{name}_blocks"], parts[f"{name}_scales"] = blocks, scales
        reference[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16).contiguous()
        assert reference[name].shape == weight.shape
        error = (reference[name] - weight).float().norm() / weight.float().norm()
        print(f"{'gpt-oss':26} {name:34} relative error {error:.4f}")
    folder = out / "gpt-oss"
    folder.mkdir(parents=True, exist_ok=True)
    save_torch(parts, folder / "model.safetensors", metadata={"format": "pt"})
    save_torch(reference, folder / "reference.safetensors")
    config = config | {"quantization_config": {"quant_method": "mxfp4"}}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


VARIANTS = {
    "gptq-4": ("llama-a", gptq(4, 32)),
    "gptq-4-tuned": ("llama-a-tuned", gptq(4, 32)),
    "gptq-4-compensated": ("llama-a", gptq(4, 32, symmetric=False, act_order=True, compensate=True)),
    "gptq-4-compensated-tuned": ("llama-a-tuned", gptq(4, 32, symmetric=False, act_order=True, compensate=True)),
    "gptq-2": ("llama-a", gptq(2, 32, version=2)),
    "gptq-3": ("llama-a", gptq(3, -1, symmetric=False, version=2)),
    "gptq-8": ("llama-a", gptq(8, -1)),
    "awq-4": ("llama-a", awq(32)),
    "fp8-blocks": ("llama-a", fp8((32, 48))),
    "fp8-blocks-tuned": ("llama-a-tuned", fp8((32, 48))),
    "fp8-tensor": ("llama-a", fp8(None)),
    "nf4-nested": ("llama-a", bitsandbytes_4bit("nf4", True)),
    "nf4-nested-tuned": ("llama-a-tuned", bitsandbytes_4bit("nf4", True)),
    "fp4-plain": ("llama-a", bitsandbytes_4bit("fp4", False)),
    "int8": ("llama-a", int8()),
    "ct-pack-4": ("llama-a", compressed(
        "pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=False)),
    "ct-pack-4-tuned": ("llama-a-tuned", compressed(
        "pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=True)),
    "ct-int8": ("llama-a", compressed("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=True)),
    "ct-float8": ("llama-a", compressed(
        "float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True)),
    "ct-nvfp4": ("llama-a", compressed(
        "nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True)),
    "hqq-4": ("llama-a", hqq(4, 64, 1)),
    "hqq-4-tuned": ("llama-a-tuned", hqq(4, 64, 1)),
    "hqq-3": ("llama-a", hqq(3, 64, 0)),
    "ct-pack-3": ("llama-a", compressed(
        "pack-quantized", num_bits=3, type="int", strategy="group", group_size=32, symmetric=False)),
    "ct-mxfp4": ("llama-a", compressed(
        "mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32, symmetric=True)),
}


def make(zoo, out, name):
    model, (config, pack, unpack) = VARIANTS[name]
    weights = load_torch(zoo / model / "model.safetensors")
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    parts = {}
    for stem in MODULES:
        parts.update(pack(stem, weights[f"{stem}.weight"].to(torch.float32).numpy()))
    is_torch = any(isinstance(part, torch.Tensor) for part in parts.values())
    save, load = (save_torch, load_torch) if is_torch else (save_file, load_file)
    save(parts, folder / "parts.safetensors", metadata={"format": "pt"})
    stored = load(folder / "parts.safetensors")
    reference = {f"{stem}.weight": np.ascontiguousarray(unpack(stem, stored), np.float32) for stem in REFERENCE}
    # Four rows of the wide one are enough.
    reference = {stem: values[:4] if values.shape[1] > 64 else values for stem, values in reference.items()}
    save_file(reference, folder / "reference.safetensors")
    (folder / "quantization.json").write_text(json.dumps({"of": model, "quantization_config": config}, indent=1) + "\n")
    for stem in REFERENCE:
        exact, found = weights[f"{stem}.weight"].to(torch.float32).numpy(), unpack(stem, stored)
        print(f"{name:26} {stem:34} relative error {np.linalg.norm(exact - found) / np.linalg.norm(exact):.4f}")


if __name__ == "__main__":
    zoo, out = Path(sys.argv[1]), Path(sys.argv[2])
    others = {"gpt-oss": gpt_oss, "hqq-layers": hqq_layers, "ct-layers": compressed_layers}
    for name in sys.argv[3:] or [*VARIANTS, *others]:
        others[name](out) if name in others else make(zoo, out, name)
