"""training.calibration and training.thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from training.calibration import apply_calibration, fit_calibration, fit_platt, sigmoid
from training.thresholds import OPERATING_POINTS, choose_thresholds


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


def test_calibration_never_turns_the_ranking_round() -> None:
    """A label whose logits rank the wrong way keeps its order, and gets the right rate."""
    truth = np.array([1.0] * 20 + [0.0] * 60)
    slope, intercept = fit_platt(-truth, truth)
    assert slope > 0
    assert sigmoid(-truth * slope + intercept).mean() == pytest.approx(0.25, abs=0.03)


def test_too_few_positives_are_not_fitted() -> None:
    logits, truth = np.zeros((30, 2)), np.zeros((30, 2))
    truth[:9, 0] = 1
    truth[:15, 1] = 1
    fitted = fit_calibration(logits, truth, ["few", "enough"])
    assert fitted["few"] == {"method": "identity", "positives": 9}
    assert fitted["enough"]["method"] == "platt"
    assert apply_calibration(logits, fitted, ["few", "enough"])[0].tolist() == pytest.approx([0.5, 0.5])


def test_operating_points_by_hand() -> None:
    """Twelve positives: ten lead, one follows a negative, the last comes after many negatives."""
    truth = np.array([1.0] * 10 + [0] + [1] + [0] * 8 + [1] + [0] * 20)
    score = np.linspace(0.99, 0.01, len(truth))
    points = choose_thresholds(truth[:, None], score[:, None], ["label"])["label"]
    assert points["balanced"]["recall"] == pytest.approx(11 / 12, abs=1e-3)
    assert points["balanced"]["precision"] == pytest.approx(11 / 12, abs=1e-3)
    assert points["recall_first"]["recall"] >= 0.9
    assert points["precision_first"]["precision"] >= 0.9
    thresholds = [points[name]["threshold"] for name in OPERATING_POINTS]
    assert thresholds == sorted(thresholds)


def test_the_described_precision_and_recall_are_those_of_the_threshold() -> None:
    chance = np.random.default_rng(1)
    truth = (chance.random((300, 1)) < 0.2).astype(float)
    score = np.clip(truth * 0.3 + chance.random((300, 1)) * 0.7, 0, 1)
    for point in choose_thresholds(truth, score, ["label"])["label"].values():
        flagged = score[:, 0] >= point["threshold"]
        assert truth[flagged, 0].mean() == pytest.approx(point["precision"], abs=1e-4)
        assert flagged[truth[:, 0] == 1].mean() == pytest.approx(point["recall"], abs=1e-4)


def test_too_few_positives_give_no_threshold() -> None:
    truth = np.zeros((40, 1))
    truth[:9] = 1
    points = choose_thresholds(truth, truth * 0.8, ["label"])["label"]
    assert {point["threshold"] for point in points.values()} == {None}
    assert points["balanced"]["positives"] == 9
