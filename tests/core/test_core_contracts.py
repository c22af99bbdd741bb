import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperkit.contracts import Batch, Rays, TargetParams, TargetSpec, TensorSpec
from hyperkit.randomness import StepRandom, key, numpy_rng


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans()), min_size=1, max_size=5),
    st.integers(1, 3),
)
@settings(max_examples=30, deadline=None)
def test_pack_then_unpack_is_exact(layout: list[tuple[list[int], bool]], items: int) -> None:
    spec = TargetSpec({f"t{i}": TensorSpec(tuple(shape), shared) for i, (shape, shared) in enumerate(layout)})
    if all(shared for _, shared in layout):
        items = 1
    tensors = {n: torch.randn(1 if s.shared else items, *s.shape) for n, s in spec.tensors.items()}
    params = TargetParams(tensors, spec)
    flat = params.pack()
    assert flat.shape == (items, spec.numel)
    again = TargetParams.unpack(flat, spec)
    for name, tensor in tensors.items():
        assert torch.equal(again[name], tensor), name


def test_wrong_shapes_are_refused() -> None:
    spec = TargetSpec({"w": TensorSpec((2, 3))})
    with pytest.raises(ValueError, match="expected"):
        TargetParams({"w": torch.zeros(1, 3, 2)}, spec)
    with pytest.raises(ValueError, match="do not match"):
        TargetParams({"v": torch.zeros(1, 2, 3)}, spec)
    with pytest.raises(ValueError, match="expected a flat tensor"):
        TargetParams.unpack(torch.zeros(1, 5), spec)


def test_moving_a_batch_moves_what_is_inside() -> None:
    batch = Batch(
        torch.zeros(1, 1, 3, 2, 2), Rays(torch.zeros(1, 4, 3), torch.ones(1, 4, 3)), torch.zeros(1, 4, 3), ("a",)
    )
    moved = batch.to("meta")
    assert {moved.context.device.type, moved.query.origins.device.type, moved.truth.device.type} == {"meta"}
    assert moved.ids == ("a",)


def test_ranks_draw_the_rows_of_the_joined_batch() -> None:
    whole = StepRandom(7, 3).uniform((6, 5), "jitter")
    for rank in range(2):
        part = StepRandom(7, 3, rank, 2).uniform((3, 5), "jitter")
        assert torch.equal(part, whole[rank::2])
    assert not torch.equal(whole, StepRandom(7, 4).uniform((6, 5), "jitter"))
    assert not torch.equal(whole, StepRandom(7, 3).uniform((6, 5), "other"))


def test_keys_do_not_change_between_versions() -> None:
    # stored data sets and frozen pairs depend on these
    assert key(0, "pairs", 12) == 627049924659498209
    assert numpy_rng("a", 1).integers(1 << 30) == 78044850
