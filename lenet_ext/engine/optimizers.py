"""EngineOptimizer: a torch optimizer whose steps the engine takes.

The optimizer stays torch's object. At each step its options are read from its `param_groups`, and its state
is what lies in its `state` under torch's names; so learning rate schedulers, `state_dict`, loading and
whatever else works on an optimizer is torch's own code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import torch
from torch import Tensor

from lenet_ext._C import Watch
from lenet_ext._C import optimizers as engine_optimizers
from lenet_ext.engine.flat_state import FlatState, StepCounts
from lenet_ext.engine.optimizer_rules import RULES, STEP, Group, Option
from lenet_ext.engine.reasons import against_parameters
from lenet_ext.engine.registered import HOOKS
from lenet_ext.ops._fork import serial_in_forked_child

if TYPE_CHECKING:
    from lenet_ext.engine.fused import FusedNet

__all__ = ["EngineOptimizer", "Step"]

Key: TypeAlias = tuple[torch.device, list[tuple[int, tuple[str, ...]]]]

ELSEWHERE = "train with fuse and your own loop instead"

# What is to be known of a parameter at each step.
WATCHED = ("requires_grad", "_backward_hooks", "_post_accumulate_grad_hooks")


class Step(NamedTuple):
    """What the operator takes for a step, and what becomes of it.

    state: of each name one tensor for all parameters, one after the other; empty if none has any. options: a
    row for each parameter: whether it is trained, and its options. changed: the parameters that are trained.
    made: the state that it makes, by parameter; not yet the optimizer's. watch: true while the next step is
    the same.
    """

    parameters: list[Tensor]
    state: list[Tensor]
    options: Tensor
    changed: list[Tensor]
    made: list[tuple[Tensor, dict[str, Tensor]]]
    watch: Watch


class _Plan(NamedTuple):
    """What of a step stays while nothing changes but the options of groups.

    key: what it depends on besides what `watch` watches. groups: the number of each parameter's, None where
    it is not trained. first: the names of the tensors of those whose state is made, by their numbers.
    """

    watch: Watch
    key: Key
    groups: list[int | None]
    changed: list[Tensor]
    state: list[Tensor]
    first: dict[int, tuple[str, ...]]


class EngineOptimizer:
    """The engine's side of `optimizer`, which must train parameters of `network` alone.

    Raises TypeError for an optimizer that the engine does not have, ValueError for another's parameter.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, network: FusedNet) -> None:
        self._begin(optimizer, network, StepCounts(STEP))

    def _begin(self, optimizer: torch.optim.Optimizer, network: FusedNet, counts: StepCounts) -> None:
        name = type(optimizer).__name__
        if name not in RULES or type(optimizer) is not getattr(torch.optim, name):
            known = ", ".join(f"torch.optim.{known}" for known in RULES)
            raise TypeError(f"TrainStep: the engine has {known}, not {name}; {ELSEWHERE}")
        self.optimizer, self.name, self._network = optimizer, name, network
        self._rule, (options, tensors, counts_steps) = RULES[name], engine_optimizers()[name]
        self._options = [Option.named(option) for option in options]
        if self._strangers():
            raise ValueError("TrainStep: the optimizer has a parameter that is none of the network's")
        self._flat = {name: FlatState(name) for name in tensors}
        if counts_steps:
            self._flat[STEP] = counts
        self._plan: _Plan | None = None  # that of the last step
        self._table = torch.empty(0)  # and its options

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "network": self._network}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["optimizer"], state["network"])  # type: ignore[misc]

    @serial_in_forked_child  # which makes state
    def step(self, parameters: list[Tensor], names: Sequence[str], read: Iterable[int], watch: Watch) -> Step:
        """The next step of `parameters`, called `names`, which stay while `watch` sees no change.

        Those at the end that are no Parameters are the network's buffers, which no optimizer trains. read:
        the numbers of those that have a gradient; as in torch, the others stay as they are.

        Raises RuntimeError, naming the parameter, for what the engine would pass over.
        """
        self._check_groups()
        plan = self._plan
        if plan is None or not plan.watch or plan.key != self._key(parameters):
            plan = self._plan = self._planned(parameters, names, read, watch)
        self._table = self._moved(self._options_of(plan), parameters[0].device)
        made = [
            (parameters[i], {name: self._flat[name].views[i] for name in missing})
            for i, missing in plan.first.items()
        ]
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # for schedulers, which warn otherwise
        return Step(parameters, plan.state, self._table, plan.changed, made, self._watched(plan))

    def keep(self, step: Step) -> None:
        """Gives the optimizer the state that a step has made."""
        for parameter, state in step.made:
            self.optimizer.state[parameter].update(state)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The optimizer's own; before that raises ValueError for a state that is another optimizer's."""
        for number, group in enumerate(state_dict["param_groups"]):
            # torch gives old states the flags that came later.
            defaults = self.optimizer.defaults
            needed = [o.key for o in self._options if not isinstance(defaults[o.key], bool)]
            missing = [key for key in needed if key not in group]
            if missing:
                self._refuse_state(f"parameter group {number} has no {missing[0]}")
        for number, state in state_dict["state"].items():
            strange = [name for name in state if name not in self._flat]
            if strange:
                self._refuse_state(f"parameter {number} has a {strange[0]}")
        self.optimizer.load_state_dict(dict(state_dict))

    def _options_of(self, plan: _Plan) -> Tensor:
        """float64: a row for each parameter, as the operator takes it."""
        groups = self.optimizer.param_groups
        rows = [self._row(group) for group in groups]
        untrained = [0.0] * (1 + len(self._options))
        table = [untrained if number is None else rows[number] for number in plan.groups]
        for i in plan.first if self._rule.first else ():
            number = plan.groups[i]
            if number is not None:
                table[i] = self._row({**groups[number], **self._rule.first})
        return torch.tensor(table, dtype=torch.float64)

    def _row(self, group: Group) -> list[float]:
        """Of a parameter that is trained with the options of `group`."""
        return [1.0, *(float(option.of(group)) for option in self._options)]

    def _state_of(self, group: Group) -> tuple[str, ...]:
        names = self._rule.state(group)
        return (STEP, *names) if STEP in self._flat else names

    def _key(self, parameters: Sequence[Tensor]) -> Key:
        groups = self.optimizer.param_groups
        return parameters[0].device, [(id(g["params"]), self._state_of(g)) for g in groups]

    def _planned(
        self, parameters: list[Tensor], names: Sequence[str], read: Iterable[int], watch: Watch
    ) -> _Plan:
        self._plan = None
        self._check(parameters, names)
        optimizer, key = self.optimizer, self._key(parameters)
        number_of = {
            id(member): number
            for number, group in enumerate(optimizer.param_groups)
            for member in group["params"]
        }
        known = {id(parameters[i]) for i in read if parameters[i].requires_grad}
        groups = [number_of.get(id(p)) if id(p) in known else None for p in parameters]
        needed = [() if number is None else key[1][number][1] for number in groups]
        states = [optimizer.state.get(parameter, {}) for parameter in parameters]
        first = {
            i: wanted
            for i, (state, wanted) in enumerate(zip(states, needed, strict=True))
            if any(state.get(name) is None for name in wanted)
        }
        changed = [p for p, number in zip(parameters, groups, strict=True) if number is not None]
        flat = []
        for name, tensors in self._flat.items():
            initial = optimizer.defaults[self._rule.initial[name]] if name in self._rule.initial else 0.0
            holders = [s if name in wanted else None for s, wanted in zip(states, needed, strict=True)]
            flat.append(tensors.holding(parameters, names, holders, initial))
        # A step that makes state is followed by one of another plan.
        own = Watch() if first else self._watched_structure(parameters, watch)
        return _Plan(own, key, groups, changed, flat, first)

    def _moved(self, table: Tensor, device: torch.device) -> Tensor:
        """`table` on `device`; on a GPU where the last one was, which a CUDA graph reads."""
        if device.type != "cuda":
            return table
        if (self._table.shape, self._table.device) != (table.shape, device):
            with torch.inference_mode(False):  # it is written in any mode
                return table.to(device)
        # Pinned memory spares waiting for the GPU.
        return self._table.copy_(table.pin_memory(), non_blocking=True)

    def _watched_structure(self, parameters: Sequence[Tensor], also: Watch) -> Watch:
        """True while a plan stays."""
        watch, optimizer = Watch(), self.optimizer
        watch.attribute(optimizer, "param_groups")
        watch.attribute(optimizer, "state")
        for container in (optimizer.param_groups, *(group["params"] for group in optimizer.param_groups)):
            watch.items(container)
        for container in (optimizer.state, *optimizer.state.values()):
            watch.items(container)
        for hooks in (*self._step_hooks(), *(getattr(self._network, hooks) for hooks in HOOKS)):
            watch.items(hooks)
        for parameter in parameters:
            for attribute in WATCHED:
                watch.attribute(parameter, attribute)
        watch.also(also)
        return watch

    def _watched(self, plan: _Plan) -> Watch:
        """True while the next step is the same."""
        watch, groups = Watch(), self.optimizer.param_groups
        if any(option.may_change_in(group) for group in groups for option in self._options):
            return watch
        for group in groups:
            watch.items(group)
        watch.also(plan.watch)
        return watch

    def _step_hooks(self) -> tuple[dict[Any, Any], ...]:
        return self.optimizer._optimizer_step_pre_hooks, self.optimizer._optimizer_step_post_hooks

    def _check(self, parameters: Sequence[Tensor], names: Sequence[str]) -> None:
        own = len(names) - len(self._network._layout.buffers)
        parameters, names = parameters[:own], names[:own]
        reason = against_parameters("TrainStep", dict(zip(names, parameters, strict=True)))
        if reason is not None:
            raise reason
        buffers = set(map(id, self._network.buffers()))
        for parameter, name in zip(parameters, names, strict=True):
            if not isinstance(parameter, torch.nn.Parameter) and id(parameter) not in buffers:
                self._refuse(f"{name} is computed, no Parameter that can be changed")
            if parameter.is_inference():
                where = "in torch.inference_mode, and cannot be trained: make the model outside of it"
                raise RuntimeError(f"TrainStep: {name} was made {where}")
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                self._refuse(f"{name} has hooks on its gradient, which would not be called")
        distinct, on_gpu = {id(p): p for p in parameters}.values(), parameters[0].is_cuda
        if on_gpu and len(distinct) < len(parameters):
            self._refuse("a parameter is used twice, which the engine trains on the CPU only")
        places = [parameter.data_ptr() for parameter in distinct if parameter.numel() > 0]
        if len(set(places)) < len(places):
            self._refuse("two parameters share their memory")
        if any(getattr(self._network, hooks) for hooks in HOOKS):
            self._refuse("the network has hooks, which would not be called")
        if any(self._step_hooks()):
            self._refuse("the optimizer has hooks on its step, which would not be called")
        if self._strangers():
            raise RuntimeError(
                "TrainStep: the network's parameters were replaced since the optimizer was made: "
                "make another with these"
            )

    def _check_groups(self) -> None:
        for number, group in enumerate(self.optimizer.param_groups):
            missing = [option.key for option in self._options if option.key not in group]
            if missing:
                self._refuse(
                    f"parameter group {number} has no {missing[0]}: is its state another optimizer's?"
                )
            if group.get("differentiable"):
                self._refuse(f"parameter group {number} has differentiable=True")

    def _strangers(self) -> bool:
        """Whether the optimizer has parameters that the network has not."""
        known = set(map(id, self._network.parameters()))
        members = [member for group in self.optimizer.param_groups for member in group["params"]]
        return any(id(member) not in known for member in members)

    def _refuse_state(self, what: str) -> NoReturn:
        raise ValueError(f"TrainStep: the state is not that of a torch.optim.{self.name}: {what}")

    @staticmethod
    def _refuse(reason: str) -> NoReturn:
        raise RuntimeError(f"TrainStep: {reason}: {ELSEWHERE}")
