"""The optimizer of a TrainStep is torch's object: whatever works on one works on it."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_train_step import Native, assert_relative, data, fuse, make, network, weights
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import SGD, lr_scheduler

from lenet_ext import TrainStep

IMAGES, LABELS = data(9, "cross_entropy", torch.float64)
CHOICES: dict[str, list[Any]] = {
    "momentum": [0, 0.9],
    "dampening": [0, 0.4],
    "weight_decay": [0, 0.01],
    "nesterov": [False, True],
    "maximize": [False, True],
}
OPTIONS = [
    {"lr": 0.05, **dict(zip(CHOICES, values, strict=True))} for values in itertools.product(*CHOICES.values())
]


def is_sound(options: dict[str, Any]) -> bool:
    return not options["nesterov"] or (options["momentum"] > 0 and options["dampening"] == 0)


def twins(*arguments: Any, **options: Any) -> tuple[TrainStep, Native]:
    """The same network, trained by the engine and by torch, with optimizers of their own."""
    model = network().double()
    native = Native(copy.deepcopy(model), *arguments, **options)
    return TrainStep(fuse(model), SGD(model.parameters(), **options)), native


def assert_alike(step: TrainStep, native: Native, tolerance: float = 1e-11) -> None:
    """In their weights, and in the state of their optimizers."""
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert_relative(actual, expected, tolerance)
    ours, theirs = step.state_dict(), native.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for number, state in theirs["state"].items():
        assert ours["state"][number].keys() == state.keys()
        for name, tensor in state.items():
            if tensor is not None:
                assert_relative(ours["state"][number][name], tensor, tolerance)


def layer(step: TrainStep, number: int) -> nn.Module:
    return step.fused.get_submodule(str(number))


def run(step: TrainStep, native: Native, steps: int = 3) -> None:
    for _ in range(steps):
        assert_relative(step(IMAGES, LABELS), native(IMAGES, LABELS), 1e-11)


@pytest.mark.parametrize("options", [*filter(is_sound, OPTIONS)], ids=str)
def test_options(options: dict[str, Any]) -> None:
    step, native = twins(**options)
    run(step, native)
    assert_alike(step, native)


@pytest.mark.parametrize("batch_size", [2, 3, 9, 20])
def test_dampening_begins_with_the_second_step_of_an_epoch(batch_size: int) -> None:
    step, native = twins(lr=0.05, momentum=0.9, dampening=0.5)
    losses = step.epoch(IMAGES, LABELS, batch_size)
    parts = torch.arange(9).split(batch_size)
    expected = [native(IMAGES[part], LABELS[part]) for part in parts]
    assert_relative(losses, torch.stack(expected), 1e-11)
    assert_alike(step, native)


def test_the_first_step_is_undone_by_an_error() -> None:
    """No state is left over, with which the dampening would begin at once."""
    step, native = twins(lr=0.05, momentum=0.9, dampening=0.5)
    for epoch in (False, True):
        with pytest.raises(IndexError, match="target 5"):
            step.epoch(IMAGES, LABELS + 1, 4) if epoch else step(IMAGES, LABELS + 1)
        assert not step.optimizer.state
    run(step, native)
    assert_alike(step, native)


def test_parameter_groups() -> None:
    """Options of their own, some without momentum; and a group that joins later."""

    def make_groups(model: nn.Module) -> SGD:
        named = dict(model.named_parameters())
        biases = [parameter for name, parameter in named.items() if name.endswith("bias")]
        return SGD(
            [
                {"params": biases, "momentum": 0.0, "weight_decay": 0.0},
                {"params": [named["0.weight"]], "lr": 0.2, "nesterov": True},
            ],
            lr=0.05,
            momentum=0.9,
            weight_decay=0.01,
        )

    model = network().double()
    native = Native(copy.deepcopy(model))
    native.optimizer = make_groups(native.model)
    step = TrainStep(fuse(model), make_groups(model))
    before = layer(step, 6).weight.detach().clone()
    run(step, native)
    assert_alike(step, native)
    assert torch.equal(layer(step, 6).weight, before)  # of no group yet
    for optimizer, module in ((step.optimizer, model), (native.optimizer, native.model)):
        optimizer.add_param_group({"params": [module[6].weight], "maximize": True})
    run(step, native)
    assert_alike(step, native)


def test_rate_in_a_tensor() -> None:
    """Which is read at every step, since it may change in place."""
    step, native = twins(lr=torch.tensor(0.05, dtype=torch.float64), momentum=0.9)
    for rate in (0.05, 0.01, 0.1):
        for optimizer in (step.optimizer, native.optimizer):
            optimizer.param_groups[0]["lr"].fill_(rate)
        run(step, native, 1)
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert_relative(actual, expected, 1e-11)


def test_options_change_between_steps() -> None:
    step, native = twins(lr=0.05, momentum=0.9)
    changes: list[dict[str, Any]] = [
        {"lr": 0.01},
        {"momentum": 0.0},  # the sums are left as they are
        {"momentum": 0.5, "dampening": 0.2},
        {"nesterov": True, "dampening": 0.0},
        {"weight_decay": 0.1, "maximize": True},
    ]
    for change in changes:
        for optimizer in (step.optimizer, native.optimizer):
            optimizer.param_groups[0].update(change)
        run(step, native, 2)
        assert_alike(step, native)


SCHEDULERS: dict[str, Callable[[SGD], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.7),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),  # which changes momentum too
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, 3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.filterwarnings("error")  # such as that the optimizer was never called
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name: str) -> None:
    step, native = twins(lr=0.05, momentum=0.9)
    schedulers = [SCHEDULERS[name](optimizer) for optimizer in (step.optimizer, native.optimizer)]
    for i in range(8):
        run(step, native, 1)
        for scheduler in schedulers:
            scheduler.step(*([float(i)] if name == "ReduceLROnPlateau" else []))
    assert_alike(step, native)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
def test_steps_of_both_kinds_in_turn(options: dict[str, Any]) -> None:
    """The engine and torch's own step work on the same state."""
    step, native = twins(lr=0.05, **options)
    own = Native(step.fused)
    own.optimizer = step.optimizer
    for _ in range(3):
        run(step, native, 2)
        for _ in range(2):
            own(IMAGES, LABELS)
            native(IMAGES, LABELS)
        assert_alike(step, native)


@pytest.mark.parametrize("way", ["state_dict", "torch.save", "checkpoint", "flattened checkpoint"])
def test_state_goes_into_another_step(way: str) -> None:
    """Of ours to ours, and to and from torch's, whose ids and names are its own business."""
    step, native = twins(lr=0.05, momentum=0.9, nesterov=True)
    run(step, native)
    for source, model in ((native.optimizer, native.model), (step.optimizer, step.fused)):
        other = copy.deepcopy(network().double())
        other.load_state_dict(model.state_dict())
        fused = fuse(other)
        resumed = TrainStep(fused, lr=9.0, momentum=0.1)  # with it torch makes state to load into
        if way == "state_dict":
            resumed.load_state_dict(copy.deepcopy(source.state_dict()))
        elif way == "torch.save":
            file = io.BytesIO()
            torch.save(source.state_dict(), file)
            file.seek(0)
            resumed.load_state_dict(torch.load(file))
        else:
            options: Any = torch.distributed.checkpoint.state_dict.StateDictOptions(
                flatten_optimizer_state_dict=way.startswith("flattened")
            )
            state = get_optimizer_state_dict(model, source, options=options)
            set_optimizer_state_dict(fused, resumed.optimizer, copy.deepcopy(state), options=options)
        twin = copy.deepcopy(native)
        run(resumed, twin)
        assert_alike(resumed, twin)


def test_saved_state_is_small() -> None:
    """The tensors share a memory, which is saved once."""
    step = make(torch.float32, lr=0.1, momentum=0.9)
    step(IMAGES.float(), LABELS)
    elements = sum(parameter.numel() for parameter in step.fused.parameters())
    file = io.BytesIO()
    torch.save(step.state_dict(), file)
    assert len(file.getvalue()) < elements * 4 + 5000


def test_state_moves_when_it_is_replaced() -> None:
    """By other tensors, by new dicts, or away."""
    step, native = twins(lr=0.05, momentum=0.9)
    changes: list[Callable[[SGD], object]] = [
        lambda o: [state.update(momentum_buffer=state["momentum_buffer"] * 2) for state in o.state.values()],
        lambda o: [state["momentum_buffer"].mul_(0.5) for state in o.state.values()],
        lambda o: o.state.pop(o.param_groups[0]["params"][2]),
        lambda o: [state.clear() for state in list(o.state.values())[:2]],
        lambda o: o.load_state_dict(copy.deepcopy(o.state_dict())),
        lambda o: o.state.clear(),
    ]
    for change in changes:
        run(step, native)
        for optimizer in (step.optimizer, native.optimizer):
            change(optimizer)
    run(step, native)
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert_relative(actual, expected, 1e-11)


@pytest.mark.parametrize("taken", [False, True])
def test_copies_and_pickles(taken: bool) -> None:
    """Of network and optimizer together: they go on alone."""
    step = make(torch.float32, lr=0.05, momentum=0.9)
    images = IMAGES.float()
    if taken:
        step(images, LABELS)
    file = io.BytesIO()
    torch.save(step, file)
    file.seek(0)
    copies = [copy.deepcopy(step), torch.load(file, weights_only=False)]
    before = weights(step)
    losses = [one(images, LABELS) for one in copies for _ in range(2)]
    assert all(map(torch.equal, weights(step), before))
    own = [step(images, LABELS) for _ in range(2)]
    assert losses == own * 2
    for one in copies:
        assert all(map(torch.equal, weights(one), weights(step)))
        assert set(one.optimizer.state) == set(one.fused.parameters())


def test_versions_tell_autograd() -> None:
    """Of what the step changed, and of nothing else."""
    step = make(lr=0.05)
    layer(step, 0).weight.requires_grad_(False)
    versions = [parameter._version for parameter in step.fused.parameters()]
    step(IMAGES, LABELS)
    after = [parameter._version for parameter in step.fused.parameters()]
    assert after == [versions[0], *(version + 1 for version in versions[1:])]


def test_averaged_models() -> None:
    step, native = twins(lr=0.05, momentum=0.9)
    averaged = [torch.optim.swa_utils.AveragedModel(module) for module in (step.fused, native.model)]
    crossed = torch.optim.swa_utils.AveragedModel(network().double())
    for _ in range(3):
        run(step, native, 1)
        averaged[0].update_parameters(step.fused)
        averaged[1].update_parameters(native.model)
        crossed.update_parameters(step.fused)  # of the model's twin: by the order of the parameters
    for other in (averaged[0], crossed):
        for actual, expected in zip(weights(other), weights(averaged[1]), strict=True):
            assert_relative(actual, expected, 1e-11)


def unused(_: Tensor) -> None:
    raise AssertionError("it is never called")


REFUSED: dict[str, tuple[Callable[[TrainStep], Any], str]] = {
    "hook of a parameter": (
        lambda step: layer(step, 0).weight.register_hook(unused),
        "0.weight has hooks on its gradient",
    ),
    "late hook of a parameter": (
        lambda step: layer(step, 8).bias.register_post_accumulate_grad_hook(unused),
        "8.bias has hooks on its gradient",
    ),
    "forward hook": (lambda step: step.fused.register_forward_hook(unused), "the network has hooks"),
    "backward hook": (lambda step: step.fused.register_full_backward_hook(unused), "the network has hooks"),
    "hook of a module": (
        lambda step: layer(step, 3).register_forward_pre_hook(unused),
        'layer "3" has hooks',
    ),
    "hook before a step": (
        lambda step: step.optimizer.register_step_pre_hook(unused),
        "the optimizer has hooks on its step",
    ),
    "hook after a step": (
        lambda step: step.optimizer.register_step_post_hook(unused),
        "the optimizer has hooks on its step",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_hooks_are_refused_by_name(case: str, taken: int) -> None:
    """From the step on at which they are there, until they are gone."""
    change, message = REFUSED[case]
    step = make(lr=0.05, momentum=0.9)
    for _ in range(taken):
        step(IMAGES, LABELS)
    handle = change(step)
    before = weights(step)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            step(IMAGES, LABELS)
        with pytest.raises(RuntimeError, match=message):
            step.epoch(IMAGES, LABELS, 2)
    assert all(map(torch.equal, weights(step), before))
    handle.remove()
    step(IMAGES, LABELS)
    assert not any(map(torch.equal, weights(step), before))


def test_autocast_is_refused() -> None:
    step = make(torch.float32, lr=0.05)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="autocast is on"):
        step(IMAGES.float(), LABELS)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        step(IMAGES.float(), LABELS)


def test_layers_frozen_and_thawed() -> None:
    """requires_grad is looked at in every step, as torch does."""
    step, native = twins(lr=0.05, momentum=0.9)
    for frozen in ([], [0, 3], [6, 8], [0, 3, 6, 8], [8], []):
        for module in (step.fused, native.model):
            for i in (0, 3, 6, 8):
                module.get_submodule(str(i)).requires_grad_(i not in frozen)
        before = weights(step)
        if len(frozen) == 4:
            step(IMAGES, LABELS)  # in torch the loss has no gradient then
        else:
            run(step, native)
        for i, (name, _) in enumerate(step.fused.named_parameters()):
            assert torch.equal(weights(step)[i], before[i]) == (int(name[0]) in frozen)
        for actual, expected in zip(weights(step), weights(native.model), strict=True):
            assert_relative(actual, expected, 1e-11)
