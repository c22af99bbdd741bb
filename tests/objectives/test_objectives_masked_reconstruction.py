"""MAE's objective: patches cut by hand, which patches are hidden, and that only these cost anything."""

import pytest
import torch

from hyperkit.objectives.masked_reconstruction import (
    masked_loss,
    normalise_patches,
    patchify,
    random_mask,
    unpatchify,
)


def test_patches_are_those_cut_by_hand_and_go_back_exactly() -> None:
    pictures = torch.rand(2, 3, 8, 12)
    patches = patchify(pictures, 4)
    assert patches.shape == (2, 6, 48)
    for row in range(2):
        for column in range(3):
            cut = pictures[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(patches[:, 3 * row + column], cut.flatten(1))
    assert torch.equal(unpatchify(patches, 4, 2), pictures)
    with pytest.raises(ValueError, match="patches of 5"):
        patchify(pictures, 5)


def test_the_smallest_scores_are_seen() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.0, 0.3, 0.2, 0.1]])
    seen, hidden = random_mask(scores, 0.5)
    assert seen.tolist() == [[1, 3], [0, 3]]
    assert hidden.tolist() == [[True, False, True, False], [False, True, True, False]]
    for ratio, count in ((0.0, 0), (0.01, 1), (0.75, 3), (1.0, 3)):
        assert random_mask(scores, ratio)[1].sum(1).tolist() == [count, count]


def test_every_patch_is_hidden_equally_often() -> None:
    scores = torch.rand(4000, 16, generator=torch.Generator().manual_seed(0))
    often = random_mask(scores, 0.75)[1].float().mean(0)
    assert float((often - 0.75).abs().max()) < 4 * (0.75 * 0.25 / 4000) ** 0.5  # four deviations; 0.016 seen


def test_only_hidden_patches_cost_and_the_mean_is_theirs() -> None:
    torch.manual_seed(0)
    prediction = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(3, 6, 5, dtype=torch.float64)
    hidden = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0], [1] * 6], dtype=torch.bool)
    loss = masked_loss(prediction, target, hidden)
    expected = [(prediction[i] - target[i]).square()[hidden[i]].mean().item() for i in range(3)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-6)
    loss.sum().backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad.abs().sum(-1) > 0, hidden)


def test_normalised_patches_forget_brightness_and_contrast() -> None:
    torch.manual_seed(1)
    patches = torch.randn(2, 4, 48, dtype=torch.float64)
    found = normalise_patches(patches)
    expected = (patches - patches.mean(-1, keepdim=True)) / patches.std(-1, keepdim=True)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-6)
    torch.testing.assert_close(normalise_patches(3 * patches + 7), found, rtol=0, atol=5e-6)
    assert float(normalise_patches(torch.full((1, 1, 48), 0.3)).abs().max()) < 1e-3
