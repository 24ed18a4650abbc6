"""torch.compile with inductor, torch.export through a file, torch.fx: what torch makes of our layers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from processes import python
from torch import Tensor
from torch.export import Dim
from torch.utils.checkpoint import checkpoint
from twins import CLASSES, images, output_and_gradients, twins

import lenet_ext.functional as F
from lenet_ext.check import NATIVE

BATCHES = (4, 3, 7)


@pytest.fixture(autouse=True)
def forget_compiled_code() -> None:
    torch._dynamo.reset()


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, **options)


@pytest.mark.parametrize("dynamic", [False, True])
def test_inductor(dynamic: bool) -> None:
    """Forward and backward without graph breaks, for several batch sizes, one program for all if dynamic."""
    ours, native = twins()
    program = compiled(ours, dynamic=dynamic)
    for batch in map(images, BATCHES):
        torch.testing.assert_close(
            output_and_gradients(program, ours, batch), output_and_gradients(native, native, batch)
        )
        if dynamic:
            torch.compiler.set_stance("fail_on_recompile")
    torch.compiler.set_stance("default")


def test_dynamic_height_and_width() -> None:
    """The sizes of convolutions and pools as symbols."""
    ours, native = (torch.nn.Sequential(*model[:5]) for model in twins())
    program = compiled(ours, dynamic=True, backend="aot_eager")
    for height, width in ((9, 8), (12, 15), (7, 11)):
        batch = torch.randn(2, 2, height, width, dtype=torch.float64)
        torch.testing.assert_close(
            output_and_gradients(program, ours, batch), output_and_gradients(native, native, batch)
        )


def test_blocks_in_inductor() -> None:
    """The engine's blocks between torch's own operators, which inductor fuses."""
    shapes = ((2, 2, 9, 8), (4, 2, 3, 3), (4,), (3, 4 * 3 * 3), (3,))
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def network(functions, image: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        features = functions.conv2d_relu_max_pool2d(image.sin() + 1, w1, b1)
        return functions.linear_relu(features.flatten(1) * 2, w2, b2).cos()

    results = []
    for call in (compiled(lambda *t: network(F, *t)), lambda *t: network(NATIVE, *t)):
        output = call(*tensors)
        results.append((output, torch.autograd.grad(output.square().sum(), tensors)))
    torch.testing.assert_close(*results)


def test_autocast_and_checkpoint_inside() -> None:
    """Compiled with bfloat16 and recomputed activations: the dtype and the values of the native network."""

    def forward(model, batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return checkpoint(model, batch, use_reentrant=False)

    batch, results = images(dtype=torch.float32), []
    for model, program in ((m, compiled(forward, backend="aot_eager")) for m in twins(torch.float32)):
        results.append(output_and_gradients(lambda x, m=model, p=program: p(m, x), model, batch))
    # bfloat16 has 8 bits; sums of rounded products differ in the last.
    torch.testing.assert_close(*results, rtol=0.03, atol=0.03)
    assert [t.dtype for t in results[0]] == [t.dtype for t in results[1]]


LOAD = """
import sys, torch, lenet_ext
program = torch.export.load(sys.argv[1]).module()
torch.save([program(batch) for batch in torch.load(sys.argv[2])], sys.argv[3])
"""


@pytest.mark.parametrize("strict", [False, True])
def test_exported_program_through_a_file(strict: bool, tmp_path: Path) -> None:
    """Saved here, loaded and run in another process that knows only lenet_ext, for any batch size."""
    ours, native = twins()
    shapes = ({0: Dim("batch", min=2, max=64)},)
    program = torch.export.export(ours, (images(2),), dynamic_shapes=shapes, strict=strict)
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    operators = {str(node.target) for graph in graphs for node in graph.nodes}
    wanted = {f"lenet_ext.{name}.default" for name in ("conv2d", "max_pool2d", "linear")}
    assert wanted <= operators
    paths = [tmp_path / name for name in ("program.pt2", "batches.pt", "outputs.pt")]
    batches = [images(count) for count in BATCHES]
    torch.export.save(program, paths[0])
    torch.save(batches, paths[1])
    finished = python("-c", LOAD, *paths)
    assert finished.returncode == 0, finished.stderr
    torch.testing.assert_close(torch.load(paths[2]), [native(batch) for batch in batches])


def test_training_an_exported_program_warns() -> None:
    """It holds the operators without their gradients: torch says so, once for each operator."""
    program = torch.export.export(twins()[0], (images(4),)).module()
    output = program(images(4))
    with pytest.warns(UserWarning, match="lenet_ext::linear: an autograd kernel was not registered"):
        output.sum().backward()


def test_fx_tracing() -> None:
    """symbolic_trace follows the layers; the traced module and its pickle compute the same."""
    ours, native = twins()
    traced = torch.fx.symbolic_trace(ours)
    file = io.BytesIO()
    torch.save(traced, file)
    file.seek(0)
    batch = images()
    expected = output_and_gradients(native, native, batch)
    for model in (traced, torch.load(file, weights_only=False)):
        torch.testing.assert_close(output_and_gradients(model, model, batch), expected)
    assert traced(batch).shape == (4, CLASSES)


@pytest.mark.parametrize("name", ["conv2d_relu_max_pool2d", "linear_relu"])
def test_fx_tracing_of_blocks(name: str) -> None:
    shapes = ((2, 2, 9, 8), (4, 2, 3, 3)) if name.startswith("conv2d") else ((2, 8), (3, 8))
    options = {"pool_size": 3} if name.startswith("conv2d") else {}
    tensors = [torch.randn(shape) for shape in shapes]
    traced = torch.fx.symbolic_trace(lambda x, w: getattr(F, name)(x, w, **options))
    torch.testing.assert_close(traced(*tensors), getattr(NATIVE, name)(*tensors, **options))
