"""The operators as functions, with the signatures and semantics of torch.nn.functional."""

from lenet_ext.ops.conv2d import conv2d
from lenet_ext.ops.linear import linear
from lenet_ext.ops.max_pool2d import max_pool2d
from lenet_ext.ops.relu import relu

__all__ = ["conv2d", "linear", "max_pool2d", "relu"]
