"""Every raw operator of the package: a sound call of it, and what native torch computes for such calls.

Needs torch alone: it is used on machines that have little else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import oracle
import torch
from torch import Tensor

from lenet_ext.engine.layers import Activation, BatchNorm, Conv2d, Flatten, Linear, MaxPool2d
from lenet_ext.engine.network import Network

operators = torch.ops.lenet_ext
CONV2D = (1, 1, 0, 0, 0, 0, 1, 1, 1)
POOL = (2, 2, 2, 2, 0, 0, 1, 1)
SGD = 6  # options: lr, momentum, dampening, weight_decay, nesterov, maximize


class Operator(NamedTuple):
    """example: arguments of a sound call.

    oracle: the first results in float64 by native torch, those behind them being internal; None where they
    are compared with those of another operator. changes: the arguments that are changed in place.
    """

    example: tuple[Any, ...]
    oracle: Callable[..., list[Tensor]] | None
    changes: tuple[int, ...] = ()


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


# conv2d, relu, max_pool2d, linear, for images of 2 x 7 x 8; four of them: an argmax then fills whole words,
# and no byte is left as it was.
NETWORK = Network.chain(
    "FusedNet",
    (Conv2d(stride=(2, 1), padding=(0, 1, 0, 1), dilation=(1, 1), groups=1), (0, 1)),
    (Activation("relu"), ()),
    (MaxPool2d((2, 3), stride=(2, 2), padding=(1, 0), dilation=(1, 2), ceil_mode=True), ()),
    (Flatten(), ()),
    (Linear(), (2, 3)),
)
PROGRAM = NETWORK.program()
TRAINING = NETWORK.program("loss cross_entropy", "optimizer SGD")
IMAGES, LABELS = zeros(4, 2, 7, 8), torch.tensor([0, 3, 1, 2])
PARAMETERS = [zeros(5, 2, 3, 2), zeros(5), zeros(4, 30), zeros(4)]
ELEMENTS = sum(parameter.numel() for parameter in PARAMETERS)
(OUTPUT,), SAVED, ARGMAX = operators.network_forward(IMAGES, PARAMETERS, PROGRAM, None, None)

# Two members of an ensemble, and what each takes of an order.
STACKED = [zeros(2, *parameter.shape) for parameter in PARAMETERS]
ORDER, RANGES = torch.tensor([2, 0, 1]), torch.tensor([[0, 2], [0, 3]])

# A network that has running statistics, and what its forward leaves: all values, then four statistics of each
# channel.
NORM = Network.chain("FusedNet", (BatchNorm(True, True, True, 1e-5, 0.1), (0, 1, 2, 3))).program()
NORM_PARAMETERS, NORM_SAVED = [zeros(2) for _ in range(4)], zeros(IMAGES.numel() + 4 * 2)


def options(parameters: int, lr: float, *others: float) -> Tensor:
    """Those of network_train: every parameter is trained by SGD with these."""
    row = [1.0, lr, *others, *[0.0] * (SGD - 1 - len(others))]
    return torch.tensor([row] * parameters, dtype=torch.float64)


OPERATORS = {
    "conv2d": Operator((zeros(1, 2, 4, 4), zeros(3, 2, 3, 3), zeros(3), *CONV2D), oracle.conv2d),
    "conv2d_input_grad": Operator(
        (zeros(1, 3, 2, 2), zeros(3, 2, 3, 3), 4, 4, *CONV2D), oracle.conv2d_input_grad
    ),
    "conv2d_weight_grad": Operator(
        (zeros(1, 3, 2, 2), zeros(1, 2, 4, 4), 3, 3, *CONV2D, True), oracle.conv2d_weight_grad
    ),
    "conv2d_grads": Operator(
        (zeros(1, 3, 2, 2), zeros(1, 2, 4, 4), zeros(3, 2, 3, 3), *CONV2D, True), oracle.conv2d_grads
    ),
    "linear": Operator((zeros(2, 3), zeros(4, 3), zeros(4)), oracle.linear),
    "linear_input_grad": Operator((zeros(2, 4), zeros(4, 3)), oracle.linear_input_grad),
    "linear_weight_grad": Operator((zeros(2, 4), zeros(2, 3), True), oracle.linear_weight_grad),
    "linear_grads": Operator((zeros(2, 4), zeros(2, 3), zeros(4, 3), True), oracle.linear_grads),
    "max_pool2d": Operator((zeros(1, 2, 4, 4), *POOL, False, True), oracle.max_pool2d),
    "max_pool2d_indices": Operator((zeros(1, 2, 2, 2, dtype=torch.uint8), 4, 4, *POOL), None),
    "max_pool2d_input_grad": Operator(
        (zeros(1, 2, 2, 2), zeros(1, 2, 2, 2, dtype=torch.uint8), 4, 4, *POOL), oracle.max_pool2d_input_grad
    ),
    "relu": Operator((zeros(2, 3),), oracle.relu),
    "relu_": Operator((zeros(2, 3),), oracle.relu, changes=(0,)),
    "relu_grad": Operator((zeros(2, 3), zeros(2, 3)), oracle.relu_grad),
    "activation": Operator((zeros(2, 3), "leaky_relu", [0.1]), oracle.activation),
    "activation_grad": Operator((zeros(2, 3), zeros(2, 3), "leaky_relu", [0.1]), oracle.activation_grad),
    "dropout_mask": Operator((zeros(2, 3, 4), torch.tensor([5]), 1, True, 0.25), None),
    "network": Operator((IMAGES, PARAMETERS, PROGRAM, None, None), oracle.network),
    "network_forward": Operator((IMAGES, PARAMETERS, PROGRAM, None, None), oracle.network),
    "network_backward": Operator(
        ([OUTPUT], IMAGES, PARAMETERS, SAVED, ARGMAX, PROGRAM, None, None, True, True),
        oracle.network_backward,
    ),
    "network_statistics": Operator(
        (NORM_SAVED, IMAGES, NORM_PARAMETERS, [torch.tensor(0)], NORM, None), None, changes=(2, 3)
    ),
    "network_train": Operator(
        (
            *(IMAGES, LABELS, torch.tensor([2, 0]), PARAMETERS, [zeros(ELEMENTS)]),
            *(options(4, 0.1, 0.9, 0.0, 0.01, True), [], None, TRAINING, None, 2),
        ),
        oracle.network_train,
        changes=(3, 4),
    ),
    "network_sample_gradients": Operator(
        (IMAGES, LABELS, PARAMETERS, [0, 1, -1, 2], None, TRAINING, None), oracle.network_sample_gradients
    ),
    "network_clipped_sums": Operator(
        (IMAGES, LABELS, torch.tensor([2, 0]), PARAMETERS, [0, 1, 2, -1], None, TRAINING, None, 0.5),
        oracle.network_clipped_sums,
    ),
    "network_noisy_update": Operator(
        (PARAMETERS, [zeros(ELEMENTS)], options(4, 0.1, 0.9), [0, 3], zeros(64), zeros(64), 4.0, "SGD"),
        None,
        changes=(0, 1, 4),
    ),
    "ensemble": Operator((IMAGES, STACKED, 2, True, PROGRAM, None, None), oracle.ensemble),
    "ensemble_train": Operator(
        (
            *(IMAGES, LABELS, ORDER, RANGES, STACKED, [zeros(2 * ELEMENTS)]),
            *(options(4, 0.1, 0.9, 0.0, 0.01, True).expand(2, 4, 1 + SGD), [], None, TRAINING, None, 2),
        ),
        oracle.ensemble_train,
        changes=(4, 5),
    ),
}
