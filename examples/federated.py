"""Federated learning: FedAvg and FedProx over 100 clients, those of a round trained in one call.

Each round the chosen clients train the shared network on images of their own, and it becomes the mean of
theirs (FedAvg: McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
2017). FedProx also draws them to the shared one (Li et al., "Federated optimization in heterogeneous
networks", 2020). They are the members of an ensemble; federation.py has the parts.

    python examples/federated.py
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

import lenet_ext
from federation import average, move_centre, proximal_sgd, split
from lenet_ext.training.data import DATASETS, Normalization, load_dataset

parser = argparse.ArgumentParser(description="Train a LeNet by FedAvg and FedProx, over 100 clients.")
parser.add_argument("--data", choices=DATASETS, default="digits", help="the default is inside scikit-learn")
parser.add_argument("--root", type=Path, default="data", help="the folder of other data")
parser.add_argument("--picture", type=Path, help="a PNG file to draw the accuracies into")
parser.add_argument("--quick", action="store_true", help="2 rounds instead of 40")
options = parser.parse_args()
CLIENTS, CHOSEN, EPOCHS, BATCH_SIZE, LR, CONCENTRATION = 100, 20, 5, 10, 0.1, 0.3
data, rounds = load_dataset(options.data, options.root), 2 if options.quick else 40
normalize = Normalization.of(data.train.images)
images, labels, tests = normalize(data.train.images), data.train.labels, normalize(data.test.images)
torch.manual_seed(0)
each = len(images) // CLIENTS  # on average
sizes = (each * (0.5 + torch.rand(CLIENTS // 2))).long()
clients = split(labels, [*sizes.tolist(), *(2 * each - sizes).tolist()], CONCENTRATION, seed=0)
axes = (figure := Figure()).subplots(subplot_kw={"xlabel": "round", "ylabel": "test accuracy"})
for name, mu in (("FedAvg", 0.0), ("FedProx, mu = 0.3", 0.3)):
    torch.manual_seed(0)
    model, accuracies = lenet_ext.LeNet(data.channels, len(data.class_names), data.image_size), []
    many = lenet_ext.fuse_ensemble(model, images[:1], copies=CHOSEN)
    shared = lenet_ext.fuse(model, images[:1])
    step = lenet_ext.TrainStep(many, proximal_sgd(many, LR, mu))
    for number in range(1, rounds + 1):
        began = time.perf_counter()
        chosen = [clients[k] for k in torch.randperm(CLIENTS)[:CHOSEN]]
        move_centre(step.optimizer)
        for _ in range(EPOCHS):
            orders = [own[torch.randperm(len(own))] for own in chosen]
            losses = step.epoch(images, labels, BATCH_SIZE, orders)
        average(many, torch.tensor([len(own) for own in chosen]))
        seconds, loss = time.perf_counter() - began, torch.stack([own.mean() for own in losses]).mean()
        shared.load_state_dict(many.member(0))
        with torch.inference_mode():
            right = shared(tests).argmax(1) == data.test.labels
        accuracies.append(right.float().mean().item())
        print(f"{name}, round {number}: loss {loss:.3f}, accuracy {accuracies[-1]:.3f}, {seconds:.3f} s")
    axes.plot(range(1, rounds + 1), accuracies, label=name)
if options.picture:
    axes.legend()
    figure.savefig(options.picture)
