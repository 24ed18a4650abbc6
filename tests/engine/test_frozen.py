"""FrozenNet: bit for bit what FusedNet computes in eval mode, for networks and callers of all kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from chains import Chain, chains, fused_without_export
from compare import assert_same
from hypothesis import given
from networks import NETWORKS, images
from strategies import DTYPES, laid_out
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure

import lenet_ext

BATCHES = (0, 1, 2, 5, 33)


def lenet(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(),
        nn.Conv2d(6, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 6 * 6, 30),
        nn.ReLU(),
        nn.Linear(30, 10),
    ).to(dtype)


def example(batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 3, 32, 32).to(dtype)


def wanted(fused: lenet_ext.FusedNet, x: Tensor) -> Any:
    """What it computes in eval mode."""
    mode = fused.training
    fused.eval()
    with torch.inference_mode():
        result = fused(x)
    fused.train(mode)
    return result


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, or why it does not: as for a batch norm of a single value."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        return str(error).partition(": ")[2]


def assert_alike(actual: Any, expected: Any) -> None:
    """The same values in the same collections."""
    assert tree_structure(actual) == tree_structure(expected)
    for one, other in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        if isinstance(other, Tensor):
            assert one.dtype == other.dtype
            assert_same(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_all_kinds(name: str) -> None:
    """In training mode too, for several batches, some of them twice: by the plan that is kept."""
    network = NETWORKS[name]
    fused = lenet_ext.fuse(network.build(), images(network, 2).float())
    frozen = fused.freeze()
    for batch in (2, 1, 7, 2, 0, 7):
        x = images(network, batch).float()
        assert_alike(outcome(frozen, x), outcome(wanted, fused, x))
        assert fused.training


@given(chains())
def test_chains_in_all_dtypes(chain: Chain) -> None:
    for dtype in DTYPES:
        case = Chain(chain.in_dtype(dtype), chain.shape, chain.seed)
        fused = fused_without_export(case)
        if not list(case.model.parameters()):
            continue  # frozen in the default dtype
        x = case.images(dtype)
        assert_alike(outcome(fused.freeze(), x), outcome(wanted, fused, x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_and_threads(dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    fused = lenet_ext.fuse(lenet(dtype), example(dtype=dtype))
    frozen = fused.freeze()
    for batch in (*BATCHES, *BATCHES):
        x = example(batch, dtype)
        assert_same(frozen(x), wanted(fused, x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes(dtype: torch.dtype) -> None:
    fused = lenet_ext.fuse(lenet(dtype), example(dtype=dtype), mean=[0.4, 0.5, 0.6], std=0.2)
    frozen = fused.freeze()
    for batch in BATCHES:
        x = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
        assert_same(frozen(x), wanted(fused, x))
    if dtype != torch.bfloat16:
        assert_same(torch.from_numpy(frozen(x.numpy())), wanted(fused, x))


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced", "expanded", "negative"])
def test_layouts(layout: str) -> None:
    fused = lenet_ext.fuse(lenet(), example())
    x = example(5)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        x = x.transpose(2, 3)
    elif layout == "sliced":
        x = torch.randn(9, 3, 40, 64)[1:6, :, 3:35, ::2]
    elif layout == "expanded":
        x = x[:1].expand(5, 3, 32, 32)
    else:
        x = torch._neg_view(x)
    assert_same(fused.freeze()(x), wanted(fused, x.clone(memory_format=torch.contiguous_format)))


def test_more_batches_and_image_sizes_than_are_kept() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    fused = lenet_ext.fuse(net, torch.randn(2, 2, 9, 9))
    frozen = fused.freeze()
    for batch in (*range(1, 40), *range(39, 0, -1)):
        x = torch.randn(batch, 2, 9, 9)
        assert_same(frozen(x), wanted(fused, x))
    for size in (*range(8, 30), 8, 29):
        x = torch.randn(3, 2, size, size + 1)
        assert_same(frozen(x), wanted(fused, x))


def test_later_changes_are_not_seen() -> None:
    model = lenet()
    fused = lenet_ext.fuse(model, example())
    frozen, x = fused.freeze(), example(3)
    before = wanted(fused, x)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    assert_same(frozen(x), before)
    del model, fused
    assert_same(frozen(x[:1]), frozen(x[:1]))


@pytest.mark.parametrize("tracked", [True, False])
def test_threads_at_once(tracked: bool) -> None:
    """Of any number, with batches of different sizes, most of them seen for the first time by several."""
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    fused = lenet_ext.fuse(lenet() if tracked else own, example())
    cases = [example(batch) for batch in (1, 2, 3, 4, 5, 8, 13, 1, 1, 2)]
    expected = [wanted(fused, x) for x in cases]
    frozen = fused.freeze()

    def call(i: int) -> tuple[int, Any, Any]:
        place = i % len(cases)
        return place, frozen(cases[place]), frozen(cases[place].numpy())

    with ThreadPoolExecutor(8) as pool:
        for place, tensor, array in pool.map(call, range(400)):
            assert_same(tensor, expected[place])
            assert_same(torch.from_numpy(array), expected[place])


def test_made_and_destroyed_by_other_threads() -> None:
    """The memory of its plans belongs to no thread."""
    fused = lenet_ext.fuse(lenet(), example())
    x = example(3)
    expected = wanted(fused, x)
    for _ in range(5):
        with ThreadPoolExecutor(1) as pool:
            held = [pool.submit(lambda: ((net := fused.freeze()), net(x))[0]).result()]
        assert_same(held[0](x), expected)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(held.clear).result()


class TestArrays:
    def test_without_copies(self) -> None:
        """Read-only memory is read where it is, and an array is returned."""
        fused = lenet_ext.fuse(lenet(), example())
        frozen, x = fused.freeze(), example(4)
        array = x.numpy()
        array.flags.writeable = False
        result = frozen(array)
        assert type(result) is np.ndarray
        assert result.dtype == np.float32
        assert result.flags.writeable
        assert result.flags.owndata
        assert_same(torch.from_numpy(result), wanted(fused, x))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
    def test_dtypes_and_strides(self, dtype: torch.dtype) -> None:
        fused = lenet_ext.fuse(lenet(dtype), example(dtype=dtype))
        frozen, x = fused.freeze(), example(6, dtype)
        whole = x.numpy()
        unaligned = np.zeros(whole.nbytes + 1, np.uint8)[1:].view(whole.dtype).reshape(whole.shape)
        unaligned[:] = whole
        for array in (whole, whole[::-1], whole.transpose(0, 1, 3, 2), np.asfortranarray(whole), unaligned):
            array = array[1:5]
            assert_same(torch.from_numpy(frozen(array)), wanted(fused, torch.from_numpy(array.copy())))

    def test_empty_batch_and_collections(self) -> None:
        network = NETWORKS["nested outputs"]
        fused = lenet_ext.fuse(network.build(), images(network, 2).float())
        frozen = fused.freeze()
        for batch in (0, 3):
            x = images(network, batch).float()
            result, expected = frozen(x.numpy()), wanted(fused, x)
            assert type(result) is type(expected) is list
            for one, other in zip(tree_leaves(result), tree_leaves(expected), strict=True):
                same = one == other if not isinstance(other, Tensor) else np.array_equal(one, other.numpy())
                assert same


def test_modes_of_torch() -> None:
    """Where something follows operators, these compute the same."""
    fused = lenet_ext.fuse(lenet(torch.float64).eval(), example(dtype=torch.float64))
    frozen, x = fused.freeze(), example(3, torch.float64)
    expected = wanted(fused, x)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match="would have no effect"),
    ):
        frozen(x)
    torch.testing.assert_close(torch.func.vmap(lambda one: frozen(one[None])[0])(x), expected)
    primal, tangent = torch.func.jvp(frozen, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(primal, expected)
    torch.testing.assert_close(tangent, torch.func.jvp(fused, (x,), (torch.ones_like(x),))[1])
    with torch.no_grad():
        assert_same(frozen(x.requires_grad_()), expected)
    assert not frozen(nn.Parameter(x.detach(), requires_grad=False)).requires_grad
    with torch.inference_mode():
        assert frozen(x).is_inference()
        assert_same(fused.freeze()(x), expected)
    assert_same(fused.freeze()(x.detach()), expected)


def test_where_torch_gives_no_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators compute it."""
    fused = lenet_ext.fuse(lenet(), example())
    frozen, x = fused.freeze(), example(3)
    expected = wanted(fused, x)
    assert_same(frozen._unusual(x), expected)
    assert_same(torch.from_numpy(frozen._unusual(x.numpy())), expected)


@pytest.mark.parametrize("name", ["residual", "nested outputs"])
def test_nothing_is_kept(name: str) -> None:
    """Neither images nor outputs are held after a call."""
    network = NETWORKS[name]
    frozen = lenet_ext.fuse(network.build(), images(network, 2).float()).freeze()
    x = images(network, 3).float()
    used = x._use_count()
    for _ in range(3):
        leaves = [leaf for leaf in tree_leaves(frozen(x)) if isinstance(leaf, Tensor)]
        assert x._use_count() == used
        assert all(leaf._use_count() == torch.zeros(1)._use_count() for leaf in leaves)


def test_deepcopy_and_laid_out() -> None:
    fused = lenet_ext.fuse(lenet(), example())
    frozen = copy.deepcopy(fused.freeze())
    x = laid_out(example(2), "channels_last")
    assert_same(frozen(x), wanted(fused, x))
    assert_same(frozen(images=x), wanted(fused, x))
    assert "uint8" not in repr(frozen)
