"""The behavioural cases are sound: enough of them, of our own making, and fit to be published."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import ROOT
from training.behaviour import CASES, NO_VOICE, Minimum, case_texts, read_functionalities
from training.labels import load_labels
from training.similarity import near_duplicates

LABELS = load_labels()
FUNCTIONALITIES = read_functionalities(CASES, LABELS)
MINIMA = [case for item in FUNCTIONALITIES for case in item.cases if isinstance(case, Minimum)]
TEXTS = [
    (item.id, number, text)
    for item in FUNCTIONALITIES
    for number, case in enumerate(item.cases, 1)
    for text in case_texts(case)
]


def test_there_are_enough_cases_of_every_kind() -> None:
    assert len(FUNCTIONALITIES) >= 25
    assert {item.kind for item in FUNCTIONALITIES} == {"MFT", "INV", "DIR"}
    assert not [item.id for item in FUNCTIONALITIES if len(item.cases) < 10]


def test_every_category_is_expected_somewhere_and_excluded_somewhere() -> None:
    """A suite that never expects a label would not see it disappear."""
    present = {label for case in MINIMA for label in case.labels.present}
    assert present == {*LABELS.category_ids, *LABELS.context_ids}
    assert any(case.flagged is False for case in MINIMA)
    assert {case.voice for case in MINIMA} - {None} == {*LABELS.voice_ids, NO_VOICE}
    assert {case.route for case in MINIMA} - {None} == {"moderate", "support", "none"}


def test_no_case_is_a_near_duplicate_of_the_corpus() -> None:
    """What a model was trained on, or is measured on, says nothing here."""
    corpus = [
        json.loads(line)["text"]
        for path in ("train", "validation", "test")
        for line in (ROOT / f"data_cards/testimonies/{path}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    pairs = near_duplicates([*corpus, *(text for _, _, text in TEXTS)], 0.6)
    found = [TEXTS[j - len(corpus)][:2] for i, j, _ in pairs if i < len(corpus) <= j]
    assert not found


def test_no_case_repeats_another() -> None:
    """Variants of one case are alike on purpose; two cases are not."""
    pairs = near_duplicates([text for _, _, text in TEXTS], 0.8)
    assert not [(TEXTS[i][:2], TEXTS[j][:2]) for i, j, _ in pairs if TEXTS[i][:2] != TEXTS[j][:2]]


@pytest.mark.parametrize(
    "pattern",
    [r"(?:\d[ .-]?){8,}", r"@\w", r"https?:|www\.|\b\w+\.(?:fr|com|org|net|be|ca)\b"],
    ids=["phone number", "account", "address on the web"],
)
def test_no_case_holds_a_way_to_reach_somebody(pattern: str) -> None:
    """Help lines such as 3018 have four digits at most, so they are no exception here."""
    assert not [where[:2] for where in TEXTS if re.search(pattern, where[2])]


def test_direct_messages_are_short() -> None:
    """Two short sentences at most: enough to be recognised, not enough to serve as a script."""
    direct = [case.text for case in MINIMA if case.voice == "direct"]
    assert len(direct) >= 100
    assert max(len(text.split()) for text in direct) <= 30
