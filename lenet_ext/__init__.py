"""Hand-written CPU and CUDA kernels for the layers of small convolutional networks, as a torch extension."""

import torch  # noqa: F401  (its libraries must be loaded before the compiled module's)

from lenet_ext._C import build_info, cpu_isa
from lenet_ext._version import __version__

# isort: split
# The operators exist once the compiled module is loaded.
from lenet_ext import functional, nn
from lenet_ext.convert import convert, revert
from lenet_ext.engine.fused import FusedNet, fuse
from lenet_ext.engine.train_step import TrainStep
from lenet_ext.models import LeNet

__all__ = [
    "FusedNet",
    "LeNet",
    "TrainStep",
    "__version__",
    "build_info",
    "convert",
    "cpu_isa",
    "functional",
    "fuse",
    "nn",
    "revert",
]
