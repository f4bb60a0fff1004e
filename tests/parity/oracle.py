"""Runs a model three times on the same ids: float32, bfloat16 and a float64 that really is double.

The published model code casts to float32 in many places (RMSNorm, softmax, rotary angles, routers),
so `model.double()` alone gives a mixture. `TrueDouble` redirects every such cast and constructor to
float64 while the model is built and run, and fails if any float32 tensor still comes out.
"""

import torch
from torch.overrides import TorchFunctionMode

# Casts that say "single precision" by their name.
NAMED_CASTS = {torch.Tensor.float: torch.Tensor.double}
# Reads of single-precision tensors that are on their way into double ones.
EXEMPT = {"copy_", "__get__", "__set__", "detach", "numel", "size", "dim", "__repr__"}


class TrueDouble(TorchFunctionMode):
    """Within it, float32 as an argument means float64, and a float32 result is an error."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        swap = lambda value: torch.float64 if value is torch.float32 else value  # noqa: E731
        args = tuple(swap(a) for a in args)
        kwargs = {k: swap(v) for k, v in (kwargs or {}).items()}
        result = NAMED_CASTS.get(function, function)(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if isinstance(result, torch.Tensor) and result.dtype is torch.float32 and name not in EXEMPT:
            raise TypeError(f"{name} gave a float32 tensor in a float64 run")
        return result


def build_double(make, state: dict[str, torch.Tensor]):
    """`make()` built within `TrueDouble` and given the (exactly representable) weights of `state`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with TrueDouble():
            model = make().double()
    finally:
        torch.set_default_dtype(before)
    model.load_state_dict({name: t.double() if t.is_floating_point() else t for name, t in state.items()})
    return model.eval()


@torch.no_grad()
def run(model, inputs: dict, mlp: str | None = None) -> dict[str, torch.Tensor]:
    """Logits, hidden states and, if `mlp` names a projection, the activations that enter it.

    Shapes: `logits` [n_tokens, vocab_size]; `hidden.<i>` [n_tokens, hidden_size], where 0 is what
    enters the first block, i what enters block i, and `hidden.final` what enters the output head.
    """
    seen = []
    if mlp:
        handle = model.get_submodule(mlp).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    out = model(**inputs, output_hidden_states=True, use_cache=False)
    if mlp:
        handle.remove()
    n_tokens = inputs["input_ids"].shape[1]
    result = {"logits": out.logits[0]}
    for i, hidden in enumerate(out.hidden_states[:-1]):
        result[f"hidden.{i}"] = hidden[0]
    result["hidden.final"] = out.hidden_states[-1][0]
    if mlp:
        layer = next(part for part in mlp.split(".") if part.isdigit())
        result[f"mlp.{layer}"] = seen[0].reshape(n_tokens, -1)
    return result


@torch.no_grad()
def run_double(make, state, inputs, read=lambda out: out.logits[0]) -> torch.Tensor:
    """What `read` finds in the answer of the float64 run: by default the logits, [n_tokens, vocab_size]."""
    model = build_double(make, state)
    inputs = {k: v.double() if torch.is_floating_point(v) else v for k, v in inputs.items()}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with TrueDouble():
            return read(model(**inputs))
    finally:
        torch.set_default_dtype(before)
