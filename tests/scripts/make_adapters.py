"""Trains adapters on zoo models with peft and merges them with peft, into tests/data/adapters/.

Each variant is a folder as peft saves it: `adapter_config.json`, `adapter_model.safetensors` (or `.bin`), and beside
them `merged/`: the tensors of the base model that merging changed, in the base's own type (the first rows of each;
of WHOLE all rows, so that the tests can put the merged model together).

What is called qlora was trained on the base in nf4, as bitsandbytes quantizes it (tests/data/quantized/nf4-nested has
the same codes: the script checks it). It is merged twice, as people do it: into the published base (`merged/rows`),
and into what the nf4 base stands for, in bf16 (`merged/dequantized`).

    pip install torch==2.15.0 transformers==5.24.0 peft==0.21.2 bitsandbytes==0.50.2 safetensors
    python tests/scripts/make_adapters.py tests/zoo tests/data/adapters
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

LLAMA = dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
             layers_to_transform=[0, 1], task_type="CAUSAL_LM")
GPT2 = dict(r=4, lora_alpha=8, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True,
            layers_to_transform=[0, 1], task_type="CAUSAL_LM")
# bitsandbytes 0.50.2 is wrong on CPUs where rows are not whole blocks of 64, as those of down_proj.
QLORA = dict(LLAMA, target_modules=["q_proj", "v_proj", "up_proj"])

# Name: zoo model, options of LoraConfig, seed of the initialisation, seed of the data, steps, further options.
VARIANTS = {
    "lora": ("llama-a", LLAMA, 1, 1, 60, {}),
    "lora-continued": ("llama-a", LLAMA, 1, 2, 20, {"start": "lora"}),
    "lora-same-seed": ("llama-a", LLAMA, 1, 3, 60, {}),
    "lora-other": ("llama-a", LLAMA, 5, 3, 60, {}),
    "lora-other-base": ("llama-a-other-seed", LLAMA, 6, 1, 60, {}),
    "lora-turned": ("llama-a", LLAMA, 0, 0, 0, {"turn": "lora"}),
    "lora-bin": ("llama-a", LLAMA, 1, 1, 10, {"pickle": True}),
    "rslora-patterns": ("llama-a", dict(LLAMA, use_rslora=True, rank_pattern={"q_proj": 3},
                        alpha_pattern={"^model.layers.1.mlp.up_proj": 5, "v_proj": 2}), 7, 1, 60, {}),
    "dora": ("llama-a", dict(LLAMA, use_dora=True), 8, 1, 60, {}),
    "gpt2": ("gpt2-a", GPT2, 9, 1, 60, {}),
    "gpt2-dora": ("gpt2-a", dict(GPT2, use_dora=True), 10, 1, 60, {}),
    "embedding-and-norm": ("llama-a", dict(LLAMA, target_modules=["embed_tokens", "o_proj"], layers_to_transform=None,
                           modules_to_save=["norm"]), 11, 1, 60, {"save_embedding_layers": False}),
    "qlora": ("llama-a", QLORA, 12, 1, 60, {"nf4": True}),
    "qlora-continued": ("llama-a", QLORA, 12, 2, 20, {"start": "qlora", "nf4": True}),
    "qlora-other": ("llama-a", QLORA, 13, 3, 60, {"nf4": True}),
}

# Variants whose merged weights are kept whole, and the rows that are kept of the others.
WHOLE = ["lora", "qlora"]
N_ROWS = 8


def train(model, seed, n_steps):
    """A few steps on sequences that repeat themselves: enough that nothing stays as it was initialised."""
    torch.manual_seed(seed)
    base = torch.randint(3, model.config.vocab_size, (8, 12))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    for step in range(n_steps):
        tokens = base[torch.randperm(8)[:4]].repeat(1, 2)
        loss = model(input_ids=tokens, labels=tokens).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    if n_steps:
        print(f"    loss {loss.item():.3f}")


def turn(folder):
    """B G and G⁻¹ A for random G: the same changes out of other factors."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in tensors if ".lora_A." in name]:
        other = name.replace(".lora_A.", ".lora_B.")
        rank = tensors[name].shape[0]
        basis = torch.randn(rank, rank, generator=generator, dtype=torch.float64)
        tensors[name] = torch.linalg.solve(basis, tensors[name].double()).float().contiguous()
        tensors[other] = (tensors[other].double() @ basis).float().contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def nf4_base(zoo, out, model_name):
    """The model with the first two layers in nf4, as bitsandbytes loads it, and the same with their values in bf16."""
    options = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head", "model.layers.2", "model.layers.3"],
    )
    model = AutoModelForCausalLM.from_pretrained(
        zoo / model_name, quantization_config=options, dtype=torch.bfloat16, device_map="cpu")
    parts = load_file(out.parent / "quantized" / "nf4-nested" / "parts.safetensors")
    dequantized = AutoModelForCausalLM.from_pretrained(zoo / model_name, dtype=torch.bfloat16)
    n = 0
    for stem, module in model.named_modules():
        if f"{stem}.weight.absmax" in parts:
            codes = parts[f"{stem}.weight"].flatten()
            assert torch.equal(module.weight.data.flatten(), codes), stem
            state = module.weight.quant_state
            scales = state.state2.code[state.absmax.long()]
            scales = scales * state.state2.absmax.repeat_interleave(state.state2.blocksize)[: len(scales)] + state.offset
            values = state.code[torch.stack([codes >> 4, codes & 15], 1).flatten().long()]
            values = (values * scales.repeat_interleave(state.blocksize)[: len(values)]).reshape(state.shape)
            dequantized.get_submodule(stem).weight.data = values.to(torch.bfloat16)
            n += 1
    assert n == 14
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False), dequantized


def make(zoo, out, name):
    print(name)
    model_name, options, init, data, n_steps, more = VARIANTS[name]
    folder = out / name
    if more.get("nf4"):
        base, dequantized = nf4_base(zoo, out, model_name)
    else:
        base = AutoModelForCausalLM.from_pretrained(zoo / model_name, dtype=torch.bfloat16)
    torch.manual_seed(init)
    source = more.get("start") or more.get("turn")
    if source:
        model = PeftModel.from_pretrained(base, out / source, is_trainable=True)
    else:
        model = get_peft_model(base, LoraConfig(**options))
    train(model, data, n_steps)
    model.peft_config["default"].base_model_name_or_path = f"modelkin/{model_name}"
    saved = {"save_embedding_layers": more["save_embedding_layers"]} if "save_embedding_layers" in more else {}
    if more.get("pickle"):
        # Newer versions of peft write safetensors alone; older ones wrote this with torch.save.
        model.save_pretrained(folder, **saved)
        torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
    else:
        model.save_pretrained(folder, **saved)
    (folder / "README.md").unlink(missing_ok=True)
    if more.get("turn"):
        turn(folder)
        fresh = AutoModelForCausalLM.from_pretrained(zoo / model_name, dtype=torch.bfloat16)
        model = PeftModel.from_pretrained(fresh, folder)
    # Merged as users do it: loaded anew, into the base in its own type.
    fresh = AutoModelForCausalLM.from_pretrained(zoo / model_name, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(fresh, folder).merge_and_unload().state_dict()
    stored = load_file(zoo / model_name / "model.safetensors")
    prefix = "transformer." if model_name.startswith("gpt2") and "wte.weight" in stored else ""
    changed = {n: merged[prefix + n].contiguous() for n, t in stored.items() if not torch.equal(merged[prefix + n], t)}
    assert changed
    if name not in WHOLE:
        changed = {n: t[:N_ROWS].contiguous() for n, t in changed.items()}
    (folder / "merged").mkdir(exist_ok=True)
    save_file(changed, folder / "merged" / "rows.safetensors", metadata={"format": "pt"})
    if more.get("nf4"):
        merged = PeftModel.from_pretrained(dequantized, folder).merge_and_unload().state_dict()
        rows = {n: merged[n][:N_ROWS].contiguous() for n in changed}
        save_file(rows, folder / "merged" / "dequantized.safetensors", metadata={"format": "pt"})
    config = folder / "adapter_config.json"
    stated = json.loads(config.read_text())
    for key in ("target_modules", "modules_to_save"):
        if isinstance(stated.get(key), list):
            stated[key].sort()  # A set: its order changes from run to run.
    config.write_text(json.dumps(stated, indent=2) + "\n")
    for path in sorted(folder.iterdir()):
        print(f"    {path.name} {path.stat().st_size}")


if __name__ == "__main__":
    zoo, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    for name in sys.argv[3:] or VARIANTS:
        make(zoo, out, name)
