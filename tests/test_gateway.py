"""serving.gateway: what every route asks, and how a refusal reads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serving import Classifier
from serving.batcher import Batcher
from serving.gateway import STATUS, Gateway, Kind, Refusal, actionable
from serving.limits import Limits

LIMITS = Limits(characters=20, texts=3)


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact)


def gateway(classifier: Classifier, score: Any = None, **batcher: Any) -> Gateway:
    return Gateway(classifier, Batcher(score or classifier.scores, **batcher), LIMITS)


def refusal(classifier: Classifier, *arguments: Any, **keywords: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        asyncio.run(gateway(classifier).predict(*arguments, **keywords))
    return caught.value


def test_it_answers_as_the_classifier_does(classifier: Classifier) -> None:
    answers = asyncio.run(gateway(classifier).predict(["bonjour", "au stade"], operating_point="recall_first"))
    assert answers == classifier.predict(["bonjour", "au stade"], operating_point="recall_first")


def test_no_texts_have_no_answers(classifier: Classifier) -> None:
    assert asyncio.run(gateway(classifier).predict([])) == []


def test_too_many_or_too_long_texts_are_refused_in_the_callers_words(classifier: Classifier) -> None:
    many = refusal(classifier, ["a"] * 4, field="input")
    assert (many.kind, many.where, many.message) == ("invalid", "input", "input: 4 texts; at most 3 are allowed")
    long = refusal(classifier, ["a", "perroquet-bleu-7413 x"], field="inputs")
    assert (long.where, long.message) == ("inputs[1]", "inputs[1]: 21 characters; at most 20 are allowed")


def test_an_unknown_operating_point_is_refused(classifier: Classifier) -> None:
    unknown = refusal(classifier, ["a"], operating_point="perroquet-bleu-7413")
    assert unknown.where == "operating_point" and "perroquet" not in unknown.message


def test_the_deadline_says_when_to_try_again(classifier: Classifier) -> None:
    with pytest.raises(Refusal) as caught:
        asyncio.run(gateway(classifier, deadline_s=0).predict(["a"]))
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)


@pytest.mark.parametrize("kind", STATUS)
def test_a_refusal_can_be_raised_caught_and_kept(kind: Kind) -> None:
    """Equal dataclasses cannot be hashed, and what handles exceptions may put them into a set."""
    assert len({Refusal(kind, "a"), Refusal(kind, "a")}) == 2 and Refusal(kind, "a").status == STATUS[kind]


def prediction(direct: float, testimony: float) -> Any:
    return {
        "categories": {"grooming": {"score": 0.8, "flagged": True}},
        "voice": {"label": None, "scores": {"direct": direct, "testimony": testimony, "commentary": 0.1}},
    }


def test_protection_lowers_what_a_testimony_quotes_and_nothing_else() -> None:
    """0.8 × 0.3 / (0.3 + 0.6 + 0.1) = 0.24."""
    assert actionable(prediction(0.3, 0.6), protect=True) == {"grooming": 0.24}
    assert actionable(prediction(0.6, 0.3), protect=True) == {"grooming": 0.8}
    assert actionable(prediction(0.3, 0.6), protect=False) == {"grooming": 0.8}
