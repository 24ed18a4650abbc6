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


def test_other_schedules() -> None:
    constant, step, linear = (
        [learning_rate(number, 1000, 0.5, schedule) for number in range(1000)]
        for schedule in ("constant", "step", "linear")
    )
    assert set(constant) == {0.5}
    assert step[:500] == [0.5] * 500
    assert step[500:750] == pytest.approx([0.05] * 250)
    assert step[750:] == pytest.approx([0.005] * 250)
    assert linear[:50] == [learning_rate(number, 1000, 0.5) for number in range(50)]
    assert linear[50:] == pytest.approx([0.5 * (1000 - number) / 950 for number in range(50, 1000)])


@pytest.mark.parametrize("engine", LEARNERS)
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_steps_of_other_optimizers(engine: str, name: str) -> None:
    """With weight decay and label smoothing: torch's own of the network by itself."""
    torch.manual_seed(0)
    config = TrainingConfig(
        engine=engine, compare=False, optimizer=name, momentum=0.0, weight_decay=0.1, label_smoothing=0.2
    )
    normalize = Normalization([100.0], [50.0])
    network = {"in_channels": 1, "num_classes": 3, "image_size": 16}
    learner = LEARNERS[engine](engine, network, config, normalize)
    twin = build_network(network, "torch")
    twin.load_state_dict(learner.model.state_dict())
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimizer = kind(twin.parameters(), lr=0.001, weight_decay=0.1)
    for rate in (0.001, 0.002, 0.001):
        images, labels = torch.randint(256, (7, 1, 16, 16), dtype=torch.uint8), torch.randint(3, (7,))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(normalize(images)), labels, label_smoothing=0.2)
        loss.backward()
        optimizer.step()
        assert float(learner.step(images, labels, rate)) == pytest.approx(float(loss.detach()), rel=1e-4)
    for ours, theirs in zip(learner.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


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
