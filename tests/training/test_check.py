"""`lenet-ext check`: what it compares, and that it notices what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from training_helpers import Program

from lenet_ext.check import DTYPES, Comparison, rounding_limit


def test_check_passes(program: Program) -> None:
    result = program("check")
    assert result.code == 0, result.out
    for word in ("conv2d", "max_pool2d", "linear", "relu", "LeNet", "backward", "bfloat16"):
        assert word in result.out
    assert "112 of 112 comparisons agree" in result.out


def test_check_notices_a_mismatch(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ReLU whose values are right and whose gradient is half a percent off."""

    class Skewed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, input: torch.Tensor) -> torch.Tensor:
            return input.relu()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 1.005

    monkeypatch.setattr("lenet_ext.functional.relu", Skewed.apply)
    result = program("check")
    assert result.code == 1
    assert "relu backward torch.float32: error" in result.out
    assert "relu forward" not in result.out


def test_check_reports_a_layer_that_fails(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise NotImplementedError("no kernel for this")

    monkeypatch.setattr("lenet_ext.functional.linear", broken)
    result = program("check")
    assert result.code == 1
    assert "linear 84 to 10 forward torch.float32: no kernel for this" in result.out


def test_limits_of_check_are_a_few_rounding_units() -> None:
    """Wide enough for sums of 5,000 terms, and far below any real mistake."""
    limits = {dtype: rounding_limit(dtype, 5000) for dtype in DTYPES}
    assert limits[torch.float64] < 2e-14
    assert limits[torch.float32] < 1e-5
    assert limits[torch.float16] < 0.0025
    assert limits[torch.bfloat16] < 0.02


def test_nan_is_a_mismatch() -> None:
    comparison = Comparison("relu", "forward", torch.float32, float("nan"), 0.0, limit=1e-6)
    assert not comparison.passed
    assert replace(comparison, error=1e-7).passed
