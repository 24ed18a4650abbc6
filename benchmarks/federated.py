"""Times rounds of federated learning: the members of an ensemble beside clients in Flower's simulation.

`python -m benchmarks.federated --data cifar10 --root FOLDER --out FOLDER`: in a round each of 100 clients
takes an epoch over 500 images of its own (a Dirichlet split), in batches of 32, and the LeNets are averaged
(FedAvg). Flower shares the clients, in plain torch, out to one process for each CPU. All engines take the
same batches.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

import lenet_ext
from benchmarks.environment import environment, environment_text
from benchmarks.federated_engines import AfterRound, Federation, State, run_ours, run_torch, split
from benchmarks.flower_engine import PACKAGES, missing, run_flower
from benchmarks.tables import significant, table
from benchmarks.timing import keep_freed_memory
from lenet_ext.training.data import DATASETS, Normalization, load_dataset
from lenet_ext.training.dataset import Split
from lenet_ext.training.errors import InputError

CLIENTS, IMAGES, CONCENTRATION, BATCH_SIZE, LR, ROUNDS = 100, 500, 1.0, 32, 0.05, 20
OURS, FLOWER, TORCH = "lenet_ext", "Flower, torch eager", "torch eager alone, one thread"
MUST, AIM = 10, 20  # times as many rounds a second as Flower
EAGER_ROUNDS = 2  # of torch alone, which only says how much of a round is Flower's own
TEST_BATCH = 1000
# After a first round the parameters differ by the rounding of a few steps of float32, no more.
TOLERANCE = 1e-3

Evaluate = Callable[[State], float]


@dataclass
class Curve:
    """Of one engine: seconds of each round, and the test accuracy of the shared network after it."""

    seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    first: dict[str, Tensor] = field(default_factory=dict)  # the shared network after the first round

    @property
    def steady(self) -> list[float]:
        """Seconds of rounds without the first one, in which processes and memory are made."""
        return self.seconds[1:] or self.seconds

    def median(self) -> float:
        return median(self.steady)

    def quartiles(self) -> tuple[float, float]:
        lower, _, upper = quantiles(self.steady * 2, n=4, method="inclusive")  # twice: one is enough
        return lower, upper


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.federated", description=__doc__)
    parser.add_argument("--data", choices=DATASETS, default="cifar10")
    parser.add_argument("--root", type=Path, default=Path("data"), help="the folder of the data")
    parser.add_argument("--out", type=Path, help="write a table, all figures and a chart into this folder")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} by default")
    parser.add_argument("--lr", type=float, default=LR, help=f"the learning rate of all; {LR:g} by default")
    parser.add_argument("--cpus", type=int, default=2, help="threads of ours, processes of Flower's; 2")
    options = parser.parse_args(arguments)
    needed = ["tabulate", *(["matplotlib"] if options.out else [])]
    absent = [*(name for name in needed if find_spec(name) is None), *missing()]
    if absent:
        parser.error(f"{', '.join(absent)} is not installed: pip install -r benchmarks/requirements.txt")
    if options.rounds < 1 or options.cpus < 1:
        parser.error("--rounds and --cpus must be at least 1")
    try:
        data = load_dataset(options.data, options.root, 32 if options.data == "folder" else None)
    except InputError as error:
        parser.error(str(error))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    torch.set_num_threads(options.cpus)
    torch.manual_seed(0)
    normalize = Normalization.of(data.train.images)
    size = min(IMAGES, len(data.train) // CLIENTS)
    clients = split(data.train.labels, [size] * CLIENTS, CONCENTRATION, 0)
    model = lenet_ext.LeNet(data.channels, len(data.class_names), data.image_size, layers=nn)
    images = normalize(data.train.images)
    federation = Federation(model, images, data.train.labels, clients, BATCH_SIZE, options.lr, options.rounds)
    evaluate = evaluation(model, Split(normalize(data.test.images), data.test.labels))
    flower = partial(run_flower, processes=options.cpus)
    curves = measure(federation, evaluate, flower)
    name = options.root.resolve().name if options.data == "folder" else options.data
    facts = {"data": name, "clients": CLIENTS, "images_of_a_client": size, "batch_size": BATCH_SIZE}
    facts |= {"lr": options.lr, "concentration": CONCENTRATION, "cpus": options.cpus}
    about = {"environment": environment(), "packages": {name: version(name) for name in PACKAGES}}
    publish(options.out, curves, facts, about)


def evaluation(model: nn.Module, test: Split) -> Evaluate:
    """Gives the accuracy of a state on the test images; the same for all engines, and in no timing."""
    shared = lenet_ext.fuse(deepcopy(model), test.images[:1]).eval()

    def evaluate(state: State) -> float:
        shared.load_state_dict(state)
        with torch.inference_mode():
            parts = zip(test.images.split(TEST_BATCH), test.labels.split(TEST_BATCH), strict=True)
            right = sum(int((shared(images).argmax(1) == labels).sum()) for images, labels in parts)
        return right / len(test)

    return evaluate


def measure(
    federation: Federation,
    evaluate: Evaluate,
    flower: Callable[[Federation, AfterRound], None],
) -> dict[str, Curve]:
    """Ours before and after the others, so that a machine that becomes slower or faster shows.

    Raises SystemExit for results that differ beyond rounding: no time is given for a wrong one.
    """
    brief = replace(federation, rounds=min(EAGER_ROUNDS, federation.rounds))
    curves = {name: Curve() for name in (OURS, FLOWER, TORCH)}
    again = Curve()
    for name, run, task, curve in (
        (OURS, run_ours, federation, curves[OURS]),
        (TORCH, run_torch, brief, curves[TORCH]),
        (FLOWER, flower, federation, curves[FLOWER]),
        (OURS, run_ours, federation, again),
    ):
        run(task, partial(_take, name, evaluate, curve))
    for name, curve in curves.items():
        off = max(float((curve.first[n] - t).abs().max()) for n, t in again.first.items())
        if off > TOLERANCE:
            raise SystemExit(f"after a round the parameters of {name} and {OURS} differ by {off:.2g}")
    if again.accuracies != curves[OURS].accuracies:
        raise SystemExit(f"{OURS}: two runs differ")
    # The first round of each run is left out.
    curves[OURS].seconds += again.steady
    return curves


def _take(name: str, evaluate: Evaluate, curve: Curve, number: int, seconds: float, shared: State) -> None:
    curve.seconds.append(seconds)
    curve.accuracies.append(evaluate(shared))
    if number == 1:
        curve.first = {key: tensor.clone() for key, tensor in shared.items()}
    print(f"{name}, round {number}: {seconds:.3f} s, accuracy {curve.accuracies[-1]:.4f}", flush=True)


def markdown(curves: Mapping[str, Curve], facts: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    ours = curves[OURS]
    rows = []
    for name, curve in curves.items():
        lower, upper = curve.quartiles()
        last = len(curve.accuracies)
        rows.append(
            [
                *(name, f"{1 / curve.median():.3g}", f"{significant(curve.median())}"),
                f"{significant(lower)} to {significant(upper)}",
                "" if curve is ours else f"{curve.median() / ours.median():.1f}x",
                f"{curve.accuracies[-1]:.4f} after {last}",
            ]
        )
    times = curves[FLOWER].median() / ours.median()
    verdict = "aim met" if times >= AIM else "must met" if times >= MUST else "missed"
    pairs = zip(ours.accuracies, curves[FLOWER].accuracies, strict=True)
    apart = max(abs(one - other) for one, other in pairs)
    versions = ", ".join(f"{name} {about['packages'][name]}" for name in about["packages"])
    columns = ["", "rounds per second", "seconds of a round", "quartiles", "ours is faster", "accuracy"]
    parts = [
        "# Federated learning beside Flower",
        f"{environment_text(about['environment'])}, {versions}. {facts['clients']} clients, each with "
        f"{facts['images_of_a_client']} images of {facts['data']} (Dirichlet split, concentration "
        f"{facts['concentration']:g}), all in every round: one local epoch in batches of "
        f"{facts['batch_size']}, SGD with lr {facts['lr']:g}; LeNet, float32. Ours on {facts['cpus']} "
        f"threads, Flower's simulation with {facts['cpus']} processes of one thread, torch alone one client "
        "after the other. Medians without the first round of each run; testing "
        "is not timed.",
        table(columns, *rows),
        f"{times:.1f} times as many rounds per second as Flower: {verdict} (must {MUST}x, aim {AIM}x). All "
        "take the same batches in the same order; the accuracies of ours and Flower's after the same round "
        f"are at most {apart:.4f} apart.",
    ]
    return "\n\n".join(parts) + "\n"


def publish(
    out: Path | None, curves: Mapping[str, Curve], facts: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    text = markdown(curves, facts, about)
    print(text)
    if out is None:
        return
    from benchmarks.federated_chart import draw  # which needs matplotlib

    records = {
        name: {key: value for key, value in vars(curve).items() if key != "first"}
        for name, curve in curves.items()
    }
    content = {**about, "settings": facts, "curves": records}
    (out / "federated.json").write_text(json.dumps(content, indent=2) + "\n")
    (out / "federated.png").write_bytes(draw(curves, environment_text(about["environment"])))
    (out / "federated.md").write_text(text + "\n![federated](federated.png)\n")


if __name__ == "__main__":
    main()
