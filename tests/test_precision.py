"""training.precision: a faster graph is served only where validation shows no loss."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.precision as precision
from training.config import load_config
from training.labels import Labels
from training.model import Windows, encode
from training.precision import MIN_TEXTS, Held, compare, decide, faults, run_gate, thin_out

GOOD = {
    "average_precision_drop": {"macro": 0.001, "worst": 0.004, "worst_label": "racism"},
    "flags_changed": {"texts": 0.004, "pairs": 0.0003},
}


def changed(**parts: Any) -> dict[str, Any]:
    return {name: {**figures, **parts.get(name, {})} for name, figures in GOOD.items()}


MANY_FLAGS = changed(flags_changed={"texts": 0.02, "pairs": 0.005})


@pytest.mark.parametrize(
    ("int8", "eight_bit", "served", "reason"),
    [
        (GOOD, GOOD, "int8", "int8: within every limit"),
        (MANY_FLAGS, GOOD, "8bit", "int8: 0.50% of the flags change; 8bit: within every limit"),
        (MANY_FLAGS, changed(average_precision_drop={"worst": 0.005}), "fp32", "falls by 0.0050 (racism)"),
        (changed(average_precision_drop={"macro": 0.006}), GOOD, "8bit", "falls by 0.0060 (macro)"),
        (changed(average_precision_drop={"macro": None, "worst": None}), GOOD, "8bit", "no category with 10 positives"),
    ],
)  # fmt: skip
def test_the_first_without_fault_is_served(int8: Any, eight_bit: Any, served: str, reason: str) -> None:
    """Fastest first; a limit that is just reached is no longer kept."""
    chosen, told = decide({"int8": int8, "8bit": eight_bit}, MIN_TEXTS)
    assert chosen == served and reason in told


def test_too_few_texts_decide_nothing() -> None:
    assert decide({"int8": GOOD, "8bit": GOOD}, MIN_TEXTS - 1)[0] == "fp32"
    assert decide({}, 0) == ("fp32", "0 validation texts, fewer than the 200 that a decision needs")


def test_better_average_precision_is_no_fault() -> None:
    assert faults(changed(average_precision_drop={"macro": -0.2, "worst": -0.1})) == []


def test_of_many_texts_some_are_taken() -> None:
    assert thin_out(0) == [] and thin_out(3) == [0, 1, 2]
    assert thin_out(5000) == list(range(0, 5000, 3))


@pytest.fixture
def held(artifact: Path, labels: Labels) -> Held:
    """Texts of any length, all of them positive for everything: average precision is 1 whatever is answered."""
    from transformers import AutoTokenizer

    described = json.loads((artifact / "artifact.json").read_text(encoding="utf-8"))
    ids = described["tokenizer"]
    windows = Windows(**described["windows"], **{**ids, "special_ids": tuple(ids["special_ids"])})
    texts = [f"{'mot ' * (index % 50)}la chorale {index}" for index in range(MIN_TEXTS)]
    return Held(
        pieces=encode(texts, AutoTokenizer.from_pretrained(artifact), windows),
        y_true=np.ones((len(texts), len(labels.ids))),
        calibration=json.loads((artifact / "calibration.json").read_text(encoding="utf-8"))["labels"],
        thresholds=[None] * len(labels.ids),
        labels=labels,
        padding_id=ids["pad_id"],
    )


def test_figures_by_hand(held: Held, labels: Labels) -> None:
    """Four texts; the second label's ranking is (+ - + -) and becomes (- + + -): AP from 5/6 to 7/12."""
    y_true = np.full((4, len(labels.ids)), -100)
    y_true[:, 1] = [1, 0, 1, 0]
    exact = np.full((4, len(labels.ids)), 0.5)
    exact[:, 1] = [0.9, 0.8, 0.7, 0.1]
    coarse = exact.copy()
    coarse[:2, 1] = [0.8, 0.9]
    thresholds = [None, 0.85] + [None] * (len(labels.ids) - 2)
    small = dataclasses.replace(held, y_true=y_true, thresholds=thresholds)
    figures = compare(exact, coarse, small)
    assert figures["average_precision_drop"]["macro"] == pytest.approx(5 / 6 - 7 / 12, abs=1e-6)
    assert figures["average_precision_drop"]["worst"] is None
    assert figures["flags_changed"] == {"texts": 0.5, "pairs": pytest.approx(2 / (4 * len(labels.ids)), abs=1e-6)}
    assert figures["score_difference"]["largest"] == pytest.approx(0.1)


def test_a_model_without_loss_gets_int8(artifact: Path, held: Held) -> None:
    told = run_gate(artifact, held)
    assert told["served"] == "int8" and told["gate"]["texts"] == MIN_TEXTS
    assert told["runs"] == {"fp32": "packed", "int8": "packed", "8bit": "packed"}
    assert all(figures["batch_drift"] <= 1e-3 for figures in told["gate"]["candidates"].values())


def test_scores_that_depend_on_company_are_given_none(
    artifact: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(precision.LIMITS, "batch_drift", -1.0)
    assert run_gate(artifact, held)["runs"] == {"fp32": "packed", "int8": "alone", "8bit": "alone"}


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _numbers(part)
    elif isinstance(value, float):
        yield value


def test_the_decision_and_its_figures_are_in_the_artifact(artifact: Path) -> None:
    """Too few validation texts in the tiny one: its figures are told all the same, and fp32 is served."""
    told = json.loads((artifact / "artifact.json").read_text(encoding="utf-8"))["precision"]
    assert told["served"] == "fp32" and "fewer than the 200" in told["gate"]["reason"]
    assert told["available"] == ["fp32", "int8", "8bit"]
    assert set(told["gate"]["candidates"]) == {"int8", "8bit"}
    for figures in told["gate"]["candidates"].values():
        numbers = list(_numbers(figures))
        assert len(numbers) >= 8 and all(map(math.isfinite, numbers))
        assert 0 <= figures["flags_changed"]["pairs"] <= figures["flags_changed"]["texts"] <= 1
    assert load_config(artifact / "run.yaml").name == "vigie-tiny"
