"""The groups of tasks that are measured and written together, and the engines that take part in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.engines import (
    CHANNELS_LAST,
    COMPILED,
    EAGER,
    FREEZE,
    FUSE,
    FUSE_SGD,
    LAYERS,
    TRAIN_STEP,
    Engine,
)
from benchmarks.executorch_engine import EXECUTORCH
from benchmarks.graph_engines import ONNX_RUNTIME, OPENVINO
from benchmarks.jax_engine import JAX
from benchmarks.measure import Measurement
from benchmarks.models import (
    ATARI,
    CIFAR,
    FEMNIST,
    LENET,
    LENET5,
    LENET_LAYERS,
    MNIST,
    lenet_layer_tasks,
    network_tasks,
    suite_tasks,
)
from benchmarks.tasks import Model, Task

THREADS = (1, 2)

PEERS = "peers"  # the group of all networks
NETWORK_BATCH = 32  # of networks other than the LeNet
ENGINES = (
    *(TRAIN_STEP, FREEZE, FUSE, FUSE_SGD, LAYERS),  # ours, the fastest first
    *(EAGER, CHANNELS_LAST, COMPILED, EXECUTORCH, ONNX_RUNTIME, OPENVINO, JAX),
)


@dataclass(frozen=True)
class Report:
    """`name` is also the name of its files. group: those of one group are measured together."""

    name: str
    title: str
    tasks: Sequence[Task]
    group: str
    engines: Sequence[Engine]

    @property
    def has_peers(self) -> bool:
        return self.group == PEERS

    @property
    def is_over_batches(self) -> bool:
        """Whether its times over the batch size make lines."""
        return self.has_peers and len({task.batch for task in self.tasks}) > 2


@dataclass
class Findings:
    """All that a run measured, and on what.

    versions: of engines. missing: why an engine did not take part. measurements: by the report's name. peaks:
    GFLOP/s of multiply-adds by threads. memory: MiB of a training step by engine.
    """

    environment: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    measurements: dict[str, list[Measurement]] = field(default_factory=dict)
    peaks: dict[int, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def of(self, report: str, layer: str = "", **facts: Any) -> list[Measurement]:
        """Those of tasks with these attributes. layer: what the name begins with."""
        return [
            one
            for one in self.measurements.get(report, ())
            if one.task.name.startswith(layer)
            and all(getattr(one.task, name) == value for name, value in facts.items())
        ]


def _on_threads(tasks: Sequence[Task]) -> list[Task]:
    """The numbers of threads of one thing follow each other, so that they are compared under one load."""
    return [replace(task, threads=threads) for task in tasks for threads in THREADS]


def _layers(name: str, title: str, tasks: Sequence[Task]) -> Report:
    return Report(name, title, _on_threads(tasks), name, (LAYERS, EAGER))


def _peers(network: Model, title: str, batches: Sequence[int], steps: Sequence[int]) -> Report:
    tasks = _on_threads(network_tasks(network, batches, steps))
    return Report(f"{PEERS}_{network.name}", f"{title}, beside every peer", tasks, PEERS, ENGINES)


REPORTS = (
    _layers("lenet", "The LeNet layer by layer", network_tasks(LENET, (1, 64, 256, 1024))),
    *(
        _layers(name, f"{name}: the layers of the LeNet", lenet_layer_tasks(name, (64, 256)))
        for name in LENET_LAYERS
    ),
    _layers("suite", "Layers of small convolutional networks", suite_tasks()),
    _peers(LENET, "The LeNet on 3x32x32", (1, 2, 4, 8, 16, 64, 256, 1024), (1, 8, 64, 256, 1024)),
    *(
        _peers(network, title, (1, NETWORK_BATCH), (NETWORK_BATCH,))
        for network, title in (
            (ATARI, "The DQN for Atari games on 4x84x84"),
            (LENET5, "LeNet-5 on 1x28x28"),
            (MNIST, "The network of torch's MNIST example"),
            (FEMNIST, "LEAF's FEMNIST network"),
            (CIFAR, "Three convolutions for CIFAR-10"),
        )
    ),
)
