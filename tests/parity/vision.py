"""Makes the vision cases: tiny image towers, LLaVA and MiniCPM-Llama3-V, and what they compute.

    python3 tests/parity/vision.py            # writes vision/<case>/ and vision.json
    python3 tests/parity/vision.py --twice    # makes all again elsewhere and compares the bytes

A folder holds `config.json`, `model.safetensors` (bfloat16, published names), the images as PNG and
`reference.safetensors`, whose `pixels.<i>` [3, height, width] are those images as (x / 255 - 0.5) / 0.5.
Resizing and cutting of images is not part of these cases.
"""

import argparse
import copy
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import (CLIPVisionConfig, CLIPVisionModel, LlavaConfig, LlavaForConditionalGeneration,
                          SiglipVisionConfig, SiglipVisionModel)
from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

import oracle
import weights
from make import HERE, PUBLISHED_VERSION, versions
from published.minicpmv import MiniCPMV

PATCH = 5
TOWER = {"hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 2,
         "patch_size": PATCH, "image_size": 35}
LLAMA = {"vocab_size": 97, "hidden_size": 36, "intermediate_size": 37, "num_hidden_layers": 2,
         "num_attention_heads": 3, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
         "max_position_embeddings": 128, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2}
# [height, width]: wide, high, and square but smaller than the position table.
SIZES = [(15, 40), (35, 20), (25, 25)]


def draw_image(generator: torch.Generator, height: int, width: int, path: Path) -> torch.Tensor:
    """Writes a random image and returns its normalised pixels [3, height, width]."""
    values = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(values.numpy()).save(path)
    return ((values.float() / 255 - 0.5) / 0.5).permute(2, 0, 1).contiguous()


def eager(config):
    config._attn_implementation = "eager"
    return config


def save(model, config: dict, folder: Path, rename: tuple[str, str] = ("", "")) -> None:
    """bfloat16 weights and the given config.

    transformers 5 saves towers without the `vision_model.` that the repositories have in their names;
    `rename` puts it back: (prefix as saved, prefix as published).
    """
    saved, published = rename
    with tempfile.TemporaryDirectory() as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        tensors = load_file(Path(temporary) / "model.safetensors")
    tensors = {published + name[len(saved):] if name.startswith(saved) else name: t for name, t in tensors.items()}
    model.float()
    weights.write(tensors, folder / "model.safetensors")
    write_config(config, folder)


def write_config(config: dict, folder: Path) -> None:
    content = {**config, "torch_dtype": "bfloat16", "transformers_version": PUBLISHED_VERSION}
    (folder / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_back(cls, folder: Path):
    model, info = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                      output_loading_info=True)
    if bad := {k: v for k, v in info.items() if v}:
        raise ValueError(f"{folder.name}: {bad}")
    return model.eval()


def tower(cls, config_class, extra: dict, folder: Path) -> dict[str, torch.Tensor]:
    """A tower for square images of one size: states after each layer, last state, pooled output."""
    generator = weights.generator_of(folder.name)
    keys = {**TOWER, **extra}
    model = cls(eager(config_class(**keys))).float().eval()
    weights.draw(model, generator)
    save(model, {"architectures": [cls.__name__], "model_type": config_class.model_type, **keys}, folder,
         ("", "vision_model."))
    pixels = draw_image(generator, 35, 35, folder / "image-0.png")
    model = read_back(cls, folder)
    out = model(pixel_values=pixels[None], output_hidden_states=True)
    result = {"pixels.0": pixels, "last_hidden_state": out.last_hidden_state[0], "pooler_output": out.pooler_output[0]}
    result |= {f"hidden.{i}": state[0] for i, state in enumerate(out.hidden_states)}
    result["last_hidden_state_f64"] = oracle.run_double(
        lambda: cls(eager(config_class(**keys))), model.state_dict(), {"pixel_values": pixels[None]},
        lambda out: out.last_hidden_state[0])
    return result


def siglip(folder: Path) -> dict[str, torch.Tensor]:
    return tower(SiglipVisionModel, SiglipVisionConfig, {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
                 folder)


def clip(folder: Path) -> dict[str, torch.Tensor]:
    return tower(CLIPVisionModel, CLIPVisionConfig, {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
                                                     "projection_dim": 19}, folder)


def idefics2(folder: Path) -> dict[str, torch.Tensor]:
    """Three aspect ratios, alone and in one padded batch: `last_hidden_state.<i>` of both agree."""
    generator = weights.generator_of(folder.name)
    keys = {**TOWER, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "image_size": 40}
    model = Idefics2VisionTransformer(eager(Idefics2VisionConfig(**keys))).float().eval()
    weights.draw(model, generator)
    save(model, {"architectures": ["Idefics2VisionTransformer"], "model_type": "idefics2_vision", **keys}, folder)
    model = read_back(Idefics2VisionTransformer, folder)
    n_side = keys["image_size"] // PATCH
    batch = torch.zeros(len(SIZES), 3, max(h for h, _ in SIZES), max(w for _, w in SIZES))
    mask = torch.zeros(len(SIZES), batch.shape[2] // PATCH, batch.shape[3] // PATCH, dtype=torch.bool)
    positions: list[torch.Tensor] = []
    hook = model.embeddings.position_embedding.register_forward_pre_hook(lambda _, args: positions.append(args[0]))
    result = {}
    for i, (height, width) in enumerate(SIZES):
        pixels = draw_image(generator, height, width, folder / f"image-{i}.png")
        batch[i, :, :height, :width], mask[i, :height // PATCH, :width // PATCH] = pixels, True
        result[f"pixels.{i}"] = pixels
        result[f"last_hidden_state.{i}"] = model(pixels[None]).last_hidden_state[0]
        result[f"position_ids.{i}"] = positions[-1][0]
        assert positions[-1].max() < n_side ** 2
    hook.remove()
    padded = model(batch, patch_attention_mask=mask).last_hidden_state
    for i in range(len(SIZES)):
        difference = (padded[i][mask[i].flatten()] - result[f"last_hidden_state.{i}"]).abs().max().item()
        assert difference < 1e-4, difference
    return result


def llava(folder: Path) -> dict[str, torch.Tensor]:
    """A CLIP tower's next to last layer without its class token, through two layers, into a Llama."""
    generator = weights.generator_of(folder.name)
    n_image, image_token = (20 // PATCH) ** 2, 90
    keys = {
        "model_type": "llava", "image_token_index": image_token, "image_seq_length": n_image,
        "projector_hidden_act": "gelu", "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        "ignore_index": -100, "tie_word_embeddings": False, "text_config": {"model_type": "llama", **LLAMA},
        "vision_config": {"model_type": "clip_vision_model", **TOWER, "image_size": 20, "hidden_act": "quick_gelu",
                          "layer_norm_eps": 1e-5, "num_hidden_layers": 3, "projection_dim": 19}}

    def build():
        return LlavaForConditionalGeneration(eager(LlavaConfig.from_dict(copy.deepcopy(keys))))

    model = build().float().eval()
    for part in (model.model.vision_tower, model.model.language_model):
        eager(part.config)
    weights.draw(model, generator)
    save(model, {"architectures": ["LlavaForConditionalGeneration"], **keys}, folder,
         ("vision_tower.", "vision_tower.vision_model."))
    pixels = draw_image(generator, 20, 20, folder / "image-0.png")
    ids = torch.randint(3, image_token, (1, 11), generator=generator)
    ids = torch.cat([ids[:, :4], torch.full((1, n_image), image_token), ids[:, 4:]], dim=1)
    model = read_back(LlavaForConditionalGeneration, folder)
    out = model(input_ids=ids, pixel_values=pixels[None], output_hidden_states=True, use_cache=False)
    features = model.get_image_features(pixel_values=pixels[None]).pooler_output[0]
    result = {"pixels.0": pixels, "input_ids": ids[0], "logits": out.logits[0],
              "image_features": features.reshape(n_image, -1), "hidden.0": out.hidden_states[0][0]}
    result["logits_f64"] = oracle.run_double(build, model.state_dict(),
                                             {"input_ids": ids, "pixel_values": pixels[None]})
    return result


def minicpm_llama3_v(folder: Path) -> dict[str, torch.Tensor]:
    """One image in a text: tower, resampler and logits; `tower.<i>.grid` is what the true grid would give."""
    generator = weights.generator_of(folder.name)
    n_queries, image_start, image_end = 7, 91, 92
    keys = {
        **LLAMA, "architectures": ["MiniCPMV"], "model_type": "minicpmv", "attention_bias": False,
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMVConfig", "AutoModel": "modeling_minicpmv.MiniCPMV"},
        "batch_vision_input": True, "drop_vision_last_layer": False, "image_size": 20, "mm_use_im_start_end": True,
        "patch_size": PATCH, "query_num": n_queries, "resampler_n_heads": 3, "rope_scaling": None, "slice_mode": True,
        "slice_config": {"max_slice_nums": 9, "patch_size": PATCH, "model_type": "minicpmv"},
        "tie_word_embeddings": False, "use_cache": False,
        "vision_config": {**TOWER, "image_size": 40, "model_type": "idefics2"}}
    model = MiniCPMV(**copy.deepcopy(keys)).float().eval()
    weights.draw(model, generator)
    weights.write({k: v.bfloat16() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    write_config(keys, folder)
    read = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(read)
    result = {}
    words = torch.randint(3, image_start, (9,), generator=generator)
    between = torch.zeros(n_queries, dtype=torch.long)  # the published processor's placeholder is <unk>
    ids = torch.cat([words[:3], torch.tensor([image_start]), between, torch.tensor([image_end]), words[3:]])
    result["input_ids"] = ids
    for i, (height, width) in enumerate(SIZES):
        pixels = draw_image(generator, height, width, folder / f"image-{i}.png")
        result[f"pixels.{i}"] = pixels
        seen = model.vision(pixels)
        rows = model.resampler(seen, (height // PATCH, width // PATCH))
        result[f"tower.{i}"], result[f"resampler.{i}"] = seen, rows
        result[f"logits.{i}"] = model(ids[None], [(4, rows)])
        result[f"tower.{i}.grid"] = model.vision(pixels, as_grid=True)
        if not (seen - result[f"tower.{i}.grid"]).abs().max() > 1e-2:
            raise ValueError("the two ways of placing patches do not differ")
    return result


CASES = {"siglip": siglip, "clip": clip, "idefics2": idefics2, "llava": llava, "minicpm-llama3-v": minicpm_llama3_v}


@torch.no_grad()
def make(name: str, root: Path) -> dict:
    """Writes the folder of a case and returns its manifest entry."""
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    values = CASES[name](folder)
    weights.write(values, folder / "reference.safetensors")
    if not all(torch.isfinite(t).all() for t in values.values()):
        raise ValueError(f"{name}: not finite")
    files = sorted(folder.iterdir())
    own = name == "minicpm-llama3-v"
    entry = {"oracle": "own module around transformers' tower and Llama" if own else "transformers",
             "n_bytes": sum(f.stat().st_size for f in files), "sha256": {f.name: weights.sha256(f) for f in files}}
    print(f"{name:18} {entry['n_bytes']:8,} bytes", flush=True)
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--twice", action="store_true", help="make again elsewhere and compare the bytes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    path = HERE / "vision.json"
    if args.twice:
        kept = json.loads(path.read_text())["cases"]
        with tempfile.TemporaryDirectory() as temporary:
            if any(make(name, Path(temporary))["sha256"] != kept[name]["sha256"] for name in CASES):
                raise SystemExit("other bytes than vision.json's")
        return
    entries = {name: make(name, HERE / "vision") for name in CASES}
    path.write_text(json.dumps({"cases": entries, "versions": versions(),
                                "n_bytes": sum(e["n_bytes"] for e in entries.values())}, indent=1) + "\n")


if __name__ == "__main__":
    main()
