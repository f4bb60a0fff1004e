"""Writes tests/data/formats/trained/: a trained model whose rows k-quants can take, and its packed copies.

The zoo's rows are of 64 values, and k-quants need 256. One layer of 256 × 256 is trained on the zoo's text B,
then further on its text A, with the zoo's own training (`tests/zoo/train.py`); of the tuned model only the
packed files are kept. Packed as `make_formats.py` says. About three minutes on one core.

    pip install gguf==0.19.0 torch transformers tokenizers safetensors numpy
    python tests/scripts/make_trained_formats.py libctransformers.so tests/data/formats/trained
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from gguf.constants import GGMLQuantizationType as T
from safetensors.torch import load_file
from transformers import LlamaConfig

import make_formats as formats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "zoo"))
import train  # noqa: E402  (its folder is on the path only now)

HIDDEN, HEADS, KV_HEADS, MLP = 256, 8, 4, 256
SIZES = (1, HIDDEN, HEADS, KV_HEADS, HIDDEN // HEADS, MLP)
RECIPES = {
    "wide": train.Recipe("llama", "b", "b", 1500, 2e-3, seed=31),
    "wide-tuned": train.Recipe("llama", "b", "a", 200, 3e-4, parent="wide"),
}
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def build_config(_, vocab_size, end_of_text):
    return LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=MLP, num_hidden_layers=1, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, rms_norm_eps=1e-5, max_position_embeddings=256, tie_word_embeddings=True,
        vocab_size=vocab_size, bos_token_id=end_of_text, eos_token_id=end_of_text, initializer_range=0.02,
    )  # fmt: skip


def gguf_name(name):
    if found := re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.weight", name):
        return f"blk.{found[1]}.{NAMES[found[2]]}"
    return {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm"}[name]


def main():
    library, out = formats.load_library(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    train.build_config = build_config
    train.torch.set_num_threads(1)
    train.torch.use_deterministic_algorithms(True)
    corpus = train.Corpus(None)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, recipe in RECIPES.items():
            record = train.train(recipe, corpus, folder / name, folder)
            print(name, record["validation_loss_before"], "->", record["validation_loss_after"])
        for file in ["config.json", "model.safetensors"]:
            shutil.copy(folder / "wide" / file, out / file)
        for name, tail in [("wide", ""), ("wide-tuned", "-tuned")]:
            state = load_file(folder / name / "model.safetensors")
            tensors = [(gguf_name(key), values.float().numpy()) for key, values in state.items()]
            kinds = [("q2_k", formats.one(T.Q2_K, T.Q4_0)), ("iq2_xxs", formats.one(T.IQ2_XXS, T.Q4_0))]
            if tail:
                kinds += [("q4_k_m", formats.q4_k_m), ("iq4_xs", formats.one(T.IQ4_XS, T.Q5_0))]
            for kind, choose in kinds:
                formats.write(library, out / f"{kind}{tail}.gguf", tensors, choose, SIZES)


if __name__ == "__main__":
    main()
