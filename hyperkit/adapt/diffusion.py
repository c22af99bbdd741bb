"""Frozen text-to-image diffusion models: found, loaded through diffusers, and asked for the noise in pictures."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hyperkit.backbones.hub import unreachable
from hyperkit.backbones.text_weights import EXTRA
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import sha256_of
from hyperkit.objectives.score_distillation import Prediction, noise_of

Precision = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class _Kind:
    """A class of pipelines: that of its text encoder, the most tokens of a prompt, and whether it has a VAE."""

    text_encoder: str
    vae: bool
    longest: int = 77


_KINDS = {
    "StableDiffusionPipeline": _Kind("CLIPTextModel", vae=True),
    "IFPipeline": _Kind("T5EncoderModel", vae=False),
}
_NETWORK = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_TEXT = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model")
WANTED = (
    f"It must hold a {' or '.join(_KINDS)} as diffusers' save_pretrained writes it: model_index.json and the folders "
    "scheduler, text_encoder, tokenizer, unet and (for Stable Diffusion) vae."
)


def find_diffusion(model: str) -> Path:
    """Return the folder of a diffusion model; what is missing is fetched where there is a network.

    Args:
        model: the path of a folder, or a name on the Hugging Face hub ("owner/name").

    Raises:
        HyperkitError: packages or the model are missing, which comes within seconds; or it is of another kind.
    """
    for package in ("diffusers", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise HyperkitError(
                f"Score distillation needs the package {package}, which is not installed.", f"Install it: {EXTRA}"
            )
    if Path(model).is_dir():
        return _checked(Path(model))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise HyperkitError(
            f"There is no folder {model!r} with a diffusion model.",
            f"--diffusion-model takes a folder or a name on the Hugging Face hub (owner/name). {WANTED}",
        )
    return _cached(model) or _download(model)


def _checked(folder: Path) -> Path:
    if lacking := _lacking(folder):
        raise HyperkitError(f"The folder {folder} is no whole diffusion model: it lacks {', '.join(lacking)}.", WANTED)
    return folder


def _kind_of(folder: Path) -> _Kind:
    path = folder / "model_index.json"
    if not path.is_file():
        raise HyperkitError(f"The folder {folder} holds no diffusion model: it lacks model_index.json.", WANTED)
    try:
        name = json.loads(path.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise HyperkitError(f"{path} is not one of diffusers: it names no class of pipelines.", WANTED) from error
    if not isinstance(name, str) or name not in _KINDS:
        raise HyperkitError(f"The folder {folder} holds a {name}, which score distillation cannot use.", WANTED)
    return _KINDS[name]


def _lacking(folder: Path) -> list[str]:
    networks = ["unet", "vae"] if _kind_of(folder).vae else ["unet"]
    lacking = [f"{part}/config.json" for part in (*networks, "text_encoder") if not _is(folder, part, "config.json")]
    for part in (*networks, "text_encoder"):
        names = _TEXT if part == "text_encoder" else _NETWORK
        # one file, or the index of the parts of a large one
        if not any(_is(folder, part, name) or _is(folder, part, f"{name}.index.json") for name in names):
            lacking.append(f"{part}/{names[0]}")
    if not any(_is(folder, "tokenizer", name) for name in _TOKENIZERS):
        lacking.append(f"tokenizer/{_TOKENIZERS[0]}")
    if not _is(folder, "scheduler", "scheduler_config.json"):
        lacking.append("scheduler/scheduler_config.json")
    return lacking


def _is(folder: Path, part: str, name: str) -> bool:
    return (folder / part / name).is_file()


def _cached(model: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(model, "model_index.json")
    if not isinstance(index, str):
        return None
    folder = Path(index).parent
    return None if _lacking(folder) else folder


def _download(model: str) -> Path:
    from huggingface_hub import constants, hf_hub_download

    reason = unreachable(str(constants.ENDPOINT))
    if reason is not None:
        raise _missing(model, f"{constants.ENDPOINT} cannot be reached ({reason})")
    try:
        _kind_of(Path(hf_hub_download(model, "model_index.json")).parent)  # before gigabytes are fetched
        from diffusers import DiffusionPipeline

        unused: Any = {"safety_checker": None, "feature_extractor": None, "watermarker": None}
        return _checked(Path(DiffusionPipeline.download(model, **unused)))
    except HyperkitError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailed(f"The disk is full: the diffusion model {model!r} could not be stored.") from error
        raise _missing(model, f"the download failed ({_short(error)})") from error
    except Exception as error:  # the hub's client has its own families of network errors
        raise _missing(model, f"the download failed ({_short(error)})") from error


def _missing(model: str, why: str) -> HyperkitError:
    return HyperkitError(
        f"There is no folder {model}, the diffusion model {model} of the Hugging Face hub is not on this machine, and "
        f"{why}.",
        f"Run `hf download {model} --local-dir DIR` on a machine with network access, and give the folder with "
        "--diffusion-model DIR.",
    )


def _short(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]


def diffusion_hash(folder: Path) -> str:
    """Return one SHA-256 of all that a diffusion model's noise estimates depend on: part of a teacher's key.

    Of a file in the hub's cache that is called by its hash, the name is taken: the others are read.
    """
    hashes = hashlib.sha256()
    for part in ("scheduler", "text_encoder", "tokenizer", "unet", "vae"):
        for path in sorted((folder / part).glob("*")):
            name = path.resolve().name
            found = name if re.fullmatch(r"[0-9a-f]{64}", name) else sha256_of(path)
            hashes.update(f"{part}/{path.name} {found}\n".encode())
    return hashes.hexdigest()


class Diffusion:
    """A frozen text-to-image diffusion model with noise in the latents of a VAE, or in pixels (DeepFloyd IF).

    Args:
        pipeline: of diffusers; its networks are in evaluation and frozen.
        alpha_bar: the schedule's cumulative products, (T,).
        prediction: what the UNet predicts.
        longest: the most tokens of a prompt.
        side: height and width of what the noise is added to; by default that of the training.

    Attributes:
        alpha_bar: (T,), where the networks are.
        shape: (C, h, w) of what the noise is added to: latents, or pictures.
    """

    def __init__(
        self, pipeline: Any, alpha_bar: Tensor, prediction: Prediction, longest: int, side: int | None = None
    ) -> None:
        self.pipeline = pipeline
        self.alpha_bar = alpha_bar.to(pipeline.unet.device)
        trained = pipeline.unet.config.sample_size
        side = side or (trained if isinstance(trained, int) else 64)
        self.shape = (int(pipeline.unet.config.in_channels), side, side)
        self._vae = getattr(pipeline, "vae", None)
        self._prediction = prediction
        self._longest = longest

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.alpha_bar.device

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings (P, T, D) of prompts, as the pipeline itself makes them; empty ones are allowed.

        Raises:
            HyperkitError: prompts are too long, of which the pipeline would cut off the end; all are listed.
        """
        counts = {text: len(self.pipeline.tokenizer(text, verbose=False)["input_ids"]) for text in prompts}
        if long := [f"  {text[:60]!r}... has {n} tokens" for text, n in counts.items() if n > self._longest]:
            raise HyperkitError(
                f"The diffusion model takes prompts of at most {self._longest} tokens:\n" + "\n".join(long),
                "Give a shorter prompt. A few tokens go to the view (', overhead view').",
            )
        embeddings: Tensor = self.pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        return embeddings

    def latents(self, pictures: Tensor) -> Tensor:
        """Return what the noise is added to, (B, *shape), differentiable: the VAE's mean, or pixels in [-1, 1].

        Args:
            pictures: (B, 3, H, W) in [0, 1] of any size; they are resized (bilinear) to what the model takes.
        """
        side = self.shape[1] * (1 if self._vae is None else self.pipeline.vae_scale_factor)
        values = 2 * pictures - 1
        if values.shape[-2:] != (side, side):
            values = F.interpolate(values, (side, side), mode="bilinear", antialias=True)
        if self._vae is None:
            return values
        latents: Tensor = self._vae.encode(values.to(self._vae.dtype)).latent_dist.mean
        return latents * self._vae.config.scaling_factor

    @torch.no_grad()
    def noise_estimates(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        """Return the noise that the model finds under each of K prompts, (K, B, *shape), of the dtype of ``noisy``.

        Args:
            noisy: x_t, (B, *shape).
            timesteps: (B,) integers.
            embeddings: (K, B, T, D).
        """
        unet, count = self.pipeline.unet, len(embeddings)
        inputs = noisy.to(unet.dtype).repeat(count, 1, 1, 1)
        said = embeddings.flatten(0, 1).to(unet.dtype)
        found = unet(inputs, timesteps.repeat(count), encoder_hidden_states=said).sample
        # some predict a variance too, behind the noise
        prediction = found[:, : self.shape[0]].to(noisy.dtype).unflatten(0, (count, -1))
        alpha_bar = self.alpha_bar[timesteps]
        return torch.stack([noise_of(one, noisy, alpha_bar, self._prediction) for one in prediction])


def load_diffusion(
    model: str, device: torch.device | str = "cpu", precision: Precision = "auto", side: int | None = None
) -> Diffusion:
    """Load a frozen diffusion model; nothing in its folder is run. The global random state stays as it is.

    Args:
        model: see ``find_diffusion``.
        device: where it will compute.
        precision: of UNet and text encoder; ``auto``: float16 on a GPU, else float32. The VAE, through which gradients
            flow, is float32 always.
        side: see ``Diffusion``.

    Raises:
        HyperkitError: as ``find_diffusion`` does; or files are damaged, lack tensors, or belong to a model of another
            kind.
    """
    folder = find_diffusion(model)
    kind = _kind_of(folder)
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    dtype = dtype if precision == "auto" else getattr(torch, precision)
    try:
        with torch.random.fork_rng(devices=[]), _quiet():
            pipeline = _pipeline(folder, kind, dtype)
            _refuse_others(folder, pipeline)
            schedule = pipeline.scheduler
            for network in (pipeline.unet, pipeline.text_encoder, getattr(pipeline, "vae", None)):
                if network is not None:
                    network.requires_grad_(False).eval().to(device)
    except HyperkitError:
        raise
    except Exception as error:  # damaged files fail in the families of errors of four libraries
        raise HyperkitError(f"The diffusion model in {folder} cannot be loaded: {_short(error)}", WANTED) from error
    longest = min(kind.longest, pipeline.tokenizer.model_max_length)
    return Diffusion(pipeline, schedule.alphas_cumprod.float(), schedule.config.prediction_type, longest, side)


def _pipeline(folder: Path, kind: _Kind, dtype: torch.dtype) -> Any:
    """Load the parts one by one: what is missing in one the libraries fill with random values, and say so here only."""
    import diffusers
    import transformers

    options: dict[str, Any] = {"local_files_only": True, "output_loading_info": True}
    parts: list[tuple[str, Any, torch.dtype]] = [
        ("unet", diffusers.UNet2DConditionModel, dtype),
        ("text_encoder", getattr(transformers, kind.text_encoder), dtype),
    ]
    if kind.vae:
        parts.append(("vae", diffusers.AutoencoderKL, torch.float32))
    loaded: dict[str, Any] = {}
    for part, network, its_dtype in parts:
        name = "dtype" if part == "text_encoder" else "torch_dtype"
        loaded[part], report = network.from_pretrained(folder, subfolder=part, **{name: its_dtype}, **options)
        if lacking := sorted(report["missing_keys"]):
            some = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
            raise HyperkitError(f"The weights in {folder / part} are not whole; missing: {some}.", WANTED)
    loaded["tokenizer"] = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    # of any scheduler of the family: they share the schedule of the noise, and differ in how they take steps back
    scheduler: Any = diffusers.DDPMScheduler
    loaded["scheduler"] = scheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if kind.vae:
        return diffusers.StableDiffusionPipeline(**loaded, **unused)
    return diffusers.IFPipeline(**loaded, **unused, watermarker=None)


def _refuse_others(folder: Path, pipeline: Any) -> None:
    """Refuse models that want more than noisy latents and a prompt, or have no schedule of variances."""
    unet, vae = pipeline.unet.config, getattr(pipeline, "vae", None)
    channels = vae.config.latent_channels if vae is not None else 3
    written = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    problems = []
    if unet.in_channels != channels:
        problems.append(f"its UNet takes {unet.in_channels} channels, of which {channels} are noisy")
    if unet.class_embed_type is not None or unet.addition_embed_type not in (None, "text"):
        problems.append("its UNet wants more than a prompt")
    if unet.time_cond_proj_dim is not None:
        problems.append("its UNet is told the guidance, so that it has no unconditional estimate")
    if "beta_schedule" not in written:
        problems.append(f"its scheduler {written.get('_class_name')} has no schedule of variances")
    if problems:
        text = "; ".join(problems)
        raise HyperkitError(f"The diffusion model in {folder} is none from text alone: {text}.", WANTED)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' bars away, and what they say of parts that are not used or of configurations that are old."""
    import diffusers
    import transformers

    tools: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    before = [(tool.get_verbosity(), tool.is_progress_bar_enabled()) for tool in tools]
    for tool in tools:
        tool.set_verbosity(logging.CRITICAL)
        tool.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for tool, (verbosity, bars) in zip(tools, before, strict=True):
            tool.set_verbosity(verbosity)
            if bars:
                tool.enable_progress_bar()
