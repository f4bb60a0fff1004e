"""Writes what transformers makes of "Once upon a time" with stories260K, token by token.

    python3 tests/parity/stories260k.py FOLDER    # a folder with the converted checkpoint and tokenizer

A truly trained model and a long text: an engine that gets one detail a little wrong drifts off the
story. Greedy, float32, 250 new tokens, recomputed from the whole text at every step so that no cache
is trusted. `margins` holds, per new token, by how much its logit exceeds the second best: where it is
small, another order of summation may rightly choose otherwise. The weights are not committed.
"""

import argparse
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import weights

HERE = Path(__file__).resolve().parent
PROMPT = "Once upon a time"
N_NEW = 250


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = tokenizer.encode(PROMPT).ids
    ids, margins = torch.tensor([prompt]), []
    for _ in range(N_NEW):
        logits = model(input_ids=ids, use_cache=False).logits[0, -1]
        best = logits.topk(2)
        margins.append(round((best.values[0] - best.values[1]).item(), 4))
        ids = torch.cat([ids, best.indices[:1][None]], dim=1)
    new = ids[0, len(prompt):].tolist()
    result = {
        "prompt": PROMPT, "prompt_ids": prompt, "token_ids": new, "text": tokenizer.decode(ids[0].tolist()),
        "smallest_margin": min(margins), "margins": margins,
        "model_sha256": {name: weights.sha256(folder / name) for name in ("config.json", "model.safetensors",
                                                                          "tokenizer.json")},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__},
    }
    (HERE / "stories260k.json").write_text(json.dumps(result, ensure_ascii=False) + "\n")
    print(result["text"])
    print("smallest margin", result["smallest_margin"])


if __name__ == "__main__":
    main()
