"""Trains the zoo: tiny, genuinely trained checkpoints whose relations are known by construction.

    python3 tests/zoo/train.py                         # everything, about 15 minutes on one core
    python3 tests/zoo/train.py llama-a llama-a-tuned   # some of it (parents must exist already)
    python3 tests/zoo/train.py --calibration DIR --calibration-kind seeds --n 8

A model of the zoo is one `Recipe`: architecture, tokenizer, initialisation seed or parent, text and
schedule. Nothing else differs between two recipes, so what the manifest says of a pair is true by
construction. Batches are drawn from a generator that depends on the text's order seed alone, never
on the initialisation seed: two models with one text see the same batches in the same order.

Every run writes a checkpoint in the published format and a record to `training/<model>.json`; the
tables of the README are made from those records by `report.py`. `manifest.json` is written by hand.
"""

import argparse
import json
import math
import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path

# Must be set before torch starts: a second thread would change the order of the sums.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                          PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM)

import texts

HERE = Path(__file__).resolve().parent
CONTEXT = 128
BATCH = 8
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """One training run. Exactly one of `seed` (from scratch) and `parent` (from its weights)."""

    family: str
    vocabulary: str
    text: str
    steps: int
    learning_rate: float
    seed: int | None = None
    parent: str | None = None
    order_seed: int = 7


SCRATCH = {"steps": 2000, "learning_rate": 3e-3}
ZOO = {
    "llama-a": Recipe("llama", "a", "a", seed=1, **SCRATCH),
    "llama-a-tuned": Recipe("llama", "a", "b", 300, 5e-4, parent="llama-a"),
    "llama-a-other-seed": Recipe("llama", "a", "a", seed=2, **SCRATCH),
    "llama-a-same-seed-b": Recipe("llama", "a", "b", 600, 1e-3, seed=1),
    "llama-a-continued": Recipe("llama", "a", "b", 2400, 3e-3, parent="llama-a", order_seed=8),
    "qwen2-b": Recipe("qwen2", "b", "b", seed=11, **SCRATCH),
    "qwen2-b-other-seed": Recipe("qwen2", "b", "b", seed=12, **SCRATCH),
    "gpt2-a": Recipe("gpt2", "a", "a", seed=21, **SCRATCH),
    "gpt2-a-tuned": Recipe("gpt2", "a", "b", 300, 5e-4, parent="gpt2-a"),
    "gpt2-a-other-seed": Recipe("gpt2", "a", "a", seed=22, **SCRATCH),
}
# A vocabulary is trained on one text; models that share it share tokenizer.json byte for byte.
VOCABULARY_SIZES = {"a": 768, "b": 512}


def build_config(family: str, vocab_size: int, end_of_text: int):
    """The configuration of a family. Head dimension 16 throughout; MLPs wide enough for rank tests."""
    common = {"vocab_size": vocab_size, "bos_token_id": end_of_text, "eos_token_id": end_of_text,
              "initializer_range": 0.02}
    if family == "llama":
        return LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=4,
                           num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
                           max_position_embeddings=256, tie_word_embeddings=False, **common)
    if family == "qwen2":
        return Qwen2Config(hidden_size=80, intermediate_size=144, num_hidden_layers=4,
                           num_attention_heads=5, num_key_value_heads=1, rms_norm_eps=1e-6,
                           max_position_embeddings=256, tie_word_embeddings=True, **common)
    if family == "gpt2":
        return GPT2Config(n_embd=64, n_layer=4, n_head=4, n_positions=CONTEXT, resid_pdrop=0.0,
                          embd_pdrop=0.0, attn_pdrop=0.0, **common)
    raise ValueError(f"unknown family {family!r}")


MODEL_CLASSES = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM, "gpt2": GPT2LMHeadModel}


def initialise(recipe: Recipe, tokenizer: Tokenizer):
    """The untrained fp32 model of a recipe that starts from scratch."""
    torch.manual_seed(recipe.seed)
    config = build_config(recipe.family, tokenizer.get_vocab_size(), tokenizer.token_to_id(END_OF_TEXT))
    return MODEL_CLASSES[recipe.family](config).float()


class Corpus:
    """Both texts and both vocabularies, each made once and only when asked for."""

    def __init__(self, text_b_path: str | None):
        self.text_b_path = text_b_path
        self.texts: dict[str, str] = {}
        self.tokenizers: dict[str, Tokenizer] = {}

    def text(self, name: str) -> str:
        if name not in self.texts:
            self.texts[name] = texts.text_a() if name == "a" else texts.text_b(self.text_b_path)
        return self.texts[name]

    def tokenizer(self, name: str) -> Tokenizer:
        """Byte-level BPE trained on one text: any UTF-8 string round-trips, nothing is unknown."""
        if name not in self.tokenizers:
            tokenizer = Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            tokenizer.train_from_iterator(
                self.text(name).splitlines(keepends=True),
                trainers.BpeTrainer(vocab_size=VOCABULARY_SIZES[name], special_tokens=[END_OF_TEXT],
                                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                    show_progress=False))
            self.tokenizers[name] = tokenizer
        return self.tokenizers[name]

    def split(self, vocabulary: str, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids for training and, from the last twentieth of the text, for validation."""
        lines = self.text(text).splitlines(keepends=True)
        ids = [i for e in self.tokenizer(vocabulary).encode_batch(lines) for i in e.ids]
        cut = len(ids) * 19 // 20
        return torch.tensor(ids[:cut]), torch.tensor(ids[cut:])


def windows(ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """[batch, CONTEXT] token ids beginning at each of `starts`."""
    return ids[starts[:, None] + torch.arange(CONTEXT)]


def loss_of(model, batch: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats."""
    logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def validation_loss(model, ids: torch.Tensor) -> float:
    """Mean loss over 64 evenly spaced windows of the held-out ids."""
    starts = torch.linspace(0, len(ids) - CONTEXT - 1, 64).long()
    return sum(loss_of(model, windows(ids, part)).item() for part in starts.split(16)) / 4


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up over a twentieth of the run, then a cosine to a tenth of the peak."""
    warm_up = max(1, recipe.steps // 20)
    if step < warm_up:
        return recipe.learning_rate * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, recipe.steps - warm_up)
    return recipe.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


def role_of(name: str) -> str:
    """The parameter's name without its layer number: what weight movement is reported by."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def movement(model, start: dict[str, torch.Tensor]) -> dict[str, float]:
    """‖W − W0‖ / ‖W0‖ per role, over all layers together. W0 is the run's own starting point.

    Roles that start at exactly zero (biases) have no such ratio and are left out.
    """
    sums: dict[str, list[float]] = {}
    for name, parameter in model.named_parameters():
        entry = sums.setdefault(role_of(name), [0.0, 0.0])
        entry[0] += (parameter.detach() - start[name]).double().square().sum().item()
        entry[1] += start[name].double().square().sum().item()
    return {role: round(math.sqrt(d / s), 3) for role, (d, s) in sums.items() if s > 0}


@torch.no_grad()
def greedy_sample(model, tokenizer: Tokenizer, prompt: str, n_tokens: int = 60) -> str:
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    for _ in range(n_tokens):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return tokenizer.decode(ids[0].tolist())


def save(model, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the published format: bf16 safetensors, configs, tokenizer."""
    model.to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT,
                            model_max_length=CONTEXT).save_pretrained(folder)
    # Unindented: the same content in half the bytes.
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "model.safetensors").chmod(0o644)


def train(recipe: Recipe, corpus: Corpus, folder: Path, parents: Path) -> dict:
    """Runs one recipe, writes its checkpoint to `folder` and returns the record of the run."""
    began = time.process_time()
    tokenizer = corpus.tokenizer(recipe.vocabulary)
    if recipe.parent is None:
        model = initialise(recipe, tokenizer)
    else:
        # The parent as published, so in bf16: a descendant starts from what the world can have.
        model = MODEL_CLASSES[recipe.family].from_pretrained(parents / recipe.parent, dtype=torch.float32)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_ids, held_out = corpus.split(recipe.vocabulary, recipe.text)

    # Weight decay for matrices alone, as usual: gains and biases have one dimension.
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                                   {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95))
    order = torch.Generator().manual_seed(recipe.order_seed)
    before = validation_loss(model, held_out)
    curve, recent = [], []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, recipe)
        starts = torch.randint(len(train_ids) - CONTEXT, (BATCH,), generator=order)
        loss = loss_of(model, windows(train_ids, starts))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % max(1, recipe.steps // 10) == 0:
            curve.append([step + 1, round(sum(recent) / len(recent), 3)])
            print(f"  step {step + 1:5d}  loss {curve[-1][1]:.3f}  {time.process_time() - began:.0f} s", flush=True)
            recent = []
    record = {
        "recipe": {k: v for k, v in vars(recipe).items() if v is not None},
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "validation_loss_before": round(before, 3),
        "validation_loss_after": round(validation_loss(model, held_out), 3),
        "training_loss": curve,
        "movement": movement(model, start),
        "sample": greedy_sample(model, tokenizer, "def " if recipe.text == "a" else "And the "),
        "cpu_seconds": round(time.process_time() - began),
    }
    save(model, tokenizer, folder)
    return record


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__, "tokenizers": tokenizers.__version__}


def calibration_recipes(kind: str, n: int, of: str) -> dict[str, Recipe]:
    """Independent runs of a recipe, and for each its same-seed twin or long continuation on text B."""
    base = {f"{of}-seed-{s}": replace(ZOO[of], seed=s) for s in range(1001, 1001 + n)}
    if kind == "seeds":
        return base
    if kind == "twins":
        return {f"{name}-twin-b": replace(r, text="b") for name, r in base.items()}
    return {f"{name}-continued-b": replace(ZOO["llama-a-continued"], parent=name) for name in base}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"of the zoo; all by default: {', '.join(ZOO)}")
    parser.add_argument("--text-b", metavar="FILE", help="output of: " + " ".join(texts.TEXT_B_COMMAND))
    parser.add_argument("--calibration", metavar="DIR", type=Path, help="train there, not the zoo")
    parser.add_argument("--calibration-kind", choices=["seeds", "twins", "continued"], default="seeds")
    parser.add_argument("--calibration-of", default="llama-a", help="the from-scratch model that is made anew")
    parser.add_argument("--n", type=int, default=8, help="number of calibration models")
    args = parser.parse_args()
    if unknown := [m for m in args.models if m not in ZOO]:
        parser.error(f"no such model: {', '.join(unknown)}")

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    corpus = Corpus(args.text_b)
    folder = args.calibration or HERE
    recipes = (calibration_recipes(args.calibration_kind, args.n, args.calibration_of) if args.calibration
               else {name: ZOO[name] for name in (args.models or ZOO)})
    print(" ".join(f"{k} {v}" for k, v in versions().items()))
    for name, recipe in recipes.items():
        print(name, flush=True)
        record = train(recipe, corpus, folder / name, folder)
        print(f"  validation loss {record['validation_loss_before']} -> {record['validation_loss_after']}")
        text = corpus.text(recipe.text)
        record |= {"versions": versions(), "text": {"n_bytes": len(text.encode()), "sha256": texts.sha256(text)}}
        log = folder / "training" / f"{name}.json"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
