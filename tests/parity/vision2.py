"""Makes vision/minicpm-v2 and vision/minicpm-llama3-v-batch.

    python3 tests/parity/vision2.py

`minicpm-v2`: a tiny tower and resampler as in MiniCPM-V 2.0, beside a tiny Llama.
The published config names its tower and states no sizes of it, so that no config describes a tiny one:
`config.json` is the Llama's, and the test states the rest. `pixels.<i>` [3, height, width] are random;
`tower.<i>` and `rows.<i>` are what tower and resampler make of them. One image has the shape that the
positions were learned for; others are wider, higher, smaller, and larger than it.

`minicpm-llama3-v-batch`: the images of `minicpm-llama3-v` in one batch, as that model computes them when
`batch_vision_input` is set. Strips are filled up with zeros to the longest, and the code's mask, meant to
hide the filling, marks all of it as seen (`mask[i, :n] = True` of a mask [batch, 1, n_patches]): positions
are those of the longest strip, and the tower attends to the filling. The resampler does not.
"""

import json
import shutil

import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import weights
from make import HERE
from published.minicpmv import MiniCPMV
from published.minicpmv2 import QueryPositionsResampler, Tower
from vision import LLAMA, PATCH

SIZES = [(35, 35), (15, 60), (50, 10), (5, 5), (60, 55)]
TOWER = {"dim": 24, "n_heads": 2, "mlp_dim": 37, "n_layers": 2, "patch": PATCH, "n_side": 7}
RESAMPLER = {"n_side": 3, "dim": LLAMA["hidden_size"], "n_heads": 3, "input_dim": TOWER["dim"]}


@torch.no_grad()
def batch() -> None:
    made = HERE / "vision" / "minicpm-llama3-v"
    model = MiniCPMV(**json.loads((made / "config.json").read_text())).float().eval()
    model.load_state_dict({name: t.float() for name, t in load_file(made / "model.safetensors").items()})
    kept = load_file(made / "reference.safetensors")
    pixels = [kept[f"pixels.{i}"] for i in range(3)]
    grids = [(p.shape[1] // PATCH, p.shape[2] // PATCH) for p in pixels]
    longest = max(rows * columns for rows, columns in grids)
    strips = torch.cat([F.pad(model.strip(p), (0, longest * PATCH - p[0].numel() // PATCH)) for p in pixels])
    seen = model.vpm(strips).last_hidden_state
    values = {f"pixels.{i}": p for i, p in enumerate(pixels)}
    for i, grid in enumerate(grids):
        values[f"tower.{i}"] = seen[i, :grid[0] * grid[1]]
        values[f"resampler.{i}"] = model.resampler(values[f"tower.{i}"], grid)
    assert (values["resampler.0"] - kept["resampler.0"]).abs().max() > 1e-2
    assert (values["resampler.1"] - kept["resampler.1"]).abs().max() < 1e-5  # the longest
    folder = HERE / "vision" / "minicpm-llama3-v-batch"
    folder.mkdir(exist_ok=True)
    weights.write(values, folder / "reference.safetensors")


@torch.no_grad()
def main() -> None:
    folder = HERE / "vision" / "minicpm-v2"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = weights.generator_of(folder.name)
    parts = {"vpm": Tower(**TOWER), "resampler": QueryPositionsResampler(**RESAMPLER),
             "llm": LlamaForCausalLM(LlamaConfig(**LLAMA))}
    stored = {}
    for prefix, part in parts.items():
        weights.draw(part.eval(), generator)
        stored |= {f"{prefix}.{name}": tensor.bfloat16() for name, tensor in part.state_dict().items()}
    weights.write(stored, folder / "model.safetensors")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, **LLAMA}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    values = {}
    for i, (height, width) in enumerate(SIZES):
        pixels = torch.rand(3, height, width, generator=generator) * 2 - 1
        seen = parts["vpm"](pixels)
        values |= {f"pixels.{i}": pixels, f"tower.{i}": seen,
                   f"rows.{i}": parts["resampler"](seen, (height // PATCH, width // PATCH))}
    weights.write(values, folder / "reference.safetensors")


torch.set_num_threads(1)
main()
batch()
