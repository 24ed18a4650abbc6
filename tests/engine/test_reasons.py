"""Errors of fused networks name the reason, not what came of it: of images, of parameters, of examples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lenet_ext

IMAGES, LABELS = torch.randn(4, 1, 8, 8), torch.arange(4)
NUMPY = IMAGES.numpy()
FLOAT = r"must be torch\.float32 like 0\.weight, got torch\."
WRONG: dict[str, tuple[object, type[Exception], str]] = {
    "float64": (IMAGES.double(), RuntimeError, FLOAT + "float64"),
    "bfloat16": (IMAGES.bfloat16(), RuntimeError, FLOAT + "bfloat16"),
    "int64": (IMAGES.long(), RuntimeError, FLOAT + "int64"),
    "bool": (IMAGES > 0, RuntimeError, FLOAT + "bool"),
    "complex": (IMAGES.to(torch.complex64), RuntimeError, FLOAT + "complex64"),
    "bytes": (IMAGES.to(torch.uint8), RuntimeError, "uint8 images need mean and std: give these to"),
    "meta": (IMAGES.to("meta"), RuntimeError, "must be on cpu like 0.weight, got meta"),
    "sparse": (IMAGES.to_sparse(), RuntimeError, "must be a dense tensor, got torch.sparse_coo"),
    "quantized": (
        torch.quantize_per_tensor(IMAGES, 0.1, 0, torch.quint8),
        RuntimeError,
        "must be a dense tensor, got quantized",
    ),
    "array": (NUMPY, TypeError, "must be a torch.Tensor, got ndarray"),
    "list": (NUMPY.tolist(), TypeError, "must be a torch.Tensor, got list"),
    "None": (None, TypeError, "must be a torch.Tensor, got NoneType"),
}


def network(**options: object) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5)).to(**options)


def refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_images(case: str, used: bool, gradients: bool) -> None:
    """Also of a shape that was found to fit before."""
    images, error, message = WRONG[case]
    fused = lenet_ext.fuse(network().requires_grad_(gradients), IMAGES)
    if used:
        fused(IMAGES)
    refused(lambda: fused(images), error, f"FusedNet: .*{message}")


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("case", WRONG)
def test_images_where_bytes_are_wanted(case: str, used: bool) -> None:
    images, error, message = WRONG[case]
    fused = lenet_ext.fuse(network(), IMAGES, mean=0.5, std=0.5)
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    if used:
        fused(pixels)
    if case == "bytes":
        assert fused(images).shape == (4, 5)
        return
    if isinstance(images, Tensor) and images.layout == torch.strided and not images.is_quantized:
        message = "images must be uint8, since they are to be normalized, got|must be on cpu"
    refused(lambda: fused(images), error, f"FusedNet: .*({message})")


def test_floats_are_not_taken_for_bytes_by_torch_func() -> None:
    """Of a shape that was found to fit before, they were normalized once more."""
    fused = lenet_ext.fuse(network(), IMAGES, mean=0.5, std=0.5)
    fused(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    refused(lambda: torch.func.jacrev(fused)(IMAGES), RuntimeError, "FusedNet: images must be uint8, since")


@pytest.mark.parametrize("case", ["meta", "sparse", "quantized"])
@pytest.mark.parametrize("what", ["images", "targets"])
def test_batches_of_a_training_step(what: str, case: str) -> None:
    step = lenet_ext.TrainStep(lenet_ext.fuse(network(), IMAGES), lr=0.1)
    images = WRONG[case][0] if what == "images" else IMAGES
    of_targets = {"meta": LABELS.to("meta"), "sparse": LABELS.to_sparse(), "quantized": WRONG[case][0]}
    targets = of_targets[case] if what == "targets" else LABELS
    message = f"TrainStep: {what} must be (on cpu like .*, got meta|a dense tensor, got )"
    refused(lambda: step(images, targets), RuntimeError, message)


def test_parameters() -> None:
    model = network()
    fused = lenet_ext.fuse(model, IMAGES)
    step = lenet_ext.TrainStep(fused, lr=0.1)
    model[3].double()
    mixed = r"3\.weight is torch\.float64, but 0\.weight is torch\.float32: all parameters must be of one"
    refused(lambda: fused(IMAGES), RuntimeError, f"FusedNet: {mixed}")
    refused(lambda: step(IMAGES, LABELS), RuntimeError, f"TrainStep: {mixed}")
    model.float().to("meta")
    refused(
        lambda: fused(IMAGES), RuntimeError, r"FusedNet: 0\.weight is on the meta device, without data: call"
    )
    fused = lenet_ext.fuse(network(device="meta"), IMAGES.to("meta"))
    step = lenet_ext.TrainStep(fused, lr=0.1)
    for images in (IMAGES, IMAGES.to("meta")):
        refused(
            lambda images=images: step(images, LABELS),
            RuntimeError,
            "TrainStep: 0.weight is on the meta device",
        )


def test_hooks_are_still_the_reason_where_they_are() -> None:
    """A dtype that fits is not blamed, under autocast neither."""
    model = network()
    fused = lenet_ext.fuse(model, IMAGES)
    model[0].register_forward_hook(print)
    refused(lambda: fused(IMAGES), RuntimeError, 'FusedNet: layer "0" has hooks')
    with torch.autocast("cpu", torch.bfloat16):
        refused(lambda: fused(IMAGES.bfloat16()), RuntimeError, 'FusedNet: layer "0" has hooks')
    del model[3]
    refused(lambda: fused(IMAGES), RuntimeError, 'FusedNet: layer "3" is gone')


def test_examples() -> None:
    meta = network(device="meta")
    half = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3).double())
    for model, example, message in (
        (network(), IMAGES.double(), f"example_input {FLOAT}float64"),
        (network(), IMAGES.to(torch.uint8), f"example_input {FLOAT}uint8"),
        (network(), IMAGES.to("meta"), "example_input must be on cpu like 0.weight, got meta"),
        (meta, IMAGES, "0.weight is on the meta device, without data"),
        (half, IMAGES, "1.weight is torch.float64, but 0.weight is torch.float32"),
    ):
        refused(lambda m=model, e=example: lenet_ext.fuse(m, e), RuntimeError, f"fuse: {message}")
    with torch.inference_mode():
        made_there = network()
    reason = 'fuse: layer "0" has parameters made in torch.inference_mode: make the model outside'
    refused(lambda: lenet_ext.fuse(made_there, IMAGES), RuntimeError, reason)
    wrong = "fuse: std must be a number or numbers, got 'wide'"
    refused(lambda: lenet_ext.fuse(network(), IMAGES, mean=0.5, std="wide"), TypeError, wrong)
