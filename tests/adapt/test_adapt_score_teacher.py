"""Score distillation on tiny pipelines of diffusers, saved and loaded: the gradient by hand, the draws, the fit."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers", reason='needs the extra: pip install "hyperkit[text]"')

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    IFPipeline,
    StableDiffusionPipeline,
)
from diffusers import UNet2DConditionModel as UNet
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from hyperkit.adapt.diffusion import Diffusion, diffusion_hash, find_diffusion, load_diffusion
from hyperkit.adapt.fit import FieldFit, FitConfig, random_start
from hyperkit.adapt.score_teacher import ScoreConfig, ScoreLoss, fit_scored_teacher, view_of, view_prompt
from hyperkit.contracts import TargetParams
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.geometry import picture_rays
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.targets.hash_grid import HashGridConfig, HashGridField
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

GRID = {"levels": 3, "coarsest": 4, "finest": 12, "log2_table": 9, "width": 16, "depth": 2}
TARGET = HashGridField(HashGridConfig(**GRID, density="softplus", density_scale=3))
RENDERER = RendererConfig(samples=12, sampling="bins", bounds="sphere")
FIT = FitConfig(steps=5, renderer=RENDERER)
PROMPT = "a red chair"
LONGEST = 32
EXTRA = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


@pytest.fixture(scope="module")
def folder(tiny_diffusion: Path) -> Path:
    return tiny_diffusion


def unet(inputs: int, outputs: int) -> UNet:
    return UNet(
        sample_size=8,
        in_channels=inputs,
        out_channels=outputs,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )


@pytest.fixture(scope="module")
def diffusion(folder: Path) -> Diffusion:
    return load_diffusion(str(folder))


def config(**options: Any) -> ScoreConfig:
    return ScoreConfig.model_validate({"size": 12, "batch": 2} | options)


def loss_of(diffusion: Any, **options: Any) -> ScoreLoss:
    return ScoreLoss(TARGET, PROMPT, diffusion, config(**options), RENDERER)


def gradients(loss: ScoreLoss, params: TargetParams, step: int) -> dict[str, Tensor]:
    leaves = params.map(lambda t: t.detach().clone().requires_grad_(True))
    loss(leaves, step).backward()
    return {name: leaf.grad for name, leaf in leaves.tensors.items() if leaf.grad is not None}


@pytest.mark.parametrize(
    ("dtype", "guidance", "weighting", "worst"),
    # worst differences seen beside; in float32, guidance multiplies the rounding of the two estimates
    [
        (torch.float64, 100.0, "sigma", 1e-5),  # 6e-7: w(t) is float32
        (torch.float64, 7.5, "uniform", 1e-5),  # 2e-14
        (torch.float32, 1.0, "uniform", 1e-5),  # 7e-7
        (torch.float32, 100.0, "sigma", 1e-3),  # 8e-5
    ],
)
def test_the_gradient_is_the_weighted_noise_error_by_hand(
    folder: Path, dtype: torch.dtype, guidance: float, weighting: str, worst: float
) -> None:
    diffusion = load_diffusion(str(folder))
    for network in (diffusion.pipeline.vae, diffusion.pipeline.unet):
        network.to(dtype)
    negative = "a side"
    loss = loss_of(diffusion, weighting=weighting, negative_prompt=negative, guidance=guidance, sparsity=0.0)
    params = random_start(TARGET.spec, 0)
    # by hand, in float64, by the parts of the library's own pipeline
    parts = StableDiffusionPipeline.from_pretrained(folder, **EXTRA)
    for part in (parts.vae, parts.unet):
        part.double().requires_grad_(False)
    draw = loss.draw(3)
    leaves = params.map(lambda t: t.clone().requires_grad_(True))
    pictures = loss.pictures(leaves, draw)[0].double()
    # 12 pixels to the 16 that the VAE makes 8 latents of
    large = torch.nn.functional.interpolate(2 * pictures - 1, (16, 16), mode="bilinear")
    latents = parts.vae.encode(large).latent_dist.mean * parts.vae.config.scaling_factor
    want = []
    for item, view in enumerate(draw.views):
        at, noise = draw.timesteps[item], draw.noise[item].double()
        a = parts.scheduler.alphas_cumprod[at].double()
        noisy = a.sqrt() * latents[item].detach() + (1 - a).sqrt() * noise
        texts = parts.encode_prompt(f"{PROMPT}, {view} view", "cpu", 1, True, negative)
        with torch.no_grad():
            said, unsaid = (parts.unet(noisy[None], at, encoder_hidden_states=t.double()).sample[0] for t in texts)
        weight = 1 - a if weighting == "sigma" else 1.0
        want.append(weight * (unsaid + guidance * (said - unsaid) - noise))
    gradient = torch.stack(want)
    got = loss.gradient(latents.detach().to(dtype), draw).double()
    torch.testing.assert_close(got, gradient, atol=worst, rtol=0)
    # and so it comes to the field's parameters, as a mean over the two views
    ((latents * gradient).sum() / 2).backward()
    of_params = gradients(loss, params, 3)
    for name, leaf in leaves.tensors.items():
        assert leaf.grad is not None
        scale = float(leaf.grad.abs().max())
        assert scale > 0
        # the renderer is float32; worst difference seen: 5e-6 of the largest, 7e-5 at the last
        torch.testing.assert_close(of_params[name], leaf.grad, atol=max(worst, 1e-4) * scale, rtol=0, msg=name)


class Knowing:
    """A model in the space of pixels that knows the one picture there is, and takes all noise for what is not in it."""

    def __init__(self, picture: Tensor) -> None:
        self.picture = 2 * picture - 1
        self.shape = tuple(picture.shape)
        self.alpha_bar = torch.linspace(0.999, 0.01, 1000)
        self.device = torch.device("cpu")

    def encode(self, prompts: list[str]) -> Tensor:
        return torch.zeros(len(prompts), 1, 1)

    def latents(self, pictures: Tensor) -> Tensor:
        return 2 * pictures - 1

    def noise_estimates(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        a = self.alpha_bar[timesteps][:, None, None, None]
        return ((noisy - a.sqrt() * self.picture) / (1 - a).sqrt()).expand(2, *noisy.shape)


def test_a_field_becomes_what_a_model_knows() -> None:
    colour = torch.tensor([0.9, 0.3, 0.1])
    picture = colour[:, None, None].expand(3, 8, 8)
    narrow = {"size": 8, "view_angle": (12, 14), "sparsity": 0.0}  # the object fills the picture
    loss = ScoreLoss(TARGET, PROMPT, Knowing(picture), config(**narrow), RENDERER)  # type: ignore[arg-type]
    fit = FieldFit(TARGET.spec, loss, FIT.model_copy(update={"steps": 120}))
    errors = []
    for steps in (0, 120):
        while fit.step < steps:
            fit.advance()
        pictures = loss.pictures(fit.params, loss.draw(1000))[0]
        errors.append(float((pictures - picture).abs().mean()))
    # measured: 0.36 and 0.012
    assert errors[0] > 0.15
    assert errors[1] < 0.03


def test_prompts_speak_of_the_side_that_is_seen() -> None:
    cases = {(90, 0): "front", (134, 0): "front", (136, 0): "side", (-44, 59): "side", (-46, 0): "back"}
    cases |= {(270, -10): "back", (224, 0): "side", (226, 10): "back", (360 + 90, 0): "front", (90, 60): "overhead"}
    for (azimuth, elevation), view in cases.items():
        assert view_of(azimuth, elevation, config()) == view, (azimuth, elevation)
    assert view_of(0, 45, config(front=0, overhead=45)) == "overhead"
    assert view_of(0, 44, config(front=0, overhead=45)) == "front"
    assert view_prompt(PROMPT, "back", config()) == "a red chair, back view"
    assert view_prompt(PROMPT, "back", config(view_prompts=False)) == PROMPT


def test_each_view_is_judged_by_its_own_prompt(diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = loss_of(diffusion, batch=24, negative_prompt="fog")
    asked: list[Tensor] = []

    def note(noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        asked.append(embeddings)
        return torch.zeros(2, *noisy.shape)

    monkeypatch.setattr(diffusion, "noise_estimates", note)
    draw = loss.draw(0)
    loss.gradient(torch.zeros(24, *diffusion.shape), draw)
    assert len(set(draw.views)) == 4
    for item, view in enumerate(draw.views):
        prompts = [f"{PROMPT}, {view} view", "fog"]
        for row, text in enumerate(prompts):
            torch.testing.assert_close(asked[0][row, item], diffusion.encode([text])[0], atol=1e-6, rtol=0)


def test_cameras_keep_to_their_ranges_and_cover_them(diffusion: Diffusion) -> None:
    ranges = {"elevation": (-20, 70), "azimuth": (30, 200), "radius": (3, 5), "view_angle": (20, 50)}
    loss = loss_of(diffusion, batch=4000, size=2, **ranges)
    draw = loss.draw(1)
    eyes = draw.cameras.poses[:, :3, 3].double()
    radius = eyes.norm(dim=-1)
    sine = eyes[:, 2] / radius
    azimuth = torch.atan2(eyes[:, 1], eyes[:, 0]).rad2deg() % 360
    angle = 2 * torch.atan(1 / draw.cameras.focal.double()).rad2deg()  # pictures of two pixels
    sines = tuple(math.sin(math.radians(limit)) for limit in ranges["elevation"])
    for got, (low, high) in ((sine, sines), (azimuth, (30, 200)), (radius, (3, 5)), (angle, (20, 50))):
        share = (got - low) / (high - low)
        assert -1e-5 < float(share.min()) < 0.01
        assert 0.99 < float(share.max()) < 1 + 1e-5
        # evenly: the deviation of a mean of 4000 is 0.0046
        assert float(share.mean()) == pytest.approx(0.5, abs=0.02)
    elevation = torch.asin(sine).rad2deg()
    for item in range(200):
        assert draw.views[item] == view_of(float(azimuth[item]), float(elevation[item]), loss.config)
    # all look at the origin, and the sphere lies within their range
    back = draw.cameras.poses[:, :3, 2].double()
    torch.testing.assert_close(back * radius[:, None], eyes, atol=1e-5, rtol=0)
    assert (draw.cameras.near, draw.cameras.far) == (2.0, 6.0)
    steps = draw.timesteps
    assert (int(steps.min()), int(steps.max())) == pytest.approx((20, 980), abs=2)


def test_draws_follow_from_seed_and_step_alone(diffusion: Diffusion) -> None:
    one, again = loss_of(diffusion), loss_of(diffusion)
    one.draw(0)

    def values(loss: ScoreLoss, step: int) -> list[Tensor]:
        draw = loss.draw(step)
        assert draw.jitter is not None
        cameras = [draw.cameras.poses, draw.cameras.focal]
        return [*cameras, draw.background, draw.jitter, draw.timesteps, draw.noise]

    again.seed = 0
    for a, b, other in zip(values(one, 4), values(again, 4), values(one, 5), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, other)
    again.seed = 1
    assert not torch.equal(one.draw(4).noise, again.draw(4).noise)


def test_pictures_are_those_of_the_renderer_on_the_backgrounds(diffusion: Diffusion) -> None:
    params = random_start(TARGET.spec, 0)
    params = params.map(lambda t: t * (3e3 if t.shape[-1] == 2 else 1))  # a table that shows something
    for background in ("random", "renderer"):
        loss = loss_of(diffusion, background=background)
        draw = loss.draw(0)
        pictures, opacity = loss.pictures(params, draw)
        for item in range(2):
            one = replace(draw.cameras, poses=draw.cameras.poses[item, None], focal=draw.cameras.focal[item, None])
            assert draw.jitter is not None
            black = RENDERER.model_copy(update={"background": "black"})
            jitter = draw.jitter[item, None]
            found = render_rays(lambda points: TARGET(params, points[..., :3]), picture_rays(one), black, jitter)
            behind = draw.background[item] if background == "random" else torch.ones(3)
            want = found.rgb[0] + (1 - found.opacity[0])[:, None] * behind
            torch.testing.assert_close(pictures[item], want.T.reshape(3, 12, 12), atol=1e-6, rtol=0)
            torch.testing.assert_close(opacity[item], found.opacity[0], atol=1e-6, rtol=0)
            assert float(want.std()) > 0.02


@pytest.mark.parametrize("points", [1, 500])
def test_samples_that_are_evaluated_twice_give_the_same_gradient(diffusion: Diffusion, points: int) -> None:
    params = random_start(TARGET.spec, 0)
    whole, parts = (gradients(loss_of(diffusion, points=p, size=6, guidance=1), params, 2) for p in (10**6, points))
    for name, gradient in whole.items():
        scale = float(gradient.abs().max())
        # sums in another order; worst difference seen: 8e-6 of the largest
        torch.testing.assert_close(parts[name], gradient, atol=1e-4 * scale, rtol=0, msg=name)


def test_fields_with_view_directions_are_seen_along_their_rays(diffusion: Diffusion) -> None:
    target = RadianceField(RadianceFieldConfig(depth=3, width=8, view_directions=True))
    params = random_start(target.spec, 0)
    loss = ScoreLoss(target, PROMPT, diffusion, config(background="renderer"), RENDERER)
    draw = loss.draw(0)
    got = loss.pictures(params, draw)[0]
    one = params.map(lambda t: t.expand(2, *t.shape[1:]))
    want = render_rays(lambda points: target(one, points), picture_rays(draw.cameras), RENDERER, draw.jitter).rgb
    torch.testing.assert_close(got, want.mT.reshape(2, 3, 12, 12), atol=1e-6, rtol=0)


def test_sparsity_costs_opacity(diffusion: Diffusion) -> None:
    params = random_start(TARGET.spec, 0)
    without, with_it = (float(loss_of(diffusion, sparsity=s)(params, 0)) for s in (0.0, 1e4))
    loss = loss_of(diffusion)
    opacity = loss.pictures(params, loss.draw(0))[1]
    want = 1e4 * float((opacity.double() ** 2 + 0.01).sqrt().mean())
    assert with_it - without == pytest.approx(want, rel=1e-4)


def test_a_fit_changes_the_field_and_follows_from_seed_and_prompt(diffusion: Diffusion) -> None:
    done: list[tuple[int, int]] = []

    def fitted(prompt: str = PROMPT, fit: FitConfig = FIT, **options: Any) -> Tensor:
        return fit_scored_teacher(TARGET, prompt, config(size=6), fit, diffusion=diffusion, **options).pack()

    torch.manual_seed(1)
    first = fitted(progress=lambda *counts: done.append(counts))
    torch.manual_seed(2)
    assert torch.equal(fitted(), first)
    assert done == [(step + 1, 5) for step in range(5)]
    start = random_start(TARGET.spec, 0)
    moved = (first - start.pack()).abs()
    assert float(moved.max()) > 1e-3  # five steps, while the learning rates rise
    assert not torch.equal(fitted("a blue chair"), first)
    assert not torch.equal(fitted(fit=FIT.model_copy(update={"seed": 1}), start=start), first)


@pytest.mark.parametrize("stopped", [0, 3])
def test_a_fit_that_is_resumed_ends_with_the_same_bits(folder: Path, diffusion: Diffusion, stopped: int) -> None:
    states = {}

    def keep(fit: FieldFit) -> None:
        states[fit.step] = fit.state()

    small = config(size=6, model=str(folder))
    want = fit_scored_teacher(TARGET, PROMPT, small, FIT, after_step=keep, diffusion=diffusion)
    if not stopped:
        states[0] = FieldFit(TARGET.spec, lambda *_: torch.zeros(()), FIT).state()
    done: list[int] = []
    # a model that is loaded anew, too
    got = fit_scored_teacher(TARGET, PROMPT, small, FIT, lambda step, _: done.append(step), state=states[stopped])
    assert done == list(range(stopped + 1, 6))
    for name, tensor in want.tensors.items():
        assert torch.equal(got[name], tensor), name
    assert not any(tensor.requires_grad for tensor in got.tensors.values())


def test_prompts_that_cannot_be_used_are_refused(diffusion: Diffusion) -> None:
    for prompt in ("", "  \n"):
        with pytest.raises(HyperkitError, match="prompt is empty"):
            ScoreLoss(TARGET, prompt, diffusion, config(), RENDERER)
    # one token for each letter here: the ends make it 32 with 'overhead view', which is the longest that fits
    fitting = "a" * (LONGEST - 2 - len(",overheadview"))
    ScoreLoss(TARGET, fitting, diffusion, config(), RENDERER)
    with pytest.raises(HyperkitError, match=r"at most 32 tokens:\n.*has 33 tokens\n") as caught:
        ScoreLoss(TARGET, fitting + "a", diffusion, config(), RENDERER)
    assert "overhead" in str(caught.value)


def test_estimates_that_are_not_finite_stop_the_fit(folder: Path) -> None:
    broken = load_diffusion(str(folder))
    with torch.no_grad():
        broken.pipeline.unet.conv_out.bias.fill_(math.nan)
    with pytest.raises(RunFailed, match="not finite at step 0"):
        fit_scored_teacher(TARGET, PROMPT, config(size=6), FIT, diffusion=broken)


@pytest.mark.parametrize(
    "wrong",
    [{"timesteps": (0.5, 0.2)}, {"timesteps": (0.5, 1.2)}, {"elevation": (-100, 0)}, {"radius": (0, 1)}, {"size": 0}],
)
def test_ranges_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_networks_that_predict_velocities_are_read_as_such(folder: Path, tmp_path: Path) -> None:
    place = copy_of(folder, tmp_path)
    rewrite(place / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    plain, other = load_diffusion(str(folder)), load_diffusion(str(place))
    noisy, steps = torch.randn(2, 4, 8, 8), torch.tensor([20, 900])
    texts = plain.encode([PROMPT, ""])[:, None].expand(-1, 2, -1, -1)
    velocity = plain.noise_estimates(noisy, steps, texts)
    scheduler = DDIMScheduler.from_pretrained(place, subfolder="scheduler")
    scheduler.set_timesteps(1000)
    for item in range(2):
        for row in range(2):
            # the library's own step leads to sqrt(a) x at noise 0, with x and noise as it reads the velocity
            clean = scheduler.step(velocity[row, item], int(steps[item]), noisy[item]).pred_original_sample
            a = scheduler.alphas_cumprod[steps[item]]
            noise = (noisy[item] - a.sqrt() * clean) / (1 - a).sqrt()
            got = other.noise_estimates(noisy, steps, texts)[row, item]
            # worst difference seen: 2e-6
            torch.testing.assert_close(got, noise, atol=2e-5, rtol=0)


def test_models_in_pixels_need_no_vae(tmp_path: Path) -> None:
    words = ["<pad>", "</s>", "<unk>", *PROMPT.split(), "front", "side", "back", "overhead", "view", ","]
    tokens = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, **special)
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    text = T5EncoderModel(T5Config(vocab_size=len(words), **sizes))
    parts = {"text_encoder": text, "tokenizer": tokenizer, "unet": unet(3, 6), "scheduler": DDPMScheduler()}
    IFPipeline(**parts, **EXTRA, watermarker=None).save_pretrained(tmp_path)
    diffusion = load_diffusion(str(tmp_path))
    assert diffusion.shape == (3, 8, 8)
    loss = loss_of(diffusion, guidance=3, size=8, view_prompts=False)
    draw = loss.draw(0)
    pictures = loss.pictures(random_start(TARGET.spec, 0), draw)[0]
    latents = diffusion.latents(pictures)
    assert torch.equal(latents, 2 * pictures - 1)
    ids = torch.tensor([[*(words.index(word) for word in PROMPT.split()), *[0] * 74]])
    parts["unet"].eval()
    for item in range(2):
        a, noise = DDPMScheduler().alphas_cumprod[draw.timesteps[item]], draw.noise[item]
        noisy = a.sqrt() * latents[item] + (1 - a).sqrt() * noise
        with torch.no_grad():
            said = text.eval()(ids, attention_mask=(ids > 0).long()).last_hidden_state
            unsaid = text(0 * ids, attention_mask=0 * ids).last_hidden_state
            both = [parts["unet"](noisy[None], draw.timesteps[item], t).sample[0, :3] for t in (said, unsaid)]
        want = (1 - a) * (both[1] + 3 * (both[0] - both[1]) - noise)
        # worst difference seen: 2e-6
        torch.testing.assert_close(loss.gradient(latents, draw)[item], want, atol=1e-5, rtol=0)


def test_a_loaded_model_is_frozen_and_leaves_the_random_state_alone(folder: Path) -> None:
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    diffusion = load_diffusion(str(folder), precision="bfloat16", side=4)
    assert torch.equal(torch.rand(1), want)
    assert diffusion.shape == (4, 4, 4)
    dtypes = {"unet": torch.bfloat16, "text_encoder": torch.bfloat16, "vae": torch.float32}
    for name, dtype in dtypes.items():
        network = getattr(diffusion.pipeline, name)
        assert network.dtype == dtype
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    loss = loss_of(diffusion)
    assert float(loss(random_start(TARGET.spec, 0), 0)) == pytest.approx(
        float(loss_of(load_diffusion(str(folder), side=4))(random_start(TARGET.spec, 0), 0)), rel=0.2
    )


def test_the_hash_is_that_of_what_counts(folder: Path, tmp_path: Path) -> None:
    place = copy_of(folder, tmp_path)
    (place / "README.md").write_text("a picture")
    assert diffusion_hash(place) == diffusion_hash(folder)
    weights = place / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert diffusion_hash(place) != diffusion_hash(folder)


def without_a_tensor(place: Path) -> None:
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["conv_in.weight"]
    save_file(state, path, {"format": "pt"})


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda p: shutil.rmtree(p) or p.mkdir(), "holds no diffusion model: it lacks model_index.json"),
    "not json": (lambda p: (p / "model_index.json").write_text("{"), "model_index.json is not one of diffusers"),
    "other class": (lambda p: rewrite(p / "model_index.json", _class_name="FluxPipeline"), "holds a FluxPipeline"),
    "own code": (lambda p: rewrite(p / "model_index.json", _class_name=["mine", "Own"]), r"holds a \['mine', 'Own'\]"),
    "parts": (
        lambda p: shutil.rmtree(p / "vae") or (p / "tokenizer" / "tokenizer.json").unlink(),
        r"it lacks vae/config.json, vae/diffusion_pytorch_model.safetensors, tokenizer/tokenizer.json\.",
    ),
    "tensor": (without_a_tensor, "unet are not whole; missing: conv_in.weight"),
    "damaged": (
        lambda p: (p / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99),
        "cannot be loaded",
    ),
    "inpainting": (lambda p: unet(9, 4).save_pretrained(p / "unet"), "takes 9 channels, of which 4 are noisy"),
    "flow": (
        lambda p: FlowMatchEulerDiscreteScheduler().save_pretrained(p / "scheduler"),
        "FlowMatchEulerDiscreteScheduler has no schedule of variances",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_folders_that_hold_no_such_model_are_one_clear_error(fault: str, folder: Path, tmp_path: Path) -> None:
    place = copy_of(folder, tmp_path)
    change, message = FAULTS[fault]
    change(place)
    with pytest.raises(HyperkitError, match=message) as caught:
        load_diffusion(str(place))
    assert "as diffusers' save_pretrained writes it" in str(caught.value)


def test_models_that_are_nowhere_fail_at_once_and_say_what_to_do(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(HyperkitError, match=r"no folder 'no/such/place'(.|\n)*a folder or a name on"):
        load_diffusion("no/such/place")
    with pytest.raises(
        HyperkitError, match=r"owner/model of the Hugging Face hub(.|\n)*HF_HUB_OFFLINE is set"
    ) as caught:
        fit_scored_teacher(TARGET, PROMPT, config(model="owner/model"), FIT)
    assert "`hf download owner/model --local-dir DIR`" in str(caught.value)
    assert "--diffusion-model DIR" in str(caught.value)
    assert time.monotonic() - start < 5


def test_the_hubs_cache_is_read_without_a_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--owner--model"
    place = home / "snapshots" / ("0" * 40)
    shutil.copytree(folder, place)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    assert find_diffusion("owner/model") == place
    (place / "unet" / "config.json").unlink()  # a download that was broken off
    with pytest.raises(HyperkitError, match="is not on this machine"):
        find_diffusion("owner/model")


def test_downloads_fetch_what_is_needed_or_are_one_clear_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("connection reset")

    monkeypatch.setattr("hyperkit.adapt.diffusion.unreachable", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", broken)
    with pytest.raises(HyperkitError, match=r"the download failed \(connection reset\)"):
        find_diffusion("owner/model")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(folder / "model_index.json"))
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda *_, **__: str(folder))
    assert find_diffusion("owner/model") == folder


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_without_the_extra_the_error_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == package else found(n, *rest))
    with pytest.raises(HyperkitError, match=rf'package {package}, .*\nInstall it: pip install "hyperkit\[text\]"'):
        fit_scored_teacher(TARGET, PROMPT, config(), FIT)
