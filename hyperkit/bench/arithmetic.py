"""Useful arithmetic: additions and multiplications of matrix products, two per pair of factors; nothing else counts."""

from __future__ import annotations

from collections.abc import Sequence


def product(rows: float, inner: int, columns: int) -> float:
    """Return the arithmetic of (rows, inner) times (inner, columns)."""
    return 2.0 * rows * inner * columns


def mlp(shapes: Sequence[tuple[int, int]]) -> float:
    """Return the arithmetic of one point through linear layers of these shapes (I, O)."""
    return sum(product(1, fan_in, fan_out) for fan_in, fan_out in shapes)


def mlp_training(shapes: Sequence[tuple[int, int]]) -> float:
    """Return that of one point forward and backward: the first layer's input needs no gradient."""
    return 3 * mlp(shapes) - mlp(shapes[:1])


def transformer(tokens: int, width: int, depth: int, hidden: int) -> float:
    """Return the arithmetic of one sequence through transformer blocks.

    Per block: queries, keys, values and their projection (4 D^2 a token), the MLP (2 D F a token), and the two products
    of attention (n^2 D each).
    """
    linear = product(tokens, width, 4 * width) + 2 * product(tokens, width, hidden)
    return depth * (linear + 2 * product(tokens, width, tokens))
