"""training.calibration, and serving.classifier where it applies what training fitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from serving.artifact import read_calibration
from serving.classifier import Probabilities
from training.calibration import (
    METHODS,
    apply_calibration,
    calibration_figures,
    calibration_report,
    deal_folds,
    fit_calibration,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    reliability,
    sigmoid,
)
from training.metrics import average_precision


def drawn(probability: Any, *, seed: int = 0) -> np.ndarray:
    """Truths of these probabilities."""
    return (np.random.default_rng(seed).random(len(probability)) < probability).astype(float)


def spread(count: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(-1.0, 2.5, size=count)


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_platt_is_the_logistic_regression_on_smoothed_targets() -> None:
    """Each smoothed target t is one positive of weight t and one negative of weight 1 - t."""
    chance = np.random.default_rng(0)
    truth = (chance.random(400) < 0.3).astype(float)
    logits = truth * 2 - 1.5 + chance.normal(size=400)
    positives = truth.sum()
    target = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (400 - positives + 2))
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(logits, 2)[:, None], np.repeat([1, 0], 400), sample_weight=np.concatenate([target, 1 - target])
    )
    slope, intercept = fit_platt(logits, truth)
    assert slope == pytest.approx(reference.coef_[0, 0], abs=1e-3)
    assert intercept == pytest.approx(reference.intercept_[0], abs=1e-3)


def test_the_temperature_is_found_again() -> None:
    """Logits twice too large need the slope one half."""
    logits = spread(20_000)
    assert fit_temperature(2 * logits, drawn(sigmoid(logits))) == pytest.approx(0.5, abs=0.02)


def test_calibration_never_turns_the_ranking_round() -> None:
    """A label whose logits rank the wrong way keeps its order, and gets the right rate."""
    truth = np.array([1.0] * 20 + [0.0] * 60)
    slope, intercept = fit_platt(-truth, truth)
    assert slope > 0 and fit_temperature(-truth, truth) == 1.0
    assert sigmoid(-truth * slope + intercept).mean() == pytest.approx(0.25, abs=0.03)


def test_the_isotonic_curve_by_hand() -> None:
    """Truths 0 1 0 1 rise as 0, ½, 1; smoothed, the targets are ¼ and ¾; the two in the middle meet at their mean."""
    x, y = fit_isotonic(np.array([0.0, 1.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.0, 1.0]))
    middle = slice(x.index(0.0), x.index(4.0) + 1)
    assert x[middle] == pytest.approx([0.0, 2.0, 4.0])
    assert y[middle] == pytest.approx([0.25, 0.5, 0.75])


def test_the_isotonic_curve_keeps_every_order() -> None:
    """Plain isotonic regression gives a whole step one score; here distinct logits stay distinct."""
    logits = np.unique(np.round(spread(500), 4))
    truth = drawn(sigmoid(logits))
    score = np.interp(logits, *fit_isotonic(logits, truth))
    assert (np.diff(score) > 0).all() and score[0] > 0 and score[-1] < 1
    assert average_precision(truth, score) == average_precision(truth, logits)


def test_beyond_what_it_saw_the_isotonic_curve_still_rises() -> None:
    logits = spread(300)
    x, y = fit_isotonic(logits, drawn(sigmoid(logits)))
    beyond = np.array([logits.min() - 5, logits.min(), logits.max(), logits.max() + 5])
    assert (np.diff(np.interp(beyond, x, y)) > 0).all()


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (lambda z: sigmoid(z), "identity"),
        (lambda z: sigmoid(0.4 * z), "temperature"),
        (lambda z: sigmoid(0.6 * z - 2), "platt"),
        (lambda z: np.where(z < -2, 0.02, np.where(z < 1, 0.4, 0.45)), "isotonic"),
    ],
)
def test_the_simplest_method_that_fits_is_chosen(curve: Any, expected: str) -> None:
    """Truths are drawn from a curve that this method can draw, and no simpler one."""
    logits = spread(3000)
    truth = drawn(curve(logits))[:, None]
    groups = [f"w{index % 7}" for index in range(3000)]
    row = calibration_report(logits[:, None], truth, ["label"], groups)["label"]
    assert row["method"] == expected, row["candidates"]
    assert fit_calibration(logits[:, None], truth, ["label"], groups)["label"]["method"] == expected
    assert row["after"]["log_loss"] == row["candidates"][expected]
    assert row["before"]["log_loss"] == row["candidates"]["identity"]


def test_too_few_positives_are_not_fitted() -> None:
    logits, truth = np.zeros((30, 2)), np.zeros((30, 2))
    truth[:9, 0] = 1
    truth[:12, 1] = 1
    logits[:, 1] = 3 + truth[:, 1]
    fitted = fit_calibration(logits, truth, ["few", "enough"])
    assert fitted["few"] == {"method": "identity", "positives": 9, "reason": "9 positives, fewer than 10"}
    assert fitted["enough"]["method"] in ("temperature", "platt") and "reason" not in fitted["enough"]
    assert apply_calibration(logits, fitted, ["few", "enough"])[0, 0] == 0.5


def test_too_few_negatives_are_not_fitted_either() -> None:
    truth = np.array([[1.0]] * 40 + [[0.0]] * 9)
    assert fit_calibration(truth, truth, ["label"])["label"]["reason"] == "9 negatives, fewer than 10"


def test_a_curve_needs_more_positives_than_a_line() -> None:
    logits = np.linspace(-3, 3, 200)
    truth = np.zeros(200)
    truth[-29:] = 1
    row = calibration_report(logits[:, None], truth[:, None], ["label"])["label"]
    assert row["candidates"]["isotonic"] is None and row["candidates"]["platt"] is not None
    truth[-30] = 1
    assert calibration_report(logits[:, None], truth[:, None], ["label"])["label"]["candidates"]["isotonic"] is not None


def test_a_group_is_never_on_both_sides() -> None:
    groups = [f"w{index % 12}" for index in range(240)]
    fold, kind = deal_folds(drawn(np.full(240, 0.5)), groups)
    assert kind == "group" and fold.max() == 4
    assert len({(group, int(place)) for group, place in zip(groups, fold, strict=True)}) == 12


@pytest.mark.parametrize("groups", [None, ["one"] * 60, ["all positives"] * 20 + ["the rest"] * 40])
def test_where_groups_cannot_be_dealt_texts_are(groups: list[str] | None) -> None:
    """Five folds, each with its share of the positives."""
    truth = np.array([1.0] * 20 + [0.0] * 40)
    fold, kind = deal_folds(truth, groups)
    assert kind == "text"
    assert [truth[fold == index].sum() for index in range(5)] == [4] * 5
    row = calibration_report(truth[:, None], truth[:, None], ["label"], groups)["label"]
    assert row["folds"] == {"by": "text", "number": 5}


def test_the_report_judges_on_texts_that_the_fit_did_not_see() -> None:
    """Of two writers, each is judged by what was fitted on the other one."""
    logits = np.concatenate([spread(400), spread(400, seed=2)])
    truth = np.concatenate([drawn(sigmoid(0.5 * logits[:400])), drawn(sigmoid(0.5 * logits[400:] - 2), seed=3)])
    first, second = slice(400), slice(400, 800)
    held_out = np.empty(800)
    for seen, unseen in ((first, second), (second, first)):
        slope, intercept = fit_platt(logits[seen], truth[seen])
        held_out[unseen] = sigmoid(slope * logits[unseen] + intercept)
    expected = reliability(truth, held_out)
    assert expected is not None
    row = calibration_report(logits[:, None], truth[:, None], ["label"], ["a"] * 400 + ["b"] * 400)["label"]
    assert row["folds"] == {"by": "group", "number": 2}
    assert row["candidates"]["platt"] == pytest.approx(expected["log_loss"], abs=1e-5)


def test_reliability_by_hand() -> None:
    """Two bins of two: scores ¼ against a rate of 0, scores ¾ against a rate of ½."""
    row = reliability(np.array([0.0, 0.0, 1.0, 0.0]), np.array([0.25, 0.25, 0.75, 0.75]), bins=2)
    assert row is not None
    assert row["bins"] == [{"score": 0.25, "observed": 0.0, "count": 2}, {"score": 0.75, "observed": 0.5, "count": 2}]
    assert row["ece"] == 0.25
    assert row["brier"] == pytest.approx((3 * 0.0625 + 0.5625) / 4, abs=1e-6)
    assert row["log_loss"] == pytest.approx(-np.log([0.75, 0.75, 0.75, 0.25]).mean(), abs=1e-6)


def test_figures_of_another_split_leave_the_calibration_alone_and_skip_the_undecided() -> None:
    logits, truth = np.array([[0.0], [2.0], [9.0]]), np.array([[0.0], [1.0], [-100.0]])
    calibration: dict[str, dict[str, Any]] = {"label": {"method": "platt", "a": 2.0, "b": 1.0}}
    row = calibration_figures(logits, truth, calibration, ["label"])["label"]
    assert row["before"] == reliability(truth[:2, 0], sigmoid(logits[:2, 0]))
    assert row["after"] == reliability(truth[:2, 0], sigmoid(np.array([1.0, 5.0])))
    assert calibration == {"label": {"method": "platt", "a": 2.0, "b": 1.0}}
    assert calibration_figures(logits, truth * 0, calibration, ["label"])["label"]["after"] is None


def test_the_report_is_plain_json_and_the_same_every_time() -> None:
    logits = np.stack([spread(200), spread(200, seed=5)], axis=1)
    truth = np.stack([drawn(sigmoid(logits[:, 0])), np.zeros(200)], axis=1)
    first, second = (json.dumps(calibration_report(logits, truth, ["a", "b"]), allow_nan=False) for _ in range(2))
    assert first == second
    numbers = json.loads(first)["a"]["before"]
    assert numbers["ece"] == round(numbers["ece"], 6) and sum(row["count"] for row in numbers["bins"]) == 200


def test_serving_applies_what_training_fitted(tmp_path: Path) -> None:
    """Every method through the file, side by side, also on logits far outside what was fitted on."""
    logits = spread(2000)
    truth = drawn(np.where(logits < -2, 0.02, 0.4))
    x, y = fit_isotonic(logits, truth)
    slope, intercept = fit_platt(logits, truth)
    fitted: dict[str, dict[str, Any]] = {
        "identity": {"method": "identity"},
        "temperature": {"method": "temperature", "a": fit_temperature(logits, truth)},
        "platt": {"method": "platt", "a": slope, "b": intercept},
        "isotonic": {"method": "isotonic", "x": x, "y": y},
    }
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"format": 1, "labels": fitted}), encoding="utf-8")
    asked = np.linspace(-60, 60, 4001, dtype=np.float32)[:, None].repeat(4, axis=1)
    served = Probabilities(read_calibration(path, METHODS))(asked)
    np.testing.assert_allclose(served, apply_calibration(asked, fitted, METHODS), atol=1e-9, rtol=0)
