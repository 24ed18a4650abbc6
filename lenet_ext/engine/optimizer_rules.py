"""What there is to know of torch's optimizers besides their arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

__all__ = ["RULES", "STEP", "Group", "Option", "Rule"]

Group: TypeAlias = Mapping[str, Any]  # of parameters, with its options


class Rule(NamedTuple):
    """Of an optimizer.

    state: the names of the tensors that a parameter of this group has. first: what replaces options in the
    step that makes a parameter's state. initial: the option of the optimizer that such tensors begin with;
    the others begin with zero.
    """

    state: Callable[[Group], tuple[str, ...]]
    first: Mapping[str, float] = {}
    initial: Mapping[str, str] = {}


def _adam_state(group: Group) -> tuple[str, ...]:
    return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else []))


def _rmsprop_state(group: Group) -> tuple[str, ...]:
    momentum = ["momentum_buffer"] if group["momentum"] > 0 else []
    return ("square_avg", *momentum, *(["grad_avg"] if group["centered"] else []))


# By the name of the class in torch.optim. torch's SGD begins with the gradient itself, undamped.
RULES = {
    "SGD": Rule(lambda group: ("momentum_buffer",) if group["momentum"] != 0 else (), {"dampening": 0.0}),
    "Adam": Rule(_adam_state),
    "AdamW": Rule(_adam_state),
    "RMSprop": Rule(_rmsprop_state),
    "Adagrad": Rule(lambda _: ("sum",), initial={"sum": "initial_accumulator_value"}),
    "Adadelta": Rule(lambda _: ("square_avg", "acc_delta")),
}
STEP = "step"  # in the state of those that count their steps


class Option(NamedTuple):
    """An option of a parameter group: `lr`, or one of several, `betas[0]`."""

    key: str
    place: int | None

    @classmethod
    def named(cls, name: str) -> Option:
        key, _, place = name.rstrip("]").partition("[")
        return cls(key, int(place) if place else None)

    def of(self, group: Group) -> Any:
        value = group[self.key]
        return value if self.place is None else value[self.place]

    def may_change_in(self, group: Group) -> bool:
        """Whether the value may become another in place."""
        return isinstance(group[self.key], list) or isinstance(self.of(group), Tensor)
