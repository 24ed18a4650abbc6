"""capture: networks of all kinds, each layer by layer beside the model, in both modes."""

from __future__ import annotations

import pytest
import torch
from networks import NETWORKS, images
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lenet_ext.engine.capture import Captured, Leaf, Mode, capture
from lenet_ext.engine.network import Network


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Captured]:
    model = NETWORKS[request.param].build().double()
    return request.param, model, capture(model, images(NETWORKS[request.param], 2))


def mode_of(model: nn.Module, captured: Captured) -> Mode:
    mode = captured.modes[tuple(model.get_submodule(path).training for path in captured.paths)]
    assert isinstance(mode, Mode), mode
    return mode


def layer_by_layer(model: nn.Module, captured: Captured, x: Tensor) -> list[object]:
    """The leaves of what the model returns, by its description alone."""
    mode = mode_of(model, captured)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    counts = [torch.zeros(()) if path is None else tensors[path] for path in mode.counters]
    parameters = [tensors[path] for path in (*captured.parameters, *captured.buffers)]
    outputs = mode.network.apply(x, parameters, counts=counts)
    leaves = tree_leaves(mode.structure)
    return [outputs[leaf.output] if isinstance(leaf, Leaf) else leaf for leaf in leaves]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_layer_by_layer(case: tuple[str, nn.Module, Captured], training: bool) -> None:
    name, model, captured = case
    model.train(training)
    mode = mode_of(model, captured)
    assert mode.network.is_random == (training and NETWORKS[name].is_random)
    program = mode.network.program()
    assert Network.of(program).program() == program
    if mode.network.is_random:
        return
    for batch in (2, 5):
        x = images(NETWORKS[name], batch)
        before = {path: value.clone() for path, value in model.state_dict().items()}
        expected = tree_leaves(model(x))
        after = {path: value.clone() for path, value in model.state_dict().items()}
        model.load_state_dict(before)
        actual = layer_by_layer(model, captured, x)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(dict(model.state_dict()), after, rtol=1e-12, atol=1e-12)


def test_there_are_enough_of_them() -> None:
    assert len(NETWORKS) >= 60
