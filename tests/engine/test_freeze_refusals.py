"""What freeze and a frozen network refuse, by name and before memory is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from capture_helpers import Forward
from torch import nn

import lenet_ext


def small(**options: Any) -> lenet_ext.FusedNet:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    return lenet_ext.fuse(model, torch.randn(2, 1, 6, 6), **options)


X = torch.randn(2, 1, 6, 6)

IMAGES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "list": (lambda: [[1.0]], TypeError, "must be a torch.Tensor or a numpy.ndarray, got list"),
    "none": (lambda: None, TypeError, "got NoneType"),
    "masked": (lambda: np.ma.masked_array(X.numpy()), TypeError, "got MaskedArray"),
    "double": (X.double, RuntimeError, r"images must be torch.float32 like 0.weight, got torch.float64"),
    "bytes": (lambda: X.to(torch.uint8), RuntimeError, "uint8 images need mean and std"),
    "complex": (lambda: X.to(torch.complex64), RuntimeError, "got torch.complex64"),
    "sparse": (X.to_sparse, RuntimeError, "must be a dense tensor, got torch.sparse_coo"),
    "quantized": (
        lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.quint8),
        RuntimeError,
        "must be a dense tensor, got quantized",
    ),
    "meta": (lambda: X.to("meta"), RuntimeError, "must be on cpu like 0.weight, got meta"),
    "scalar": (lambda: torch.tensor(1.0), RuntimeError, "FrozenNet"),
    "1-d": (lambda: torch.randn(36), RuntimeError, "FrozenNet"),
    "3-d": (lambda: torch.randn(1, 6, 6), RuntimeError, "FrozenNet"),
    "channels": (lambda: torch.randn(2, 3, 6, 6), RuntimeError, r"fused for \(N, 1, 6, 6\)"),
    "size": (lambda: torch.randn(2, 1, 7, 7), RuntimeError, r"fused for \(N, 1, 6, 6\)"),
    "5-d": (lambda: torch.randn(2, 1, 6, 6, 1), RuntimeError, "FrozenNet"),
    "gradient": (lambda: X.clone().requires_grad_(), RuntimeError, "require a gradient"),
    "zero tensor": (lambda: torch._efficientzerotensor((2, 1, 6, 6)), RuntimeError, ""),
    "array of doubles": (lambda: X.double().numpy(), RuntimeError, "must be float32 in .* got <f8"),
    "array of big-endian": (lambda: X.numpy().astype(">f4"), RuntimeError, "got >f4"),
    "array of ints": (lambda: np.zeros((2, 1, 6, 6), np.int64), RuntimeError, "got <i8"),
    "array of objects": (lambda: np.zeros((2, 1, 6, 6), object), RuntimeError, "must be float32"),
    "array of dates": (lambda: np.zeros((2, 1, 6, 6), "datetime64[s]"), RuntimeError, "must be float32"),
    "array of records": (lambda: np.zeros((2, 1, 6, 6), [("a", "f4")]), RuntimeError, "must be float32"),
    "0-d array": (lambda: np.array(1.0, np.float32), RuntimeError, r"must be \(N, ...\), got \(\)"),
    "array of another size": (lambda: np.zeros((2, 1, 7, 7), np.float32), RuntimeError, "fused for"),
    "array of 3-d": (lambda: np.zeros((1, 6, 6), np.float32), RuntimeError, "FrozenNet"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    make, kind, message = IMAGES[name]
    frozen = small().freeze()
    if name == "zero tensor":  # which the operator may take as well
        torch.testing.assert_close(frozen(make()), frozen(torch.zeros(2, 1, 6, 6)))
        return
    for _ in range(2):
        with pytest.raises(kind, match=message):
            frozen(make())
    assert frozen(X).shape == (2, 3)


@pytest.mark.parametrize(
    "call", [lambda f: f(), lambda f: f(X, X), lambda f: f(x=X), lambda f: f(X, images=X)]
)
def test_arguments(call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="FrozenNet: a call takes one argument, images"):
        call(small().freeze())


def test_bytes_alone_where_they_are_normalized() -> None:
    frozen = small(mean=0.5, std=0.5).freeze()
    with pytest.raises(RuntimeError, match="must be uint8, since they are to be normalized"):
        frozen(X)
    with pytest.raises(RuntimeError, match="must be uint8 in"):
        frozen(X.numpy())


def test_arrays_of_a_dtype_that_numpy_lacks() -> None:
    model = nn.Linear(3, 2).bfloat16()
    frozen = lenet_ext.fuse(model, torch.randn(2, 3, dtype=torch.bfloat16)).freeze()
    with pytest.raises(RuntimeError, match="numpy has no bfloat16"):
        frozen(np.zeros((2, 3), np.float32))


def test_not_initialized() -> None:
    with pytest.raises((RuntimeError, TypeError)):
        lenet_ext.FrozenNet.__new__(lenet_ext.FrozenNet)(X)


def test_random_in_eval_mode() -> None:
    model = Forward(lambda n, x: F.dropout(n.fc(x), 0.5, training=True), fc=nn.Linear(3, 4))
    with pytest.raises(RuntimeError, match="draws random numbers in eval mode too"):
        lenet_ext.fuse(model, torch.randn(2, 3)).freeze()


def test_statistics_that_change_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    fused = lenet_ext.fuse(model, torch.randn(2, 3))
    fused.freeze()
    function = Forward(
        lambda n, x: F.batch_norm(n.fc(x), n.bn.running_mean, n.bn.running_var, training=True),
        fc=nn.Linear(3, 4),
        bn=nn.BatchNorm1d(4),
    )
    try:
        fused = lenet_ext.fuse(function, torch.randn(2, 3))
    except RuntimeError:
        return  # refused before
    with pytest.raises(RuntimeError, match="changes running statistics in eval mode too"):
        fused.freeze()


def test_parameters_elsewhere() -> None:
    with pytest.raises(RuntimeError, match=r"0\.weight is on the meta device"):
        small().to("meta").freeze()


def test_parameters_of_two_dtypes() -> None:
    fused = small()
    fused.get_submodule("3").double()
    with pytest.raises(RuntimeError, match=r"3\.weight is torch.float64, but 0\.weight is torch.float32"):
        fused.freeze()


def test_changed_modules() -> None:
    fused = small()
    fused._modules["1"] = nn.Tanh()
    with pytest.raises(RuntimeError, match='layer "1" was a ReLU'):
        fused.freeze()


def test_a_mode_that_cannot_be_fused() -> None:
    def forward(n: Any, x: torch.Tensor) -> torch.Tensor:
        return n.fc(x) if n.training else n.fc(x).cumsum(1)

    fused = lenet_ext.fuse(Forward(forward, fc=nn.Linear(3, 4)).train(), torch.randn(2, 3))
    with pytest.raises(RuntimeError, match="this mode cannot be fused"):
        fused.freeze()


def test_the_modes_of_a_model_with_a_train_of_its_own() -> None:
    class Half(nn.Sequential):
        def train(self, mode: bool = True) -> Half:
            super().train(mode)
            self[1].eval()
            return self

    fused = lenet_ext.fuse(Half(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()).train(), torch.randn(2, 3))
    modes = [module.training for module in fused.modules()]
    frozen, x = fused.freeze(), torch.randn(5, 3)
    assert [module.training for module in fused.modules()] == modes
    torch.testing.assert_close(frozen(x), fused.eval()(x).detach(), rtol=0, atol=0)


def test_ensembles() -> None:
    many = lenet_ext.fuse_ensemble(nn.Linear(3, 4), torch.randn(2, 3), copies=2)
    with pytest.raises(RuntimeError, match="freeze is for one network"):
        many.freeze()
