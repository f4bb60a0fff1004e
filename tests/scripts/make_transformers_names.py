"""Writes tests/data/transformers-5-tensors.json: names and shapes of small models as transformers saves them.

Names of tensors are held to what the library itself writes. Needs tests/data/transformers-5-configs.json
beside it, transformers 5 and torch, no network. Run: python make_transformers_names.py
"""

import json
import tempfile
from pathlib import Path

from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

DATA = Path(__file__).parent.parent / "data"
configs = json.loads((DATA / "transformers-5-configs.json").read_text())
saved = {}
for name, values in configs.items():
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name.split()[0]](**values))
    for original in [True, False]:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, save_original_format=original)
            with safe_open(Path(folder) / "model.safetensors", "pt") as file:
                names = {n: file.get_slice(n).get_shape() for n in sorted(file.keys())}
        case = name if original else f"{name}, as held"
        if names not in saved.values():
            saved[case] = names
lines = [f" {json.dumps(case)}: {json.dumps(names)}" for case, names in saved.items()]
(DATA / "transformers-5-tensors.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
print(len(saved), "models")
