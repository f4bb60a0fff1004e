#!/usr/bin/env python3
"""Writes tests/data/pytorch: small checkpoints as torch itself saves them, and expected.json.

Needs torch. Run from anywhere: python3 tests/scripts/make_pytorch_fixtures.py
expected.json has, per file, [name, dtype, shape, values in row-major order] of each tensor, as torch loads it.
"""

import argparse
import collections
import json
import pathlib

import torch

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "pytorch"
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.uint16: "U16", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
EXPECTED = {}


def values(*shape, dtype=torch.float32):
    """Small numbers that every dtype holds exactly, the same in every run."""
    n = torch.Size(shape).numel()
    return ((torch.arange(n) * 7 % 5).float() - 2).reshape(shape).to(dtype)


def expect(file, tensors):
    EXPECTED[file] = [
        [name, DTYPES[t.dtype], list(t.shape), t.detach().double().flatten().tolist()]
        for name, t in tensors.items()
    ]


def save(file, contents, tensors=None, legacy=False, **options):
    torch.save(contents, OUT / file, _use_new_zipfile_serialization=not legacy, **options)
    expect(file, contents if tensors is None else tensors)


def dtypes(all_of_them):
    new = (torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2)
    chosen = [d for d in DTYPES if all_of_them or d not in new]
    plain = torch.tensor([0.0, 1.0, 2.0, 1.0])
    return {str(d).removeprefix("torch."): plain.to(d) for d in chosen}


def views():
    """Every way in which a tensor's bytes are not simply its values in order."""
    base = values(4, 6)
    kernel = values(2, 3, 2, 2)
    tied = torch.nn.Parameter(values(3, 2))
    return collections.OrderedDict(
        transposed=base.t(),
        sliced=base[1:3, 2:5],
        every_second=base[::2, ::3],
        column=base[:, 1],
        part=base[2:],
        expanded=values(3, 1).expand(3, 4),
        channels_last=kernel.contiguous(memory_format=torch.channels_last),
        permuted=kernel.permute(3, 0, 2, 1),
        tied_a=tied,
        tied_b=tied,
        parameter=torch.nn.Parameter(values(2, 3).t()),
        scalar=torch.tensor(5.0),
        empty=torch.empty(0, 3),
    )


def training():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.125)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    model(values(4, 3)).square().sum().backward()
    optimizer.step()
    scheduler.step()
    state = model.state_dict()
    return state, {
        "epoch": 100,
        "best_acc1": torch.tensor(76.5),
        "args": argparse.Namespace(lr=0.125, arch="linear", out=pathlib.PurePosixPath("x")),
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "rng_state": torch.zeros(8, dtype=torch.uint8),
    }


def sharded():
    shards = [{"a.weight": values(2, 3)}, {"b.weight": values(3, 2), "b.bias": values(2)}]
    folder = OUT / "sharded"
    folder.mkdir(exist_ok=True)
    weight_map, tensors = {}, {}
    for n, shard in enumerate(shards, 1):
        file = f"pytorch_model-{n:05}-of-00002.bin"
        torch.save(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
        tensors |= shard
    index = {"metadata": {"total_size": 56}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")
    expect("sharded", tensors)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    save("dtypes.pt", dtypes(True))
    save("dtypes-legacy.pth", dtypes(False), legacy=True)
    save("views.pt", views())
    save("views-legacy.pth", views(), legacy=True)
    for protocol in (1, 3, 4, 5):
        save(f"protocol-{protocol}.pt", {"w": values(2, 2)}, pickle_protocol=protocol)
    state, checkpoint = training()
    save("training.ckpt", checkpoint, state)
    average = {k: v.clone() for k, v in state.items()}
    save("average.pt", {"model": {"inner": state}, "model_ema": average},
         {k: v for k, v in state.items()})  # fmt: skip
    both = {"netG": {"w": values(2)}, "netD": {"w": values(3)}, "step": 7}
    save("two-networks.pt", both, {"netG.w": values(2), "netD.w": values(3)})
    sharded()
    # What is refused: each by name.
    torch.save({"w": values(2).to(torch.complex64)}, OUT / "complex.pt")
    torch.save({"w": torch.quantize_per_tensor(values(2), 0.1, 0, torch.qint8)}, OUT / "quantized.pt")
    torch.save({"w": values(2, 2).to_sparse()}, OUT / "sparse.pt")
    torch.save(torch.nn.Linear(2, 1), OUT / "module.pt")
    torch.save(optimizer_only(), OUT / "optimizer-only.pt")
    text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in EXPECTED.items())
    (OUT / "expected.json").write_text("{\n" + text + "\n}\n")


def optimizer_only():
    weight = torch.nn.Parameter(values(2))
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.5)
    weight.square().sum().backward()
    optimizer.step()
    return optimizer.state_dict()


if __name__ == "__main__":
    main()
