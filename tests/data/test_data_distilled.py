import math

import pytest
import torch

from hyperkit.contracts import Cameras
from hyperkit.data.distilled import DistilledData, RaysConfig, ShownScene, pad_tokens, whole_picture
from hyperkit.geometry import picture_rays, project, turntable

SIZE, PICTURES, KEPT = 6, 5, 2


def shown(seed: int, words: int) -> ShownScene:
    rng = torch.Generator().manual_seed(seed)
    rgba = torch.randint(0, 256, (PICTURES, 4, SIZE, SIZE), generator=rng, dtype=torch.uint8)
    rgba[:, 3, : SIZE // 2] = 0  # nothing in the upper half
    rgba[:, 3, SIZE // 2 :].clamp_(min=1)
    focal = torch.full((PICTURES,), 7.0)
    cameras = Cameras(turntable(PICTURES, 0.3, 4.0), focal, SIZE, SIZE, 2.5, 5.5)
    return ShownScene(torch.randn(words, 8, generator=rng), rgba, cameras)


SCENES = {"chair/red": shown(0, 3), "chair/blue": shown(1, 5), "bowl/red": shown(2, 4)}


def data(**changes: float) -> DistilledData:
    config = RaysConfig(**{"cameras": 2, "rays": 16, "foreground": 0.5} | changes)  # type: ignore[arg-type]
    return DistilledData(SCENES, config, "white", seed=3, kept=KEPT)


def test_rays_come_with_what_their_own_pixels_show() -> None:
    batch = data().train_batch(0, 3)
    assert batch.opacity is not None
    for item, name in enumerate(batch.ids):
        scene = SCENES[name]
        origins, directions = batch.query.origins[item], batch.query.directions[item]
        for ray in range(len(origins)):
            view = int((scene.cameras.poses[:, :3, 3] - origins[ray]).norm(dim=-1).argmin())
            one = Cameras(scene.cameras.poses[view, None], scene.cameras.focal[view, None], SIZE, SIZE)
            x, y, _ = project(one, (origins[ray] + directions[ray])[None, None])[0, 0].tolist()
            rgba = scene.rgba[view, :, math.floor(y), math.floor(x)].double() / 255
            wanted = rgba[:3] * rgba[3] + 1 - rgba[3]
            torch.testing.assert_close(batch.truth[item, ray].double(), wanted, atol=1e-6, rtol=0)
            assert float(batch.opacity[item, ray]) == pytest.approx(float(rgba[3]), abs=1e-6)
    assert (batch.query.near, batch.query.far) == (2.5, 5.5)


def test_batches_are_a_function_of_seed_and_step_whoever_makes_them() -> None:
    joined = data().train_batch(7, 4)
    for rank in range(2):
        part = data().train_batch(7, 4, rank, 2)
        assert part.ids == joined.ids[rank::2]
        torch.testing.assert_close(part.truth, joined.truth[rank::2], atol=0, rtol=0)
        torch.testing.assert_close(part.query.directions, joined.query.directions[rank::2], atol=0, rtol=0)
    assert not torch.equal(joined.truth, data().train_batch(8, 4).truth)


def test_every_scene_comes_once_in_an_epoch() -> None:
    steps = data().steps_per_epoch(1)
    assert steps == 3
    assert {data().train_batch(step, 1).ids[0] for step in range(steps)} == set(SCENES)


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 1.0, 1.0), (0.0, 0.3, 0.7), (0.5, 0.6, 0.9)])
def test_so_many_rays_meet_something(share: float, least: float, most: float) -> None:
    batches = [data(foreground=share, rays=64).train_batch(step, 3) for step in range(5)]
    met = torch.stack([batch.opacity for batch in batches if batch.opacity is not None]) > 0
    assert least <= float(met.float().mean()) <= most  # half of the pixels do


def test_pictures_that_are_kept_are_never_trained_on() -> None:
    origins = torch.cat([data(cameras=3).train_batch(step, 3).query.origins.reshape(-1, 3) for step in range(20)])
    places = turntable(PICTURES, 0.3, 4.0)[:, :3, 3]
    used = {int(view) for view in torch.cdist(origins, places).argmin(1)}
    assert used == set(range(PICTURES - KEPT))
    kept = data().validation()
    assert [batch.ids[0] for batch in kept] == [name for name in SCENES for _ in range(KEPT)]
    assert {int(torch.cdist(batch.query.origins[0], places)[0].argmin()) for batch in kept} == {3, 4}


def test_a_whole_picture_is_asked_for_row_by_row() -> None:
    scene = SCENES["bowl/red"]
    batch = whole_picture("bowl/red", scene, 1, "black")
    rgba = scene.rgba[1].float() / 255
    picture = batch.truth[0].T.reshape(3, SIZE, SIZE)
    torch.testing.assert_close(picture, rgba[:3] * rgba[3], atol=1e-6, rtol=0)
    camera = Cameras(scene.cameras.poses[1, None], scene.cameras.focal[1, None], SIZE, SIZE)
    torch.testing.assert_close(batch.query.directions, picture_rays(camera).directions, atol=0, rtol=0)
    assert batch.classes == ("bowl",)


def test_sentences_are_padded_behind_their_words() -> None:
    tokens, mask = pad_tokens([scene.tokens for scene in SCENES.values()])
    assert mask.sum(1).tolist() == [3, 5, 4]
    for row, own, scene in zip(tokens, mask, SCENES.values(), strict=True):
        torch.testing.assert_close(row[own], scene.tokens, atol=0, rtol=0)
        assert not row[~own].any()


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="leave nothing"):
        DistilledData(SCENES, RaysConfig(), "white", 0, kept=PICTURES)
