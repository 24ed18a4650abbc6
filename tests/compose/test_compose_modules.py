"""What torch does to modules: formats, hooks, parametrizations, copies, meta, defaults, subclasses."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrizations, prune
from twins import CLASSES, SHAPE, images, output_and_gradients, twins

import lenet_ext
import lenet_ext.nn as lnn

Model = torch.nn.Module


def assert_same_training(ours: Model, native: Model, batch: Tensor) -> None:
    torch.testing.assert_close(
        output_and_gradients(ours, ours, batch), output_and_gradients(native, native, batch)
    )


def test_channels_last_is_kept() -> None:
    """Through all layers and back, as natively: outputs, the images' gradient, the weights' gradient."""
    formats: list[list[bool]] = []
    batch = images().contiguous(memory_format=torch.channels_last)
    for model in twins():
        model.to(memory_format=torch.channels_last)
        seen: list[bool] = []

        def look(module: Model, args: tuple[Tensor, ...], output: Tensor, seen: list[bool] = seen) -> None:
            if output.dim() == 4:
                seen.append(output.is_contiguous(memory_format=torch.channels_last))

        for layer in model:
            layer.register_forward_hook(look)
        _, grad, *_ = output_and_gradients(model, model, batch)
        formats.append([*seen, grad.is_contiguous(memory_format=torch.channels_last)])
    assert formats[0] == formats[1] == [True] * 6
    assert_same_training(*twins(), batch)


PARAMETRIZATIONS: dict[str, Callable[[Model], Model]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
}


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize("layer", [0, 8])
def test_parametrizations(name: str, layer: int) -> None:
    """A convolution or a linear layer whose weight is computed: outputs and gradients for what it is of."""
    models = twins()
    for model in models:
        torch.manual_seed(0)  # spectral_norm starts from random vectors
        PARAMETRIZATIONS[name](model[layer])
    assert isinstance(models[0][layer], (lnn.Conv2d, lnn.Linear))
    assert_same_training(*models, images())


def test_hooks() -> None:
    """All kinds, in the native order, with the native values; one that replaces an output counts."""
    batch, records = images(), []
    for model in twins():
        record: list[object] = []
        for index, layer in enumerate(model):
            if getattr(layer, "inplace", False) or isinstance(layer, torch.nn.Flatten):
                continue  # a full backward hook makes views, which nothing may write to
            layer.register_forward_pre_hook(lambda m, args, i=index, r=record: r.append((-1, i, args)))
            layer.register_full_backward_pre_hook(lambda m, grads, i=index, r=record: r.append((i, grads)))
            layer.register_full_backward_hook(lambda m, *grads, i=index, r=record: r.append((i, grads)))
        model[0].register_forward_hook(lambda m, args, output: output * 2)
        model[6].weight.register_hook(lambda grad: grad * 3)
        model[7] = type(model[1])()  # not in place
        model[4] = type(model[1])()
        record.append(output_and_gradients(model, model, batch))
        records.append(record)
    assert len(records[0]) > 15
    torch.testing.assert_close(*records)


def test_hooks_on_saved_tensors() -> None:
    """What is kept for backward goes through torch's hooks, for example to other memory, and comes back."""
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor.clone()

    ours, native = twins()
    batch = images()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        results = output_and_gradients(ours, ours, batch)
    assert len(packed) >= 8
    torch.testing.assert_close(results, output_and_gradients(native, native, batch))


COPIES: dict[str, Callable[[Model], Model]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": lambda model: torch.load(_saved(model), weights_only=False),
}


def _saved(value: object) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("name", COPIES)
def test_copies(name: str) -> None:
    """Independent of the original, with hooks and training mode."""
    ours, native = twins()
    ours.eval()
    other = COPIES[name](ours)
    assert [type(m) for m in other] == [type(m) for m in ours]
    assert not other[0].training
    assert_same_training(other, native, images())
    with torch.no_grad():
        other[0].weight.zero_()
    assert ours[0].weight.abs().max() > 0


def test_state_dicts_both_ways() -> None:
    """Strictly, through a file read with weights_only, and assigned."""
    for source, target in (twins(), twins()[::-1]):
        file = _saved(source.state_dict())
        with torch.no_grad():
            for parameter in target.parameters():
                parameter.zero_()
        state = torch.load(file, weights_only=True)
        for assign in (False, True):
            target.load_state_dict(state, strict=True, assign=assign)
        assert_same_training(source, target, images())


@pytest.mark.parametrize(("name", "arguments"), [("Conv2d", (2, 3, 3)), ("Linear", (4, 3))])
def test_skip_init(name: str, arguments: tuple[int, ...]) -> None:
    layer = torch.nn.utils.skip_init(getattr(lnn, name), *arguments, dtype=torch.float64)
    native = torch.nn.utils.skip_init(getattr(torch.nn, name), *arguments, dtype=torch.float64)
    assert type(layer) is getattr(lnn, name)
    for mine, other in zip(layer.parameters(), native.parameters(), strict=True):
        assert (mine.shape, mine.dtype, mine.device) == (other.shape, other.dtype, other.device)


def test_meta_device() -> None:
    """Made, run forward and backward without memory, then filled from a checkpoint."""
    with torch.device("meta"):
        model = lenet_ext.LeNet(in_channels=1, image_size=16)
        images = torch.empty(5, 1, 16, 16, requires_grad=True)
        output = model(images)
        output.sum().backward()
    assert output.is_meta
    assert output.shape == (5, 10)
    for tensor in (images, *model.parameters()):
        assert tensor.is_meta
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape
    trained = lenet_ext.LeNet(in_channels=1, image_size=16)
    model.to_empty(device="cpu").load_state_dict(trained.state_dict())
    real = torch.randn(2, 1, 16, 16)
    assert torch.equal(model(real), trained(real))


@pytest.fixture
def defaults() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.usefixtures("defaults")
def test_default_dtype_and_device() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    ours, native = lenet_ext.LeNet(), lenet_ext.LeNet(layers=torch.nn)
    for mine, other in zip(ours.parameters(), native.parameters(), strict=True):
        assert (
            (mine.dtype, mine.device) == (other.dtype, other.device) == (torch.float64, torch.device("meta"))
        )
    batch = torch.empty(2, 3, 32, 32)
    assert (ours(batch).dtype, ours(batch).device) == (native(batch).dtype, native(batch).device)
    torch.set_default_device("cpu")
    assert_same_training(*twins(), torch.randn(3, *SHAPE))


class Scaled(lnn.Conv2d):
    """A user's layer: another forward, another initialisation, a further parameter."""

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments, padding_mode="reflect", padding=1)
        self.scale = torch.nn.Parameter(torch.full((), 3.0))

    def reset_parameters(self) -> None:
        torch.nn.init.ones_(self.weight)
        torch.nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.scale


def test_subclass_of_a_layer() -> None:
    layer = Scaled(2, 3, 3)
    batch = torch.randn(2, 2, 5, 6)
    padded = torch.nn.functional.pad(batch, (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(layer(batch), torch.nn.functional.conv2d(padded, layer.weight) * 3)
    layer(batch).sum().backward()
    assert layer.scale.grad is not None
    assert type(lenet_ext.revert(torch.nn.Sequential(layer))[0]) is Scaled
    assert type(copy.deepcopy(layer)) is Scaled


class Tagged(Tensor):
    """A user's tensor."""


def test_subclass_of_a_tensor() -> None:
    """Stays what it is through every layer, in place too, with the native gradients."""
    results = []
    batch = images()
    for model in twins():
        output = model(batch.as_subclass(Tagged))
        assert type(output) is Tagged
        output.square().sum().backward()
        results.append([parameter.grad.as_subclass(Tensor) for parameter in model.parameters()])
    torch.testing.assert_close(*results)
    assert output.shape == (len(batch), CLASSES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dynamic_quantization_of_the_reverted_model() -> None:
    """It knows layers by exact type: ours it leaves in float, so that `revert` comes first."""
    ours, native = twins()
    quantize = torch.ao.quantization.quantize_dynamic
    assert not any(is_quantized(layer) for layer in quantize(ours, {torch.nn.Linear}).modules())
    quantized, expected = quantize(lenet_ext.revert(ours.float())), quantize(native.float())
    assert any(is_quantized(layer) for layer in quantized.modules())
    batch = images(4).float()
    torch.testing.assert_close(quantized(batch), expected(batch))


def is_quantized(layer: Model) -> bool:
    return "quantized" in type(layer).__module__
