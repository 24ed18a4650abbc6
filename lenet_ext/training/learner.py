"""A network on its way: the model, what updates it, and the step that improves it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lenet_ext.engine.train_step import TrainStep
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.data import Normalization
from lenet_ext.training.network import build_network, fuse_network

EVALUATION_BATCH = 500


class Learner:
    """A network of layers, ours or native torch's, that torch.optim.SGD improves."""

    def __init__(
        self, engine: str, network: dict[str, int], config: TrainingConfig, normalize: Normalization
    ) -> None:
        self.name = engine
        self.model = build_network(network, engine).to(config.device)
        self.normalize = normalize
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.lr, momentum=config.momentum)

    def step(self, images: Tensor, labels: Tensor, learning_rate: float) -> Tensor:
        """One step of gradient descent on a batch of uint8 images; returns the loss before it."""
        self._set_learning_rate(learning_rate)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.logits(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _set_learning_rate(self, learning_rate: float) -> None:
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

    def momenta(self) -> dict[str, Tensor]:
        """By the names of the parameters; none before the first step, nor with a momentum of 0."""
        states = {name: self.optimizer.state[p] for name, p in self.model.named_parameters()}
        buffers = {name: state.get("momentum_buffer") for name, state in states.items()}
        return {name: buffer for name, buffer in buffers.items() if buffer is not None}

    def restore_momenta(self, momenta: Mapping[str, Tensor]) -> None:
        """Takes what `momenta` gave."""
        for name, momentum in momenta.items():
            parameter = self.model.get_parameter(name)
            self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)


class FusedLearner(Learner):
    """The whole network in the fused engine, which takes bytes and does a step in one call."""

    def __init__(
        self, engine: str, network: dict[str, int], config: TrainingConfig, normalize: Normalization
    ) -> None:
        super().__init__(engine, network, config, normalize)
        self.fused = fuse_network(self.model, network, normalize)
        self.train_step = TrainStep(self.fused, self.optimizer)

    def step(self, images: Tensor, labels: Tensor, learning_rate: float) -> Tensor:
        self._set_learning_rate(learning_rate)
        return self.train_step(images, labels)

    def logits(self, images: Tensor) -> Tensor:
        return self.fused(images)


LEARNERS: dict[str, type[Learner]] = {"fused": FusedLearner, "layers": Learner, "torch": Learner}
