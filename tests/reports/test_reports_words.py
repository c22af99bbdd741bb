"""Quantities as people say them."""

import pytest

from hyperkit.reports.words import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (3.4, "3 s"),
        (89, "89 s"),
        (100, "2 min"),
        (5350, "89 min"),
        (5399, "1 h 30 min"),
        (7230, "2 h 00 min"),
    ],
)
def test_times_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
