"""Per-category metrics as functions of arrays. No torch, no files.

Everywhere `y_true` is (examples, labels) with 1, 0 or -100 (nobody decided: left out), `y_score` the probabilities of
the same shape. What is undefined, such as the average precision of a category without positives, is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def average_precision(y_true: Array, y_score: Array) -> float | None:
    """Area under the precision–recall steps, AP = Σ (Rₙ - Rₙ₋₁) Pₙ, ties taken together; None without positives."""
    positives = float(y_true.sum())
    if not positives:
        return None
    precision, recall, _ = precision_recall_curve(y_true, y_score)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def precision_recall_curve(y_true: Array, y_score: Array) -> tuple[Array, Array, Array]:
    """Precision and recall of `score >= threshold` for every distinct score, the highest threshold first."""
    order = np.argsort(-y_score, kind="stable")
    scores, hits = y_score[order], y_true[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true_positives = np.cumsum(hits)[last_of_tie]
    precision = true_positives / (last_of_tie + 1)
    recall = true_positives / max(float(hits.sum()), 1.0)
    return precision, recall, scores[last_of_tie]


def roc_auc(y_true: Array, y_score: Array) -> float | None:
    """Probability that a positive scores above a negative, ties half (Mann–Whitney U); None if a class is missing."""
    positives = int(y_true.sum())
    negatives = len(y_true) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(y_score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][y_true == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def precision_recall_f(y_true: Array, y_pred: Array, beta: float = 1.0) -> dict[str, float | None]:
    """Precision, recall and F-beta of one label; precision is None if nothing was flagged, recall without positives."""
    hits = float((y_true * y_pred).sum())
    flagged, positives = float(y_pred.sum()), float(y_true.sum())
    denominator = beta**2 * positives + flagged
    return {
        "precision": hits / flagged if flagged else None,
        "recall": hits / positives if positives else None,
        "f": (1 + beta**2) * hits / denominator if positives else None,
    }


def expected_calibration_error(y_true: Array, y_score: Array, bins: int = 10) -> float | None:
    """Mean |observed rate - mean score| over bins of equal mass (Nguyen and O'Connor, EMNLP 2015)."""
    if not len(y_true):
        return None
    order = np.argsort(y_score, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [len(part) * abs(float(y_true[part].mean()) - float(y_score[part].mean())) for part in parts]
    return sum(gaps) / len(y_true)


def per_category(
    y_true: Array, y_score: Array, thresholds: Sequence[float | None], label_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """All metrics of each label at its threshold (a label without threshold flags nothing).

    Returns:
        label → support, threshold, precision, recall, f1, f2, average_precision, roc_auc, brier, ece.
    """
    rows: dict[str, dict[str, Any]] = {}
    for column, (name, threshold) in enumerate(zip(label_names, thresholds, strict=True)):
        decided = y_true[:, column] >= 0
        truth = np.asarray(y_true[decided, column], dtype=np.float64)
        score = np.asarray(y_score[decided, column], dtype=np.float64)
        flagged = (score >= threshold).astype(np.float64) if threshold is not None else np.zeros_like(score)
        at_threshold = precision_recall_f(truth, flagged)
        has_positives = bool(truth.sum())
        rows[name] = {
            "support": int(truth.sum()),
            "examples": int(decided.sum()),
            "threshold": threshold,
            "precision": at_threshold["precision"],
            "recall": at_threshold["recall"],
            "f1": at_threshold["f"],
            "f2": precision_recall_f(truth, flagged, beta=2.0)["f"],
            "average_precision": average_precision(truth, score),
            "roc_auc": roc_auc(truth, score),
            "brier": float(np.mean((score - truth) ** 2)) if has_positives else None,
            "ece": expected_calibration_error(truth, score) if has_positives else None,
        }
    return rows


def macro(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Unweighted means over the named labels that have positives; `over` says how many those are.

    A label with positives of which none was flagged counts with precision 0, as its F1 of 0 does.
    """
    held = [rows[name] for name in names if rows[name]["support"]]
    keys = ("precision", "recall", "f1", "f2", "average_precision", "roc_auc")
    means: dict[str, Any] = {"over": len(held), "of": len(names)}
    for key in keys:
        values = [0.0 if row[key] is None and key == "precision" else row[key] for row in held]
        defined = [value for value in values if value is not None]
        means[key] = float(np.mean(defined)) if defined else None
    return means


def micro(y_true: Array, y_pred: Array) -> dict[str, float | None]:
    """Precision, recall and F1 over all decided (example, label) pairs together."""
    decided = y_true >= 0
    values = precision_recall_f(np.asarray(y_true[decided]), np.asarray(y_pred[decided], dtype=np.float64))
    return {"precision": values["precision"], "recall": values["recall"], "f1": values["f"]}


def voice_confusion(y_true: Array, predicted: Sequence[int | None]) -> list[list[int]]:
    """Counts of shape (voices + 1, voices + 1), rows the truth, columns the answer; the last of each is "no voice".

    Args:
        y_true: (examples, voices); rows with an undecided voice are left out.
        predicted: index of the answered voice, or None.
    """
    size = y_true.shape[1] + 1
    table = np.zeros((size, size), dtype=int)
    for truth, answer in zip(y_true, predicted, strict=True):
        if (truth >= 0).all():
            row = int(truth.argmax()) if truth.any() else size - 1
            table[row, size - 1 if answer is None else answer] += 1
    return [[int(count) for count in line] for line in table]


def testimony_protection(routes: Sequence[str], y_true_voice: Array, voices: Sequence[str]) -> dict[str, Any]:
    """What a tool that acts on `route == "moderate"` would do: harm to those who tell, and reach on direct texts.

    Returns:
        wrongly_acted_upon: share of the testimonies and commentaries routed to `moderate`, None without any.
        direct_recall: share of the direct texts routed to `moderate`, None without any.
    """
    moderate = np.asarray([route == "moderate" for route in routes])
    direct = y_true_voice[:, voices.index("direct")] == 1
    protected = (y_true_voice[:, voices.index("testimony")] == 1) | (y_true_voice[:, voices.index("commentary")] == 1)
    return {
        "wrongly_acted_upon": float(moderate[protected].mean()) if protected.any() else None,
        "protected_texts": int(protected.sum()),
        "direct_recall": float(moderate[direct].mean()) if direct.any() else None,
        "direct_texts": int(direct.sum()),
    }
