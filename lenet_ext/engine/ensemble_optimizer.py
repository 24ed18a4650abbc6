"""EnsembleOptimizer: a torch optimizer over stacked parameters, with options for each member."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lenet_ext.engine.flat_state import StepCounts
from lenet_ext.engine.optimizer_rules import STEP, Group, Option
from lenet_ext.engine.optimizers import EngineOptimizer, _Plan

if TYPE_CHECKING:
    from lenet_ext.engine.ensemble import FusedEnsemble

__all__ = ["EnsembleOptimizer", "sgd"]


class EnsembleOptimizer(EngineOptimizer):
    """The engine's side of an optimizer over an ensemble's parameters.

    An option of a group is one for all members, or a tensor (K,) with one for each. Members may take
    different numbers of steps: `step` in the optimizer's state is (K,), which torch's own step refuses.
    """

    _network: FusedEnsemble

    def __init__(self, optimizer: torch.optim.Optimizer, network: FusedEnsemble) -> None:
        self._begin(optimizer, network, StepCounts(STEP, (len(network),)))

    def _options_of(self, plan: _Plan) -> Tensor:
        """float64 (K, parameters, options), or (1, ...) where all members have the same."""
        table, groups, members = super()._options_of(plan), self.optimizer.param_groups, len(self._network)
        columns = [
            (number, column, option)
            for number, group in enumerate(groups)
            for column, option in enumerate(self._options, start=1)
            if self._differs(option, group)
        ]
        table = table.repeat(members, 1, 1) if columns or members == 0 else table[None]
        for number, column, option in columns:
            # In the step that makes a parameter's state, the rule's own value may be there instead.
            stays = plan.first if option.key in self._rule.first else ()
            rows = [i for i, of in enumerate(plan.groups) if of == number and i not in stays]
            table[:, rows, column] = option.of(groups[number]).detach().to(table)[:, None]
        return table

    def _row(self, group: Group) -> list[float]:
        # What differs between members is filled in later.
        values = (0.0 if self._differs(option, group) else option.of(group) for option in self._options)
        return [1.0, *map(float, values)]

    def _differs(self, option: Option, group: Group) -> bool:
        """Whether there is one for each member."""
        value, members = option.of(group), len(self._network)
        if not isinstance(value, Tensor) or value.dim() == 0 or value.numel() == 1:
            return False
        if value.shape != (members,):
            shape = tuple(value.shape)
            self._refuse(f"{option.key} must be a number or ({members},), one a member, got {shape}")
        return True

    def _state_of(self, group: Group) -> tuple[str, ...]:
        # What one member has all have: it stays zero where a member's own options do not use it.
        largest = {k: _largest(v) if isinstance(v, Tensor) else v for k, v in group.items()}
        return super()._state_of(largest)


def _largest(value: Tensor) -> float:
    return float(value.max()) if value.numel() > 0 else 0.0


def sgd(network: FusedEnsemble, options: dict[str, Any]) -> torch.optim.SGD:
    """A torch.optim.SGD over the stacked parameters; options may be tensors (K,), one a member.

    Raises as torch.optim.SGD does for an option of any member; ValueError for a tensor of another shape.
    """
    members = len(network)
    own = {name: value for name, value in options.items() if isinstance(value, Tensor) and value.dim() > 0}
    for name, value in own.items():
        if value.shape != (members,):
            raise ValueError(
                f"TrainStep: {name} must be a number or ({members},), one a member, got {tuple(value.shape)}"
            )
        if value.numel() and not bool(value.isfinite().all()):
            raise ValueError(f"TrainStep: {name} must be finite")
    # torch checks single numbers, some of them together.
    rows = zip(*(value.tolist() for value in own.values()), strict=True)
    for row in set(rows):
        torch.optim.SGD([torch.empty(0)], **{**options, **dict(zip(own, row, strict=True))})
    first: dict[str, Any] = {name: value[0].item() for name, value in own.items() if members > 0}
    shared = {name: value for name, value in options.items() if name not in own}
    optimizer = torch.optim.SGD(network.parameters(), **shared, **first)
    for group in optimizer.param_groups:
        group.update(own)
    return optimizer
