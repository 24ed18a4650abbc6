"""All engines."""

from __future__ import annotations

from collections.abc import Sequence

from lenet_ext.benchmark.peers.engines import Engine
from lenet_ext.benchmark.peers.graph_engines import OnnxRuntime, OpenVino
from lenet_ext.benchmark.peers.jax_engine import Jax
from lenet_ext.benchmark.peers.torch_engines import OURS, PEERS

# Ours, then the peers, installed or not.
ENGINES: Sequence[Engine] = (*OURS, *PEERS, OnnxRuntime(), OpenVino(), Jax())
