"""The privacy that steps of DP-SGD spend, if each takes each image with the same probability."""

import math

import torch


def epsilon(steps: int, rate: float, noise: float, delta: float) -> float:
    """That of (epsilon, delta)-differential privacy, for data sets of which one has one image more.

    rate: the probability with which a step takes an image. noise: standard deviation of the noise, in units
    of the largest norm that the gradient of an image may have.

    The Rényi divergence of a step has a closed form for integer orders: Mironov, Talwar, Zhang, "Rényi
    differential privacy of the sampled Gaussian mechanism" (2019). Each order gives a bound (Canonne, Kamath,
    Steinke, "The discrete Gaussian for differential privacy", 2020, proposition 12); the smallest one counts.
    """
    bounds = []
    for order in range(2, 65):
        k = torch.arange(order + 1, dtype=torch.float64)
        log_binomials = math.lgamma(order + 1) - torch.lgamma(k + 1) - torch.lgamma(order - k + 1)
        log_chances = torch.special.xlogy(k, rate) + torch.special.xlog1py(order - k, -rate)
        log_terms = log_binomials + log_chances + k * (k - 1) / (2 * noise**2)
        divergence = steps * torch.logsumexp(log_terms, dim=0).item() / (order - 1)
        bounds.append(divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    return min(bounds)
