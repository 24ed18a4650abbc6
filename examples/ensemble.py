"""A deep ensemble: eight LeNets that differ in their first weights and in the order of their images.

The mean of their probabilities is right more often than most of them, and its confidence is nearer the truth
(Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles", 2017).
They are trained one by one, and again as members of one ensemble, all in the same calls.

    python examples/ensemble.py
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

import lenet_ext
from lenet_ext.training.data import Normalization, load_dataset

MEMBERS, IMAGES, BATCH_SIZE, BINS = 8, 300, 16, 10  # few images, which leave room for doubt


def report(name: str, probabilities: Tensor) -> None:
    """Accuracy, and the calibration error of Guo et al., "On calibration of modern neural networks", 2017."""
    confidence, predicted = probabilities.max(1)
    right = (predicted == data.test.labels).float()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS).index_add(0, bins, right - confidence)
    print(f"{name}: accuracy {right.mean():.3f}, calibration error {gaps.abs().sum() / len(right):.3f}")


parser = argparse.ArgumentParser(description="Train an ensemble of eight LeNets, one by one and at once.")
parser.add_argument("--quick", action="store_true", help="2 epochs instead of 30")
epochs = 2 if parser.parse_args().quick else 30
torch.manual_seed(0)
data = load_dataset("digits", Path("data"))  # inside scikit-learn: no folder is read
normalize = Normalization.of(data.train.images)
images, labels = normalize(data.train.images[:IMAGES]), data.train.labels[:IMAGES]
models = [lenet_ext.LeNet(in_channels=1) for _ in range(MEMBERS)]
orders = torch.stack([torch.randperm(IMAGES) for _ in range(epochs * MEMBERS)]).view(epochs, MEMBERS, -1)
many = lenet_ext.fuse_ensemble(models, images)
began = time.perf_counter()
for k, model in enumerate(models):
    step = lenet_ext.TrainStep(lenet_ext.fuse(model, images), lr=0.01, momentum=0.9)
    for order in orders[:, k]:
        step.epoch(images, labels, BATCH_SIZE, order)
print(f"one by one: trained in {time.perf_counter() - began:.2f} s")
began = time.perf_counter()
step = lenet_ext.TrainStep(many, lr=0.01, momentum=0.9)
for order in orders:
    step.epoch(images, labels, BATCH_SIZE, order)
print(f"all at once: trained in {time.perf_counter() - began:.2f} s")
pairs = zip(map(many.member, range(MEMBERS)), models, strict=True)
same = all(torch.equal(ours[n], p) for ours, model in pairs for n, p in model.state_dict().items())
print("the same weights, bit for bit:", same)
with torch.inference_mode():
    probabilities = many(normalize(data.test.images)).softmax(2)
for k in range(MEMBERS):
    report(f"member {k}", probabilities[k])
report("ensemble", probabilities.mean(0))
