"""Score distillation (DreamFusion, Poole et al. 2023): what a frozen diffusion model says of a picture, as a gradient.

A picture, or its latents, x is noised to x_t = sqrt(a) x + sqrt(1 - a) noise, where a is the cumulative product of
the noise's schedule at step t ("alpha bar"). The model's estimate of the noise in x_t, less the noise itself, says how
to change x.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["sigma", "uniform"]
Prediction = Literal["epsilon", "v_prediction", "sample"]


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return x_t = sqrt(a) x + sqrt(1 - a) noise, (B, ...), for a (B,) in [0, 1]."""
    a = _per_item(alpha_bar, latents)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def noise_of(prediction: Tensor, noisy: Tensor, alpha_bar: Tensor, kind: Prediction) -> Tensor:
    """Turn what a diffusion model predicts into its estimate of the noise, (B, ...).

    Args:
        prediction, noisy: (B, ...), the network's output and its input x_t.
        alpha_bar: a (B,); below 1 for ``sample``.
        kind: ``epsilon``: the noise itself; ``v_prediction``: v = sqrt(a) noise - sqrt(1 - a) x (Salimans & Ho 2022);
            ``sample``: x.
    """
    a = _per_item(alpha_bar, noisy)
    if kind == "epsilon":
        return prediction
    if kind == "v_prediction":
        return a.sqrt() * prediction + (1 - a).sqrt() * noisy
    return (noisy - a.sqrt() * prediction) / (1 - a).sqrt()


def timestep_weight(alpha_bar: Tensor, weighting: Weighting) -> Tensor:
    """Return w(t), (B,): ``sigma``: 1 - a, the noise's variance, as DreamFusion has it; ``uniform``: 1."""
    return 1 - alpha_bar if weighting == "sigma" else torch.ones_like(alpha_bar)


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Return unconditional + s (conditional - unconditional), the classifier-free guided estimate (Ho & Salimans).

    Args:
        conditional, unconditional: noise estimates, with the prompt and without it.
        guidance: s; 1 gives the conditional estimate, 0 the unconditional one.
    """
    return unconditional + guidance * (conditional - unconditional)


def score_gradient(
    conditional: Tensor, unconditional: Tensor, noise: Tensor, weight: Tensor, guidance: float
) -> Tensor:
    """Return w(t) (noise estimate - noise), (B, ...), the estimate guided (DreamFusion, eq. 3; thesis, eq. 4.1).

    Args:
        conditional, unconditional: noise estimates (B, ...).
        noise: what was added, (B, ...).
        weight: w(t), (B,).
        guidance: see ``guided``.
    """
    return _per_item(weight, noise) * (guided(conditional, unconditional, guidance) - noise)


def score_loss(latents: Tensor, gradient: Tensor) -> Tensor:
    """Return a loss (B,) whose gradient with respect to the latents is ``gradient``, to the bit.

    The gradient of score distillation is that of no function: the model's Jacobian is left out. The value of item i is
    half the squared norm of its gradient, summed over everything but the item axis. It tells how far the model wants
    the picture to move, and is not what is minimised. To average over items, take the mean.

    Args:
        latents: (B, ...), differentiable.
        gradient: (B, ...), taken as a constant.

    Example:
        A gradient of (3, 4) has a loss of 12.5.
    """
    gradient = gradient.detach()
    # the first product is exactly 0, and the gradient is not rounded, as it would be in the error of x - gradient
    return ((latents - latents.detach()) * gradient + 0.5 * gradient.square()).flatten(1).sum(1)


def _per_item(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
