"""training.teacher: softer targets from a linear model that has not read the text."""

from __future__ import annotations

import numpy as np
import pytest

from training.data import UNKNOWN
from training.teacher import blended_targets, cross_fitted, ngrams

CLEAR = [[1, 2, 9], [3, 4, 9]]


def corpus(groups: int = 6) -> tuple[list[list[int]], np.ndarray, list[str]]:
    """Piece 1 means the first label; every group has a text with it and one without."""
    pieces = [[*text, 20 + group] for group in range(groups) for text in CLEAR]
    targets = np.array([[1, 0], [0, 0]] * groups, dtype=np.float32)
    return pieces, targets, [f"g{group}" for group in range(groups) for _ in CLEAR]


def test_pieces_and_pairs() -> None:
    assert ngrams([7, 8, 9]) == ["7", "8", "9", "7 8", "8 9"]


def test_it_learns_from_the_other_groups() -> None:
    pieces, targets, groups = corpus()
    soft = cross_fitted(pieces, targets, groups)
    assert (soft[::2, 0] > 0.7).all() and (soft[1::2, 0] < 0.3).all()
    # Nothing is positive: every probability is small, none is undefined.
    assert np.isfinite(soft).all() and (soft[:, 1] < 0.3).all()


def test_a_text_is_judged_without_its_group() -> None:
    """The last group says the contrary of all others: its own labels must not reach its own targets."""
    pieces, targets, groups = corpus()
    targets[-2:, 0] = [0, 1]
    soft = cross_fitted(pieces, targets, groups)
    assert soft[-2, 0] > 0.5 > soft[-1, 0]


def test_blended_by_hand() -> None:
    """With weight 0.25 a target of 1 at a probability of p becomes 0.75 + 0.25 p; what is unknown stays."""
    pieces, targets, groups = corpus()
    targets[3, 0] = UNKNOWN
    soft = cross_fitted(pieces, targets, groups)
    blended = blended_targets(pieces, targets, groups, weight=0.25)
    assert blended[0, 0] == pytest.approx(0.75 + 0.25 * soft[0, 0])
    assert blended[1, 0] == pytest.approx(0.25 * soft[1, 0])
    assert blended[3, 0] == UNKNOWN
    assert blended.dtype == np.float32


def test_one_group_is_dealt_out_by_rows() -> None:
    pieces, targets, _ = corpus()
    soft = cross_fitted(pieces, targets, ["all"] * len(pieces))
    assert (soft[::2, 0] > soft[1::2, 0]).all()
