"""The rounds of a federation in Flower's simulation, with clients of plain torch.

Flower's own FedAvg, ServerApp, ClientApp and `run_simulation`, which shares the clients out to processes of
Ray's, here one for each CPU.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.federated_engines import AfterRound, Federation, train_client
from benchmarks.timing import keep_freed_memory

PACKAGES = ("flwr", "ray")
# The two report their use over the network unless they are told not to, before they are imported.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def missing() -> list[str]:
    """The packages that it needs and that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def run_flower(federation: Federation, after_round: AfterRound, processes: int) -> None:
    """Raises RuntimeError where a client has failed."""
    os.environ.update(QUIET)
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the command line will take the place of run_simulation
        file = Path(folder) / "federation.pt"
        torch.save(federation, file)
        rounds: list[int] = []
        run_simulation(
            server_app=_server(federation, after_round, file, rounds),
            client_app=_client(),
            num_supernodes=len(federation.clients),
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0},
                "init_args": {"num_cpus": processes, "num_gpus": 0, "log_to_driver": False},
            },
        )
    if len(rounds) < federation.rounds:
        raise RuntimeError(f"Flower ended after {len(rounds)} of {federation.rounds} rounds")


def _server(federation: Federation, after_round: AfterRound, file: Path, rounds: list[int]) -> Any:
    from flwr.app import ArrayRecord, ConfigRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    class WholeFedAvg(FedAvg):
        """Which does not pass over clients that have failed."""

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            replies = list(replies)
            reasons = [reply.error.reason for reply in replies if reply.has_error()]
            if reasons or len(replies) < len(federation.clients):
                absent = len(federation.clients) - len(replies) + len(reasons)
                raise RuntimeError(f"Flower: {absent} clients failed: {', '.join(sorted(set(reasons)))}")
            return super().aggregate_train(server_round, replies)

    app = ServerApp()
    began = 0.0

    def evaluate(number: int, arrays: Any) -> None:
        nonlocal began
        if number > 0:
            after_round(number, time.perf_counter() - began, arrays.to_torch_state_dict())
            rounds.append(number)
        began = time.perf_counter()

    @app.main()
    def main(grid: Any, context: Any) -> None:
        # Without a least number the first round would take the clients that happen to be there already.
        count = len(federation.clients)
        WholeFedAvg(fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count).start(
            grid=grid,
            initial_arrays=ArrayRecord(federation.model.state_dict()),
            num_rounds=federation.rounds,
            train_config=ConfigRecord({"file": str(file)}),
            evaluate_fn=evaluate,
        )

    return app


def _client() -> Any:
    from flwr.clientapp import ClientApp

    app = ClientApp()
    app.train()(train)
    return app


def train(message: Any, context: Any) -> Any:
    """A client's round, in a process of Ray's."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    federation, config = read(message.content["config"]["file"]), message.content["config"]
    client = int(context.node_config["partition-id"])
    shared = message.content["arrays"].to_torch_state_dict()
    model = train_client(federation, client, int(config["server-round"]), shared)
    metrics = MetricRecord({"num-examples": len(federation.clients[client])})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@lru_cache(maxsize=1)
def read(file: str) -> Federation:
    """Once in a process, where torch then keeps to one CPU. All processes share the images' memory."""
    torch.set_num_threads(1)
    keep_freed_memory()
    return torch.load(file, mmap=True, weights_only=False)
