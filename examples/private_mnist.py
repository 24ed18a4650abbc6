"""Private training: DP-SGD on a fused LeNet, and the epsilon that it spends, which Opacus counts.

A step takes each image with the same probability, clips the gradient of each and adds noise to their sum
(Abadi et al., "Deep learning with differential privacy", 2016). docs/private.md says what is not counted.
The digits are those inside scikit-learn; --data mnist reads MNIST's files from the folder data.

    python examples/private_mnist.py
"""

import argparse
from pathlib import Path

import torch

import lenet_ext
from lenet_ext.training.data import load_dataset

# Steps; the probability of an image; the noise, in units of the largest norm; the delta; the learning rate.
SETTINGS = {"digits": (150, 0.2, 3.0, 1e-4, 4.0), "mnist": (1500, 512 / 60_000, 1.1, 1e-5, 2.0)}
LARGEST_NORM = 0.3

parser = argparse.ArgumentParser(description="Train a LeNet by DP-SGD.")
parser.add_argument("--data", choices=SETTINGS, default="digits")
parser.add_argument("--quick", action="store_true", help="10 steps")
arguments = parser.parse_args()
steps, rate, noise, delta, lr = SETTINGS[arguments.data]
if arguments.quick:
    steps = 10

torch.manual_seed(0)
data = load_dataset(arguments.data, Path("data"))  # the digits need no folder
images, labels = data.train.images, data.train.labels
model = lenet_ext.LeNet(in_channels=1, image_size=images.shape[-1])
fused = lenet_ext.fuse(model, images[:1] / 255, mean=0.5, std=0.5)  # their own mean would be private
step = lenet_ext.TrainStep(
    fused,
    torch.optim.SGD(fused.parameters(), lr=lr),
    max_sample_grad_norm=LARGEST_NORM,
    noise_multiplier=noise,
    expected_batch_size=rate * len(images),
)
for _ in range(steps):
    batch = torch.rand(len(images)) < rate
    step(images[batch], labels[batch])

with torch.inference_mode():
    right = fused(data.test.images).argmax(1) == data.test.labels
print(f"{steps} steps: test accuracy {right.float().mean():.3f}")
try:
    from opacus.accountants import RDPAccountant
except ImportError:
    print("epsilon: install opacus, which counts it")
else:
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    print(f"epsilon {accountant.get_epsilon(delta):.3f} at delta {delta}")
