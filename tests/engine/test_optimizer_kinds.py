"""The arithmetic of every optimizer, with all its options, against torch's."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import on_device
import pytest
import torch
from optimizer_twins import EXAMPLES, IMAGES, LABELS, assert_alike, native_of, optimizer_of, run, twins
from test_train_step import Native, assert_relative, fuse, network, weights
from torch import Tensor, nn

from lenet_ext import TrainStep

CHOICES: dict[str, dict[str, list[Any]]] = {
    "Adam": {
        "lr": [0.01],
        "betas": [(0.9, 0.999), (0.6, 0.8)],
        "weight_decay": [0, 0.1],
        "amsgrad": [False, True],
        "decoupled_weight_decay": [False, True],
    },
    "AdamW": {
        "lr": [0.01],
        "eps": [1e-8, 1e-3],
        "weight_decay": [0, 0.1],
        "amsgrad": [False, True],
        "maximize": [False, True],
    },
    "RMSprop": {
        "lr": [0.001],
        "alpha": [0.9],
        "eps": [1e-8, 1e-2],
        "weight_decay": [0, 0.1],
        "momentum": [0, 0.9],
        "centered": [False, True],
        "maximize": [False, True],
    },
    "Adagrad": {
        "lr": [0.02],
        "lr_decay": [0, 0.5],
        "weight_decay": [0, 0.1],
        "initial_accumulator_value": [0, 0.3],
        "eps": [1e-10, 1e-2],
        "maximize": [False, True],
    },
    "Adadelta": {
        "lr": [0.7],
        "rho": [0.9, 0.3],
        "eps": [1e-6, 1e-2],
        "weight_decay": [0, 0.1],
        "maximize": [False, True],
    },
}
NEW = [kind for kind in EXAMPLES if kind != "SGD"]


CASES = [
    (kind, dict(zip(choices, values, strict=True)))
    for kind, choices in CHOICES.items()
    for values in itertools.product(*choices.values())
][:: 5 if on_device.cuda_kernels else 1]  # an emulator takes its time


def flat(module: nn.Module | TrainStep) -> Tensor:
    return torch.cat([weight.flatten().double() for weight in weights(module)])


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_options(kind: str, options: dict[str, Any]) -> None:
    step, native = twins(kind, **options)
    run(step, native, 4, 1e-10)
    assert_alike(step, native, 1e-9)


@pytest.mark.parametrize("kind", NEW)
def test_float32(kind: str) -> None:
    """Against float64: as near as torch's own float32.

    Of linear layers, where both have the same gradients but for the last bits: an element whose gradient is
    almost 0 goes either way.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(200, 30), nn.ReLU(), nn.Linear(30, 5))
    own = native_of(kind, copy.deepcopy(model), **EXAMPLES[kind])
    exact = native_of(kind, copy.deepcopy(model).double(), **EXAMPLES[kind])
    step = TrainStep(fuse(model), optimizer_of(kind, model, **EXAMPLES[kind]))
    start = flat(step)
    for _ in range(6):
        step(IMAGES.float(), LABELS)
        own(IMAGES.float(), LABELS)
        exact(IMAGES, LABELS)
    moved = torch.linalg.vector_norm(flat(exact.model) - start)
    error, allowed = (torch.linalg.vector_norm(flat(one) - flat(exact.model)) for one in (step, own.model))
    assert error <= 4 * allowed + 1e-7 * moved


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", NEW)
def test_sixteen_bits(kind: str, dtype: torch.dtype) -> None:
    """One step is that of float32 arithmetic, with parameters and state rounded when they are stored."""
    options = EXAMPLES[kind] | {"eps": 1e-3}
    if kind == "RMSprop":
        options["centered"] = False  # a variance of rounded squares and means may be negative
    step, _ = twins(kind, dtype=dtype, **options)
    wide = native_of(kind, network().to(dtype).float(), **options)
    rounding = torch.finfo(dtype).eps
    for _ in range(3):
        with torch.no_grad():
            for mine, parameter in zip(wide.model.parameters(), step.fused.parameters(), strict=True):
                mine.copy_(parameter)
        if step.optimizer.state:
            wide.optimizer.load_state_dict(copy.deepcopy(step.state_dict()))
        step(IMAGES.to(dtype), LABELS)
        wide(IMAGES.to(dtype).float(), LABELS)
        for actual, expected in zip(weights(step), weights(wide.model), strict=True):
            assert_relative(actual.float(), expected, rounding)


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("batch_size", [2, 3, 9])
def test_epoch_is_single_steps(kind: str, batch_size: int) -> None:
    """Each with the number of its step, in one call of the operator or in several."""
    step, native = twins(kind, **EXAMPLES[kind])
    single, _ = twins(kind, **EXAMPLES[kind])
    for _ in range(2):
        losses = step.epoch(IMAGES, LABELS, batch_size)
        parts = torch.arange(9).split(batch_size)
        assert torch.equal(losses, torch.stack([single(IMAGES[part], LABELS[part]) for part in parts]))
        for part in parts:
            native(IMAGES[part], LABELS[part])
    assert all(map(torch.equal, weights(step), weights(single)))
    assert_alike(step, native, 1e-9)


@pytest.mark.parametrize("kind", NEW)
def test_threads_give_the_same_bits(kind: str) -> None:
    results = []
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            step, _ = twins(kind, dtype=torch.float32, **EXAMPLES[kind])
            step.epoch(IMAGES.float(), LABELS, 4)
            results.append(weights(step))
        finally:
            torch.set_num_threads(before)
    assert all(map(torch.equal, results[0], results[1]))
    assert all(map(torch.equal, results[0], results[2]))


@pytest.mark.parametrize("kind", NEW)
def test_parameter_groups(kind: str) -> None:
    """With options of their own, one of which joins later and begins with its own first step."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        named = dict(model.named_parameters())
        biases = [parameter for name, parameter in named.items() if name.endswith("bias")]
        groups = [{"params": biases, "weight_decay": 0.0}, {"params": [named["0.weight"]], "lr": 0.02}]
        options = EXAMPLES[kind] | {"weight_decay": 0.05}
        if kind == "Adam":
            groups[0]["amsgrad"] = False
        if kind == "RMSprop":
            groups[0]["momentum"], groups[1]["centered"] = 0, False
        optimizer = getattr(torch.optim, kind)(groups, **options)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    model = network().double()
    native = Native(copy.deepcopy(model))
    native.optimizer = make(native.model)
    step = TrainStep(fuse(model), make(model))
    run(step, native)
    for optimizer, module in ((step.optimizer, model), (native.optimizer, native.model)):
        optimizer.add_param_group({"params": [module.get_submodule("6").weight], "maximize": True})
    run(step, native)
    assert_alike(step, native, 1e-9)
    assert len({float(state["step"]) for state in step.optimizer.state.values()}) == 2


@pytest.mark.parametrize("kind", NEW)
def test_frozen_parameters_take_no_step(kind: str) -> None:
    step, native = twins(kind, **EXAMPLES[kind])
    for frozen in ([], [0, 3], [8], []):
        for module in (step.fused, native.model):
            for i in (0, 3, 6, 8):
                module.get_submodule(str(i)).requires_grad_(i not in frozen)
        run(step, native, 2)
    assert_alike(step, native, 1e-9)


@pytest.mark.parametrize("kind", NEW)
def test_options_in_tensors(kind: str) -> None:
    """Which are read at every step, since they may change in place."""
    step, native = twins(kind, **EXAMPLES[kind] | {"lr": torch.tensor(0.01, dtype=torch.float64)})
    for rate in (0.01, 0.002):
        for optimizer in (step.optimizer, native.optimizer):
            optimizer.param_groups[0]["lr"].fill_(rate)
        run(step, native, 2)
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert_relative(actual, expected, 1e-9)


def test_betas_in_a_list() -> None:
    """As a file has them; they may change in place."""
    step, native = twins("Adam")
    for betas in ([0.9, 0.999], [0.5, 0.9]):
        for optimizer in (step.optimizer, native.optimizer):
            optimizer.param_groups[0].setdefault("kept", list(betas))[:] = betas
            optimizer.param_groups[0]["betas"] = optimizer.param_groups[0]["kept"]
        run(step, native, 2)
    assert_alike(step, native, 1e-9)


@pytest.mark.parametrize("kind", NEW)
def test_ways_of_torch_change_nothing(kind: str) -> None:
    """How torch would compute the step (foreach, fused, capturable) is of no interest here."""
    known = getattr(torch.optim, kind)([torch.zeros(1)]).defaults
    plain, _ = twins(kind, **EXAMPLES[kind])
    ways = [{"foreach": True}, *[{name: True} for name in ("fused", "capturable") if name in known]]
    losses = [plain(IMAGES, LABELS) for _ in range(3)]
    for way in ways:
        model = network().double()
        step = TrainStep(fuse(model), optimizer_of(kind, model, **EXAMPLES[kind], **way))
        assert [step(IMAGES, LABELS) for _ in range(3)] == losses


@pytest.mark.parametrize("kind", NEW)
def test_differentiable_is_refused(kind: str) -> None:
    model = network().double()
    step = TrainStep(fuse(model), optimizer_of(kind, model, differentiable=True))
    with pytest.raises(RuntimeError, match="parameter group 0 has differentiable=True"):
        step(IMAGES, LABELS)


@pytest.mark.parametrize("kind", ["Adam", "RMSprop", "Adagrad", "Adadelta"])
def test_gradients_that_are_no_numbers(kind: str) -> None:
    """A NaN stays one in parameters and state, in the largest square too."""
    step, native = twins(kind, **EXAMPLES[kind])
    images = IMAGES.clone()
    images[0, 0, 0, 0] = float("nan")
    for one in (step, native):
        one(images, LABELS)
        one(IMAGES, LABELS)
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert torch.equal(actual.isnan(), expected.isnan())
    states = zip(step.optimizer.state.values(), native.optimizer.state.values(), strict=True)
    for ours, theirs in states:
        values: list[tuple[Tensor, Tensor]] = [(ours[name], theirs[name]) for name in theirs]
        assert all(torch.equal(actual.isnan(), expected.isnan()) for actual, expected in values)
