"""Retrieval among scenes, precision and recall, KID and CLIP's features, against brute force and the libraries' own."""

from __future__ import annotations

import copy
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperkit.backbones import catalog, hub
from hyperkit.metrics import retrieval as module
from hyperkit.metrics.image import psnr
from hyperkit.metrics.retrieval import (
    ClipFeatures,
    embedding_similarity,
    kernel_distance,
    precision_recall,
    psnr_similarity,
    ranks,
    retrieval,
)
from hyperkit.metrics.weights import MetricUnavailableError

SENTENCES = ["a red chair", "an orange toaster"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_ranks_are_positions_in_the_sorted_list() -> None:
    similarity = draw(20, 30)
    own = torch.arange(20) + 5
    order = similarity.argsort(dim=1, descending=True).tolist()
    expected = [row.index(item) + 1 for row, item in zip(order, own.tolist(), strict=True)]
    assert ranks(similarity, own).tolist() == expected
    assert len(set(expected)) > 5
    shares = {k: sum(rank <= k for rank in expected) / 20 for k in (1, 3, 5, 10)}
    assert retrieval(similarity, own) == pytest.approx(shares)


def test_retrieval_of_a_perfect_and_of_a_reversed_similarity() -> None:
    similarity = torch.eye(12)
    own = torch.arange(12)
    assert retrieval(similarity, own) == {1: 1.0, 3: 1.0, 5: 1.0, 10: 1.0}
    assert retrieval(-similarity, own) == {1: 0.0, 3: 0.0, 5: 0.0, 10: 0.0}
    assert retrieval(similarity, own.roll(1)) == {1: 0.0, 3: 0.0, 5: 0.0, 10: 0.0}  # ties of zeros: none is found


def test_ties_and_what_is_not_a_number_count_against_the_query() -> None:
    nan = math.nan
    similarity = torch.tensor([[2.0, 2, 1, 2], [2, 3, 2, 1], [1, nan, 0, nan], [nan, 5, 4, 3], [math.inf, 1, 2, 3]])
    assert ranks(similarity, torch.zeros(5, dtype=torch.long)).tolist() == [3, 3, 3, 5, 1]
    assert retrieval(similarity, torch.zeros(5, dtype=torch.long), top=(1, 2, 3)) == {1: 0.2, 2: 0.2, 3: 0.8}
    assert retrieval(torch.zeros(2, 4), torch.tensor([0, 3]), top=(1, 3)) == {1: 0.0, 3: 0.0}


def test_shares_that_all_would_reach_are_left_out() -> None:
    assert set(retrieval(draw(2, 5), torch.tensor([0, 1]))) == {1, 3}


def test_retrieval_refuses_what_does_not_match() -> None:
    with pytest.raises(ValueError, match="no queries"):
        retrieval(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(2, 4\), \(3,\)"):
        ranks(draw(2, 4), torch.tensor([0, 1, 2]))
    for own in ([0, 4], [-1, 0]):
        with pytest.raises(ValueError, match=r"in 0 \.\.\. 3"):
            ranks(draw(2, 4), torch.tensor(own))


def test_psnr_similarity_is_the_psnr_of_all_views_at_once() -> None:
    queries, support = draw(3, 4, 3, 6, 5), draw(5, 4, 3, 6, 5, seed=1)
    support[2] = queries[1]
    found = psnr_similarity(queries, support)
    for q, s in itertools.product(range(3), range(5)):
        expected = psnr(queries[q : q + 1].double(), support[s : s + 1].double())
        assert found[q, s] == pytest.approx(expected.item(), abs=1e-5)  # measured: 3e-7
    assert found[1, 2] == math.inf
    with pytest.raises(ValueError, match=r"\(5, 3, 3, 6, 5\)"):
        psnr_similarity(queries, support[:, :3])


def test_psnr_similarity_finds_noisy_scenes() -> None:
    support = draw(30, 2, 3, 8, 8)
    noisy = support[10:20] + 0.3 * draw(10, 2, 3, 8, 8, seed=2)
    assert retrieval(psnr_similarity(noisy, support), torch.arange(10, 20))[1] == 1.0


def test_embedding_similarity_is_the_cosine_of_mean_directions() -> None:
    axes = torch.eye(3)
    support = torch.stack([axes[[0, 1]], axes[[2, 2]], axes[[0, 0]]])
    queries = torch.stack([axes[:1], axes[1:2]])  # sentences: one feature each
    half = 0.5**0.5
    expected = torch.tensor([[half, 0, 1], [half, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(embedding_similarity(queries, support), expected)
    queries, support = draw(4, 3, 16), draw(5, 2, 16, seed=1)
    found = embedding_similarity(queries, support)
    other = embedding_similarity((queries * (1 + draw(4, 3, 1, seed=2))).flip(1), support)  # lengths, order of views
    torch.testing.assert_close(other, found, atol=1e-6, rtol=0)


def by_brute_force(similarity: Tensor, relevant: Tensor, k: int) -> tuple[float, float]:
    """The fewest hits over all orders that a sort could give."""
    precision, recall = [], []
    for values, good in zip(similarity.tolist(), relevant.tolist(), strict=True):
        orders = itertools.permutations(range(len(values)))
        sorted_ones = [o for o in orders if all(values[a] >= values[b] for a, b in itertools.pairwise(o))]
        hits = min(sum(good[i] for i in order[:k]) for order in sorted_ones)
        precision.append(hits / k)
        recall.append(hits / sum(good))
    return float(np.mean(precision)), float(np.mean(recall))


@pytest.mark.parametrize("k", [1, 3, 6])
def test_precision_and_recall_are_the_worst_over_all_orders_of_ties(k: int) -> None:
    similarity = (draw(8, 6) * 4).floor()
    relevant = draw(8, 6, seed=1) < 0.5
    relevant[:, 2] = True
    found = precision_recall(similarity, relevant, k)
    assert found == pytest.approx(by_brute_force(similarity, relevant, k))
    assert found == precision_recall(similarity.flip(1), relevant.flip(1), k)


def test_precision_and_recall_of_views() -> None:
    """Two scenes with four views each; the second sentence finds one of its own among its three."""
    relevant = torch.tensor([[1] * 4 + [0] * 4, [0] * 4 + [1] * 4]).bool()
    similarity = torch.tensor([[9.0, 8, 7, 6, 1, 2, 3, 4], [9, 1, 8, 2, 10, 3, 4, 5]])
    assert precision_recall(similarity, relevant) == pytest.approx(((1 + 1 / 3) / 2, (3 / 4 + 1 / 4) / 2))
    assert precision_recall(similarity, relevant, k=8) == (0.5, 1.0)
    similarity[0, 0] = math.nan  # a relevant one is last, the others are first
    similarity[1, 3] = math.nan
    assert precision_recall(similarity, relevant, k=4) == pytest.approx((3 / 4 / 2 + 1 / 4 / 2, 3 / 4 / 2 + 1 / 4 / 2))
    with pytest.raises(ValueError, match="something relevant"):
        precision_recall(similarity, torch.zeros(2, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"1 \.\.\. S"):
        precision_recall(similarity, relevant, k=9)


def test_kernel_distance_equals_its_definition() -> None:
    real, generated = draw(7, 5).double().numpy() * 3, draw(7, 5, seed=1).double().numpy()
    value = 0.0
    for i, j in itertools.permutations(range(7), 2):
        for one, other in ((real, real), (generated, generated)):
            value += (one[i] @ other[j] / 5 + 1) ** 3 / (7 * 6)
    for i, j in itertools.product(range(7), range(7)):
        value -= 2 * (real[i] @ generated[j] / 5 + 1) ** 3 / 49
    ours = kernel_distance(torch.from_numpy(real).float(), torch.from_numpy(generated).float())
    assert ours == pytest.approx(value, rel=1e-5)  # measured: 5e-8
    assert value > 1


def test_kernel_distance_is_unbiased() -> None:
    """Of sets from one distribution it is 0 in the mean, some values below it."""
    values = [kernel_distance(draw(20, 4, seed=2 * s), draw(20, 4, seed=2 * s + 1)) for s in range(300)]
    error = np.std(values) / 300**0.5
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0
    with pytest.raises(ValueError, match="two sets of as many"):
        kernel_distance(draw(5, 4), draw(6, 4))
    with pytest.raises(ValueError, match="not finite"):
        kernel_distance(draw(5, 4), torch.full((5, 4), math.nan))


@pytest.fixture
def small_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small open_clip model that stands for the backbone called clip, its weights in a cache."""
    import open_clip
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    config = copy.deepcopy(factory.get_model_config("ViT-B-16-quickgelu"))
    config["embed_dim"] = 24
    config["vision_cfg"] |= {"layers": 1, "width": 32, "head_width": 16}
    config["text_cfg"] |= {"layers": 1, "width": 16, "heads": 2}
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    factory.add_model_config(tmp_path / "tiny.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    entry = replace(catalog.find_entry("clip"), model="tiny")
    monkeypatch.setattr(catalog, "find_entry", lambda _: entry)
    monkeypatch.setattr(hub, "cached_weights", lambda _: tmp_path / "clip.pt")
    return model.eval()


def test_clip_features_equal_open_clips_own(small_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip
    from open_clip.transform import image_transform
    from PIL import Image

    monkeypatch.setattr(module, "_CHUNK", 2)
    state = torch.get_rng_state()
    features = ClipFeatures()
    assert torch.equal(torch.get_rng_state(), state)
    transform = image_transform(224, is_train=False)
    # measured: 6e-8 where nothing is resized, else 1.4e-3: Pillow rounds what it resized to 8 bits
    for size, tolerance in (((224, 300), 1e-6), ((64, 96), 3e-3), ((900, 600), 3e-3)):
        blurred = torch.nn.functional.interpolate(draw(3, 3, 9, 12), size, mode="bilinear")
        levels = (170 * blurred + 85 * draw(3, 3, *size)).round()
        images = [Image.fromarray(picture.permute(1, 2, 0).byte().numpy()) for picture in levels]
        with torch.no_grad():
            expected = small_clip.encode_image(torch.stack([transform(image) for image in images]), normalize=True)
        found = features.pictures(levels / 255)
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
        assert (found[0] - found[1]).abs().max() > 3 * tolerance
    beyond = levels / 255 * 3 - 1
    assert torch.equal(features.pictures(beyond), features.pictures(beyond.clamp(0, 1)))
    with torch.no_grad():
        sentences = small_clip.encode_text(open_clip.get_tokenizer("tiny")(SENTENCES), normalize=True)
    torch.testing.assert_close(features.sentences(SENTENCES), sentences, atol=1e-6, rtol=0)
    assert features.weights["file"] == "clip.pt"
    assert features.weights["licence"] == "mit"


def test_without_weights_clip_says_at_once_what_to_run(
    monkeypatch: pytest.MonkeyPatch, no_weights: Path, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match=r"not in the cache; run: hyperkit prepare backbone clip"):
        ClipFeatures()
    snapshot = tmp_path / "hub" / "models--timm--vit_base_patch16_clip_224.openai" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot.parents[1] / "blobs").mkdir()
    blob = snapshot.parents[1] / "blobs" / ("a" * 64)
    blob.write_bytes(b"cut off")
    (snapshot / "open_clip_model.safetensors").symlink_to(blob)
    with pytest.raises(MetricUnavailableError, match=r"is damaged: .*run: hyperkit prepare backbone clip"):
        ClipFeatures()
