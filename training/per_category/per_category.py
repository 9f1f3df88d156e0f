"""The per-category figures as an `evaluate` metric: `evaluate.load("training/per_category")`, no hub needed.

The figures are those of `training.metrics` and `training.intervals`; this file only names inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from training.intervals import FIGURES, RESAMPLES, label_figures, macro_of, named_intervals, resample
from training.metrics import macro, micro, per_category, weighted

_DESCRIPTION = (
    "Precision, recall, F1, F2, average precision, ROC AUC, recall at precision 0.9, precision at recall 0.9, Brier "
    "score and calibration error of every category of a multi-label classifier, with macro, micro and weighted means. "
    "What is undefined is None and part of no mean."
)
_INPUTS = """
Args:
    predictions: a list of scores (probabilities) an example, one for each label.
    references: a list of 1, 0 or -100 (nobody decided: left out) an example, in the order of the scores.
    label_names: a name for each label; without them `label_0`, `label_1` and so on.
    thresholds: the score from which each label is flagged, None for a label that flags nothing; default 0.5 for all.
    groups: the group (writer, source) of each example; with it, 95 % bootstrap intervals over redrawn groups.

Returns:
    labels (label → its figures), macro, micro, weighted; with groups also their number, and intervals in each label's
    figures and in macro.
"""


class PerCategory(evaluate.Metric):  # type: ignore[misc]
    """`compute(predictions=…, references=…)`, or `add_batch` and then `compute()`."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Sequence(datasets.Value("int32")),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[int]],
        label_names: Sequence[str] | None = None,
        thresholds: Sequence[float | None] | None = None,
        groups: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        y_score, y_true = _matrix(predictions, "predictions"), _matrix(references, "references")
        if y_score.shape != y_true.shape:
            raise ValueError(f"predictions have shape {y_score.shape}, references {y_true.shape}: one score a label")
        columns = range(y_true.shape[1])
        names = [f"label_{index}" for index in columns] if label_names is None else list(label_names)
        chosen = [0.5 for _ in columns] if thresholds is None else list(thresholds)
        for what, given in (("label_names", names), ("thresholds", chosen)):
            if len(given) != y_true.shape[1]:
                raise ValueError(f"{what}: {len(given)} given for {y_true.shape[1]} labels")
        flags = y_score >= np.array([np.inf if threshold is None else threshold for threshold in chosen])
        rows = per_category(y_true, y_score, chosen, names)
        means = {"macro": macro(rows, names), "weighted": weighted(rows, names)}
        result = {"labels": rows, **means, "micro": micro(y_true, flags.astype(np.float64))}
        return result if groups is None else result | _intervals(result, y_true, y_score, flags, groups)


def _matrix(rows: Sequence[Sequence[float]], name: str) -> Any:
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{name}: every example needs the same number of labels")
    return np.asarray(rows, dtype=np.float64)


def _intervals(result: dict[str, Any], y_true: Any, y_score: Any, flags: Any, groups: Sequence[str]) -> dict[str, Any]:
    """`labels` and `macro` of the result with their intervals, and how many groups those rest on."""
    if len(groups) != len(y_true):
        raise ValueError(f"groups: {len(groups)} given for {len(y_true)} examples")
    drawn = resample(label_figures(y_true, y_score, flags), groups)
    labels = {
        name: {**row, "intervals": named_intervals(FIGURES, None if drawn is None else drawn[:, :, column])}
        for column, (name, row) in enumerate(result["labels"].items())
    }
    means = {**result["macro"], "intervals": named_intervals(FIGURES, None if drawn is None else macro_of(drawn))}
    return {"labels": labels, "macro": means, "groups": len(set(groups)), "resamples": RESAMPLES}
