import torch

from hyperkit.adapt import TTOConfig, optimise
from hyperkit.contracts import TargetParams, TargetSpec, TensorSpec

SPEC = TargetSpec({"w": TensorSpec((2, 1)), "b": TensorSpec((1, 1), shared=True)})
X = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
Y = torch.tensor([[[1.0], [2.0], [3.0]], [[0.0], [1.0], [-1.0]]])


def start() -> TargetParams:
    return TargetParams({"w": torch.zeros(2, 2, 1), "b": torch.zeros(1, 1, 1)}, SPEC)


def loss(params: TargetParams, step: int) -> torch.Tensor:
    return (X @ params["w"] + params["b"] - Y[: params.items]).square().flatten(1).mean(1)


def test_converges_to_least_squares_for_every_item() -> None:
    best = optimise(start(), loss, TTOConfig(steps=4000, learning_rate=0.02))
    design = torch.cat((X, torch.ones(3, 1)), dim=1)
    for item in range(2):
        want = torch.linalg.lstsq(design, Y[item]).solution[:, 0]
        got = torch.cat((best["w"][item, :, 0], best["b"][item, :, 0]))
        torch.testing.assert_close(got, want, atol=1e-3, rtol=0)


def test_an_item_does_not_depend_on_its_batch() -> None:
    together = optimise(start(), loss, TTOConfig(steps=20, learning_rate=0.1))
    alone = optimise(start().select(0), loss, TTOConfig(steps=20, learning_rate=0.1))
    assert torch.equal(together["w"][:1], alone["w"])
    assert torch.equal(together["b"][:1], alone["b"])


def test_the_start_is_not_touched_and_works_without_gradients() -> None:
    params = start()
    with torch.no_grad():
        result = optimise(params, loss, TTOConfig(steps=3, learning_rate=0.1))
    assert (params["w"] == 0).all()
    assert (result["w"] != 0).any()
    assert not result["w"].requires_grad
