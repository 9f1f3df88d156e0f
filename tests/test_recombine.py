"""training.recombine: passages of the training texts in new company, told by the teacher."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from training.recombine import Recombiner

TEXTS = ["un deux trois quatre cinq six sept huit neuf dix", "alpha beta gamma delta epsilon zeta", "seul"]
WORDS = {word: number for number, word in enumerate(" ".join(TEXTS).split())}


def tokenize(texts: Sequence[str]) -> list[list[int]]:
    """A number for each known word, -1 for any other."""
    return [[WORDS.get(word, -1) for word in text.split()] for text in texts]


def teacher(texts: Sequence[str], pieces: Sequence[Sequence[int]]) -> Any:
    """The first label is how many pieces a text has, the second whether it holds « alpha »."""
    assert tokenize(texts) == list(pieces)
    return np.array([[len(ids), 9.0 if WORDS["alpha"] in ids else -9.0] for ids in pieces])


def recombiner(texts: Sequence[str] = TEXTS, **more: Any) -> Recombiner:
    options: dict[str, Any] = {"rewritten": 0.0, "kinds": ("full_width",)} | more
    return Recombiner(texts, tokenize=tokenize, teacher=teacher, **options)


def test_rows_hold_words_of_the_texts_and_what_the_teacher_says() -> None:
    rows = recombiner().rows(300, random.Random(1))
    assert len(rows) == 300
    for row in rows:
        ids = row["input_ids"]
        assert ids and -1 not in ids
        assert row["labels"] == pytest.approx(
            [1 / (1 + np.exp(-len(ids))), 1 / (1 + np.exp(-9.0 if WORDS["alpha"] in ids else 9.0))]
        )


def test_passages_of_several_texts_come_together_and_parts_are_left_out() -> None:
    held = [set(row["input_ids"]) for row in recombiner().rows(300, random.Random(1))]
    first, second = ({WORDS[word] for word in text.split()} for text in TEXTS[:2])
    assert any(ids & first and ids & second for ids in held)
    assert any(ids < first for ids in held) and any(ids == first for ids in held)


def test_the_seed_decides() -> None:
    drawn = [recombiner(rewritten=0.5, kinds=("typos",)).rows(40, random.Random(seed)) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_another_way_of_writing_keeps_the_teachers_answer() -> None:
    """Every text is rewritten so that none of its words is known; the labels are still those of the plain one."""
    rows = recombiner(TEXTS[1:2], rewritten=1.0).rows(60, random.Random(1))
    assert all(set(row["input_ids"]) == {-1} for row in rows)
    told = [row["labels"][1] > 0.5 for row in rows]
    assert any(told) and not all(told)


def test_without_texts_there_are_no_rows() -> None:
    assert recombiner(["", " "]).rows(5, random.Random(1)) == []
    assert recombiner().rows(0, random.Random(1)) == []
