"""Operating points: for each label the score from which it is flagged, chosen on validation. Pure arrays.

The precision and recall beside a threshold come from the texts that chose it, so they are a little kind to it, and
their intervals tell what other texts would change, not that. What a threshold is worth is measured on the test split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.calibration import decided
from training.metrics import precision_recall_curve

Array = NDArray[np.floating[Any]]

OPERATING_POINTS = ("recall_first", "balanced", "precision_first")
DEFAULT = "balanced"
FIGURES = ("precision", "recall")
MIN_POSITIVES = 10
"""With fewer positives no threshold is chosen: the label is scored and never flagged, and the file says so."""
TARGET = 0.9
"""Recall that `recall_first` keeps, and precision that `precision_first` keeps, on validation."""
RESAMPLES = 1000
_Z = 1.959964


def choose_thresholds(
    y_true: Array, y_score: Array, label_names: Sequence[str], groups: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Three operating points a label.

    `balanced` has the best F1. `recall_first` keeps recall at 0.9 or more with the best precision, and never flags less
    than `balanced`; `precision_first` keeps precision at 0.9 or more with the best recall (or, where no threshold
    reaches it, has the best precision), and never flags more than `balanced`.

    Args:
        y_true: (examples, labels) with 1, 0 or -100. y_score: calibrated probabilities of the same shape.
        groups: who wrote each text, (examples,); intervals redraw groups. Without it every text counts as a group.

    Returns:
        label → operating point → threshold, the precision and recall it gave on validation and their 95 % intervals
        ([low, high]), and positives; where there were too few of these, a null threshold and a reason.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(label_names):
        score, truth, who = decided(y_score, y_true, column, groups)
        if reason := _too_few(truth):
            chosen[name] = {point: _nothing(truth, reason) for point in OPERATING_POINTS}
            continue
        precision, recall, scores = precision_recall_curve(truth, score)
        picked = _pick(precision, recall)
        cuts = [_cut(scores, picked[point]) for point in OPERATING_POINTS]
        chosen[name] = dict(zip(OPERATING_POINTS, describe(truth, score, cuts, who), strict=True))
    return chosen


def reach_target(
    y_true: Array,
    y_score: Array,
    label_names: Sequence[str],
    *,
    figure: str,
    target: float,
    groups: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """One operating point a label that keeps a figure of your own, with the best of the other figure.

    Args:
        figure: "precision" or "recall". target: from above 0 to 1, reached on these texts (not by their intervals).

    Returns:
        label → what `choose_thresholds` says of one operating point; also a null threshold and a reason where no
        threshold reaches the target.

    Raises:
        ValueError: a figure or a target that is none.
    """
    if figure not in FIGURES or not 0 < target <= 1:
        raise ValueError(f"a target is {' or '.join(FIGURES)}, above 0 and at most 1; not {figure} {target}")
    chosen: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(label_names):
        score, truth, who = decided(y_score, y_true, column, groups)
        if reason := _too_few(truth):
            chosen[name] = _nothing(truth, reason)
            continue
        curve = dict(zip((*FIGURES, "score"), precision_recall_curve(truth, score), strict=True))
        kept, other = curve[figure], curve["recall" if figure == "precision" else "precision"]
        reached = np.flatnonzero(kept >= target)
        if not len(reached):
            chosen[name] = _nothing(truth, f"no threshold reaches {figure} {target:g}; the best is {kept.max():.4f}")
            continue
        # Of equals the one with more of the figure that was asked for.
        best = max(reached, key=lambda index: (other[index], kept[index]))
        (chosen[name],) = describe(truth, score, [_cut(curve["score"], int(best))], who)
    return chosen


def describe(truth: Array, score: Array, cuts: Sequence[float], groups: Sequence[str] | None) -> list[dict[str, Any]]:
    """What thresholds of one label give on texts with a known answer: figures, intervals, positives."""
    flags = np.stack([score >= cut for cut in cuts], axis=1)
    figures = intervals(truth, flags, groups)
    return [{"threshold": cut, **row, "positives": int(truth.sum())} for cut, row in zip(cuts, figures, strict=True)]


def intervals(
    truth: Array, flags: NDArray[np.bool_], groups: Sequence[str] | None = None, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Precision and recall of fixed decisions, with 95 % intervals.

    Percentile bootstrap over redrawn groups (the cluster bootstrap, Davison and Hinkley 1997, §3.8): texts of one
    writer resemble each other. With few groups, or a figure of exactly 1, redrawing has too little to show; an interval
    is therefore never narrower than Wilson's (1927) for as many independent texts.

    Args:
        truth: (examples,) with 1 and 0. flags: (examples, decisions).

    Returns:
        For each decision precision, precision_interval, recall, recall_interval; None where undefined.
    """
    owner = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    positive = (truth == 1)[:, None]
    columns = np.concatenate([positive & flags, flags, np.broadcast_to(positive, flags.shape)], axis=1)
    sums = np.zeros((int(owner.max()) + 1, columns.shape[1]))
    np.add.at(sums, owner, columns)
    hits, flagged, positives = np.split(sums.sum(axis=0), 3)
    drawn_hits, drawn_flagged, drawn_positives = np.split(_redraw(sums, seed), 3, axis=1)
    rows: list[dict[str, Any]] = [{} for _ in hits]
    for figure, out_of, drawn in zip(FIGURES, (flagged, positives), (drawn_flagged, drawn_positives), strict=True):
        for index, row in enumerate(rows):
            row[figure] = round(float(hits[index] / out_of[index]), 4) if out_of[index] else None
            row[f"{figure}_interval"] = _interval(hits[index], out_of[index], drawn_hits[:, index], drawn[:, index])
    return rows


def _redraw(sums: Array, seed: int) -> Array:
    """Sums over as many groups as there are, drawn with replacement: (resamples, columns)."""
    # Groups alike are drawn as one, which is what makes tens of thousands of one text each cheap.
    kinds, counts = np.unique(sums, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(sums), counts / len(sums), size=RESAMPLES)
    return np.asarray(draws @ kinds)


def _interval(hits: float, out_of: float, drawn_hits: Array, drawn_out_of: Array) -> list[float] | None:
    if not out_of:
        return None
    defined = drawn_out_of > 0
    low, high = np.percentile(drawn_hits[defined] / drawn_out_of[defined], [2.5, 97.5])
    lower, upper = _wilson(hits, out_of)
    return [round(min(float(low), lower), 4), round(max(float(high), upper), 4)]


def _wilson(hits: float, out_of: float) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927), within 0 and 1."""
    share, weight = hits / out_of, _Z**2 / out_of
    centre = (share + weight / 2) / (1 + weight)
    half = _Z / (1 + weight) * np.sqrt(share * (1 - share) / out_of + weight / (4 * out_of))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _too_few(truth: Array) -> str | None:
    positives = int(truth.sum())
    return f"{positives} positives, fewer than {MIN_POSITIVES}" if positives < MIN_POSITIVES else None


def _nothing(truth: Array, reason: str) -> dict[str, Any]:
    empty = dict.fromkeys(("threshold", "precision", "precision_interval", "recall", "recall_interval"))
    return {**empty, "positives": int(truth.sum()), "reason": reason}


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


def _cut(scores: Array, index: int) -> float:
    """Halfway to the next lower score, so that rounding on another machine does not flip the text that set it."""
    lower = float(scores[index + 1]) if index + 1 < len(scores) else 0.0
    return round((float(scores[index]) + lower) / 2, 9)
