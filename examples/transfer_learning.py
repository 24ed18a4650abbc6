"""Transfer learning: convolutions trained on the digits 0 to 4 serve the digits 5 to 9, which are few.

They are frozen by `requires_grad_(False)`, and new linear layers are trained on top of them with five
images of each digit; beside it a new network is trained on the same images. The accuracies are means over ten
draws of these images. What is frozen helps in the first epochs; digits are so simple that scratch catches up.

    python examples/transfer_learning.py
"""

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor

import lenet_ext
from lenet_ext.training.data import Normalization, load_dataset

EPOCHS = (5, 10, 20, 40)  # after which the accuracy is measured


def accuracies(model: lenet_ext.LeNet, train: Tensor, test: Tensor) -> Tensor:
    """Trains what is not frozen on the images of these numbers; the accuracy after each of EPOCHS."""
    fused, reached = lenet_ext.fuse(model, images), []
    step = lenet_ext.TrainStep(fused, torch.optim.Adam(p for p in model.parameters() if p.requires_grad))
    for epoch in range(1, EPOCHS[-1] + 1):
        step.epoch(images, labels % 5, batch_size=8, permutation=train[torch.randperm(len(train))])
        if epoch in EPOCHS:
            right = fused(test_images[test]).argmax(1) == test_labels[test] % 5
            reached.append(right.double().mean())
    return torch.stack(reached)


parser = argparse.ArgumentParser(description="Transfer learning from the digits 0 to 4 to the digits 5 to 9.")
parser.add_argument("--quick", action="store_true", help="one draw instead of ten")
draws = 1 if parser.parse_args().quick else 10

torch.manual_seed(0)
data = load_dataset("digits", Path("data"))  # which lie inside scikit-learn: no folder is read
normalize = Normalization.of(data.train.images)
images, labels = normalize(data.train.images), data.train.labels
test_images, test_labels = normalize(data.test.images), data.test.labels
source = lenet_ext.LeNet(in_channels=1, num_classes=5)
low = torch.nonzero(labels < 5).flatten()
print(f"digits 0 to 4: test accuracy {accuracies(source, low, test_labels < 5)[-1]:.3f}")
frozen = torch.nn.ModuleList([source.conv1, source.conv2]).requires_grad_(False)
before, results = copy.deepcopy(frozen.state_dict()), torch.zeros(2, draws, len(EPOCHS))
for draw in range(draws):
    order = torch.randperm(len(labels))
    few = torch.cat([order[labels[order] == digit][:5] for digit in range(5, 10)])
    transferred, scratch = (lenet_ext.LeNet(in_channels=1, num_classes=5) for _ in range(2))
    transferred.conv1, transferred.conv2 = frozen
    for model, result in zip((transferred, scratch), results, strict=True):
        result[draw] = accuracies(model, few, test_labels >= 5)
assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())

print(f"digits 5 to 9, accuracy after {EPOCHS} epochs:")
for name, result in zip(("frozen convolutions", "from scratch"), results, strict=True):
    print(f"{name:20} " + "  ".join(f"{value:.3f}" for value in result.mean(0)))
