"""Numbers as papers print them, to stand beside ours: P is Gu & Yeung-Levy 2025, T is Chen & Wang 2022."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyperkit.sweeps.cell import Label

_METRICS = ("psnr", "ssim", "lpips", "fid")


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Attributes:
        labels: what the row is about, axis -> value.
        values: metric -> value. "fid" is printed without its layer of features; both of ours stand beside it.
    """

    labels: Mapping[str, Label]
    values: Mapping[str, float]


def _row(values: Sequence[float], **labels: Label) -> Published:
    return Published(labels, dict(zip(_METRICS, values, strict=False)))


# P, Table 1
_RANDOM = (20.862, 0.8357, 0.1511, 0.2751)
_DINO = (21.737, 0.8555, 0.1101, 0.1810)
TABLE1 = (
    _row(_RANDOM, backbone="random"),
    _row((20.701, 0.8312, 0.1753, 0.2866), backbone="mae"),
    _row((21.324, 0.8501, 0.0966, 0.1516), backbone="supervised"),
    _row((21.587, 0.8530, 0.1125, 0.1860), backbone="deit"),
    _row(_DINO, backbone="dino"),
    _row((21.770, 0.8556, 0.1126, 0.1834), backbone="clip"),
    _row((22.095, 0.8609, 0.1063, 0.1705), backbone="dinov2"),
)

# P, Tables 3 and 8: DINO; the latter has all four metrics
TABLE8 = (
    _row(_RANDOM, strategy="random"),
    _row((21.035, 0.8335, 0.1767, 0.3212), strategy="frozen"),
    _row((21.246, 0.8397, 0.1678, 0.3052), strategy="lora"),
    _row(_DINO, strategy="finetune"),
)

# P, Tables 2 and 9: DINOv2, trained on two classes and tested on the third; the latter has LoRA and all four metrics
TABLE9 = (
    _row((17.377, 0.7959, 0.1898, 0.1179), unseen="lamps", strategy="random"),
    _row((18.346, 0.7972, 0.2941, 0.3033), unseen="lamps", strategy="frozen"),
    _row((18.184, 0.8038, 0.2437, 0.2248), unseen="lamps", strategy="lora"),
    _row((17.474, 0.7977, 0.1903, 0.0956), unseen="lamps", strategy="finetune"),
    _row((13.163, 0.6212, 0.3751, 1.0199), unseen="chairs", strategy="random"),
    _row((13.536, 0.6112, 0.4279, 1.0017), unseen="chairs", strategy="frozen"),
    _row((13.077, 0.6206, 0.3848, 0.9775), unseen="chairs", strategy="lora"),
    _row((13.322, 0.6238, 0.3845, 0.9680), unseen="chairs", strategy="finetune"),
    _row((15.431, 0.7521, 0.2987, 0.3276), unseen="cars", strategy="random"),
    _row((15.503, 0.7465, 0.3607, 0.3623), unseen="cars", strategy="frozen"),
    _row((16.432, 0.7704, 0.3094, 0.3362), unseen="cars", strategy="lora"),
    _row((15.382, 0.7692, 0.2310, 0.1548), unseen="cars", strategy="finetune"),
)

# P, Table 4: DINOv2
TABLE4 = (
    _row((20.850, 0.8346, 0.1586, 0.2680), algorithm="trans-inr", strategy="random"),
    _row((22.095, 0.8609, 0.1063, 0.1705), algorithm="trans-inr", strategy="finetune"),
    _row((20.878, 0.8357, 0.1584, 0.2795), algorithm="ponp", strategy="random"),
    _row((21.993, 0.8591, 0.1083, 0.1765), algorithm="ponp", strategy="finetune"),
    _row((20.102, 0.8344, 0.1811, 0.2655), algorithm="ipc", strategy="random"),
    _row((20.672, 0.8324, 0.1450, 0.1971), algorithm="ipc", strategy="finetune"),
)

# P, Table 5: LibriSpeech, IPC
TABLE5 = (
    _row((24.431,), backbone="whisper-base", strategy="random"),
    _row((24.432,), backbone="whisper-base", strategy="frozen"),
    _row((24.431,), backbone="whisper-tiny", strategy="finetune"),
    _row((24.434,), backbone="whisper-base", strategy="finetune"),
)

# T, Table 2: CelebA
GROUPS = (
    _row((25.63,), groups=1),
    _row((27.89,), groups=4),
    _row((29.93,), groups=16),
    _row((31.96,), groups=64),
)


def find_published(rows: Sequence[Published], labels: Mapping[str, Label] | None) -> Published | None:
    """Return the row with these labels, or None."""
    return next((row for row in rows if labels is not None and dict(row.labels) == dict(labels)), None)
