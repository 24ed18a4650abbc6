"""Functions of each element, arithmetic with numbers among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lenet_ext.engine.capture.graph import image_shape, tensor
from lenet_ext.engine.capture.readers.table import reads
from lenet_ext.engine.layers import ACTIVATIONS, Activation, PReLU, scale

if TYPE_CHECKING:
    from lenet_ext.engine.capture.call import Call
    from lenet_ext.engine.capture.reader import Reader

# Those of torch's that are others with certain arguments: torch.nn.functional.selu has these two.
SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0)
# And those whose operators have the names of the engine's.
_SAME = [name for name in ACTIVATIONS if name not in ("gelu_tanh", "scale", "relu")]


@reads(
    "Activations",
    "relu(_)",
    "lenet_ext.relu(_)",
    *(f"{name}(_)" for name in _SAME),
    "relu6(_)",
    "selu(_)",
    "celu(_)",
)
def activation(reader: Reader, call: Call) -> None:
    name = call.operator.partition(".")[2].removesuffix("_")
    if name == "relu6":
        layer = Activation("hardtanh", (0.0, 6.0))
    elif name == "selu":
        layer = Activation("elu", SELU)
    elif name == "celu":
        alpha = call.number("alpha")
        layer = Activation("elu", (alpha, 1.0, 1.0 / alpha))
    elif name == "gelu" and call.arguments["approximate"] == "tanh":
        layer = Activation("gelu_tanh")
    else:
        layer = Activation(name, tuple(call.number(real) for real in ACTIVATIONS[name].reals))
    reader.apply(call, layer)


@reads("PReLU", "prelu")
def prelu(reader: Reader, call: Call) -> None:
    weight = tensor(call.arguments["weight"])
    if weight.dtype != call.input.dtype:
        call.refuse(f"has a weight in {weight.dtype} for an input in {call.input.dtype}")
    reader.apply(call, PReLU(), [call.name_of("weight")])


@reads("-x", "neg(_)")
def neg(reader: Reader, call: Call) -> None:
    scaled(reader, call, -1.0, 0.0)


@reads("x / number", "div(_)", "true_divide(_)")
def div(reader: Reader, call: Call) -> None:
    if call.arguments.get("rounding_mode") is not None:
        call.refuse("rounds its result")
    divisor = call.arguments["other"]
    if type(divisor) not in (int, float):
        call.refuse("divides by something that is no number known beforehand")
    if divisor == 0:
        call.refuse("divides by zero")
    scaled(reader, call, 1.0 / divisor, 0.0)


@reads("number - x", "rsub")
def rsub(reader: Reader, call: Call) -> None:
    other = call.arguments["other"]
    if type(other) not in (int, float):
        call.refuse(f"subtracts from {other}, which is no number that is known beforehand")
    scaled(reader, call, -call.number("alpha"), float(other))


def scaled(reader: Reader, call: Call, factor: float, shift: float) -> None:
    if not call.input.dtype.is_floating_point:
        call.refuse(f"computes in {call.input.dtype}")
    value = reader.value(call, call.source)
    reader.give(call, reader.emit(scale(factor, shift), [value], image_shape(call.node)))
