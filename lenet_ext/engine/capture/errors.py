"""How a refusal reads."""

from __future__ import annotations

ELSEWHERE = "use lenet_ext.convert instead"
UNKNOWN = "is no layer that the fused engine has"
BATCH = "mixes the images of a batch"
# What to tell about operators that users meet often.
HINTS = {
    "aten.max_pool2d_with_indices": "returns positions as well (return_indices=True)",
    "aten.detach": "keeps gradients from the layers before it",
    "aten.alpha_dropout": "is alpha dropout in training mode: use dropout, or p=0",
    "aten.feature_alpha_dropout": "is alpha dropout in training mode: use dropout, or p=0",
    "aten.matmul": "multiplies by something that is no linear layer: use torch.nn.functional.linear",
    "aten.embedding": "looks up vectors: give their result to a network that is fused without it",
    "wrap_with_set_grad_enabled": "runs layers under torch.no_grad inside the model's forward",
    "wrap_with_autocast": "runs layers under torch.autocast inside the model's forward",
}


class CannotFuse(RuntimeError):
    """The model is no graph of layers that the fused engine has."""


def layer_name(path: str, whole: str) -> str:
    """The module at `path` in the model's own terms, or `whole` for the model itself."""
    return f'layer "{path}"' if path else whole
