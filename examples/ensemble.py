"""A deep ensemble: eight LeNets that differ in their first weights and in the order of their images.

The mean of their probabilities is right more often than most of them, and its confidence is nearer the truth
(Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles", 2017).
They are trained one by one, and again two at a time, in threads: the engine releases Python's lock.

    python examples/ensemble.py
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

import lenet_ext
from lenet_ext.training.data import Normalization, load_dataset

SEEDS, IMAGES, BINS = range(8), 300, 10  # few images, which leave room for doubt


def train(fused: lenet_ext.FusedNet, seed: int) -> None:
    step = lenet_ext.TrainStep(fused, lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)  # of its own: torch's is shared by all threads
    for _ in range(epochs):
        step.epoch(images, labels, 16, torch.randperm(IMAGES, generator=generator))


def report(name: str, probabilities: Tensor) -> None:
    """Accuracy, and the calibration error of Guo et al., "On calibration of modern neural networks", 2017."""
    confidence, predicted = probabilities.max(1)
    right = (predicted == data.test.labels).float()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS).index_add(0, bins, right - confidence)
    print(f"{name}: accuracy {right.mean():.3f}, calibration error {gaps.abs().sum() / len(right):.3f}")


parser = argparse.ArgumentParser(description="Train an ensemble of eight LeNets, in turn and in threads.")
parser.add_argument("--quick", action="store_true", help="2 epochs instead of 30")
epochs = 2 if parser.parse_args().quick else 30
torch.set_num_threads(1)  # for each network
data, ensembles = load_dataset("digits", Path("data")), []  # inside scikit-learn: no folder is read
normalize = Normalization.of(data.train.images)
images, labels = normalize(data.train.images[:IMAGES]), data.train.labels[:IMAGES]
for threads in (1, 2):
    torch.manual_seed(0)
    members = nn.ModuleList(lenet_ext.fuse(lenet_ext.LeNet(in_channels=1), images) for _ in SEEDS)
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(train, members, SEEDS))
    print(f"{threads} at a time: trained in {time.perf_counter() - began:.2f} s")
    ensembles.append(members)
print("the same weights, bit for bit:", all(map(torch.equal, *(e.parameters() for e in ensembles))))
with torch.inference_mode():
    probabilities = torch.stack([member(normalize(data.test.images)).softmax(1) for member in members])
for seed in SEEDS:
    report(f"member {seed}", probabilities[seed])
report("ensemble", probabilities.mean(0))
