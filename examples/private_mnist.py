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
NORM, LOOKS = 0.3, 5  # how often to look at what was reached

parser = argparse.ArgumentParser(description="Train a LeNet by DP-SGD.")
parser.add_argument("--data", choices=SETTINGS, default="digits")
parser.add_argument("--quick", action="store_true", help="10 steps")
parser.add_argument("--picture", type=Path, help="draw the accuracy over the epsilon; needs opacus")
arguments = parser.parse_args()
steps, rate, noise, delta, lr = SETTINGS[arguments.data]
steps = 10 if arguments.quick else steps

torch.manual_seed(0)
data = load_dataset(arguments.data, Path("data"))
images, labels = data.train.images, data.train.labels
model = lenet_ext.LeNet(in_channels=1, image_size=images.shape[-1])
fused = lenet_ext.fuse(model, images[:1] / 255, mean=0.5, std=0.5)  # their own mean would be private
optimizer, size = torch.optim.SGD(fused.parameters(), lr=lr), rate * len(images)
privacy = {"max_sample_grad_norm": NORM, "noise_multiplier": noise, "expected_batch_size": size}
step, accuracies = lenet_ext.TrainStep(fused, optimizer, **privacy), {}  # type: ignore[arg-type]
for taken in range(1, steps + 1):
    batch = torch.rand(len(images)) < rate
    step(images[batch], labels[batch])
    if taken % (steps // LOOKS) == 0:
        with torch.inference_mode():
            right = fused(data.test.images).argmax(1) == data.test.labels
        accuracies[taken] = float(right.float().mean())
        print(f"{taken} steps: test accuracy {accuracies[taken]:.3f}")
try:
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent
except ImportError:
    print("epsilon: install opacus, which counts it")
    raise SystemExit from None
orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
spent = [compute_rdp(q=rate, noise_multiplier=noise, steps=n, orders=orders) for n in accuracies]
epsilons = [get_privacy_spent(orders=orders, rdp=rdp, delta=delta)[0] for rdp in spent]
print(f"epsilon {epsilons[-1]:.3f} at delta {delta}")
if arguments.picture:
    from matplotlib import pyplot

    pyplot.plot(epsilons, list(accuracies.values()), marker="o")
    pyplot.title(f"A LeNet by DP-SGD on {arguments.data}: test accuracy over epsilon at delta {delta}")
    pyplot.savefig(arguments.picture, dpi=150)
