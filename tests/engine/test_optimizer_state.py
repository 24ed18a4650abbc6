"""The state of a TrainStep's optimizer lies where torch keeps it: either may go on with it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_twins import EXAMPLES, IMAGES, LABELS, assert_alike, native_of, optimizer_of, run, twins
from test_train_step import Native, assert_relative, fuse, network, weights
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer

from lenet_ext import TrainStep

KINDS = [*EXAMPLES.items(), ("SGD", {"lr": 0.05}), ("SGD", {"lr": 0.05, "momentum": 0.9}), ("Adam", {})]


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_steps_of_both_kinds_in_turn(kind: str, options: dict[str, Any]) -> None:
    """The engine and torch's own step work on the same state."""
    step, native = twins(kind, **options)
    own = Native(step.fused)
    own.optimizer = step.optimizer
    for _ in range(3):
        run(step, native, 2, 1e-10)
        for _ in range(2):
            own(IMAGES, LABELS)
            native(IMAGES, LABELS)
        assert_alike(step, native, 1e-9)


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("way", ["state_dict", "torch.save", "checkpoint", "flattened checkpoint"])
def test_state_goes_into_another_step(way: str, kind: str) -> None:
    """Of ours to ours, and to and from torch's, whose ids and names are its own business."""
    step, native = twins(kind, **EXAMPLES[kind])
    run(step, native, 3, 1e-10)
    for source, model in ((native.optimizer, native.model), (step.optimizer, step.fused)):
        other = copy.deepcopy(network().double())
        other.load_state_dict(model.state_dict())
        fused = fuse(other)
        # With options that have all of the state, which torch makes to load into.
        resumed = TrainStep(fused, optimizer_of(kind, other, **EXAMPLES[kind] | {"lr": 9.0}))
        if way == "state_dict":
            resumed.load_state_dict(copy.deepcopy(source.state_dict()))
        elif way == "torch.save":
            file = io.BytesIO()
            torch.save(source.state_dict(), file)
            file.seek(0)
            resumed.load_state_dict(torch.load(file))
        else:
            how: Any = torch.distributed.checkpoint.state_dict.StateDictOptions(
                flatten_optimizer_state_dict=way.startswith("flattened")
            )
            state = get_optimizer_state_dict(model, source, options=how)
            set_optimizer_state_dict(fused, resumed.optimizer, copy.deepcopy(state), options=how)
        twin = copy.deepcopy(native)
        run(resumed, twin, 3, 1e-10)
        assert_alike(resumed, twin, 1e-9)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_saved_state_is_small(kind: str) -> None:
    """The tensors of a name share a memory, which is saved once."""
    step, _ = twins(kind, dtype=torch.float32, **EXAMPLES[kind])
    step(IMAGES.float(), LABELS)
    names = [name for name in next(iter(step.optimizer.state.values())) if name != "step"]
    elements = sum(parameter.numel() for parameter in step.fused.parameters())
    file = io.BytesIO()
    torch.save(step.state_dict(), file)
    assert len(file.getvalue()) < len(names) * elements * 4 + 10000


def change_all(optimizer: Optimizer, change: Callable[[Tensor], Tensor]) -> None:
    """Of the state: every tensor but `step`."""
    for state in optimizer.state.values():
        state.update({name: change(tensor) for name, tensor in state.items() if name != "step"})


@pytest.mark.parametrize("kind", EXAMPLES)
def test_state_moves_when_it_is_replaced(kind: str) -> None:
    """By other tensors, by new dicts, or away."""
    step, native = twins(kind, **EXAMPLES[kind])
    changes: list[Callable[[Optimizer], object]] = [
        lambda o: change_all(o, lambda tensor: tensor * 2),
        lambda o: change_all(o, lambda tensor: tensor.mul_(0.5)),
        lambda o: [state["step"].add_(5) for state in o.state.values() if "step" in state],
        lambda o: [state.update(step=state["step"] + 3) for state in o.state.values() if "step" in state],
        lambda o: o.state.pop(o.param_groups[0]["params"][2]),
        lambda o: [state.clear() for state in list(o.state.values())[:2]],
        lambda o: o.load_state_dict(copy.deepcopy(o.state_dict())),
        lambda o: o.state.clear(),
    ]
    for change in changes:
        run(step, native, 3, 1e-10)
        for optimizer in (step.optimizer, native.optimizer):
            change(optimizer)
    run(step, native, 3, 1e-10)
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert_relative(actual, expected, 1e-9)


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("taken", [False, True])
def test_copies_and_pickles(taken: bool, kind: str) -> None:
    """Of network and optimizer together: they go on alone."""
    step, _ = twins(kind, dtype=torch.float32, **EXAMPLES[kind])
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


@pytest.mark.parametrize("kind", ["Adam", "RMSprop"])
def test_state_that_is_asked_for_later(kind: str) -> None:
    """It begins with zero, where torch's own step would have no such tensor."""
    late = {"amsgrad": True} if kind == "Adam" else {"momentum": 0.5, "centered": True}
    step, _ = twins(kind)
    step(IMAGES, LABELS)
    step.optimizer.param_groups[0].update(late)
    reference = copy.deepcopy(step)
    step(IMAGES, LABELS)
    own = Native(reference.fused)
    own.optimizer = reference.optimizer
    for state in own.optimizer.state.values():
        for name in ("max_exp_avg_sq",) if kind == "Adam" else ("momentum_buffer", "grad_avg"):
            state[name] = torch.zeros_like(next(iter(t for n, t in state.items() if n != "step")))
    own(IMAGES, LABELS)
    for actual, expected in zip(weights(step), weights(own.model), strict=True):
        assert_relative(actual, expected, 1e-9)


def test_the_first_step_is_undone_by_an_error() -> None:
    """No step is counted, and no state is left over."""
    step, native = twins("Adam", **EXAMPLES["Adam"])
    for epoch in (False, True):
        with pytest.raises(IndexError, match="target 5"):
            step.epoch(IMAGES, LABELS + 1, 4) if epoch else step(IMAGES, LABELS + 1)
        assert not step.optimizer.state
    run(step, native, 2, 1e-10)
    with pytest.raises(IndexError, match="target 5"):
        step.epoch(IMAGES, LABELS + 1, 4)
    assert_alike(step, native, 1e-9)


@pytest.mark.parametrize("bad", [3, torch.zeros(2), torch.zeros((), dtype=torch.int64)], ids=str)
def test_counts_that_are_none(bad: object) -> None:
    step, _ = twins("Adam")
    step(IMAGES, LABELS)
    step.optimizer.state[next(step.fused.parameters())]["step"] = bad
    with pytest.raises(RuntimeError, match=r"step of 0.weight is .*, the parameter \(6, 2, 3, 3\)"):
        step(IMAGES, LABELS)


def test_old_states_have_fewer_flags() -> None:
    """Which torch fills in."""
    step, native = twins("Adam")
    run(step, native, 2, 1e-10)
    old = copy.deepcopy(native.optimizer.state_dict())
    for group in old["param_groups"]:
        for flag in ("amsgrad", "maximize", "decoupled_weight_decay"):
            del group[flag]
    step.load_state_dict(old)
    run(step, native, 2, 1e-10)
    assert_alike(step, native, 1e-9)


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("other", EXAMPLES)
def test_states_of_other_optimizers(kind: str, other: str) -> None:
    """Are refused, changing nothing; Adam and AdamW may load each other's, as in torch."""
    native = native_of(other, network().double(), **EXAMPLES[other])
    native(IMAGES, LABELS)
    step, _ = twins(kind, lr=0.3)
    if kind == other or {kind, other} == {"Adam", "AdamW"}:
        step.load_state_dict(native.optimizer.state_dict())
        return
    with pytest.raises(
        ValueError, match=rf"that of a torch\.optim\.{kind}: parameter (group )?0 has (a|no) "
    ):
        step.load_state_dict(native.optimizer.state_dict())
    assert step.optimizer.param_groups[0]["lr"] == 0.3
