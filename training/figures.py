"""Every figure of a split: the one place behind metrics.json, the report, the model card and `training.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.data import label_matrix
from training.labels import Labels
from training.metrics import macro, micro, per_category, testimony_protection, voice_confusion
from training.rows import Example
from training.thresholds import DEFAULT


def evaluation(
    examples: Sequence[Example],
    scores: np.ndarray,
    thresholds: dict[str, dict[str, Any]],
    labels: Labels,
    operating_point: str = DEFAULT,
) -> dict[str, Any]:
    """Every figure of one split at one operating point.

    Args:
        scores: calibrated probabilities of shape (examples, labels).
        thresholds: label → operating point → {"threshold": …}, as in thresholds.json.
    """
    truth = label_matrix(examples, labels)
    chosen = [thresholds[label][operating_point]["threshold"] for label in labels.ids]
    rows = per_category(truth, scores, chosen, labels.ids)
    flags = scores >= np.array([2.0 if threshold is None else threshold for threshold in chosen])
    categories = len(labels.category_ids)
    voices = slice(-len(labels.voice_ids), None)
    answered = [
        int(row.argmax()) if flag[int(row.argmax())] else None
        for row, flag in zip(scores[:, voices], flags[:, voices], strict=True)
    ]
    routes = [route(flag[:categories].any(), row, labels) for flag, row in zip(flags, scores[:, voices], strict=True)]
    return {
        "examples": len(examples),
        "operating_point": operating_point,
        "macro": macro(rows, labels.category_ids),
        "micro": micro(truth[:, :categories], flags[:, :categories].astype(np.float64)),
        "labels": rows,
        "voice_confusion": {
            "labels": [*labels.voice_ids, "none"],
            "rows_truth_columns_answer": voice_confusion(truth[:, voices], answered),
        },
        "testimony_protection": testimony_protection(routes, truth[:, voices], labels.voice_ids),
    }


def route(flagged: bool, voice_scores: np.ndarray, labels: Labels) -> str:
    """What a moderation tool is told to do with a text: the likeliest voice decides where a category is flagged."""
    if not flagged:
        return "none"
    likeliest = labels.voice_ids[int(voice_scores.argmax())]
    return {"direct": "moderate", "testimony": "support"}.get(likeliest, "none")
