"""The check that the tests of conv2d have in common."""

from __future__ import annotations

import reference
import torch
from compare import assert_sums_close, exact
from strategies import ConvCase, laid_out, normal

import lenet_ext  # noqa: F401  registers the operators

operators = torch.ops.lenet_ext


def check_against_reference(case: ConvCase) -> None:
    """The three operators: output, input gradient, weight and bias gradients."""
    image, weight, bias = case.tensors()
    geometry, x, w = case.geometry, exact(image), exact(weight)
    b = None if bias is None else exact(bias)
    repeated = case.layout == "expanded"
    output = operators.conv2d(image, weight, bias, *geometry.numbers())
    assert_sums_close(
        output,
        reference.conv2d(x, w, b, geometry),
        reference.conv2d(abs(x), abs(w), None if b is None else abs(b), geometry),
        w[0].size + 1,
        repeated,
    )

    grad_output = laid_out(normal(tuple(output.shape), case.dtype, case.seed + 3), case.layout)
    g = exact(grad_output)
    grads = reference.conv2d_gradients(g, x, w, geometry)
    magnitudes = reference.conv2d_gradients(abs(g), abs(x), abs(w), geometry)
    numbers = (*image.shape[2:], *geometry.numbers())
    grad_input = operators.conv2d_input_grad(grad_output, weight, *numbers)
    numbers = (*weight.shape[2:], *geometry.numbers())
    grad_weight, grad_bias = operators.conv2d_weight_grad(grad_output, image, *numbers, True)
    assert_sums_close(grad_input, grads[0], magnitudes[0], w[:, 0].size // geometry.groups, repeated)
    assert_sums_close(grad_weight, grads[1], magnitudes[1], g[:, 0].size, repeated)
    assert_sums_close(grad_bias, grads[2], magnitudes[2], g[:, 0].size, repeated)
    assert operators.conv2d_weight_grad(grad_output, image, *numbers, False)[1].numel() == 0
    together = operators.conv2d_grads(grad_output, image, weight, *geometry.numbers(), True)
    for actual, expected in zip(together, (grad_input, grad_weight, grad_bias), strict=True):
        assert torch.equal(actual, expected)
