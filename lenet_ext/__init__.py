"""Hand-written CPU and CUDA kernels for the layers of small convolutional networks, as a torch extension."""

import sys

# While `python -m lenet_ext` looks for __main__.py, which comes too late: the imports below take seconds.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m") == __name__:
    import _lenet_ext_cli

    _lenet_ext_cli.begin()

import torch  # noqa: F401  (its libraries must be loaded before the compiled module's)

try:
    from lenet_ext._C import build_info, cpu_isa
except ModuleNotFoundError as error:
    if error.name != "lenet_ext._C":
        raise
    raise ImportError(
        f"{__path__[0]} holds the sources of lenet_ext without its compiled module: change to another folder "
        "to import an installed one, or compile it there (pip install --no-build-isolation -e .)",
        name=error.name,
    ) from None
from lenet_ext._version import __version__

# isort: split
# The operators exist once the compiled module is loaded.
from lenet_ext import functional, nn
from lenet_ext.convert import convert, revert
from lenet_ext.engine.ensemble import FusedEnsemble, fuse_ensemble
from lenet_ext.engine.frozen import FrozenNet
from lenet_ext.engine.frozen_file import load_frozen
from lenet_ext.engine.fused import FusedNet, fuse
from lenet_ext.engine.per_sample_gradients import per_sample_gradients
from lenet_ext.engine.train_step import TrainStep
from lenet_ext.models import LeNet

__all__ = [
    "FrozenNet",
    "FusedEnsemble",
    "FusedNet",
    "LeNet",
    "TrainStep",
    "__version__",
    "build_info",
    "convert",
    "cpu_isa",
    "functional",
    "fuse",
    "fuse_ensemble",
    "load_frozen",
    "nn",
    "per_sample_gradients",
    "revert",
]
