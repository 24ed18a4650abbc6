"""One step of a network: its rate, and the update."""

from __future__ import annotations

import pytest
import torch

from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.data import Normalization
from lenet_ext.training.learner import LEARNERS
from lenet_ext.training.loop import learning_rate
from lenet_ext.training.network import build_network


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(step, 1000, peak=0.5) for step in range(1000)]
    peak = rates.index(max(rates))
    assert max(rates) == 0.5
    assert peak == 50
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[0] < 0.011
    assert 0 < rates[-1] < 1e-5


@pytest.mark.parametrize("total_steps", [1, 2, 19, 20, 21])
def test_learning_rate_of_very_short_runs_is_positive(total_steps: int) -> None:
    rates = [learning_rate(step, total_steps, peak=0.5) for step in range(total_steps)]
    assert all(0 < rate <= 0.5 for rate in rates)


@pytest.mark.parametrize("engine", LEARNERS)
def test_step_is_sgd_with_momentum(engine: str) -> None:
    """Two steps against the update rule written out: v = momentum v + g, w = w - lr v."""
    torch.manual_seed(0)
    config = TrainingConfig(engine=engine, compare=False, momentum=0.8)
    network = {"in_channels": 1, "num_classes": 3, "image_size": 16}
    normalize = Normalization([100.0], [50.0])
    learner = LEARNERS[engine](engine, network, config, normalize)
    twin = build_network(network, "torch")
    twin.load_state_dict(learner.model.state_dict())
    velocities = [torch.zeros_like(parameter) for parameter in twin.parameters()]
    for rate in (0.1, 0.05):
        images, labels = torch.randint(256, (7, 1, 16, 16), dtype=torch.uint8), torch.randint(3, (7,))
        assert torch.equal(learner.predict(images), twin(normalize(images)).argmax(1))
        loss = torch.nn.functional.cross_entropy(twin(normalize(images)), labels)
        assert float(learner.step(images, labels, rate)) == pytest.approx(float(loss.detach()), rel=1e-5)
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for parameter, velocity, gradient in zip(twin.parameters(), velocities, gradients, strict=True):
                velocity.mul_(0.8).add_(gradient)
                parameter.sub_(rate * velocity)
    for ours, theirs in zip(learner.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
