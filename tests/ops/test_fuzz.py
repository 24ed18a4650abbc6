"""Every raw operator called with anything: it raises, or gives native torch's results; nothing else changes.

`make sanitize` runs this file, with many more calls, on kernels compiled with AddressSanitizer.
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from operator_calls import FAMILIES, NAMES, Call, calls, family_of
from operators import OPERATORS, operators
from torch import Tensor

# Relative to the largest value: sums of small whole numbers, rounded to the dtype once.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
MOST_MEMORY = 2**29  # further bytes that a call may take; more is an error that it must survive
MOST_COMPARED = 2**20  # elements, and pixels of padding


@pytest.fixture
def limited_memory() -> Iterator[None]:
    """Allocations that no small machine could serve fail, as they do there."""
    if "max_allocation_size_mb" in os.environ.get("ASAN_OPTIONS", ""):
        yield  # which has a limit of its own, and needs terabytes of addresses
        return
    torch.ops.lenet_ext.relu(torch.zeros(2**22))  # the threads are there before the limit
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MOST_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def is_plain(tensor: Tensor) -> bool:
    """In the CPU's memory, element by element."""
    strange = tensor.is_nested or tensor.is_quantized or tensor._is_zerotensor()
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not strange


def bits(tensor: Tensor) -> Tensor:
    values = tensor.detach().resolve_neg().resolve_conj().flatten()
    return torch.empty(values.shape, dtype=values.dtype).copy_(values).view(torch.uint8)


def snapshots(call: Call) -> list[tuple[Tensor, Tensor, bool]]:
    """Small tensors among the arguments, with what they hold and whether the operator may change that."""
    found = []
    for place, value in enumerate(call.arguments):
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, Tensor) and is_plain(tensor) and tensor.numel() <= MOST_COMPARED:
                found.append((tensor, bits(tensor), place in OPERATORS[call.name].changes))
    return found


def mapped(arguments: list[Any], function: Any) -> list[Any]:
    return [
        mapped(value, function)
        if isinstance(value, list)
        else function(value)
        if isinstance(value, Tensor)
        else value
        for value in arguments
    ]


def comparable(call: Call) -> bool:
    """Whether native torch can say what the results should be."""
    if not all(is_plain(t) and t.numel() <= MOST_COMPARED for t in call.tensors()):
        return False
    if any(isinstance(value, int) and value > MOST_COMPARED for value in call.arguments):
        return False
    if call.name in ("max_pool2d_input_grad", "network_backward"):
        # An argmax that was made up belongs to no input. Rounding may decide between nearly equal values.
        return not call.spoilt and (
            call.name != "network_backward" or call.tensors()[0].dtype == torch.float64
        )
    exact = family_of(call.name) in ("max_pool2d", "relu")
    floats = [t.detach().double() for t in call.tensors() if t.is_floating_point()]
    return exact or all(bool((t.abs() < 1e4).all()) for t in floats)


def expected_results(call: Call) -> list[Tensor] | None:
    """In float64; None where native torch cannot compute them, for example without channels."""
    oracle = OPERATORS[call.name].oracle
    try:
        if oracle is None or not comparable(call):
            return None
        wide = mapped(call.arguments, lambda t: t.detach().double() if t.is_floating_point() else t.clone())
        return oracle(*wide)
    except (RuntimeError, TypeError, IndexError, ValueError, ZeroDivisionError, StopIteration):
        return None
    except AssertionError:  # a layer that the oracle does not know, in a program with other words
        if not call.spoilt:
            raise
        return None


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    expected = expected.to(actual.dtype).double()  # 16-bit numbers may overflow
    scale = float(expected[expected.isfinite()].abs().max()) if expected.isfinite().any() else 0.0
    torch.testing.assert_close(
        actual.double(), expected, rtol=0, atol=tolerance * (1 + scale), equal_nan=True
    )


def check_results(call: Call, results: list[Tensor], expected: list[Tensor] | None) -> bool:
    """Whether values could be compared. Sizes are those of the fake kernel, which computes them in Python."""
    if call.name in ("network_train", "ensemble_train"):
        # They have no fake kernel; native torch computes the first loss, that of each member.
        one = call.name == "network_train"
        results = [results[0].reshape(-1)[:1] if one else results[0][:, :1].flatten()]
        assert results[0].dtype == call.tensors()[0].dtype or call.tensors()[0].dtype == torch.uint8
    else:
        meta = Call(call.name, mapped(call.arguments, lambda t: t.to("meta")))()
        for result, fake in zip(results, meta, strict=True):
            assert (result.shape, result.dtype) == (fake.shape, fake.dtype)
    if expected is None:
        return False
    if call.name == "relu_":
        results = [call.arguments[0]]
    if call.name == "max_pool2d" and len(expected) == 2:
        x, *geometry = call.arguments[:9]
        results[1] = operators.max_pool2d_indices(results[1], *x.shape[2:], *geometry)
    for result, wanted in zip(results, expected, strict=False):
        exact = family_of(call.name) == "relu" or not result.dtype.is_floating_point
        assert_near(result, wanted, 0 if exact else TOLERANCE[result.dtype])
    return True


def check_error(call: Call, error: Exception) -> None:
    """In the operator's words or those of torch, which refuses some calls before the operator sees them."""
    assert call.spoilt, f"{call} is refused: {error}"
    assert str(error).strip()
    # Torch's own words for a tensor with a negative bit among those that a training step would change.
    assert "INTERNAL ASSERT" not in str(error) or "MathBitsFallback" in str(error), error


def check(call: Call) -> str:
    """What became of the call."""
    if log := os.environ.get("LENET_EXT_FUZZ_LOG"):
        Path(log).write_text(f"{call!r}\n")  # after a crash: the last call
    on_meta = all(tensor.is_meta for tensor in call.tensors())
    expected, before = expected_results(call), snapshots(call)
    try:
        results = call()
    except (RuntimeError, IndexError) as error:
        check_error(call, error)
        results = None
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        assert on_meta  # fake kernels are written in Python
        return "refused"
    for tensor, held, may_change in before:
        assert (results is not None and may_change) or torch.equal(bits(tensor), held), "an argument changed"
    if results is None or on_meta:
        return "refused"
    # A call that no spoilt argument entered was compared; of the others those that are sound all the same.
    return "compared" if check_results(call, results, expected) else "accepted"


@pytest.mark.usefixtures("limited_memory")
@pytest.mark.filterwarnings("ignore")  # torch's, about its own strange tensors
@pytest.mark.parametrize("name", NAMES)
def test_any_arguments(name: str) -> None:
    outcomes: Counter[str] = Counter()

    @settings(print_blob=True)
    @given(calls(name))
    def run(call: Call) -> None:
        outcomes[check(call)] += 1

    run()
    least = max(1, outcomes.total() // 50)
    assert outcomes["refused"] >= least, outcomes
    assert outcomes["compared" if OPERATORS[name].oracle else "accepted"] >= least, outcomes


def test_every_operator_has_an_entry() -> None:
    assert len(NAMES) >= 18
    assert set(NAMES) == set(OPERATORS)
    assert {family_of(name) for name in NAMES} == set(FAMILIES)
