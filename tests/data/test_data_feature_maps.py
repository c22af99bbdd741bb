"""Features of views: their components, where they are read, and what is kept of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperkit import geometry
from hyperkit.data.feature_maps import Basis, FeatureBasis, FeatureMaps, FeatureStore, coverage, fit_basis
from hyperkit.data.layout import write_scene, write_splits
from hyperkit.data.segment import SegmentData, SegmentDataConfig, read_parts
from hyperkit.errors import HyperkitError, RunFailed

TABLE = {"cars": {"body": 1, "wheels": 2}}


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 7)) * [5, 3, 2, 1, 1, 0.5, 0.1] + rng.normal(size=7)
    weights = rng.integers(0, 4, 40)
    batches = [(torch.tensor(features[:25]), torch.tensor(weights[:25])), (torch.tensor(features[25:]), weights[25:])]
    basis, share = fit_basis([(f, torch.as_tensor(w)) for f, w in batches], 3)
    repeated = features.repeat(weights, axis=0)  # a weight is how often something is there
    centred = repeated - repeated.mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(basis.mean, repeated.mean(0), atol=1e-6)
    rows = rows[:3] * np.sign(rows[:3][np.arange(3), np.abs(rows[:3]).argmax(1)])[:, None]
    variances = singular[:3] ** 2 / len(repeated)
    assert np.allclose(basis.components, rows.T / math.sqrt(variances.mean()), atol=1e-5)
    assert share == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum(), rel=1e-6)
    # what the components are scaled for: the variance along them is 1 on average
    projected = basis.project(torch.tensor(repeated, dtype=torch.float32))
    assert projected.var(0, correction=0).mean().item() == pytest.approx(1, rel=1e-5)


def test_components_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(HyperkitError, match=r"dims=5 components.*gives 4"):
        fit_basis([(torch.rand(9, 4), torch.ones(9))], 5)
    with pytest.raises(HyperkitError, match="No view shows an object"):
        fit_basis([(torch.rand(9, 4), torch.zeros(9))], 3)


@pytest.mark.parametrize(("size", "rows", "columns"), [(12, 3, 4), (4, 6, 8), (5, 1, 2)])
def test_features_are_linear_between_the_middles_of_patches(size: int, rows: int, columns: int) -> None:
    """A map that is linear in the place of each patch's middle is read as that function, and flat beyond the last."""
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    maps = np.stack([np.stack((view + y, 2 * x - y, x), -1) for view in (0.0, 10.0)]).astype(np.float32)
    found = FeatureMaps(maps, np.array([3, 7]), size).read(np.array([7, 3, 7]), np.tile(np.arange(size**2), (3, 1)))
    at = (np.arange(size) + 0.5) / size
    v = at.clip(0.5 / rows, 1 - 0.5 / rows)[:, None].repeat(size, 1).ravel()
    u = at.clip(0.5 / columns, 1 - 0.5 / columns)[None].repeat(size, 0).ravel()
    expected = np.stack([np.stack((view + v, 2 * u - v, u), -1) for view in (10.0, 0.0, 10.0)])
    assert np.allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="no features"):
        FeatureMaps(maps, np.array([3, 7]), size).read(np.array([4]), np.zeros((1, 1), np.int64))


def test_a_patch_counts_by_the_share_of_it_that_shows_an_object() -> None:
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, :2, :3] = [[1, 2, 1], [0, 0, 5]]
    assert coverage(labels, (2, 2)).tolist() == [[[0.5, 0.5], [0, 0]]]


def test_the_basis_is_kept_as_bytes_that_no_average_takes_for_numbers() -> None:
    holder, other = FeatureBasis(), FeatureBasis()
    other.load_state_dict(holder.state_dict())
    assert other.value is None
    holder.value = Basis(torch.rand(5), torch.rand(5, 3))
    state = holder.state_dict()
    assert not any(tensor.is_floating_point() for tensor in state.values())
    other.load_state_dict(state)
    assert other.value is not None
    assert torch.equal(other.value.mean, holder.value.mean)
    assert torch.equal(other.value.components, holder.value.components)


class Colours:
    """An encoder whose features of a patch are the mean colour there, its squares, and a constant."""

    def __init__(self, key: str = "colours", worth: float = 1.0) -> None:
        self.key, self.worth, self.seen = key, worth, 0

    def __call__(self, pictures: Tensor) -> Tensor:
        self.seen += len(pictures)
        means = torch.nn.functional.avg_pool2d(pictures, 3).movedim(1, -1)
        return self.worth * torch.cat((means, means.square(), torch.ones_like(means[..., :1])), -1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random pictures and label maps of five cars, 12 pixels, 6 views."""
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for index in range(5):
        pictures = rng.integers(0, 256, (6, 12, 12, 4), dtype=np.uint8)
        labels = rng.integers(0, 3, (6, 12, 12), dtype=np.uint8)
        poses = geometry.turntable(6, start=0.3 + index).numpy()
        write_scene(tmp_path / "data" / "cars" / f"{index}", pictures, poses, 2 * math.atan(0.27), labels=labels)
    write_splits(tmp_path / "data", "cars", {"train": ["0", "1", "2"], "val": ["3"], "test": ["4"]})
    (tmp_path / "data" / "parts.json").write_text(json.dumps(TABLE))
    return tmp_path / "data"


def open_data(root: Path, encoder: Colours, holder: FeatureBasis | None = None, **settings: object) -> SegmentData:
    config = SegmentDataConfig(
        root=str(root), parts=read_parts(root), rays_per_item=144, train_views=(1, 5), **settings
    )  # type: ignore[arg-type]
    return SegmentData(config, 5, None, FeatureStore(encoder, 3, holder or FeatureBasis()))


def test_batches_have_the_features_of_what_the_truth_shows(root: Path) -> None:
    encoder, holder = Colours(), FeatureBasis()
    data = open_data(root, encoder, holder, augment="mirror")
    batch = data.train_batch(0, 3)
    assert holder.value is not None
    assert encoder.seen == 2 * 12  # the views that are trained on, once for the basis and once for the maps
    own, labels = batch.features, batch.labels
    assert own is not None
    assert labels is not None
    assert (own[labels == 0] == 0).all()
    # an evaluation batch holds whole pictures: read patch by patch, at the one pixel in the middle of each
    whole = data.pairs("test").batch([0, 1])
    assert whole.features is not None
    assert whole.labels is not None
    truth = whole.truth.movedim(1, 2).unflatten(2, (12, 12))
    expected = holder.value.project(Colours()(truth)).flatten(1, 2)
    middles = torch.arange(144).reshape(12, 12)[1::3, 1::3].flatten()
    shown = (whole.labels[:, middles] > 0).unsqueeze(-1)
    # float16 in the cache: 2^-11 of values up to 4
    assert torch.allclose(whole.features[:, middles], expected * shown, atol=2e-3)
    assert (whole.features[whole.labels == 0] == 0).all()


def test_what_was_computed_is_found_in_the_cache(root: Path) -> None:
    first = open_data(root, Colours())
    wanted = first.train_batch(3, 3).features
    again = Colours()
    found = open_data(root, again).train_batch(3, 3).features
    assert again.seen == 0
    assert wanted is not None
    assert found is not None
    assert torch.equal(found, wanted)
    for changed, settings in ((Colours("other weights"), {}), (Colours(), {"background": "black"})):
        open_data(root, changed, **settings).train_batch(3, 3)
        assert changed.seen == 24
    # a basis that came with a checkpoint is taken as it is
    holder = FeatureBasis()
    holder.value = Basis(torch.zeros(7), torch.eye(7)[:, :3])
    late = Colours()
    own = open_data(root, late, holder).train_batch(3, 3).features
    assert late.seen == 12
    assert own is not None
    assert not torch.equal(own, wanted)


def test_features_in_the_middle_of_a_step_in_bf16_are_those_in_float32(root: Path) -> None:
    wanted = open_data(root, Colours()).train_batch(0, 3).features
    with torch.autocast("cpu", torch.bfloat16):
        found = open_data(root, Colours("again")).train_batch(0, 3).features
    assert wanted is not None
    assert found is not None
    assert torch.equal(found, wanted)


def test_features_that_are_no_numbers_end_the_run(root: Path) -> None:
    with pytest.raises(RunFailed, match="not finite"):
        open_data(root, Colours(worth=math.nan)).train_batch(0, 3)
