"""Operating points: for each label the score from which it is flagged, chosen on validation. Pure arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.metrics import precision_recall_curve

Array = NDArray[np.floating[Any]]

OPERATING_POINTS = ("recall_first", "balanced", "precision_first")
DEFAULT = "balanced"
MIN_POSITIVES = 10
"""With fewer positives no threshold is chosen: the label is scored and never flagged, and the file says so."""
TARGET = 0.9
"""Recall that `recall_first` keeps, and precision that `precision_first` keeps, on validation."""


def choose_thresholds(y_true: Array, y_score: Array, label_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Three operating points a label.

    `balanced` has the best F1. `recall_first` keeps recall at 0.9 or more with the best precision, and never flags less
    than `balanced`; `precision_first` keeps precision at 0.9 or more with the best recall (or, where no threshold
    reaches it, has the best precision), and never flags more than `balanced`.

    Args:
        y_true: (examples, labels) with 1, 0 or -100. y_score: calibrated probabilities of the same shape.

    Returns:
        label → operating point → threshold, and the precision and recall it gave on validation; a null threshold
        where there were too few positives.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(label_names):
        decided = y_true[:, column] >= 0
        truth = np.asarray(y_true[decided, column], dtype=np.float64)
        positives = int(truth.sum())
        if positives < MIN_POSITIVES:
            missing = {"threshold": None, "precision": None, "recall": None, "positives": positives}
            chosen[name] = {point: dict(missing) for point in OPERATING_POINTS}
            continue
        curve = precision_recall_curve(truth, np.asarray(y_score[decided, column], dtype=np.float64))
        picked = _pick(*curve[:2])
        chosen[name] = {point: _describe(curve, picked[point], positives) for point in OPERATING_POINTS}
    return chosen


def _pick(precision: Array, recall: Array) -> dict[str, int]:
    """Positions on the curve (a later one is a lower threshold), in the order the three names promise."""
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    balanced = int(f1.argmax())
    wide = np.flatnonzero(recall >= TARGET)
    wide_best = int(wide[precision[wide].argmax()])
    sure = np.flatnonzero(precision >= TARGET)
    sure_best = int(sure[recall[sure].argmax()]) if len(sure) else int(precision.argmax())
    return {
        "recall_first": max(wide_best, balanced),
        "balanced": balanced,
        "precision_first": min(sure_best, balanced),
    }


def _describe(curve: tuple[Array, Array, Array], index: int, positives: int) -> dict[str, Any]:
    precision, recall, scores = curve
    # Halfway to the next lower score, so that rounding on another machine does not flip the text that set it.
    lower = float(scores[index + 1]) if index + 1 < len(scores) else 0.0
    return {
        "threshold": round((float(scores[index]) + lower) / 2, 6),
        "precision": round(float(precision[index]), 4),
        "recall": round(float(recall[index]), 4),
        "positives": positives,
    }
