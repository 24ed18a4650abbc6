"""How a refusal reads."""

from __future__ import annotations

from lenet_ext.engine.layers import kinds

ELSEWHERE = "use lenet_ext.convert instead"
UNKNOWN = f"is no {', '.join(kinds()[:-1])} or {kinds()[-1]}"
TO_THE_LOSS = "belongs into the loss: let the model end with logits, and train with cross_entropy"
# What to tell about operators that users meet often.
HINTS = {
    "aten.log_softmax": TO_THE_LOSS,
    "aten.softmax": TO_THE_LOSS,
    "aten.max_pool2d_with_indices": "returns positions as well (return_indices=True)",
    "aten.pad": 'is padding that cannot be fused: only that of a conv2d with padding_mode="zeros" can',
    "aten.detach": "keeps gradients from the layers before it",
    "wrap_with_set_grad_enabled": "runs layers under torch.no_grad inside the model's forward",
    "wrap_with_autocast": "runs layers under torch.autocast inside the model's forward",
}


class CannotFuse(RuntimeError):
    """The model is no chain of layers that the fused engine has."""


def layer_name(path: str, whole: str) -> str:
    """The module at `path` in the model's own terms, or `whole` for the model itself."""
    return f'layer "{path}"' if path else whole
