"""Steps of many LeNets at once, and private ones: ours, and what else people write for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, stack_module_state, vmap
from torch.nn import Module
from torch.nn.functional import cross_entropy

import lenet_ext
from benchmarks.engines import CHECKED_RATE, MOMENTUM, TIMED_RATE, Engine, Run, training_run
from benchmarks.jax_engine import jax_vmap_run
from benchmarks.tasks import Task

PRIVATE_NORM, PRIVATE_NOISE, NOISE_SEED = 1.0, 1.1, 5


def ensemble_run(task: Task, members: int) -> Run:
    """Ours, all members in one call."""
    many = lenet_ext.fuse_ensemble(task.module(), task.images(), copies=members)
    step = lenet_ext.TrainStep(many, lr=CHECKED_RATE, momentum=MOMENTUM)
    return _optimizers_run(
        partial(step, task.images(), task.labels()), lambda: list(many.parameters()), [step.optimizer]
    )


def step_loop_run(task: Task, members: int) -> Run:
    """Ours, a TrainStep for each network, one after the other."""
    networks = [lenet_ext.fuse(task.module(), task.images()) for _ in range(members)]
    steps = [lenet_ext.TrainStep(network, lr=CHECKED_RATE, momentum=MOMENTUM) for network in networks]
    images, labels = task.images(), task.labels()
    return _optimizers_run(
        lambda: torch.stack([step(images, labels) for step in steps]),
        lambda: _stacked(networks),
        [step.optimizer for step in steps],
    )


def eager_loop_run(task: Task, members: int) -> Run:
    """Native torch, one network after the other."""
    networks, images, labels = [task.module() for _ in range(members)], task.images(), task.labels()
    optimizers = [torch.optim.SGD(one.parameters(), lr=CHECKED_RATE, momentum=MOMENTUM) for one in networks]

    def step() -> Tensor:
        losses = []
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            loss = cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return _optimizers_run(step, lambda: _stacked(networks), optimizers)


def vmap_run(task: Task, members: int) -> Run:
    """Native torch, as torch's tutorial on ensembles has it, and one optimizer of stacked parameters."""
    network, images, labels = task.module(), task.images(), task.labels()
    state, _ = stack_module_state([network] * members)
    parameters = {name: tensor.detach().clone().requires_grad_() for name, tensor in state.items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=CHECKED_RATE, momentum=MOMENTUM)

    def loss_of(one: dict[str, Tensor]) -> Tensor:
        return cross_entropy(functional_call(network, one, (images,)), labels)

    gradients_of = vmap(grad_and_value(loss_of))

    def step() -> Tensor:
        gradients, losses = gradients_of({name: one.detach() for name, one in parameters.items()})
        for name, one in parameters.items():
            one.grad = gradients[name]
        optimizer.step()
        return losses

    return _optimizers_run(step, lambda: list(parameters.values()), [optimizer])


def per_sample_run(task: Task) -> Run:
    """Ours."""
    fused, images, labels = lenet_ext.fuse(task.module(), task.images()), task.images(), task.labels()
    return _gradients_run(lambda: list(lenet_ext.per_sample_gradients(fused, images, labels).values()))


def per_sample_vmap_run(task: Task) -> Run:
    """Native torch."""
    network, images, labels = task.module(), task.images(), task.labels()
    gradients_of = per_sample_gradients_of(network)
    return _gradients_run(lambda: list(gradients_of(images, labels).values()))


def per_sample_gradients_of(network: Module) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    def loss_of(one: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(network, one, (image[None],)), label[None])

    gradients_of = vmap(grad(loss_of), in_dims=(None, 0, 0))

    def run(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = gradients_of(
            {name: one.detach() for name, one in network.named_parameters()}, images, labels
        )
        return found

    return run


def per_sample_opacus_run(task: Task) -> Run:
    """Opacus: the hooks of its GradSampleModule."""
    from opacus import GradSampleModule

    network = GradSampleModule(task.module(), loss_reduction="sum")
    images, labels = task.images(), task.labels()

    def run() -> list[Any]:
        network.zero_grad()
        cross_entropy(network(images), labels, reduction="sum").backward()
        return [parameter.grad_sample for parameter in network.parameters()]

    return _gradients_run(run)


def private_run(task: Task) -> Run:
    """Ours: DP-SGD in one call."""
    fused = lenet_ext.fuse(task.module(), task.images())
    optimizer = torch.optim.SGD(fused.parameters(), lr=CHECKED_RATE, momentum=MOMENTUM)
    step = lenet_ext.TrainStep(
        fused,
        optimizer,
        max_sample_grad_norm=PRIVATE_NORM,
        noise_multiplier=PRIVATE_NOISE,
        expected_batch_size=task.batch,
        generator=torch.Generator().manual_seed(NOISE_SEED),
    )
    call = partial(step, task.images(), task.labels())
    return _optimizers_run(call, lambda: list(fused.parameters()), [optimizer])


def private_vmap_run(task: Task) -> Run:
    """Native torch: torch.func's gradients, clipped and noised by hand."""
    network, images, labels = task.module(), task.images(), task.labels()
    optimizer = torch.optim.SGD(network.parameters(), lr=CHECKED_RATE, momentum=MOMENTUM)
    gradients_of, generator = per_sample_gradients_of(network), torch.Generator().manual_seed(NOISE_SEED)

    def step() -> Tensor:
        gradients = gradients_of(images, labels)
        norms = torch.stack([one.flatten(1).norm(dim=1) for one in gradients.values()]).norm(dim=0)
        factors = (PRIVATE_NORM / (norms + 1e-6)).clamp(max=1)
        for name, parameter in network.named_parameters():
            total = torch.einsum("n,n...->...", factors, gradients[name])
            noise = torch.normal(0, PRIVATE_NOISE * PRIVATE_NORM, parameter.shape, generator=generator)
            parameter.grad = (total + noise) / task.batch
        with torch.no_grad():
            loss = cross_entropy(network(images), labels)
        optimizer.step()
        return loss

    return _optimizers_run(step, lambda: list(network.parameters()), [optimizer])


def private_opacus_run(task: Task, mode: str) -> Run:
    """Opacus, in one of its modes: "hooks" and "functorch" keep all gradients, "ghost" norms alone."""
    from opacus import PrivacyEngine

    network, images, labels = task.module(), task.images(), task.labels()
    optimizer = torch.optim.SGD(network.parameters(), lr=CHECKED_RATE, momentum=MOMENTUM)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=task.batch)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    private: Any = PrivacyEngine().make_private(
        module=network,
        optimizer=optimizer,
        criterion=torch.nn.CrossEntropyLoss(),
        data_loader=data,
        noise_multiplier=PRIVATE_NOISE,
        max_grad_norm=PRIVATE_NORM,
        poisson_sampling=False,
        grad_sample_mode=mode,
        noise_generator=generator,
    )
    module, private_optimizer = private[:2]
    criterion = private[2] if mode == "ghost" else torch.nn.CrossEntropyLoss()

    def step() -> Tensor:
        private_optimizer.zero_grad()
        loss = criterion(module(images), labels)
        loss.backward()
        private_optimizer.step()
        return torch.as_tensor(loss.item())

    return _optimizers_run(step, lambda: list(network.parameters()), [optimizer])


def _gradients_run(gradients: Callable[[], Sequence[Tensor]]) -> Run:
    return Run(gradients, lambda: {f"gradient {i}": one.clone() for i, one in enumerate(gradients())})


def _optimizers_run(
    step: Callable[[], Tensor],
    parameters: Callable[[], Sequence[Tensor]],
    optimizers: Sequence[torch.optim.Optimizer],
) -> Run:
    def slow_down() -> None:
        for optimizer in optimizers:
            optimizer.param_groups[0].update(lr=TIMED_RATE)

    return training_run(step, lambda: [one.detach() for one in parameters()], slow_down)


def _stacked(networks: Sequence[Module]) -> list[Tensor]:
    with torch.no_grad():
        return [torch.stack(same) for same in zip(*(one.parameters() for one in networks), strict=True)]


def ensemble_engines(members: int) -> list[Engine]:
    """The first is ours."""
    return [
        Engine("ensemble", partial(ensemble_run, members=members), ours=True),
        Engine("loop of TrainStep", partial(step_loop_run, members=members), ours=True),
        Engine("loop of torch eager", partial(eager_loop_run, members=members)),
        Engine("torch.func vmap", partial(vmap_run, members=members)),
        Engine("JAX vmap", partial(jax_vmap_run, members=members), packages=("jax",)),
    ]


PER_SAMPLE = [
    Engine("per_sample_gradients", per_sample_run, ours=True),
    Engine("torch.func vmap(grad)", per_sample_vmap_run),
    Engine("Opacus hooks", per_sample_opacus_run, packages=("opacus",)),
]
PRIVATE = [
    Engine("DP-SGD in TrainStep", private_run, ours=True),
    Engine("torch.func by hand", private_vmap_run),
    *(
        Engine(f"Opacus {mode}", partial(private_opacus_run, mode=mode), packages=("opacus",))
        for mode in ("hooks", "functorch", "ghost")
    ),
]
__all__ = ["PER_SAMPLE", "PRIVATE", "ensemble_engines"]
