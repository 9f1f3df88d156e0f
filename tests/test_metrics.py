"""training.metrics: every metric worked out by hand once, and equal to scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from training import metrics

TRUTH = np.array([1.0, 0.0, 1.0, 0.0])
SCORES = np.array([0.9, 0.8, 0.7, 0.1])


def test_average_precision_by_hand() -> None:
    """Hits at ranks 1 and 3: ½ · 1/1 + ½ · 2/3 = 5/6."""
    assert metrics.average_precision(TRUTH, SCORES) == pytest.approx(5 / 6)


def test_roc_auc_by_hand() -> None:
    """Of the four pairs, only (0.7, 0.8) is the wrong way round: 3/4."""
    assert metrics.roc_auc(TRUTH, SCORES) == pytest.approx(3 / 4)


def test_f_by_hand() -> None:
    """Two flagged, one rightly, of two positives: P = R = F1 = 1/2; with nothing flagged precision is undefined."""
    flagged = np.array([1.0, 1.0, 0.0, 0.0])
    assert metrics.precision_recall_f(TRUTH, flagged) == {"precision": 0.5, "recall": 0.5, "f": 0.5}
    assert metrics.precision_recall_f(TRUTH, np.zeros(4)) == {"precision": None, "recall": 0.0, "f": 0.0}


def test_f2_weighs_recall_four_times() -> None:
    """P = 1, R = 1/2: F2 = 5 · 1 / (4 · 2 + 1) = 5/9."""
    assert metrics.precision_recall_f(TRUTH, np.array([1.0, 0, 0, 0]), beta=2.0)["f"] == pytest.approx(5 / 9)


def test_ece_by_hand() -> None:
    """Two bins of two: |½ - 0.4| and |½ - 0.85|, halved and added: 0.05 + 0.175."""
    assert metrics.expected_calibration_error(TRUTH, SCORES, bins=2) == pytest.approx(0.225)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.int64, 30, elements=st.integers(0, 1)),
    hnp.arrays(np.float64, 30, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])),
)
def test_equal_to_scikit_learn_with_ties(truth: np.ndarray, score: np.ndarray) -> None:
    if truth.sum():
        assert metrics.average_precision(truth, score) == pytest.approx(average_precision_score(truth, score), abs=1e-9)
    if 0 < truth.sum() < len(truth):
        assert metrics.roc_auc(truth, score) == pytest.approx(roc_auc_score(truth, score), abs=1e-9)


def test_undefined_is_none_and_left_out_of_the_mean() -> None:
    truth = np.array([[1.0, 0.0, -100.0], [0.0, 0.0, 1.0]])
    score = np.array([[0.9, 0.2, 0.9], [0.1, 0.1, 0.8]])
    rows = metrics.per_category(truth, score, [0.5, 0.5, None], ["a", "b", "c"])
    assert rows["b"]["support"] == 0 and rows["b"]["average_precision"] is None and rows["b"]["recall"] is None
    assert rows["c"]["examples"] == 1 and rows["c"]["recall"] == 0.0 and rows["c"]["roc_auc"] is None
    means = metrics.macro(rows, ["a", "b"])
    assert (means["over"], means["of"]) == (1, 2)
    assert means["precision"] == means["recall"] == means["f1"] == means["average_precision"] == means["roc_auc"] == 1.0


def test_micro_counts_decided_pairs_only() -> None:
    truth = np.array([[1.0, -100.0], [0.0, 1.0]])
    assert metrics.micro(truth, np.array([[1, 1], [1, 0]]))["precision"] == pytest.approx(1 / 2)


def test_voice_confusion_by_hand() -> None:
    """Direct answered right, testimony answered as direct, no voice answered as none; the undecided row is left out."""
    truth = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0], [-100, -100, -100]])
    table = metrics.voice_confusion(truth, [0, 0, None, 1])
    assert table == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_testimony_protection_by_hand() -> None:
    voices = ["direct", "testimony", "commentary"]
    truth = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    figures = metrics.testimony_protection(["moderate", "none", "moderate", "none"], truth, voices)
    assert (figures["wrongly_acted_upon"], figures["direct_recall"]) == (0.5, 0.5)
