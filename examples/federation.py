"""What federated learning is made of: the clients' images, the optimizer of FedProx, the mean of networks."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lenet_ext import FusedEnsemble


def split(labels: Tensor, sizes: Sequence[int], concentration: float, seed: int) -> list[Tensor]:
    """The numbers of each client's images, `sizes` of them, none twice. labels: (N,) int64.

    Each draws its shares of the classes from a Dirichlet distribution around those of all images, and has
    few classes where `concentration` is small (Hsu et al., "Measuring the effects of non-identical data
    distribution for federated visual classification", 2019). Raises ValueError for too few images.
    """
    if sum(sizes) > len(labels):
        raise ValueError(f"split: the sizes are of {sum(sizes)} images, there are {len(labels)}")
    random, clients = np.random.default_rng(seed), []
    _, classes, left = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    pools = [random.permutation(np.flatnonzero(classes == c)) for c in range(len(left))]
    alpha = concentration * left / len(labels)
    for size in sizes:
        shares, part = random.dirichlet(alpha), [np.empty(0, np.int64)]
        while missing := size - sum(map(len, part)):
            likely = shares * (left > 0) + 1e-9 * left  # of others only when all that it favours is taken
            taken = np.minimum(random.multinomial(missing, likely / likely.sum()), left)
            part += [pool[end - n : end] for pool, end, n in zip(pools, left, taken, strict=True)]
            left -= taken
        clients.append(torch.from_numpy(np.concatenate(part)))
    return clients


def proximal_sgd(many: FusedEnsemble, lr: float, mu: float) -> torch.optim.SGD:
    """SGD on loss + mu / 2 * |w - centre|^2, as FedProx has it, where `move_centre` sets the centre."""
    # The term's gradient is mu * w, which is weight decay, and -mu * centre: a momentum buffer to which
    # nothing is added, and which Nesterov's step adds to the gradient. As defaults torch refuses the pair.
    kept = {"momentum": 1.0, "dampening": 1.0, "nesterov": True, "weight_decay": mu} if mu else {}
    return torch.optim.SGD([{"params": many.parameters(), **kept}], lr)


def move_centre(optimizer: torch.optim.Optimizer) -> None:
    """Makes the parameters as they are now the centre of `proximal_sgd`."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["weight_decay"] else ():
            state, scale = optimizer.state[parameter], -group["weight_decay"]
            state["momentum_buffer"] = torch.mul(parameter.detach(), scale, out=state.get("momentum_buffer"))


@torch.no_grad()
def average(many: FusedEnsemble, weights: Tensor) -> None:
    """Gives every member the mean of all parameters and buffers, where member k counts weights[k] times."""
    shares = weights.double() / weights.sum()
    for tensor in (*many.parameters(), *many.buffers()):
        kind = torch.promote_types(tensor.dtype, torch.float32)
        mean = (shares.to(kind) @ tensor.reshape(len(many), -1).to(kind)).view(tensor.shape[1:])
        tensor.copy_(mean if tensor.is_floating_point() else mean.round())
