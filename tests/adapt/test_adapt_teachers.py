"""Teachers: killed and resumed to the bit, several at once as one after another, read from their folders, and shown."""

from __future__ import annotations

import math
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperkit.adapt import teachers as module
from hyperkit.adapt.teachers import (
    TeacherConfig,
    fit_teacher,
    fit_to_views,
    framing_of,
    read_pictures,
    spread_cameras,
    straight_pictures,
    teacher_key,
    teacher_pictures,
    teachers,
    views_psnr,
)
from hyperkit.contracts import Cameras, TargetParams, TargetSpec, TensorSpec
from hyperkit.data.procedural.captioned import spread_poses
from hyperkit.data.scenes import ScenesConfig, SceneSet, SceneViews
from hyperkit.errors import HyperkitError
from hyperkit.geometry import look_at, picture_rays
from hyperkit.models.field import Field
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.targets import Target
from hyperkit.targets.radiance_field import RadianceFieldConfig

CONFIG = TeacherConfig.model_validate(
    {
        "target": {"levels": 2, "coarsest": 4, "finest": 12, "log2_table": 11, "width": 16},
        "fit": {"steps": 12, "rays": 64, "renderer": {"samples": 16, "sampling": "bins", "bounds": "sphere"}},
        "views": 3,
        "size": 8,
    }
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERKIT_CACHE", str(tmp_path_factory.mktemp("scenes")))
        yield SceneSet.open(ScenesConfig(builtin="debug"))


def contents(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(".lock")}


def no_fit(*_: object) -> None:
    raise AssertionError("this teacher is there already")


KILLED = """
import os, signal, sys, pickle
from pathlib import Path
from hyperkit.adapt import teachers
config, views = pickle.loads(Path(sys.argv[1]).read_bytes())
teachers.SAVE_EVERY = 0
def progress(done, total):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)
teachers.fit_to_views(config, views, Path(sys.argv[2]), progress)
"""


def test_a_teacher_that_is_killed_goes_on_and_has_the_same_bits(scenes: SceneSet, tmp_path: Path) -> None:
    views = scenes.views("toaster/red")
    fit_to_views(CONFIG, views, tmp_path / "whole")
    (tmp_path / "job").write_bytes(pickle.dumps((CONFIG, views)))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "job"), str(tmp_path / "killed")]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    assert set(contents(tmp_path / "killed")) == {"state.safetensors"}
    steps: list[int] = []
    fit_to_views(CONFIG, views, tmp_path / "killed", lambda done, total: steps.append(done))
    assert steps == [8, 9, 10, 11, 12]  # killed after step 8, before its state was saved
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert set(contents(tmp_path / "whole")) == {"field.safetensors"}


def test_several_at_once_have_the_bits_of_one_after_another(scenes: SceneSet, tmp_path: Path) -> None:
    ids = scenes.split("train")
    told: dict[int, list[tuple[int, int]]] = {1: [], 2: []}
    found = {
        jobs: teachers(CONFIG, scenes, ids, tmp_path / str(jobs), jobs, lambda *c, j=jobs: told[j].append(c))
        for jobs in (1, 2)
    }
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(contents(tmp_path / "1")) == 2 * len(ids)
    for name in ids:
        assert torch.equal(found[1][name].rgba, found[2][name].rgba)
        assert found[1][name].rgba.shape == (3, 4, 8, 8)
    assert told[1] == told[2] == [(count, len(ids)) for count in range(len(ids) + 1)]
    assert list(found[2]) == list(ids)


def test_what_is_in_the_folder_is_read(scenes: SceneSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ("toaster/red", "toaster/blue")
    first = teachers(CONFIG, scenes, ids, tmp_path)
    assert not torch.equal(first[ids[0]].rgba, first[ids[1]].rgba)
    before = contents(tmp_path)
    monkeypatch.setattr(module.FieldFit, "advance", no_fit)
    again = teachers(CONFIG, scenes, ids, tmp_path)
    for name in ids:
        assert torch.equal(first[name].rgba, again[name].rgba)
        assert torch.equal(first[name].cameras.poses, again[name].cameras.poses)
    assert contents(tmp_path) == before
    more = teachers(CONFIG.model_copy(update={"views": 5, "size": 10}), scenes, ids, tmp_path)  # rendered, not fitted
    assert more[ids[0]].rgba.shape == (5, 4, 10, 10)
    longer = CONFIG.model_copy(update={"fit": CONFIG.fit.model_copy(update={"steps": 13})})
    with pytest.raises(AssertionError, match="there already"):
        teachers(longer, scenes, ids, tmp_path)
    with pytest.raises(HyperkitError, match="no scene 'teapot/red'"):
        teachers(CONFIG, scenes, ("teapot/red",), tmp_path)


def test_keys_depend_on_what_makes_the_field_and_on_nothing_else() -> None:
    key = teacher_key(CONFIG, "a")
    for same in ({"views": 9}, {"size": 9}, {"jobs": 2}):
        assert teacher_key(CONFIG.model_copy(update=same), "a") == key
    others = {
        teacher_key(CONFIG, "b"),
        teacher_key(CONFIG.model_copy(update={"fit": CONFIG.fit.model_copy(update={"seed": 1})}), "a"),
        teacher_key(CONFIG.model_copy(update={"target": CONFIG.target.model_copy(update={"width": 8})}), "a"),
    }
    assert len({key, *others}) == 4


def test_damaged_files_are_made_anew(scenes: SceneSet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = teachers(CONFIG, scenes, ["toaster/red"], tmp_path)["toaster/red"]
    before = contents(tmp_path)
    (place,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for name in ("field.safetensors", "pictures.safetensors", "state.safetensors"):
        (place / name).write_bytes(b"not a file of tensors")
    again = teachers(CONFIG, scenes, ["toaster/red"], tmp_path)["toaster/red"]
    assert torch.equal(first.rgba, again.rgba)
    assert contents(tmp_path) == before
    assert sum("is damaged" in record.getMessage() for record in caplog.records) == 3


def test_a_fit_takes_one_thread_and_gives_the_others_back(scenes: SceneSet, tmp_path: Path) -> None:
    views, seen = scenes.views("toaster/red"), []

    def loss(target: Target) -> Any:
        seen.append(torch.get_num_threads())
        return module.ViewsLoss(target, views.rgba, views.cameras, CONFIG.fit)

    torch.set_num_threads(2)
    try:
        fit_teacher(CONFIG, loss, framing_of(views.cameras), tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [1]


def test_a_teacher_learns_its_scene(scenes: SceneSet, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"fit": CONFIG.fit.model_copy(update={"steps": 150})})
    views, new = scenes.views("toaster/red"), scenes.test_views("toaster/red")
    field = fit_to_views(config, views, tmp_path / "a")
    start = fit_to_views(config.model_copy(update={"fit": CONFIG.fit.model_copy(update={"steps": 0})}), views, tmp_path)
    found = [views_psnr(one, shown) for one in (start, field) for shown in (views, new)]
    # three views of 16x16 pixels. Measured: 10.0 and 10.2, then 22.7 and 16.0
    assert max(found[:2]) < 10
    assert found[2] > 20
    assert found[3] > 14
    loaded = Field.load(tmp_path / "a" / "field.safetensors")
    assert all(torch.equal(loaded.params[name], tensor) for name, tensor in field.params.tensors.items())
    assert loaded.framing == field.framing == framing_of(views.cameras)


def test_cameras_are_spread_over_the_band_of_the_given_ones() -> None:
    given = Cameras(torch.from_numpy(spread_poses(40)), torch.full((40,), 50.0), 48, 48, 2.5, 5.5)
    got = spread_cameras(given, 400, 96)
    assert (got.width, got.height, got.near, got.far) == (96, 96, 2.5, 5.5)
    torch.testing.assert_close(got.focal, torch.full((400,), 100.0))  # the same angle of view
    eyes = got.poses[:, :3, 3]
    torch.testing.assert_close(eyes.norm(dim=-1), torch.full((400,), 4.0))
    torch.testing.assert_close(got.poses, look_at(eyes), atol=1e-5, rtol=0)
    sine = eyes[:, 2] / 4
    low, high = (math.sin(math.radians(60)) * part for part in (0.5 / 40, 39.5 / 40))
    assert sine.min() > low
    assert sine.max() < high
    # evenly in height, and so over the sphere: the mean, the deviation, and no side of the object more than another
    assert float(sine.mean()) == pytest.approx((low + high) / 2, abs=1e-4)
    assert float(sine.std()) == pytest.approx((high - low) / math.sqrt(12), rel=0.01)
    assert eyes[:, :2].mean(0).abs().max() < 0.02
    # the scene's own formula: as many cameras from a whole band are its own
    assert torch.equal(spread_cameras(given, 7, 8).poses, spread_cameras(given, 7, 8).poses)
    shuffled = replace(given, poses=given.poses.flip(0))
    torch.testing.assert_close(spread_cameras(shuffled, 9, 8).poses, spread_cameras(given, 9, 8).poses)


class Fog(Target):
    """Fog of one colour and density everywhere."""

    kind = "fog"
    config_model = RadianceFieldConfig
    spec = TargetSpec({"values": TensorSpec((4,), shared=True)})

    def __call__(self, params: TargetParams, query: Tensor, state: object = None) -> Tensor:
        return params["values"][:, None].expand(-1, query.shape[1], -1)

    def to_module(self, params: TargetParams) -> torch.nn.Module:
        raise NotImplementedError


def fog(*values: float, samples: int = 32) -> Field:
    renderer = RendererConfig(samples=samples, sampling="bins", bounds="sphere", chunk_points=1000)
    return Field(Fog(), TargetParams({"values": torch.tensor([values])}, Fog.spec), renderer)


@pytest.mark.parametrize("density", [0.05, 0.7, 50.0])
def test_pictures_have_straight_alpha(density: float) -> None:
    field = fog(0.2, 0.4, 0.9, density)
    cameras = field.framing.cameras(torch.from_numpy(spread_poses(3)), 24)
    rgba = straight_pictures(field, cameras).float() / 255
    rays = picture_rays(cameras)
    direction = rays.directions / rays.directions.norm(dim=-1, keepdim=True)
    distance2 = 16 - (rays.origins * direction).sum(-1) ** 2  # of the ray from the origin, whose fog has radius 1
    chord = 2 * (1 - distance2).clamp(0).sqrt()
    # one ray parameter is as long as the ray's direction
    want = 1 - torch.exp(-density * chord / rays.directions.norm(dim=-1))
    alpha = rgba[:, 3].flatten(1)
    # rays end where a 256th of the light is left; measured: 0.0034
    torch.testing.assert_close(alpha, want, atol=1.5 / 255 + 1 / 256, rtol=0)
    solid = alpha > 0.02
    assert solid.any()
    assert (alpha[distance2 > 1] == 0).all()
    for channel, colour in enumerate((0.2, 0.4, 0.9)):
        assert (rgba[:, channel].flatten(1)[solid] - colour).abs().max() < 1.1 / 255


def test_pictures_laid_on_white_are_the_rendered_ones(scenes: SceneSet, tmp_path: Path) -> None:
    views = scenes.views("toaster/red")
    config = CONFIG.model_copy(update={"fit": CONFIG.fit.model_copy(update={"steps": 60})})
    field = fit_to_views(config, views, tmp_path)
    cameras = spread_cameras(views.cameras, 4, 20)
    taught = teacher_pictures(field, cameras, tmp_path)
    with torch.no_grad():
        want = render_rays(
            lambda points: field.query(points.flatten(0, 1)).unflatten(0, points.shape[:2]),
            picture_rays(cameras),
            field.renderer,
        )
    rgba = taught.rgba.float() / 255
    got = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    error = (got.flatten(2).mT - want.rgb).square().mean()
    # what is hidden or almost empty is left out, which ``renderers.fast`` bounds by 50 dB, and 8 bits. Measured: 61.4
    assert -10 * math.log10(float(error)) > 48
    again = read_pictures(cameras, tmp_path)
    assert again is not None
    assert torch.equal(again.rgba, taught.rgba)
    assert read_pictures(replace(cameras, focal=cameras.focal * 1.1), tmp_path) is None


def test_views_psnr_is_that_of_all_pixels() -> None:
    field = fog(0.6, 0.6, 0.6, 1e4, samples=64)  # an opaque ball, 153 of 255
    cameras = field.framing.cameras(torch.from_numpy(spread_poses(2)), 16)
    rgba = straight_pictures(field, cameras).float() / 255
    assert views_psnr(field, SceneViews(rgba, cameras, False)) > 45
    off = rgba.clone()
    off[0, :3] += 0.1
    share = float((rgba[0, 3] ** 2).mean()) / 2
    got = views_psnr(field, SceneViews(off, cameras, False), "black")
    assert got == pytest.approx(-10 * math.log10(0.01 * share), abs=0.1)
