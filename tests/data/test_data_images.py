"""Pictures in folders: exact pixels, crops and coordinates, every kind of file, fixed items, constants."""

from __future__ import annotations

import math
import shutil
import struct
import zlib
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hyperkit import randomness
from hyperkit.contracts import Batch
from hyperkit.data.images import ImageData, ImageDataConfig, prepare_picture, read_rgb
from hyperkit.data.prepare_signals import prepare_signals
from hyperkit.data.procedural import pictures
from hyperkit.errors import HyperkitError


def _noise(*key: int | str, shape: tuple[int, ...] = (12, 16, 3)) -> np.ndarray:
    return randomness.numpy_rng("test pictures", *key).integers(0, 256, shape, dtype=np.uint8)


def _save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty training pictures of two classes and various sizes, and five to validate and six to test."""
    root = tmp_path / "data"
    for split, count in (("train", 10), ("val", 3), ("test", 4)):
        for class_name in ("cats", "dogs"):
            for index in range(count):
                shape = (12 + index % 3, 16 - index % 4, 3)
                _save(root / split / class_name / f"{index:02d}.png", _noise(split, class_name, index, shape=shape))
    return root


def _open(root: Path, **settings: Any) -> ImageData:
    return ImageData(ImageDataConfig(root=str(root), **{"size": 8, "resize": 12, **settings}), seed=5)


def _same(one: Batch, two: Batch) -> None:
    assert (one.ids, one.classes) == (two.ids, two.classes)
    for a, b in ((one.context, two.context), (one.query, two.query), (one.truth, two.truth)):
        assert torch.equal(a, b)


def _resized(path: Path, length: int) -> np.ndarray:
    picture = Image.open(path).convert("RGB")
    scale = length / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def _pixels(signal: torch.Tensor) -> np.ndarray:
    """Turn a float picture (3, S, S) back into bytes (S, S, 3), which must be exact."""
    values = signal.permute(1, 2, 0).double().numpy() * 255
    # float32 rounding of k / 255; worst case over all bytes 7.6e-6
    assert np.abs(values - values.round()).max() < 2e-5
    return values.round().astype(np.uint8)


def test_training_crops_are_squares_of_the_resized_picture(folder: Path) -> None:
    data = _open(folder)
    offsets: dict[str, set[tuple[int, int]]] = {}
    for step in range(60):
        batch = data.train_batch(step, 20)
        assert batch.context.shape == (20, 1, 3, 8, 8)
        for item, name in enumerate(batch.ids):
            whole = _resized(folder / name, 12)
            crop = _pixels(batch.context[item, 0])
            places = [
                (top, left)
                for top in range(whole.shape[0] - 7)
                for left in range(whole.shape[1] - 7)
                if (whole[top : top + 8, left : left + 8] == crop).all()
            ]
            assert len(places) == 1
            offsets.setdefault(name, set()).add(places[0])
    for name in ("train/cats/00.png", "train/dogs/03.png"):
        height, width = _resized(folder / name, 12).shape[:2]
        # 60 draws from 45 and from 30 places: 74 and 87 % are expected to be met
        assert len(offsets[name]) > 0.6 * (height - 7) * (width - 7)


def test_evaluation_takes_the_middle_square_and_asks_for_every_pixel(folder: Path) -> None:
    data = _open(folder)
    items = data.pairs("test", batch_size=3)
    assert len(items) == 8
    seen = []
    for batch in items:
        assert batch.query_size == (8, 8)
        for item, name in enumerate(batch.ids):
            whole = _resized(folder / name, 12)
            top, left = (whole.shape[0] - 8) // 2, (whole.shape[1] - 8) // 2
            np.testing.assert_array_equal(_pixels(batch.context[item, 0]), whole[top : top + 8, left : left + 8])
            as_picture = batch.truth[item].T.reshape(3, 8, 8)
            assert torch.equal(as_picture, batch.context[item, 0])
            seen.append(name)
    assert seen == sorted(f"test/{c}/{i:02d}.png" for c in ("cats", "dogs") for i in range(4))


def test_truth_is_linear_in_the_query_on_a_gradient(tmp_path: Path) -> None:
    # Red is 10 times the column, green 10 times the row; the pictures are not resized, crops move by (top, left).
    for index in range(10):
        rows, columns = np.mgrid[:24, :24]
        picture = np.stack([10 * columns, 10 * rows, np.full_like(rows, index)], axis=-1).astype(np.uint8)
        _save(tmp_path / f"{index}.png", picture)
    data = _open(tmp_path, size=16, resize=24, pixels_per_item=40)
    moved = set()
    for batch in (data.train_batch(0, 7), data.train_batch(1, 7), data.pairs("test").batch([0])):
        whole = batch.query_size is not None
        assert batch.query.shape[1] == (256 if whole else 40)
        for item in range(len(batch.ids)):
            corner = (batch.context[item, 0, :2, 0, 0] * 25.5).round()  # (left, top)
            moved.add(tuple(corner.tolist()))
            # pixel j of 16 lies at (2 j + 1) / 16 - 1
            expected = corner + 8 * (batch.query[item] + 1) - 0.5
            # measured worst case 1e-6
            assert (batch.truth[item, :, :2] * 25.5 - expected).abs().max() < 1e-5
            assert len({tuple(point) for point in batch.query[item].tolist()}) == batch.query.shape[1]
    assert len(moved) > 5
    assert (4.0, 4.0) in moved  # the middle square


def test_mirroring_flips_half_of_the_pictures_with_their_truth(folder: Path) -> None:
    plain, mirrored = _open(folder), _open(folder, augment="mirror")
    flips = 0
    for step in range(20):
        one, two = plain.train_batch(step, 20), mirrored.train_batch(step, 20)
        assert one.ids == two.ids
        for a, b, truth in zip(one.context[:, 0], two.context[:, 0], two.truth, strict=True):
            assert torch.equal(a, b) or torch.equal(a.flip(-1), b)
            assert torch.equal(truth.T.reshape(3, 8, 8), b)
            flips += not torch.equal(a, b)
    assert abs(flips - 200) < 50  # five deviations of 400 coins


def test_a_batch_is_a_pure_function_of_seed_and_step(folder: Path) -> None:
    settings = {"augment": "mirror", "pixels_per_item": 10}
    one, two = _open(folder, **settings), _open(folder, **settings)
    for step in (7, 0, 3):
        two.train_batch(step, 6)
    for step in (0, 3, 7, 10**6):
        _same(one.train_batch(step, 6), two.train_batch(step, 6))
    other = ImageData(one.config, seed=6).train_batch(3, 6)
    assert not torch.equal(other.query, one.train_batch(3, 6).query)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_processes_interleave_to_the_joined_batch(folder: Path, world: int) -> None:
    data = _open(folder, augment="mirror", pixels_per_item=10)
    for step in (0, 4):
        joined = data.train_batch(step, 7)
        for rank in range(world):
            part, own = data.train_batch(step, 7, rank, world), list(range(rank, 7, world))
            assert part.ids == tuple(joined.ids[i] for i in own)
            for a, b in ((part.context, joined.context), (part.query, joined.query), (part.truth, joined.truth)):
                assert torch.equal(a, b[own])


@pytest.mark.parametrize("batch_size", [3, 5, 20, 32])
def test_epochs_are_permutations_also_when_they_end_within_a_batch(folder: Path, batch_size: int) -> None:
    data = _open(folder)
    assert data.steps_per_epoch(batch_size) == math.ceil(20 / batch_size)
    stream = [name for step in range(40) for name in data.train_batch(step, batch_size).ids]
    epochs = [stream[start : start + 20] for start in range(0, len(stream) // 20 * 20, 20)]
    assert all(sorted(epoch) == list(data.train_ids) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_smaller_fractions_are_inside_larger_ones_for_each_class(tmp_path: Path) -> None:
    for index in range(60):
        _save(tmp_path / ("big" if index < 40 else "small") / f"{index}.png", _noise(index))
    kept = [set(_open(tmp_path, train_fraction=part).train_ids) for part in (0.01, 0.1, 0.5, 1.0)]
    assert all(small < large for small, large in pairwise(kept))
    data = _open(tmp_path)
    for ids, part in zip(kept, (0.01, 0.1, 0.5, 1.0), strict=True):
        for name in ("big", "small"):
            of_class = [one for one in data.splits["train"] if one.startswith(name)]
            assert sum(one.startswith(name) for one in ids) == max(1, math.ceil(part * len(of_class) - 1e-9))
    flat = tmp_path / "big"  # without class folders a fraction is one of all files
    assert len(_open(flat, train_fraction=0.1).train_ids) == math.ceil(0.1 * len(_open(flat).train_ids))


def test_classes_that_are_trained_on_and_tested_on(folder: Path) -> None:
    data = _open(folder, classes=("cats",), test_classes=("dogs",))
    assert (data.classes, data.all_classes) == (("cats",), ("cats", "dogs"))
    assert {name.split("/")[1] for name in data.train_ids} == {"cats"}
    assert data.pairs("test").counts == {"dogs": 4}
    assert data.pairs("val").counts == {"cats": 3}
    assert data.pairs("test", classes=["cats", "dogs"]).counts == {"cats": 4, "dogs": 4}
    assert data.counts()["train"] == {"cats": 10, "dogs": 10}
    assert {sample["class"] for sample in data.samples(3)} == {"dogs"}
    for wrong in ({"classes": ("cat",)}, {"test_classes": ("cat",)}, {"classes": ("dogs", "cat")}):
        for ask in (lambda data: data.train_batch(0, 2), lambda data: data.steps_per_epoch(2)):
            with pytest.raises(HyperkitError, match="Did you mean 'cats'"):
                ask(_open(folder, **wrong))
    with pytest.raises(HyperkitError, match="Did you mean 'cats'"):
        data.pairs("test", classes=["cat"])


def test_shuffled_contexts_are_anothers_and_limits_spread(folder: Path) -> None:
    data = _open(folder)
    plain = data.pairs("test").batch(range(8))
    for shuffle, within in (("class", True), ("all", False)):
        items = data.pairs("test", shuffle_context=shuffle)  # type: ignore[arg-type]
        batch = items.batch(range(8))
        assert torch.equal(batch.truth, plain.truth)
        owner = [next(i for i in range(8) if torch.equal(plain.context[i], c)) for c in batch.context]
        assert sorted(owner) == list(range(8))
        assert all(i != j for i, j in enumerate(owner))
        if within:
            assert all(plain.classes[i] == plain.classes[j] for i, j in enumerate(owner))
        _same(batch, data.pairs("test", shuffle_context=shuffle).batch(range(8)))  # type: ignore[arg-type]
    few = data.pairs("test", limit=3)
    assert few.ids == tuple(plain.ids[i] for i in (0, 4, 7))
    assert few.hash == data.pairs("test").hash
    assert data.pairs("test", views=1).ids == plain.ids
    with pytest.raises(HyperkitError, match="2 views were asked for, but pictures have one"):
        data.pairs("test", views=2)
    with pytest.raises(HyperkitError, match="There is no split 'tests'"):
        data.pairs("tests")


def test_constants_are_those_of_the_mean_picture_and_of_each_mean_colour(folder: Path) -> None:
    data = _open(folder)
    squares = {}
    for split in ("train", "test"):
        for class_name in ("cats", "dogs"):
            for path in sorted((folder / split / class_name).iterdir()):
                whole = _resized(path, 12)
                top, left = (whole.shape[0] - 8) // 2, (whole.shape[1] - 8) // 2
                squares[split, class_name, path.name] = whole[top : top + 8, left : left + 8].astype(np.float64) / 255
    mean = np.mean([square for (split, *_), square in squares.items() if split == "train"], axis=0)
    expected: dict[str, dict[str, list[float]]] = {"mean": {}, "own mean": {}}
    for (split, class_name, _), square in squares.items():
        if split == "test":
            for name, answer in (("mean", mean), ("own mean", square.mean(axis=(0, 1)))):
                psnr = -10 * np.log10(np.mean((square - answer) ** 2))
                expected[name].setdefault(class_name, []).append(psnr)
                expected[name].setdefault("all", []).append(psnr)
    for _ in range(2):  # computed, then read from the disk
        found = data.constants()
        for name, scores in expected.items():
            assert set(found[name]) == set(scores)
            for label, values in scores.items():
                # float32 pixels; measured worst case 2e-7 dB
                assert abs(found[name][label] - np.mean(values)) < 1e-5
        data = _open(folder)
    half = _open(folder, classes=("cats",)).constants("test", classes=("dogs",))
    assert abs(half["mean"]["dogs"] - found["mean"]["dogs"]) > 1e-3  # the mean of cats alone
    _save(folder / "test" / "cats" / "plain.png", np.full((12, 12, 3), 77, np.uint8))
    assert _open(folder).constants(classes=("cats",), limit=None)["own mean"]["cats"] > found["own mean"]["cats"] + 10


def test_samples_are_middle_squares_in_turns_over_the_classes(folder: Path) -> None:
    samples = _open(folder).samples(5)
    assert [sample["class"] for sample in samples] == ["cats", "dogs", "cats", "dogs", "cats"]
    for sample in samples:
        assert set(sample) == {"id", "class", "picture"}
        assert sample["picture"].dtype == torch.uint8
        expected = prepare_picture(folder / sample["id"], 8, 12)
        assert torch.equal(sample["picture"].float() / 255, expected)


def test_a_users_picture_is_framed_as_those_of_the_evaluation(folder: Path) -> None:
    batch = _open(folder, resize=None).pairs("test").batch(range(8))
    for name, context in zip(batch.ids, batch.context, strict=True):
        assert torch.equal(prepare_picture(folder / name, 8), context[0])
        with Image.open(folder / name) as picture:
            assert torch.equal(prepare_picture(picture, 8), context[0])
            assert torch.equal(prepare_picture(np.asarray(picture), 8), context[0])
    clear = np.zeros((8, 8, 4), np.uint8)
    assert (prepare_picture(clear, 8) == 1).all()
    assert (prepare_picture(clear, 8, background="black") == 0).all()
    with pytest.raises(ValueError, match="uint8"):
        prepare_picture(np.zeros((8, 8, 3)), 8)


def test_one_file_is_given_as_a_context(folder: Path) -> None:
    data = _open(folder)
    for name in ("train/dogs/03.png", "val/cats/01.png"):
        assert torch.equal(data.item(name), prepare_picture(folder / name, 8, 12)[None, None])
    with pytest.raises(HyperkitError, match=r"(?s)no item 'dogs/03.png'.*among others: .*/dogs/03.png"):
        data.item("dogs/03.png")


def _bytes(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


RGB = _noise("kinds", shape=(10, 14, 3))
WIDE = randomness.numpy_rng("wide").integers(0, 65536, (10, 14), dtype=np.uint16)
ALPHA = _noise("alpha", shape=(10, 14, 1))
PICTURE = Image.fromarray(RGB)
PALETTE = PICTURE.quantize(16)
ON_WHITE = RGB / 255 * (ALPHA / 255) + 1 - ALPHA / 255
GREY = np.asarray(PICTURE.convert("L"))


def _palette_with_clear_colours() -> tuple[bytes, np.ndarray]:
    alpha = (np.arange(16) * 17).astype(np.uint8)
    entries = np.array(PALETTE.getpalette(), np.float64).reshape(-1, 3)[:16] / 255
    index, share = np.asarray(PALETTE), (alpha / 255)[:, None]
    return _bytes(PALETTE, "PNG", transparency=alpha.tobytes()), (entries * share + 1 - share)[index]


def _rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return _bytes(PICTURE, "PNG", exif=exif)


KINDS: dict[str, tuple[bytes, np.ndarray]] = {
    "rgb.png": (_bytes(PICTURE, "PNG"), RGB / 255),
    "rgb.bmp": (_bytes(PICTURE, "BMP"), RGB / 255),
    "rgb.ppm": (_bytes(PICTURE, "PPM"), RGB / 255),
    "lossless.webp": (_bytes(PICTURE, "WEBP", lossless=True), RGB / 255),
    "grey.png": (_bytes(PICTURE.convert("L"), "PNG"), np.repeat(GREY[..., None] / 255, 3, 2)),
    "bits.png": (_bytes(PICTURE.convert("1"), "PNG"), np.repeat(np.asarray(PICTURE.convert("1"))[..., None], 3, 2)),
    "grey16.png": (_bytes(Image.fromarray(WIDE), "PNG"), np.repeat(WIDE[..., None] / 65535, 3, 2)),
    "grey16.tiff": (_bytes(Image.fromarray(WIDE), "TIFF"), np.repeat(WIDE[..., None] / 65535, 3, 2)),
    "grey16.pgm": (b"P5 14 10 65535\n" + WIDE.byteswap().tobytes(), np.repeat(WIDE[..., None] / 65535, 3, 2)),
    "alpha.png": (_bytes(Image.fromarray(np.concatenate([RGB, ALPHA], 2)), "PNG"), ON_WHITE),
    "grey-alpha.png": (
        _bytes(Image.fromarray(np.concatenate([GREY[..., None], ALPHA], 2)), "PNG"),
        np.repeat(GREY[..., None] / 255 * (ALPHA / 255) + 1 - ALPHA / 255, 3, 2),
    ),
    "palette.png": (_bytes(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")) / 255),
    "clear-palette.png": _palette_with_clear_colours(),
    "key-colour.png": (
        _bytes(PICTURE, "PNG", transparency=tuple(RGB[3, 4].tolist())),
        np.where((RGB[3, 4] == RGB).all(-1, keepdims=True), 1.0, RGB / 255),
    ),
    "cmyk.tiff": (_bytes(PICTURE.convert("CMYK"), "TIFF"), RGB / 255),
    "animated.gif": (
        _bytes(PALETTE, "GIF", save_all=True, append_images=[ImageOps.flip(PALETTE)], duration=50),
        np.asarray(PALETTE.convert("RGB")) / 255,
    ),
    "turned.png": (_rotated(6), np.rot90(RGB / 255, -1)),
    "upside-down.png": (_rotated(3), RGB[::-1, ::-1] / 255),
    "mirrored.png": (_rotated(2), RGB[:, ::-1] / 255),
    "bad-exif.jpg": (
        _bytes(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05", quality=100, subsampling=0),
        np.asarray(Image.open(BytesIO(_bytes(PICTURE, "JPEG", quality=100, subsampling=0)))) / 255,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_picture_is_read_as_it_looks(tmp_path: Path, name: str) -> None:
    content, expected = KINDS[name]
    (tmp_path / name).write_bytes(content)
    found = read_rgb(tmp_path / name)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    # half a step of 1 / 255, the rounding to 8 bits
    assert np.abs(found / 255.0 - expected).max() < 0.5001 / 255


def test_cmyk_jpegs_keep_their_colours(tmp_path: Path) -> None:
    smooth = np.stack([np.tile(np.arange(40, 200, 10), (16, 1))] * 3, -1).astype(np.uint8)
    smooth[..., 1] = smooth[..., 1].T
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    # lossy, but linear ramps of 10 a pixel survive quality 100; measured worst case 0
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - smooth).max() <= 2


def _bomb(side: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def _flipped_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


BAD: dict[str, tuple[bytes, str]] = {
    "text.png": (b"This is not a picture.\n" * 9, "is not a picture of a known format"),
    "empty.jpg": (b"", r"is empty \(0 bytes\)"),
    "cut.png": (_bytes(PICTURE, "PNG")[:200], "cannot be decoded: image file is truncated"),
    "cut.jpg": (_bytes(PICTURE.resize((90, 90)), "JPEG")[:-300], "cannot be decoded: image file is truncated"),
    "damaged.png": (_flipped_bit(_bytes(PICTURE, "PNG")), "cannot be decoded: "),
    "pixel.png": (_bytes(Image.new("RGB", (1, 1)), "PNG"), "is 1 x 1 pixels; the shorter side must have at least 8"),
    "thin.png": (_bytes(Image.new("RGB", (90, 7)), "PNG"), "is 90 x 7 pixels; the shorter side"),
    "big.png": (_bomb(12000), "has more than 89478485 pixels"),
    "bomb.png": (_bomb(30000), "has more than 89478485 pixels"),
    "float.tif": (_bytes(Image.new("F", (9, 9)), "TIFF"), r"has 32-bit values \(F\)"),
    "wide.tif": (_bytes(Image.new("I", (9, 9)), "TIFF"), r"has 32-bit values \(I\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HyperkitError, match=f"{name} {reason}"):
        read_rgb(tmp_path / name)
    with pytest.raises(HyperkitError, match=f"{name} {reason}"):
        prepare_picture(tmp_path / name, 8)


def test_a_path_to_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match="does not exist"):
        read_rgb(tmp_path / "no.png")
    with pytest.raises(HyperkitError, match="is a folder"):
        read_rgb(tmp_path)


def test_bad_files_of_a_folder_are_named_all_at_once_or_left_out(folder: Path) -> None:
    for name, (content, _) in BAD.items():
        (folder / "train" / "cats" / name).write_bytes(content)
    _save(folder / "train" / "cats" / "strip.png", np.zeros((8, 60000, 3), np.uint8))
    for _ in range(2):  # decoded, then from the pack
        with pytest.raises(HyperkitError, match=r"12 of 46 files .* cannot be used") as caught:
            _open(folder)
        lines = caught.value.what.splitlines()[1:]
        assert [line.split(":")[0].strip() for line in lines] == sorted(f"train/cats/{n}" for n in [*BAD, "strip.png"])
        assert "a strip that is too long" in caught.value.what
        assert "data.skip_bad=true" in str(caught.value.hint)
    data = _open(folder, skip_bad=True)
    assert data.counts()["train"] == {"cats": 10, "dogs": 10}
    assert len(data.left_out) == 12
    assert "12 files cannot be used and are left out" in data.notes
    report = prepare_signals("image", folder, data.config).as_dict()
    assert {Path(one["path"]).name for one in report["left_out"]} == {*BAD, "strip.png"}
    for path in folder.glob("*/*/*.png"):
        path.write_bytes(b"x")
    with pytest.raises(HyperkitError, match=r"46 of 46 files") as caught:
        _open(folder, skip_bad=True)
    assert "skip_bad" not in str(caught.value.hint)


def test_small_pictures_are_enlarged_and_told(tmp_path: Path) -> None:
    for index in range(9):
        _save(tmp_path / f"{index}.png", _noise(index, shape=(9, 9, 3)))
    data = _open(tmp_path, size=16, resize=None)
    assert "9 pictures have a shorter side below 16 and are enlarged" in data.notes
    batch = data.pairs("test").batch([0])
    np.testing.assert_array_equal(_pixels(batch.context[0, 0]), _resized(tmp_path / batch.ids[0], 16))


def test_splits_share_no_content_and_their_hash_follows_it(tmp_path: Path) -> None:
    for index in range(60):
        _save(tmp_path / f"{index}.png", _noise(index % 40))
    data = _open(tmp_path, test_fraction=0.3, val_fraction=0.2)
    contents = [{(tmp_path / name).read_bytes() for name in data.splits[split]} for split in ("train", "val", "test")]
    assert all(contents)
    assert not (contents[0] & contents[1] | contents[0] & contents[2] | contents[1] & contents[2])
    hashes = [data.hash(split) for split in ("train", "val", "test")]
    moved = tmp_path.rename(tmp_path.parent / "elsewhere")
    again = _open(moved, test_fraction=0.3, val_fraction=0.2)
    assert [again.hash(split) for split in ("train", "val", "test")] == hashes
    assert again.pairs("test").hash == hashes[2]
    assert _open(moved, test_fraction=0.3, val_fraction=0.2, size=6).hash("test") != hashes[2]
    (moved / data.splits["test"][0]).unlink()
    assert _open(moved, test_fraction=0.3, val_fraction=0.2).hash("test") != hashes[2]


def test_a_folder_without_training_pictures_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    (folder / "train").rename(tmp_path / "away")
    for ask in (lambda data: data.train_batch(0, 2), lambda data: data.steps_per_epoch(2)):
        with pytest.raises(HyperkitError, match=r"(?s)has no training pictures.*give that folder itself"):
            ask(_open(folder))
    assert _open(folder / "test").counts()["train"]


def test_a_folder_of_test_pictures_alone_is_evaluated(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copytree(folder / "test", tmp_path / "alone" / "test")
    whole, alone = _open(folder), _open(tmp_path / "alone")
    assert alone.counts()["test"] == {"cats": 4, "dogs": 4}
    _same(alone.pairs("test").batch(range(8)), whole.pairs("test").batch(range(8)))
    assert alone.pairs("test").hash == whole.pairs("test").hash
    # there is no mean of training pictures; what needs none is the same
    assert alone.constants() == {"own mean": whole.constants()["own mean"]}
    report = prepare_signals("image", tmp_path / "alone", alone.config)
    assert any(note.startswith("cannot be trained on: ") and "no training pictures" in note for note in report.notes)
    assert report.hashes == {"test": whole.hash("test")}


def test_a_folder_that_lacks_classes_of_training_is_evaluated_on_what_it_has(folder: Path) -> None:
    for settings, tested in (
        ({"classes": ("cars", "cats")}, {"cats": 4}),
        ({"classes": ("cars", "cats"), "test_classes": ("dogs", "vans")}, {"dogs": 4}),
        ({"classes": ("cats",), "test_classes": ("vans",)}, {"cats": 4, "dogs": 4}),
        ({"classes": ("cars", "vans")}, {"cats": 4, "dogs": 4}),
    ):
        data = _open(folder, **settings)
        assert data.pairs("test").counts == tested
        missing = sorted({*settings["classes"], *settings.get("test_classes", ())} & {"cars", "vans"})
        assert f"no pictures of {', '.join(missing)} are here; tests take {', '.join(tested)}" in data.notes
        with pytest.raises(HyperkitError, match="There is no class '(cars|vans)'"):
            data.train_batch(0, 2)
    assert not any("are here" in note for note in _open(folder, classes=("cats",)).notes)


def _files(root: Path, *names: str) -> Path:
    for name in names:
        _save(root / name, _noise(name))
    return root


@pytest.mark.parametrize(
    ("names", "settings", "what", "hint"),
    [
        (["a.png"], {}, "'val' .* of 1 files there are 1 in train, 0 in val, 0 in test", "At least 3 files"),
        (["a.png", "b.png"], {}, "of 2 files there are 1 in train", "At least 3 files are needed to train, validate"),
        (["train/a.png", "test/b.png"], {}, "'val' .* of 2 files there are 1 in train, 0 in val, 1 in test", "At leas"),
        ("abcdefgh", {"test_fraction": 0.0}, "'test' .* 0 in test", "data.test_fraction is 0: set it above 0, or give"),
        ("abcdefgh", {"val_fraction": 0.0}, "'val' .* 0 in val", "data.val_fraction is 0: .* a folder named val"),
        (
            ["train/x/a.png", "train/y/b.png", "val/x/c.png", "test/x/d.png"],
            {"classes": ("x",), "test_classes": ("y",)},
            "'test' .* has no pictures of the classes y; of 4 files there are 2 in train, 1 in val, 1 in test",
            "Choose other classes",
        ),
    ],
)
def test_training_asks_at_once_for_what_it_validates_and_tests_with(
    tmp_path: Path, names: list[str] | str, settings: dict[str, Any], what: str, hint: str
) -> None:
    root = _files(tmp_path, *names) if isinstance(names, list) else _files(tmp_path, *(f"{n}.png" for n in names))
    for ask in (lambda data: data.train_batch(0, 2), lambda data: data.steps_per_epoch(2)):
        with pytest.raises(HyperkitError, match=f"(?s){what}.*{hint}"):
            ask(_open(root, **settings))


def test_three_files_suffice(tmp_path: Path) -> None:
    data = _open(_files(tmp_path, "a.png", "b.png", "c.png"))
    assert data.train_batch(0, 2).ids == data.train_ids * 2
    assert {len(data.pairs(split)) for split in ("train", "val", "test")} == {1}
    given = _open(_files(tmp_path / "given", "train/a.png", "val/b.png", "test/c.png"), test_fraction=0.0)
    assert given.steps_per_epoch(1) == 1  # fractions are for splits that no folder gives


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 16, "resize": 12}, r"resize \(12\) must be at least size \(16\)"),
        ({"size": 8, "pixels_per_item": 65}, "pixels_per_item must be at most size"),
        ({"test_fraction": 0.6, "val_fraction": 0.4}, "must leave something to train on"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ImageDataConfig(**settings)


def test_the_builtin_set_is_made_once_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any, **options: Any) -> None:
        calls.append(arguments[1:])
        make(*arguments, **options)

    make = pictures.make_pictures
    monkeypatch.setattr(pictures, "make_pictures", counted)
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path))
    config = ImageDataConfig(builtin="debug", size=16)
    for _ in range(2):
        report = prepare_signals("image", config=config)
        assert [sum(report.counts[split].values()) for split in ("train", "val", "test")] == [16, 4, 6]
        assert set(report.counts["train"]) == set(pictures.CLASSES)
        assert Path(report.root).parent == tmp_path
        assert report.bytes > 26 * 16 * 16 * 3
        assert set(report.hashes) == {"train", "val", "test"}
        assert report.notes == ()  # no copies, nothing enlarged
    assert calls == [((16, 4, 6), 16)]


@pytest.mark.shared_data
def test_real_faces_are_read_from_a_folder(shared_data: Path, tmp_path: Path) -> None:
    for path in sorted((shared_data / "faces").glob("*.jpg"))[:60]:
        (tmp_path / path.name).symlink_to(path)
    data = _open(tmp_path, size=64, resize=72)
    assert sum(map(len, data.splits.values())) == len(list(tmp_path.glob("*.jpg")))
    batch = data.train_batch(0, 8)
    assert batch.context.shape == (8, 1, 3, 64, 64)
    constants = data.constants()
    # faces look alike: their mean is worth more than noise's 10.8 dB against grey, and less than a model's
    assert all(11 < scores["all"] < 20 for scores in constants.values())


def test_a_picture_in_memory_is_checked_as_a_file_is() -> None:
    with pytest.raises(HyperkitError, match="is 3 x 40 pixels"):
        prepare_picture(np.zeros((40, 3, 3), np.uint8), 16)
