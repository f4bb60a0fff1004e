"""Writes the figures of `README.md`: everything below its marker line, and nothing above it.

    python3 tests/zoo/report.py

Reads the records that `train.py` left in `training/`, the checkpoints and `manifest.json`; trains
nothing and judges nothing. The one measurement made here, the cosine of the `up` matrices as they
stand, only shows that the manifest's relations are visible to the naked eye.
"""

import hashlib
import json
import math
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
MARKER = "<!-- Written by report.py from here on. -->"
UP_NAMES = re.compile(r"(mlp\.up_proj|mlp\.c_fc)\.weight$")
PUBLISHED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
             "tokenizer_config.json")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def up_matrices(name: str) -> list[torch.Tensor]:
    tensors = load_file(HERE / name / "model.safetensors")
    return [tensors[key].double() for key in sorted(tensors) if UP_NAMES.search(key)]


def compare_up(reference: str, candidate: str) -> tuple[str, str]:
    """Centred cosine over all `up` matrices, and √(⟨A, B⟩ / N): the size of a shared part."""
    pairs = list(zip(up_matrices(reference), up_matrices(candidate), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return "other shape", "other shape"
    a, b = (torch.cat([pair[i].flatten() - pair[i].mean() for pair in pairs]) for i in (0, 1))
    product = (a @ b).item()
    shared = math.copysign(math.sqrt(abs(product) / a.numel()), product)
    return f"{product / (a.norm() * b.norm()).item():.4f}", f"{shared:.4f}"


def main() -> None:
    manifest = json.loads((HERE / "manifest.json").read_text())
    ids = [model["id"] for model in manifest["models"]]
    records = {i: json.loads((HERE / "training" / f"{i}.json").read_text()) for i in ids}
    command = "`python3 tests/zoo/train.py {}`"
    parts = [MARKER, "## Figures", "All tables: `python3 tests/zoo/report.py`, from the records that the command beside "
             "each model left in `training/`."]

    used = sorted({json.dumps(r["versions"], sort_keys=True) for r in records.values()})
    parts += ["Versions: " + "; ".join(", ".join(f"{k} {v}" for k, v in json.loads(u).items()) for u in used) + "."]
    found = {r["recipe"]["text"]: r["text"] for r in records.values()}
    parts += ["### Texts", table(["text", "bytes", "sha256"],
                                 [[t.upper(), f"{found[t]['n_bytes']:,}", f"`{found[t]['sha256']}`"] for t in sorted(found)])]

    rows = [[i, f"{r['n_parameters']:,}", str(r["recipe"]["steps"]), f"{r['training_loss'][0][1]} → {r['training_loss'][-1][1]}",
             f"{r['validation_loss_before']} → {r['validation_loss_after']}", str(r["cpu_seconds"]), command.format(i)]
            for i, r in records.items()]
    parts += ["### Loss (nats per token)", "Training: mean over the first and the last tenth of the steps. "
              "Validation: held-out end of the run's own text, before and after.",
              table(["model", "parameters", "steps", "training", "validation", "CPU s", "command"], rows)]
    parts += ["Training loss, mean over each tenth of the run:",
              table(["model", *(f"{t}0 %" for t in range(1, 11))],
                    [[i, *(str(loss) for _, loss in r["training_loss"])] for i, r in records.items()])]

    parts += ["### Movement", "‖W − W0‖ / ‖W0‖ over all layers of a role; W0 is the initialisation or, for a model with a "
              "parent, the parent. 1.0 means that the change is as large as what was there. Roles that start at zero are left out."]
    for family in dict.fromkeys(model["family"] for model in manifest["models"]):
        members = [model["id"] for model in manifest["models"] if model["family"] == family]
        roles = list(records[members[0]]["movement"])
        parts.append(table(["role", *members],
                           [[f"`{role}`", *(f"{records[m]['movement'][role]:.2f}" if role in records[m]["movement"] else "–"
                                            for m in members)] for role in roles]))

    parts += ["### Pairs", "Up matrices as they stand, no alignment: cosine after removing each tensor's mean, and "
              "√(⟨A, B⟩ / N), which for a shared initialisation has the initialiser's size (0.02 before weight decay).",
              table(["reference", "candidate", "truth", "cosine", "√(⟨A, B⟩ / N)"],
                    [[p["reference"], p["candidate"], p["truth"], *compare_up(p["reference"], p["candidate"])]
                     for p in manifest["pairs"]])]

    parts += ["### Greedy samples", "60 tokens after `def ` (last trained on A) or `And the ` (B)."]
    parts += [f"`{i}`:\n```text\n{r['sample'].rstrip()}\n```" for i, r in records.items()]

    files = [HERE / i / name for i in ids for name in PUBLISHED]
    total = sum(f.stat().st_size for f in files)
    parts += ["### Files", f"{total:,} bytes in all.",
              "```text\n" + "\n".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(HERE)}" for f in files) + "\n```"]
    readme = HERE / "README.md"
    above = readme.read_text().split(MARKER)[0]
    readme.write_text(above + "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
