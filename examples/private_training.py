"""Private training by hand: DP-SGD on a fused LeNet, and the epsilon that it spends (accountant.py).

After Abadi et al., "Deep learning with differential privacy" (2016): a step takes each image with the same
probability, clips the gradient of each, which torch.func finds layer by layer, and adds noise to their sum.
Not counted: that torch's random numbers are no secret, and that settings were chosen by looking at results.

    python examples/private_training.py
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

import lenet_ext
from accountant import epsilon
from lenet_ext.training.data import load_dataset

RATE, NOISE, LARGEST_NORM, DELTA = 0.2, 3.0, 0.3, 1e-4


def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
    return cross_entropy(functional_call(fused, parameters, image[None]), label[None])


parser = argparse.ArgumentParser(description="Train a LeNet by DP-SGD.")
parser.add_argument("--quick", action="store_true", help="10 steps instead of 150")
steps = 10 if parser.parse_args().quick else 150

torch.manual_seed(0)
data = load_dataset("digits", Path("data"))  # which lie inside scikit-learn: no folder is read
images, labels = (
    data.train.images / 127.5 - 1,
    data.train.labels,
)  # their mean would be private
fused = lenet_ext.fuse(lenet_ext.LeNet(in_channels=1), images)
optimizer = torch.optim.SGD(fused.parameters(), lr=4.0)
for _ in range(steps):
    batch = torch.rand(len(images)) < RATE
    parameters = {name: parameter.detach() for name, parameter in fused.named_parameters()}
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images[batch], labels[batch])
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients.values()]).norm(dim=0)
    factors = (LARGEST_NORM / norms).clamp(max=1)
    for name, parameter in fused.named_parameters():
        total = torch.einsum("n,n...->...", factors, gradients[name])
        total += NOISE * LARGEST_NORM * torch.randn_like(total)
        parameter.grad = total / (RATE * len(images))
    optimizer.step()

with torch.inference_mode():
    right = fused(data.test.images / 127.5 - 1).argmax(1) == data.test.labels
spent = epsilon(steps, RATE, NOISE, DELTA)
print(f"{steps} steps: epsilon {spent:.3f} at delta {DELTA}, test accuracy {right.float().mean():.3f}")
