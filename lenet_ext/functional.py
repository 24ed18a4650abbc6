"""The operators as functions, with the signatures and semantics of torch.nn.functional, and fused blocks."""

from lenet_ext.engine.conv2d_relu_max_pool2d import conv2d_relu_max_pool2d
from lenet_ext.engine.linear_relu import linear_relu
from lenet_ext.ops import (  # noqa: F401
    _flops,  # tells torch the cost of each operator
    activation,  # its fake kernels
)
from lenet_ext.ops.conv2d import conv2d
from lenet_ext.ops.linear import linear
from lenet_ext.ops.max_pool2d import max_pool2d
from lenet_ext.ops.relu import relu

__all__ = ["conv2d", "conv2d_relu_max_pool2d", "linear", "linear_relu", "max_pool2d", "relu"]
