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
Shares = dict[str, float | None]
TARGET = 0.9
"""The precision, or recall, at which the other of the two is also given."""
AVERAGED = ("precision", "recall", "f1", "f2", "average_precision", "roc_auc")


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


def recall_at_precision(y_true: Array, y_score: Array, precision: float = TARGET) -> float | None:
    """Best recall over all thresholds that keep the precision; None if none does, or without positives."""
    if not y_true.sum():
        return None
    precisions, recalls, _ = precision_recall_curve(y_true, y_score)
    kept = recalls[precisions >= precision]
    return float(kept.max()) if len(kept) else None


def precision_at_recall(y_true: Array, y_score: Array, recall: float = TARGET) -> float | None:
    """Best precision over all thresholds that keep the recall; None without positives."""
    if not y_true.sum():
        return None
    precisions, recalls, _ = precision_recall_curve(y_true, y_score)
    return float(precisions[recalls >= recall].max())


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


def brier(y_true: Array, y_score: Array) -> float | None:
    """Mean squared distance of the probability from what is (Brier, 1950)."""
    return float(np.mean((y_score - y_true) ** 2)) if len(y_true) else None


def per_category(
    y_true: Array, y_score: Array, thresholds: Sequence[float | None], label_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """All metrics of each label at its threshold (a label without threshold flags nothing).

    Returns:
        label → support (positives), examples (decided), threshold, precision, recall, f1, f2, average_precision,
        roc_auc, recall_at_precision_90, precision_at_recall_90, brier, ece.
    """
    rows: dict[str, dict[str, Any]] = {}
    for column, (name, threshold) in enumerate(zip(label_names, thresholds, strict=True)):
        decided = y_true[:, column] >= 0
        truth = np.asarray(y_true[decided, column], dtype=np.float64)
        score = np.asarray(y_score[decided, column], dtype=np.float64)
        rows[name] = {"support": int(truth.sum()), "examples": len(truth), "threshold": threshold}
        rows[name] |= _at_threshold(truth, score, threshold) | _over_thresholds(truth, score)
    return rows


def _at_threshold(truth: Array, score: Array, threshold: float | None) -> dict[str, float | None]:
    flagged = (score >= threshold).astype(np.float64) if threshold is not None else np.zeros_like(score)
    values = precision_recall_f(truth, flagged)
    f2 = precision_recall_f(truth, flagged, beta=2.0)["f"]
    return {"precision": values["precision"], "recall": values["recall"], "f1": values["f"], "f2": f2}


def _over_thresholds(truth: Array, score: Array) -> dict[str, float | None]:
    """Of the scores themselves; how well they are calibrated is not judged on negatives alone."""
    has_positives = bool(truth.sum())
    return {
        "average_precision": average_precision(truth, score),
        "roc_auc": roc_auc(truth, score),
        "recall_at_precision_90": recall_at_precision(truth, score),
        "precision_at_recall_90": precision_at_recall(truth, score),
        "brier": brier(truth, score) if has_positives else None,
        "ece": expected_calibration_error(truth, score) if has_positives else None,
    }


def macro(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Unweighted means over the named labels that have positives: `over` says how many those are, `of` of how many.

    What is undefined for one of them, such as the precision of a label that was never flagged, is no zero and no part
    of that mean: `left_out` names these labels, metric by metric. Recall and F1 count such a label with their 0.
    """
    return _means(rows, names, dict.fromkeys(names, 1))


def weighted(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """As `macro`, each label counting as often as it has positives."""
    return _means(rows, names, {name: rows[name]["support"] for name in names})


def _means(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str], weights: Mapping[str, int]) -> dict[str, Any]:
    held = [name for name in names if rows[name]["support"]]
    means: dict[str, Any] = {"over": len(held), "of": len(names)}
    left_out: dict[str, list[str]] = {}
    for key in AVERAGED:
        defined = [name for name in held if rows[name][key] is not None]
        if len(defined) < len(held):
            left_out[key] = [name for name in held if name not in defined]
        values, counts = [rows[name][key] for name in defined], [weights[name] for name in defined]
        means[key] = float(np.average(values, weights=counts)) if defined else None
    return means | {"left_out": left_out}


def micro(y_true: Array, y_pred: Array) -> dict[str, float | int | None]:
    """Precision, recall, F1 and F2 over all decided (example, label) pairs of the labels that have positives."""
    held = (y_true == 1).any(axis=0)
    decided = y_true[:, held] >= 0
    truth, flagged = np.asarray(y_true[:, held][decided]), np.asarray(y_pred[:, held][decided], dtype=np.float64)
    values, f2 = precision_recall_f(truth, flagged), precision_recall_f(truth, flagged, beta=2.0)["f"]
    counts = {"over": int(held.sum()), "of": y_true.shape[1]}
    return {**counts, "precision": values["precision"], "recall": values["recall"], "f1": values["f"], "f2": f2}


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


def testimony_protection(acted: NDArray[np.bool_], direct: NDArray[np.bool_], protected: NDArray[np.bool_]) -> Shares:
    """Harm to those who tell, and reach on direct texts, of a tool that acts upon some texts.

    Args:
        acted: whether it acts upon each text. direct, protected: whether each is direct; a testimony or commentary.

    Returns:
        wrongly_acted_upon: share of the protected texts, None without any.
        direct_recall: share of the direct texts, None without any.
    """
    return {
        "wrongly_acted_upon": float(acted[protected].mean()) if protected.any() else None,
        "direct_recall": float(acted[direct].mean()) if direct.any() else None,
    }


def at_direct_recall(
    decision: Array, direct: NDArray[np.bool_], protected: NDArray[np.bool_], recall: float = TARGET
) -> Shares:
    """The same at the strictest threshold that reaches the recall on direct texts: a point of this split's own curve.

    Args:
        decision: one score a text; the tool acts from the threshold up, and never where the score is 0.

    Returns:
        threshold (halfway to the next lower score), wrongly_acted_upon, direct_recall. Where the recall cannot be
        reached the first two are None and direct_recall is the highest there is.
    """
    falling = -np.sort(-decision[direct])
    enough = np.flatnonzero(np.arange(1, len(falling) + 1) / max(len(falling), 1) >= recall)
    if not len(enough) or falling[enough[0]] <= 0:
        highest = testimony_protection(decision > 0, direct, protected)["direct_recall"]
        return {"threshold": None, "wrongly_acted_upon": None, "direct_recall": highest}
    strictest = float(falling[enough[0]])
    lower = float(decision[decision < strictest].max(initial=0.0))
    return {"threshold": (strictest + lower) / 2, **testimony_protection(decision >= strictest, direct, protected)}
