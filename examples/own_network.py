"""A network of your own, with batch norm, dropout and a residual addition, trained by the fused engine.

The model is plain torch. `fuse` reads it, `TrainStep` trains it with torch's AdamW, OneCycleLR and label
smoothing, and its state_dict goes through a file into a second model of plain torch, which predicts the same.

    python examples/own_network.py
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import lenet_ext
from lenet_ext.training.data import Normalization, load_dataset


class OwnNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        conv1, conv2 = (nn.Conv2d(channels, 32, 3, padding=1, bias=False) for channels in (1, 32))
        self.stem = nn.Sequential(conv1, nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
        self.residual = nn.Sequential(conv2, nn.BatchNorm2d(32))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 10))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        return self.head(torch.relu(x + self.residual(x)))


parser = argparse.ArgumentParser(description="Train a network with batch norm, dropout and an addition.")
parser.add_argument("--quick", action="store_true", help="one epoch instead of ten")
epochs = 1 if parser.parse_args().quick else 10

torch.manual_seed(0)
data = load_dataset("digits", Path("data"))  # which lie inside scikit-learn: no folder is read
normalize = Normalization.of(data.train.images)
images, labels, test_images = normalize(data.train.images), data.train.labels, normalize(data.test.images)

fused = lenet_ext.fuse(OwnNetwork(), images)
optimizer = torch.optim.AdamW(fused.parameters(), weight_decay=0.01)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, epochs * -(-len(images) // 64))
step = lenet_ext.TrainStep(fused, optimizer, nn.CrossEntropyLoss(label_smoothing=0.1))
for epoch in range(1, epochs + 1):
    for batch in torch.randperm(len(images)).split(64):
        loss = step(images[batch], labels[batch])
        schedule.step()
    print(f"epoch {epoch}: loss of the last batch {loss:.4f}")

plain = OwnNetwork()
with TemporaryDirectory() as folder:
    torch.save(fused.state_dict(), f"{folder}/weights.pt")
    plain.load_state_dict(torch.load(f"{folder}/weights.pt"))
with torch.inference_mode():
    ours, theirs = fused.eval()(test_images), plain.eval()(test_images)
right, same = ((ours.argmax(1) == classes).sum() for classes in (data.test.labels, theirs.argmax(1)))
print(f"test accuracy {right / len(ours):.4f}, {right} of {len(ours)} images")
print(f"plain torch predicts the same for {same} images, outputs within {(ours - theirs).abs().max():.1e}")
