"""The gradients of each image of a batch by autograd, one image after the other, and DP-SGD by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Loss = Callable[[Tensor, Tensor], Tensor]


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Stages of three kinds: a pooled convolution, one that is not, and linear layers."""
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 9, 3, padding=1, bias=False)),
        *(nn.Tanh(), nn.Flatten(), nn.Linear(9 * 16, 12), nn.ReLU(), nn.Linear(12, 5)),
    ).to(dtype)


def batch(count: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Images and classes for it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, 10, 10, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(5, (count,), generator=generator)


def autograd_gradients(
    module: nn.Module, images: Tensor, targets: Tensor, loss: Loss, seed: int = 0
) -> dict[str, Tensor]:
    """{name: (N, *shape)}: of the first output of one call, whose images do not depend on each other."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    torch.manual_seed(seed)
    outputs = tree_leaves(module(images))[0] if len(images) > 0 else targets
    rows = [_gradients(loss(outputs[i : i + 1], targets[i : i + 1]), named) for i in range(len(images))]
    return {
        name: torch.stack([row[k] for row in rows]) if rows else p.new_zeros(0, *p.shape)
        for k, (name, p) in enumerate(named.items())
    }


def _gradients(loss: Tensor, named: Mapping[str, Tensor]) -> Sequence[Tensor]:
    found: Sequence[Tensor] = torch.autograd.grad(
        loss, list(named.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return found


def norms_of(gradients: Mapping[str, Tensor]) -> Tensor:
    """(N,): over all parameters."""
    return torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)


class ByHand:
    """DP-SGD by autograd, as Opacus' DPOptimizer does it, on a network of torch's.

    The noise of each parameter is a torch.normal of its shape, in the order of the optimizer.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        max_norm: float,
        noise: float,
        divisor: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.module, self.optimizer, self.loss = module, optimizer, loss
        self.max_norm, self.noise, self.divisor, self.generator = max_norm, noise, divisor, generator

    def __call__(self, images: Tensor, targets: Tensor, seed: int = 0) -> Tensor:
        """The losses of the images."""
        gradients = autograd_gradients(self.module, images, targets, self.loss, seed)
        factors = (self.max_norm / (norms_of(gradients) + 1e-6)).clamp(max=1)
        names = {id(p): name for name, p in self.module.named_parameters()}
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if not p.requires_grad:
                    continue
                total = torch.einsum("i,i...->...", factors.to(p.dtype), gradients[names[id(p)]])
                if self.noise > 0:
                    std = self.noise * self.max_norm
                    total = total + torch.normal(0, std, p.shape, generator=self.generator, dtype=p.dtype)
                p.grad = total / self.divisor
        torch.manual_seed(seed)
        with torch.no_grad():
            outputs = tree_leaves(self.module(images))[0]
            losses = [self.loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(images))]
        self.optimizer.step()
        return torch.stack(losses) if losses else torch.empty(0)


def assert_gradients(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """The same names in the same order, and values up to `tolerance` by norm."""
    assert list(actual) == list(expected)
    # A bias before a norm has a gradient that is nothing but rounding.
    least = 1e-4 * max((float(wanted.double().norm()) for wanted in expected.values()), default=0.0)
    for name, wanted in expected.items():
        assert actual[name].shape == wanted.shape
        assert not actual[name].requires_grad
        error = float((actual[name].double() - wanted.double()).norm())
        assert error <= tolerance * max(float(wanted.double().norm()), least), name


def without_batch_statistics(module: nn.Module) -> nn.Module:
    """Its batch norms in eval mode."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.eval()
    return module
