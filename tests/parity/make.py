"""Makes the parity cases: tiny random models of every family and what the published code computes.

    python3 tests/parity/make.py                  # everything: models/<case>/ and manifest.json
    python3 tests/parity/make.py llama gemma2     # some of it
    python3 tests/parity/make.py --check          # every switch under test really changes the logits
    python3 tests/parity/make.py --twice          # makes all again elsewhere and compares the bytes

A folder holds `config.json`, `model.safetensors` (bfloat16, published names) and
`reference.safetensors`. References are computed from the folder as it was written, read back with
`from_pretrained`, so that a name or key that the published code would not read is an error here.
"""

import argparse
import copy
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

# Must be set before torch starts: a second thread would change the order of the sums.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import safetensors
import torch
import transformers
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING

import cross
import oracle
import weights
from cases import CASES, OWN, Case
from published import MODELS

HERE = Path(__file__).resolve().parent
PUBLISHED_VERSION = "4.40.0"  # of transformers, as the repositories of that time state it
MIN_CHANGE = 1e-2             # a switch that moves no logit by this much is not under test
MAX_CROSS_ERROR = 1e-4        # between two float32 programs of the same model, logits of order ten


def config_of(case: Case, overrides: dict | None = None):
    """The transformers configuration that the published keys mean; for an own module, the keys."""
    # transformers writes defaults into the nested dictionaries that it is given.
    keys = copy.deepcopy({**case.config, **(overrides or {})})
    if case.oracle == OWN:
        return keys
    config = CONFIG_MAPPING[keys["model_type"]].from_dict(keys)
    config._attn_implementation = case.attention
    config._experts_implementation = "eager"
    return config


def build(case: Case, config):
    """The model with whatever weights its code gives it."""
    if case.oracle == OWN:
        return MODELS[case.architecture](**config).eval()
    return getattr(transformers, case.architecture)(config).eval()


def write_model(case: Case, folder: Path) -> None:
    """config.json and model.safetensors."""
    generator = weights.generator_of(case.name)
    model = build(case, config_of(case)).float()
    weights.draw(model, generator)
    model.to(torch.bfloat16)
    if case.oracle == OWN:
        tensors = model.state_dict()
    else:
        with tempfile.TemporaryDirectory() as temporary:
            model.save_pretrained(temporary, save_original_format=case.save_original_format)
            tensors = load_file(Path(temporary) / "model.safetensors")
            config = (Path(temporary) / "config.json").read_text()
    tensors = {name.removeprefix(case.strip_prefix): tensor for name, tensor in tensors.items()}
    # The one kind of tensor that is published in another type beside bfloat16 weights.
    tensors |= {name: t.float() for name, t in tensors.items() if name.endswith("e_score_correction_bias")}
    if case.name == "gpt2-base-names":
        # That repository also holds the causal masks, which are no weights.
        n = case.config["n_positions"]
        tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, n, n).tril() for i in range(case.config["n_layer"])}
    if case.keys == "published":
        content = {"architectures": [case.architecture], **case.config, "torch_dtype": "bfloat16",
                   "transformers_version": PUBLISHED_VERSION}
        config = json.dumps(content, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(config)
    weights.write(tensors, folder / "model.safetensors")


def load(case: Case, folder: Path, dtype: torch.dtype):
    """The model of a folder; every tensor must find its place."""
    if case.oracle == OWN:
        model = build(case, config_of(case)).to(dtype)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model
    model, info = getattr(transformers, case.architecture).from_pretrained(
        folder, dtype=dtype, attn_implementation=case.attention, output_loading_info=True)
    model.config._experts_implementation = "eager"
    if bad := {k: v for k, v in info.items() if v}:
        raise ValueError(f"{case.name}: {bad}")
    return model.eval()


def ids_of(case: Case) -> torch.Tensor:
    """[1, n_tokens] token ids."""
    generator = weights.generator_of(case.name + " ids")
    return torch.randint(3, case.config["vocab_size"], (1, case.n_tokens), generator=generator)


def reference(case: Case, folder: Path) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": ids_of(case)}
    single = load(case, folder, torch.float32)
    result = oracle.run(single, inputs, case.mlp)
    half = load(case, folder, torch.bfloat16)
    result["logits_bf16"] = oracle.run(half, inputs)["logits"].float()
    config = config_of(case)
    if case.oracle != OWN:
        config.dtype = torch.float64
    result["logits_f64"] = oracle.run_double(lambda: build(case, config), single.state_dict(), inputs)
    result["input_ids"] = inputs["input_ids"][0]
    for name, tensor in result.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{case.name}: {name} is not finite")
    return result


def make(case: Case, root: Path) -> dict:
    """Writes the folder of a case and returns its manifest entry."""
    folder = root / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_model(case, folder)
    values = reference(case, folder)
    weights.write(values, folder / "reference.safetensors")
    error = (values["logits"].double() - values["logits_f64"]).abs().max().item()
    rounded = (values["logits_bf16"].double() - values["logits_f64"]).abs().max().item()
    files = sorted(folder.iterdir())
    entry = {
        "oracle": case.oracle, "architecture": case.architecture, "config_keys": case.keys,
        "tensor_names": "published" if case.save_original_format else "transformers 5",
        "f32_error": float(f"{error:.1e}"), "bf16_error": float(f"{rounded:.1e}"),
        "logit_scale": float(f"{values['logits_f64'].abs().max().item():.2e}"),
        "n_bytes": sum(f.stat().st_size for f in files), "sha256": {f.name: weights.sha256(f) for f in files},
    }
    print(f"{case.name:22} {entry['n_bytes']:8,} bytes  |logit| {entry['logit_scale']:6.2f}"
          f"  f32 {error:.1e}  bf16 {rounded:.1e}", flush=True)
    return entry


@torch.no_grad()
def check(case: Case, root: Path) -> None:
    """Fails unless each change of `without` alters the logits of the same weights.

    An own module must also agree with a class of transformers that can say the same.
    """
    inputs = {"input_ids": ids_of(case)}
    state = load(case, root / case.name, torch.float32).state_dict()
    kept = load_file(root / case.name / "reference.safetensors")["logits"]
    other = None
    if case.name in cross.CROSS:
        tensors = load_file(root / case.name / "model.safetensors")
        other = cross.logits(case.name, copy.deepcopy(case.config), tensors, inputs["input_ids"])
    elif case.oracle != OWN and case.architecture in MODELS:
        own = MODELS[case.architecture](**case.config)
        own.load_state_dict(load_file(root / case.name / "model.safetensors"))
        other = own(**inputs).logits[0]
    if other is not None:
        difference = (other - kept).abs().max().item()
        print(f"{case.name:22} own module and a class of transformers: {difference:.1e} apart")
        if not difference < MAX_CROSS_ERROR:
            raise SystemExit(f"{case.name}: the own module differs")
    for change in case.without:
        model = build(case, config_of(case, change)).float()
        model.load_state_dict(state, strict=False)
        difference = (model(**inputs, use_cache=False).logits[0] - kept).abs().max().item()
        print(f"{case.name:22} {json.dumps(change)}: {difference:.3f}")
        if not difference > MIN_CHANGE:
            raise SystemExit(f"{case.name}: {change} changes nothing")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__, "safetensors": safetensors.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="all by default")
    parser.add_argument("--check", action="store_true", help="assert that each switch under test acts")
    parser.add_argument("--twice", action="store_true", help="make again elsewhere and compare the bytes")
    args = parser.parse_args()
    if unknown := [c for c in args.cases if c not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    chosen = [CASES[name] for name in (args.cases or CASES)]

    root, path = HERE / "models", HERE / "manifest.json"
    if args.check:
        for case in chosen:
            check(case, root)
        return
    manifest = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    if args.twice:
        with tempfile.TemporaryDirectory() as temporary:
            for case in chosen:
                if make(case, Path(temporary))["sha256"] != manifest["cases"][case.name]["sha256"]:
                    raise SystemExit(f"{case.name}: other bytes than the manifest's")
        return
    for case in chosen:
        manifest["cases"][case.name] = make(case, root)
    manifest["versions"] = versions()
    manifest["cases"] = {name: manifest["cases"][name] for name in CASES if name in manifest["cases"]}
    manifest["n_bytes"] = sum(entry["n_bytes"] for entry in manifest["cases"].values())
    path.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
