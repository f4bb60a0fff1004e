"""Times transformers on the model of the bench `engine`: a line of JSON for each type it computes in.

    python transformers_llama.py MODEL cpu|cuda N_PROMPT N_GENERATED N_RUNS
"""

import json
import statistics
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM


def main() -> None:
    folder, device = sys.argv[1:3]
    n_prompt, n_generated, n_runs = map(int, sys.argv[3:6])
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
        ids = torch.randint(0, model.config.vocab_size, (1, n_prompt), device=device)
        prefills, decodes = [], []

        def now() -> float:
            if device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter()

        with torch.inference_mode():
            for run in range(n_runs + 1):
                started = now()
                out = model(ids, use_cache=True, logits_to_keep=1)
                prefilled = now()
                token = out.logits[:, -1:].argmax(-1)
                for _ in range(n_generated - 1):
                    out = model(token, past_key_values=out.past_key_values, use_cache=True)
                    token = out.logits[:, -1:].argmax(-1)
                ended = now()
                if run:
                    prefills.append(prefilled - started)
                    decodes.append(ended - prefilled)
        name = f"transformers {transformers.__version__}, torch {torch.__version__}, {device}, {dtype}"
        print(json.dumps({"what": name, "prefill_s": statistics.median(prefills),
                          "decode_s": statistics.median(decodes)}), flush=True)


if __name__ == "__main__":
    main()
