"""Score distillation by hand: weights, guidance, the three kinds of prediction, and a loss with the gradient itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperkit.objectives import score_distillation as sd


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("weighting", "want"), [("sigma", [0.75, 0.1]), ("uniform", [1.0, 1.0])])
def test_the_gradient_is_the_weighted_error_of_the_guided_estimate(weighting: sd.Weighting, want: list[float]) -> None:
    alpha_bar = torch.tensor([0.25, 0.9], dtype=torch.float64)
    conditional, unconditional, noise = (normal(2, 3, 4, 5, seed=s, dtype=torch.float64) for s in range(3))
    weight = sd.timestep_weight(alpha_bar, weighting)
    got = sd.score_gradient(conditional, unconditional, noise, weight, 7.5)
    for item in range(2):
        by_hand = want[item] * (7.5 * conditional[item] - 6.5 * unconditional[item] - noise[item])
        torch.testing.assert_close(got[item], by_hand, atol=1e-13, rtol=0)  # worst difference seen: 4e-15


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_the_loss_has_exactly_the_gradient_that_it_is_given(size: float) -> None:
    latents = (3 + normal(2, 3, 4, 4)).requires_grad_(True)
    gradient = size * normal(2, 3, 4, 4, seed=1)
    loss = sd.score_loss(latents, gradient.clone().requires_grad_(True))
    # sums of 48 values in float32; worst relative difference seen: 1e-7
    torch.testing.assert_close(loss, 0.5 * gradient.square().sum((1, 2, 3)), atol=0, rtol=1e-6)
    (got,) = torch.autograd.grad(loss.sum(), latents)
    assert torch.equal(got, gradient)


def test_the_gradient_goes_on_to_what_the_latents_were_made_of() -> None:
    parameter = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    gradient = normal(2, 3, dtype=torch.float64)
    latents = torch.stack((parameter[0] * parameter[1] * torch.ones(3), parameter[1] ** 2 * torch.arange(3.0)))
    sd.score_loss(latents, gradient).mean().backward()
    first, second = gradient[0].sum() / 2, (gradient[1] * torch.arange(3)).sum() / 2
    want = torch.stack((-2.0 * first, 0.5 * first + 2 * -2.0 * second))
    assert parameter.grad is not None
    torch.testing.assert_close(parameter.grad, want)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_model_of_any_kind_gives_the_noise_that_was_added(kind: sd.Prediction) -> None:
    x, noise = normal(3, 4, 5, dtype=torch.float64), normal(3, 4, 5, seed=1, dtype=torch.float64)
    alpha_bar = torch.tensor([0.999, 0.5, 0.004], dtype=torch.float64)
    noisy = sd.add_noise(x, noise, alpha_bar)
    for item, a in enumerate(alpha_bar.tolist()):
        torch.testing.assert_close(noisy[item], a**0.5 * x[item] + (1 - a) ** 0.5 * noise[item])
    root, rest = (t.sqrt()[:, None, None] for t in (alpha_bar, 1 - alpha_bar))
    predicted = {"epsilon": noise, "v_prediction": root * noise - rest * x, "sample": x}[kind]
    got = sd.noise_of(predicted, noisy, alpha_bar, kind)
    torch.testing.assert_close(got, noise, atol=1e-12, rtol=0)  # worst difference seen: 1e-14


def test_the_kinds_are_those_of_the_library() -> None:
    diffusers = pytest.importorskip("diffusers", reason='needs the extra: pip install "hyperkit[text]"')
    scheduler = diffusers.DDPMScheduler()
    x, noise, steps = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1), torch.tensor([20, 980])
    alpha_bar = scheduler.alphas_cumprod[steps]
    noisy = sd.add_noise(x, noise, alpha_bar)
    torch.testing.assert_close(noisy, scheduler.add_noise(x, noise, steps), atol=1e-6, rtol=0)  # seen: 0
    velocity = scheduler.get_velocity(x, noise, steps)
    # worst difference seen: 2e-7
    torch.testing.assert_close(sd.noise_of(velocity, noisy, alpha_bar, "v_prediction"), noise, atol=2e-6, rtol=0)
