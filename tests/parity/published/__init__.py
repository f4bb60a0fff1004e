"""Families that transformers does not have, written from their published descriptions in our own words.

Each model takes the keys of its `config.json` as keyword arguments, names its tensors as the hub
repositories do, and answers like a transformers model: `.logits` and `.hidden_states`.
"""

from published.internlm2 import InternLM2ForCausalLM
from published.minicpm import MiniCPM3ForCausalLM, MiniCPMForCausalLM
from published.qwen1 import QWenLMHeadModel

MODELS = {cls.__name__: cls for cls in (InternLM2ForCausalLM, MiniCPM3ForCausalLM, MiniCPMForCausalLM,
                                        QWenLMHeadModel)}
