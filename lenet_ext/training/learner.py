"""A network on its way: the model, what updates it, and the step that improves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lenet_ext.engine.train_step import TrainStep
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.data import Normalization
from lenet_ext.training.network import build_network, frozen_description, fuse_network
from lenet_ext.training.own_network import OwnNetwork

EVALUATION_BATCH = 500
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The one that the settings name, of all parameters."""
    options: dict[str, Any] = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    make = OPTIMIZERS[config.optimizer]
    return make(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, **options)


def state_keys(config: TrainingConfig) -> set[str]:
    """What such an optimizer keeps of a parameter after a step, as torch calls it."""
    if config.optimizer == "sgd":
        return {"momentum_buffer"} if config.momentum > 0 else set()
    return {"step", "exp_avg", "exp_avg_sq"}


class Learner:
    """A network of layers, ours or native torch's, that a torch optimizer improves."""

    def __init__(
        self,
        engine: str,
        network: dict[str, int],
        config: TrainingConfig,
        normalize: Normalization,
        own: OwnNetwork | None = None,
    ) -> None:
        self.name, self.config = engine, config
        self.model = build_network(network, engine, own, config.seed).to(config.device)
        self.normalize = normalize
        self.optimizer = make_optimizer(self.model, config)
        self.loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

    def train(self, training: bool) -> None:
        """Before steps, or with False before `predict`: what dropout and batch norm do."""
        self.model.train(training)

    def step(self, images: Tensor, labels: Tensor, learning_rate: float) -> Tensor:
        """One step of gradient descent on a batch of uint8 images; returns the loss before it."""
        self.set_learning_rate(learning_rate)
        self.optimizer.zero_grad()
        loss = self.loss(self.logits(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def set_learning_rate(self, learning_rate: float) -> None:
        """That of the next step, for all parameters."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def logits(self, images: Tensor) -> Tensor:
        """(N, classes), of uint8 images."""
        return self.model(self.normalize(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The most likely class (N,) of each uint8 image; FloatingPointError if there is none."""
        logits = torch.cat([self.logits(batch) for batch in images.split(EVALUATION_BATCH)])
        if not logits.isfinite().all():
            raise FloatingPointError("the network's output is no longer finite")
        return logits.argmax(dim=1)

    def description(self) -> dict[str, Any] | None:
        """Its `frozen_description`; None where there is none, as for layers."""
        return None


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """By torch's keys, and then by the names of the parameters; none before the first step."""
    states: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                states.setdefault(key, {})[name] = value
    return states


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, states: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Takes what `optimizer_state` gave."""
    content = optimizer.state_dict()
    content["state"] = {
        number: {key: tensors[name] for key, tensors in states.items() if name in tensors}
        for number, (name, _) in enumerate(model.named_parameters())
        if any(name in tensors for tensors in states.values())
    }
    optimizer.load_state_dict(content)


class FusedLearner(Learner):
    """The whole network in the fused engine, which takes bytes and does a step in one call."""

    def __init__(
        self,
        engine: str,
        network: dict[str, int],
        config: TrainingConfig,
        normalize: Normalization,
        own: OwnNetwork | None = None,
    ) -> None:
        super().__init__(engine, network, config, normalize, own)
        self.fused = fuse_network(self.model, network, normalize)
        self.train_step = TrainStep(self.fused, self.optimizer, self.loss)

    def train(self, training: bool) -> None:
        self.fused.train(training)

    def step(self, images: Tensor, labels: Tensor, learning_rate: float) -> Tensor:
        self.set_learning_rate(learning_rate)
        return self.train_step(images, labels)

    def logits(self, images: Tensor) -> Tensor:
        return self.fused(images)

    def description(self) -> dict[str, Any] | None:
        return frozen_description(self.fused, self.model.state_dict())


LEARNERS: dict[str, type[Learner]] = {"fused": FusedLearner, "layers": Learner, "torch": Learner}
