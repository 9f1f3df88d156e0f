"""Which precision serving uses: the fastest whose answers on validation are as good as fp32's. Figures are pure arrays.

a  average precision falls by less than 0.005, on the macro average and on every category with enough positives
b  less than 0.5 % of the flags (a label of a text) change at the default operating point
c  a text's scores do not depend on what else is in the run beyond 1e-3; where they do, every window runs alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.calibration import apply_calibration
from training.labels import Labels
from training.metrics import average_precision
from training.onnx_graph import GRAPHS
from training.onnx_run import Pieces, open_graph, packed_scores

Array = NDArray[np.floating[Any]]

LIMITS = {"average_precision_drop": 0.005, "flags_changed": 0.005, "batch_drift": 1e-3}
MIN_TEXTS = 200
"""With fewer validation texts a share of 0.5 % cannot be told from chance."""
MAX_TEXTS = 2000
"""Of more validation texts every n-th is taken: the shares are then known well enough, and export stays short."""
MIN_POSITIVES = 10
_FASTEST_FIRST = ("int8", "8bit")


@dataclass(frozen=True)
class Held:
    """What the gate measures on.

    Texts as windows of token ids; truth of shape (texts, labels) with 1, 0 or -100; how logits become probabilities;
    from which probability each label is flagged (None: never).
    """

    pieces: Pieces
    y_true: np.ndarray
    calibration: dict[str, dict[str, Any]]
    thresholds: Sequence[float | None]
    labels: Labels
    padding_id: int


def thin_out(count: int) -> list[int]:
    """Positions of at most `MAX_TEXTS` of so many texts, evenly spread."""
    return list(range(0, count, -(-count // MAX_TEXTS) or 1))


def run_gate(folder: Path, held: Held) -> dict[str, Any]:
    """Measure every graph of an artifact and choose.

    Returns:
        `served`, `available`, `runs` (precision → "packed" or "alone") and `gate`: the decision, its limits and each
        candidate's figures, for artifact.json.
    """
    candidates = _measure(folder, held) if held.pieces else {}
    served, reason = decide(candidates, len(held.pieces))
    return {
        "served": served,
        "available": list(GRAPHS),
        "runs": {"fp32": "packed", **{name: figures["run"] for name, figures in candidates.items()}},
        "gate": {
            "reason": reason,
            "texts": len(held.pieces),
            "limits": {**LIMITS, "min_texts": MIN_TEXTS, "min_positives": MIN_POSITIVES},
            "candidates": candidates,
        },
    }


def decide(candidates: Mapping[str, Mapping[str, Any]], texts: int) -> tuple[str, str]:
    """The precision to serve and why, from each candidate's figures (see `compare`)."""
    if texts < MIN_TEXTS:
        return "fp32", f"{texts} validation texts, fewer than the {MIN_TEXTS} that a decision needs"
    reasons: list[str] = []
    for name in _FASTEST_FIRST:
        found = faults(candidates[name])
        if not found:
            return name, "; ".join([*reasons, f"{name}: within every limit"])
        reasons.append(f"{name}: {', '.join(found)}")
    return "fp32", "; ".join(reasons)


def faults(figures: Mapping[str, Any]) -> list[str]:
    """What keeps a candidate from being served, in words; empty where nothing does."""
    drop, changed = figures["average_precision_drop"], figures["flags_changed"]["pairs"]
    found = []
    if drop["worst"] is None:
        found.append(f"no category with {MIN_POSITIVES} positives to compare average precision on")
    else:
        worst = max((drop["macro"], "macro"), (drop["worst"], drop["worst_label"]))
        if not worst[0] < LIMITS["average_precision_drop"]:
            found.append(f"average precision falls by {worst[0]:.4f} ({worst[1]})")
    if not changed < LIMITS["flags_changed"]:
        found.append(f"{changed:.2%} of the flags change")
    return found


def compare(exact: Array, coarse: Array, held: Held) -> dict[str, Any]:
    """Figures of a coarser precision against fp32, both as probabilities of shape (texts, labels).

    Returns:
        average_precision_drop: macro over the categories with positives; the worst among those with enough of them,
            and its label (None without any). Negative where the coarser one is better.
        flags_changed: share of the texts with another set of flags, and of the (text, label) pairs.
        score_difference: the largest and the mean of a probability.
    """
    thresholds = np.array([2.0 if value is None else value for value in held.thresholds])
    changed = (exact >= thresholds) != (coarse >= thresholds)
    difference = np.abs(exact - coarse)
    return {
        "average_precision_drop": _drops(held.y_true, exact, coarse, held.labels.category_ids),
        "flags_changed": {"texts": _round(changed.any(axis=1).mean()), "pairs": _round(changed.mean())},
        "score_difference": {"largest": _round(difference.max()), "mean": _round(difference.mean())},
    }


def _drops(y_true: np.ndarray, exact: Array, coarse: Array, categories: Sequence[str]) -> dict[str, Any]:
    drops: dict[str, float] = {}
    enough: dict[str, float] = {}
    for column, name in enumerate(categories):
        decided = y_true[:, column] >= 0
        truth = y_true[decided, column].astype(np.float64)
        before, after = (average_precision(truth, scores[decided, column]) for scores in (exact, coarse))
        if before is not None and after is not None:
            drops[name] = before - after
            if truth.sum() >= MIN_POSITIVES:
                enough[name] = before - after
    worst = max(enough, key=lambda name: enough[name], default=None)
    return {
        "macro": _round(np.mean(list(drops.values()))) if drops else None,
        "worst": _round(enough[worst]) if worst else None,
        "worst_label": worst,
    }


def _measure(folder: Path, held: Held) -> dict[str, dict[str, Any]]:
    sessions = [open_graph(folder / GRAPHS[name]) for name in ("fp32", *_FASTEST_FIRST)]
    voices = len(held.labels.voice_ids)
    # The first run of a session allocates its memory: not to be counted.
    packed_scores(sessions, held.pieces[:1], held.padding_id, voices)
    logits, seconds = packed_scores(sessions, held.pieces, held.padding_id, voices)
    lone, _ = packed_scores(sessions[1:], held.pieces, held.padding_id, voices, budget=0)
    exact, *packed = (apply_calibration(rows, held.calibration, held.labels.ids) for rows in logits)
    alone = [apply_calibration(rows, held.calibration, held.labels.ids) for rows in lone]
    measured = {}
    for index, name in enumerate(_FASTEST_FIRST):
        drift = _round(np.abs(packed[index] - alone[index]).max())
        run = "packed" if drift <= LIMITS["batch_drift"] else "alone"
        measured[name] = {
            **compare(exact, packed[index] if run == "packed" else alone[index], held),
            "batch_drift": drift,
            "run": run,
            "time_of_fp32": _round(np.median(seconds[:, index + 1] / np.maximum(seconds[:, 0], 1e-9))),
            "ms_a_text": _round(seconds[:, index + 1].sum() / len(held.pieces) * 1000),
        }
    return measured


def _round(value: Any) -> float:
    return round(float(value), 6)
