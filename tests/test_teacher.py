"""training.teacher: softer targets from a linear model that has not read the text."""

from __future__ import annotations

import numpy as np
import pytest

from training.calibration import sigmoid
from training.data import UNKNOWN
from training.teacher import Ngrams, Teacher, Words, blended_targets, ngrams

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
    soft = Teacher(pieces, targets, groups).unseen
    assert (soft[::2, 0] > 0.7).all() and (soft[1::2, 0] < 0.3).all()
    # Nothing is positive: every probability is small, none is undefined.
    assert np.isfinite(soft).all() and (soft[:, 1] < 0.3).all()


def test_a_text_is_judged_without_its_group() -> None:
    """The last group says the contrary of all others: its own labels must not reach its own targets."""
    pieces, targets, groups = corpus()
    targets[-2:, 0] = [0, 1]
    soft = Teacher(pieces, targets, groups).unseen
    assert soft[-2, 0] > 0.5 > soft[-1, 0]


def test_blended_by_hand() -> None:
    """With weight 0.25 a target of 1 at a probability of p becomes 0.75 + 0.25 p; what is unknown stays."""
    pieces, targets, groups = corpus()
    targets[3, 0] = UNKNOWN
    soft = Teacher(pieces, targets, groups).unseen
    blended = blended_targets(targets, soft, weight=0.25)
    assert blended[0, 0] == pytest.approx(0.75 + 0.25 * soft[0, 0])
    assert blended[1, 0] == pytest.approx(0.25 * soft[1, 0])
    assert blended[3, 0] == UNKNOWN
    assert blended.dtype == np.float32


def test_one_fold_is_enough_where_nobody_asks_about_the_texts_themselves() -> None:
    pieces, targets, groups = corpus(12)
    whole, quick = Teacher(pieces, targets, groups), Teacher(pieces, targets, groups, unseen=False)
    assert whole.unseen is not None and quick.unseen is None
    asked = [[1, 77], [3, 77]]
    # The same fit of all texts, brought to probabilities by fewer judgements.
    assert np.sign(quick(asked)[:, 0]).tolist() == [1, -1]
    assert whole.shares([1]) * quick.shares([3]) == pytest.approx(whole.shares([3]) * quick.shares([1]))


def test_one_group_is_dealt_out_by_rows() -> None:
    pieces, targets, _ = corpus()
    soft = Teacher(pieces, targets, ["all"] * len(pieces)).unseen
    assert (soft[::2, 0] > soft[1::2, 0]).all()


def test_it_answers_for_texts_it_has_not_seen() -> None:
    """Piece 1 means the first label wherever it stands; a text without pieces it knows gets what speaks for none."""
    pieces, targets, groups = corpus()
    told = sigmoid(Teacher(pieces, targets, groups)([[1, 77], [3, 77], []]))
    assert told[0, 0] > 0.7 > 0.3 > told[1, 0]
    assert told.shape == (3, 2) and np.isfinite(told).all() and (told[:, 1] < 0.3).all()


def test_what_nobody_decided_teaches_nothing() -> None:
    """Were the undecided rows read as they stand, they would say that piece 1 means nothing."""
    pieces, targets, groups = corpus(12)
    targets[::4, 0] = UNKNOWN
    assert sigmoid(Teacher(pieces, targets, groups)([[1, 9]]))[0, 0] > 0.7


def test_words_are_a_view_of_their_own() -> None:
    """The word 7 is spelled by two pieces that also stand apart elsewhere: only the view of words can tell."""
    spelled = {1: "cha", 2: "ntage", 3: " ", 4: "cha ", 5: " ntage", 9: " ensemble"}
    words = Words(lambda pieces: ["".join(spelled.get(piece, "") for piece in ids) for ids in pieces])
    texts = [[1, 2, 9], [4, 5, 9]] * 12
    targets = np.array([[1, 0], [0, 0]] * 12, dtype=np.float32)
    groups = [f"g{index // 2}" for index in range(24)]
    told = sigmoid(Teacher(texts, targets, groups, [words])([[1, 2], [4, 5]]))
    assert told[0, 0] > 0.6 > 0.4 > told[1, 0]
    both = Teacher(texts, targets, groups, [Ngrams(), words])(texts)
    assert both.shape == (24, 2) and np.isfinite(both).all()
