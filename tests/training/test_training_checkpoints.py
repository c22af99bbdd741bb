"""Checkpoint files: what they hold, and that nothing damaged or foreign is ever parsed."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.training import checkpoints as ckpt
from hyperkit.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint


def example() -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    model = {
        "a": torch.randn(5, 3, generator=generator),
        "b": torch.arange(4),
        "c": torch.randn(2, generator=generator).bfloat16(),
    }
    return Checkpoint(
        config={"training": {"steps": 3, "betas": (0.9, 0.99), "ema": None}},
        task="toy",
        model=model,
        averages={"a": model["a"] * 2},
        average_updates=4,
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        step=3,
        seconds=1.5,
        best={"step": 2, "metric": "psnr", "value": 20.0},
        rng={"cpu": torch.get_rng_state()},
        samples={"ids": ["cars/1"], "pictures": torch.zeros(1, 3, 2, 2, dtype=torch.uint8)},
        versions=ckpt.versions(),
    )


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "last.pt", example())
    return tmp_path / "last.pt"


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return bool(torch.equal(a, b) and a.dtype == b.dtype)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


def test_everything_comes_back(stored: Path) -> None:
    before, after = example(), load_checkpoint(stored)
    for name in Checkpoint.__dataclass_fields__:
        if name != "rng":
            assert same(getattr(before, name), getattr(after, name)), name
    assert torch.equal(after.weights()["a"], before.model["a"] * 2)
    assert torch.equal(after.weights()["b"], before.model["b"])


def test_plain_torch_reads_it_and_the_trailer_is_the_hash_of_all_bytes(stored: Path) -> None:
    content = torch.load(stored, weights_only=True)
    assert (content["format"], content["version"]) == ("hyperkit-checkpoint", 1)
    data = stored.read_bytes()
    assert data[-48:-32] == ckpt.MAGIC
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()


def test_one_flipped_bit_anywhere_is_refused(stored: Path) -> None:
    data = stored.read_bytes()
    draw = random.Random(0)
    offsets = [0, len(data) - 1, len(data) - 33, len(data) - 48, *(draw.randrange(len(data)) for _ in range(20))]
    for offset in offsets:
        bad = bytearray(data)
        bad[offset] ^= 1 << draw.randrange(8)
        stored.write_bytes(bad)
        with pytest.raises(HyperkitError, match="is damaged|is not a whole hyperkit checkpoint") as caught:
            load_checkpoint(stored)
        assert caught.value.exit_code == 2
    stored.write_bytes(data)
    load_checkpoint(stored)


def test_every_truncation_is_refused(stored: Path) -> None:
    data = stored.read_bytes()
    for length in (0, 1, 31, 32, 47, 48, 100, len(data) // 2, len(data) - 48, len(data) - 32, len(data) - 1):
        stored.write_bytes(data[:length])
        with pytest.raises(HyperkitError, match="not a whole hyperkit checkpoint"):
            load_checkpoint(stored)
    stored.write_bytes(data + b"\0")
    with pytest.raises(HyperkitError, match="not a whole hyperkit checkpoint"):
        load_checkpoint(stored)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def sealed(path: Path) -> None:
    data = path.read_bytes() + ckpt.MAGIC
    path.write_bytes(data + hashlib.sha256(data).digest())


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch and sealed"])
def test_a_foreign_pickle_is_refused_and_not_executed(tmp_path: Path, kind: str) -> None:
    path, trace = tmp_path / "foreign.pt", tmp_path / "executed"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(trace)))
    else:
        torch.save({"format": ckpt.FORMAT, "version": 1, "model": Trap(trace)}, path)
    if kind.endswith("sealed"):
        sealed(path)
    with pytest.raises(HyperkitError, match="Nothing in it was executed"):
        load_checkpoint(path)
    assert not trace.exists()
    if kind != "pickle":  # the trap works: an ordinary load springs it
        torch.load(path, weights_only=False)
        assert trace.exists()


def test_other_files_are_refused(tmp_path: Path, stored: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, other)
    with pytest.raises(HyperkitError, match="not a whole hyperkit checkpoint"):
        load_checkpoint(other)
    sealed(other)
    with pytest.raises(HyperkitError, match="not a whole hyperkit checkpoint"):
        load_checkpoint(other)
    with pytest.raises(HyperkitError, match=r"There is no checkpoint .*missing\.pt(.|\n)*last\.pt"):
        load_checkpoint(tmp_path / "missing.pt")


def test_a_newer_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "new.pt"
    torch.save({"format": ckpt.FORMAT, "version": 2, "versions": {"hyperkit": "9.9"}}, path)
    sealed(path)
    with pytest.raises(HyperkitError, match=r"version 2; this hyperkit reads version 1(.|\n)*9\.9"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [Path("x"), {1.5: 2}, [{"deep": {3}}], torch.float32, type("S", (str,), {})("x")])
def test_anything_but_tensors_and_plain_values_is_refused_by_its_path(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"samples\.item"):
        save_checkpoint(tmp_path / "bad.pt", replace(example(), samples={"item": value}))
    assert list(tmp_path.iterdir()) == []


def test_a_view_is_stored_without_the_rest_of_its_storage(tmp_path: Path) -> None:
    big = torch.zeros(1000, 1000)
    save_checkpoint(tmp_path / "a.pt", replace(example(), samples={"row": big[3]}))
    assert (tmp_path / "a.pt").stat().st_size < 100_000


def test_a_full_disk_leaves_the_old_checkpoint(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: Any) -> int:
        with open(self, "wb") as handle:
            handle.write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunFailed, match="disk is full") as caught:
        save_checkpoint(stored, replace(example(), step=99))
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    assert load_checkpoint(stored).step == 3
    assert [p.name for p in stored.parent.iterdir()] == ["last.pt"]


def test_slim_leaves_frozen_weights_out_and_checks_them_when_they_come_back(tmp_path: Path) -> None:
    whole = example()
    save_checkpoint(tmp_path / "slim.pt", ckpt.slim(whole, {"a"}, "vit"))
    loaded = load_checkpoint(tmp_path / "slim.pt")
    assert set(loaded.model) == {"b", "c"}
    assert loaded.slim is not None
    assert loaded.slim["name"] == "vit"
    back = ckpt.restore_slim(loaded, {"a": whole.model["a"], "z": torch.zeros(1)})
    assert same(back.model, {k: whole.model[k] for k in ("b", "c", "a")})
    for wrong in ({"a": whole.model["a"] + 1e-6}, {}, {"a": whole.model["a"].double()}):
        with pytest.raises(HyperkitError, match="'vit'"):
            ckpt.restore_slim(loaded, wrong)
