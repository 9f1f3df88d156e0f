"""Every figure of a split: the one place behind metrics.json, the report, the model card and `training.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import metrics
from training.data import UNKNOWN, label_matrix
from training.intervals import FIGURES, RESAMPLES, label_figures, macro_of, named_intervals, resample, share
from training.labels import Labels
from training.metrics import Array, Shares
from training.rows import Example
from training.thresholds import DEFAULT

Mask = NDArray[np.bool_]
DECISIONS = ("likeliest_voice", "without_voices", "by_voice_share")
"""Ways to a single score a text, from which a tool acts: see `decision_scores`."""
_NO_POINT: Shares = {"threshold": None, "wrongly_acted_upon": None, "direct_recall": None}
CURVE_POINTS = 60
HARDEST = 30


@dataclass(frozen=True)
class Judged:
    """A split as arrays: truth (1, 0 or -100), scores and flags of shape (examples, labels), a threshold a label."""

    labels: Labels
    ids: list[str]
    groups: list[str]
    truth: Array
    """-100 also where the system does not score the label."""
    scores: Array
    thresholds: Array
    """Infinite for a label that has none."""
    flags: Mask
    scored: Mask
    """Which labels the system scores at all, of shape (labels,)."""
    direct: Mask
    protected: Mask
    """Texts of somebody who tells or comments, upon which nobody should act."""

    @property
    def categories(self) -> slice:
        return slice(len(self.labels.category_ids))

    @property
    def voices(self) -> slice:
        return slice(-len(self.labels.voice_ids), None)

    @property
    def has_voices(self) -> bool:
        """Whether the likeliest of all voices is known; without it there is no route."""
        return bool(self.scored[self.voices].all())

    def flagged(self) -> Mask:
        """Texts with a flagged category."""
        return np.asarray(self.flags[:, self.categories].any(axis=1))

    def acted_upon(self) -> Mask:
        """Texts that a tool acts upon: those of route `moderate`, and all that is flagged where there is no route."""
        if not self.has_voices:
            return self.flagged()
        pairs = zip(self.flagged(), self.scores[:, self.voices], strict=True)
        return np.asarray([route(flag, row, self.labels) == "moderate" for flag, row in pairs], dtype=bool)

    def answered_voices(self) -> list[int | None]:
        """Of each text the likeliest voice where it passes its threshold; None where not all voices are scored."""
        if not self.has_voices:
            return [None] * len(self.ids)
        pairs = zip(self.scores[:, self.voices].argmax(axis=1), self.flags[:, self.voices], strict=True)
        return [int(likeliest) if flags[likeliest] else None for likeliest, flags in pairs]


def evaluation(
    examples: Sequence[Example],
    scores: np.ndarray,
    thresholds: dict[str, dict[str, Any]],
    labels: Labels,
    operating_point: str = DEFAULT,
    *,
    resamples: int = RESAMPLES,
    strictness: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Every figure of one split at one operating point, as plain JSON values, floats rounded to six digits.

    Args:
        scores: calibrated probabilities of shape (examples, labels). A column of NaN is a label that the system does
            not score: it has no row, stands in `not_scored`, and counts in no average. Without a voice there is no
            route, so that testimony protection is told `without_voices` alone.
        thresholds: label → operating point → {"threshold": …}, as in thresholds.json, of the labels that are scored.
        resamples: how often groups are redrawn for the 95 % intervals; with 0 the intervals are None.
        strictness: what `strictness` returns for the figures of validation.
    """
    split = judged(examples, scores, thresholds, labels, operating_point)
    chosen = [float(value) if np.isfinite(value) else None for value in split.thresholds]
    rows = metrics.per_category(split.truth, split.scores, chosen, labels.ids)
    means = {"macro": metrics.macro(rows, labels.category_ids), "weighted": metrics.weighted(rows, labels.category_ids)}
    _add_intervals(split, rows, means["macro"], resamples)
    categories, voices = split.categories, split.voices
    confusion = metrics.voice_confusion(split.truth[:, voices], split.answered_voices())
    confusions = {"labels": [*labels.voice_ids, "none"], "rows_truth_columns_answer": confusion}
    scored = [name for name, held in zip(labels.ids, split.scored, strict=True) if held]
    figures: dict[str, Any] = {
        "examples": len(examples),
        "groups": len(set(split.groups)),
        "resamples": resamples,
        "operating_point": operating_point,
        **means,
        "micro": metrics.micro(split.truth[:, categories], split.flags[:, categories].astype(np.float64)),
        "labels": {name: rows[name] for name in scored},
        "not_scored": [name for name in labels.ids if name not in scored],
        "voice_confusion": confusions if split.has_voices else None,
        "testimony_protection": _protection(split, resamples, strictness),
        "curves": {name: _curve(*_column(split, name)) for name in scored},
        "hardest": hardest(split),
    }
    return {key: plain(value) for key, value in figures.items()}


def judged(
    examples: Sequence[Example],
    scores: Array,
    thresholds: Mapping[str, Mapping[str, Any]],
    labels: Labels,
    operating_point: str = DEFAULT,
) -> Judged:
    """The arrays behind `evaluation`, from the same arguments."""
    scores = np.asarray(scores, dtype=np.float64)
    scored = _scored(scores)
    pairs = zip(labels.ids, scored, strict=True)
    chosen = [thresholds[label][operating_point]["threshold"] if held else None for label, held in pairs]
    cuts = np.array([np.inf if threshold is None else threshold for threshold in chosen])
    truth, scores = label_matrix(examples, labels), np.where(scored, scores, 0.0)
    ids, groups = [example.id for example in examples], [example.group or example.id for example in examples]
    direct, *protected = (truth[:, labels.ids.index(name)] == 1 for name in ("direct", "testimony", "commentary"))
    truth = np.where(scored, truth, UNKNOWN)
    told = np.asarray(np.any(protected, axis=0))
    return Judged(labels, ids, groups, truth, scores, cuts, scores >= cuts, scored, direct, told)


def _scored(scores: Array) -> Mask:
    """Columns that are not NaN from top to bottom."""
    return np.asarray(~np.isnan(scores).all(axis=0) | (len(scores) == 0))


def route(flagged: bool, voice_scores: np.ndarray, labels: Labels) -> str:
    """What a moderation tool is told to do with a text: the likeliest voice decides where a category is flagged."""
    if not flagged:
        return "none"
    likeliest = labels.voice_ids[int(voice_scores.argmax())]
    return {"direct": "moderate", "testimony": "support"}.get(likeliest, "none")


def decision_scores(scores: Array, labels: Labels) -> dict[str, Array]:
    """Three ways to one score a text, of shape (examples,), from which a tool may act.

    `likeliest_voice`: the highest category score where the likeliest voice is `direct`, else 0 (never acted upon).
    `without_voices`: the highest category score, as a classifier that knows no voices has it.
    `by_voice_share`: the highest category score times the share of `direct` among the three voices' scores.
    """
    highest = scores[:, : len(labels.category_ids)].max(axis=1)
    voices = scores[:, -len(labels.voice_ids) :]
    direct = labels.voice_ids.index("direct")
    by_likeliest = np.where(voices.argmax(axis=1) == direct, highest, 0.0)
    share_of_direct = voices[:, direct] / np.maximum(voices.sum(axis=1), 1e-12)
    return dict(zip(DECISIONS, (by_likeliest, highest, highest * share_of_direct), strict=True))


def strictness(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """The thresholds of `decision_scores` at which the split behind the figures reaches 0.9 of its direct texts."""
    points = figures["testimony_protection"]["at_direct_recall"]
    return {name: points[name]["threshold"] for name in DECISIONS}


def hardest(split: Judged, count: int = HARDEST) -> list[dict[str, Any]]:
    """The texts that were misjudged most surely: ids and labels only, never a text.

    `margin` is how far the worst error of a text lies on the wrong side, in log-odds, so that a miss below a low
    threshold weighs like a false alarm above it. Labels without a threshold answer nothing and count for nothing.
    """
    answers = split.answered_voices()
    voices = [_voice_margin(split, row, answer) for row, answer in enumerate(answers)]
    margins = np.column_stack([_label_margins(split), voices]).max(axis=1)
    wrong = np.flatnonzero(np.isfinite(margins)).tolist()
    worst = sorted(wrong, key=lambda row: (-round(float(margins[row]), 6), split.ids[row]))[:count]
    return [_error(split, row, answers[row]) | {"margin": float(margins[row])} for row in worst]


def _add_intervals(split: Judged, rows: dict[str, Any], macro: dict[str, Any], resamples: int) -> None:
    """Put `intervals` into each label's row and into the macro averages: figure → [low, high], or None."""
    drawn = resample(label_figures(split.truth, split.scores, split.flags), split.groups, resamples=resamples)
    for column, row in enumerate(rows.values()):
        row["intervals"] = named_intervals(FIGURES, None if drawn is None else drawn[:, :, column])
    macro["intervals"] = named_intervals(FIGURES, None if drawn is None else macro_of(drawn[:, :, split.categories]))


def _protection(split: Judged, resamples: int, strict: Mapping[str, float | None] | None) -> dict[str, Any]:
    """Who is acted upon, with voices and without, at the operating point and at a recall of 0.9 on direct texts."""
    decisions = decision_scores(split.scores, split.labels)
    possible = DECISIONS if split.has_voices else ("without_voices",)
    points = {name: metrics.at_direct_recall(decisions[name], split.direct, split.protected) for name in possible}
    applied = {name: _at(split, decisions[name], strict[name]) for name in possible} if strict else {}
    nothing = dict.fromkeys(DECISIONS, _NO_POINT)
    routed = _acted_upon(split, split.acted_upon(), resamples)
    return {
        **(routed if split.has_voices else dict.fromkeys(routed)),
        "protected_texts": int(split.protected.sum()),
        "direct_texts": int(split.direct.sum()),
        "without_voices": _acted_upon(split, split.flagged(), resamples),
        "at_direct_recall": {"target": metrics.TARGET, **nothing, **points},
        "at_validation_threshold": nothing | applied if strict else None,
    }


def _acted_upon(split: Judged, acted: Mask, resamples: int) -> dict[str, Any]:
    figures = metrics.testimony_protection(acted, split.direct, split.protected)
    shares = [share(acted, split.protected), share(acted, split.direct)]
    drawn = resample(lambda weights: np.stack([of(weights) for of in shares], 1), split.groups, resamples=resamples)
    return {**figures, "intervals": named_intervals(list(figures), drawn)}


def _at(split: Judged, decision: Array, threshold: float | None) -> Shares:
    """The figures where another split's threshold is applied; None where it has none."""
    if threshold is None:
        return _NO_POINT
    acted = (decision > 0) & (decision >= threshold)
    return {"threshold": threshold, **metrics.testimony_protection(acted, split.direct, split.protected)}


def _column(split: Judged, name: str) -> tuple[Array, Array]:
    index = split.labels.ids.index(name)
    return split.truth[:, index], split.scores[:, index]


def _curve(truth: Array, score: Array) -> dict[str, list[float]] | None:
    """Precision, recall and thresholds where recall rises, thinned evenly; None without positives."""
    decided = truth >= 0
    if not (truth == 1).any():
        return None
    precision, recall, thresholds = metrics.precision_recall_curve(truth[decided], score[decided])
    rises = np.flatnonzero(np.diff(recall, prepend=0.0))
    kept = rises[np.unique(np.linspace(0, len(rises) - 1, min(len(rises), CURVE_POINTS)).round().astype(int))]
    return {
        "precision": precision[kept].tolist(),
        "recall": recall[kept].tolist(),
        "thresholds": thresholds[kept].tolist(),
    }


def _label_margins(split: Judged) -> Array:
    """The worst margin among categories and context, of shape (examples,); -inf where all are right."""
    own = slice(split.voices.start)
    truth, thresholds = split.truth[:, own], split.thresholds[own]
    wrong = (split.flags[:, own] != (truth == 1)) & (truth >= 0) & np.isfinite(thresholds)
    gaps = np.abs(_log_odds(split.scores[:, own]) - _log_odds(thresholds))
    return np.asarray(np.where(wrong, gaps, -np.inf).max(axis=1))


def _voice_margin(split: Judged, row: int, answered: int | None) -> float:
    """How far the answered voice, or none, stands above the true one, or none; -inf where it is right or undecided."""
    truth, scores = split.truth[row, split.voices], split.scores[row, split.voices]
    thresholds = split.thresholds[split.voices]
    true = int(truth.argmax()) if (truth == 1).any() else None
    if true == answered or (truth < 0).any():
        return -np.inf
    above = max(thresholds[true], scores.max()) if answered is None else scores[answered]
    below = thresholds[answered] if true is None else scores[true]
    return float(_log_odds(above) - _log_odds(below)) if np.isfinite(above) else -np.inf


def _log_odds(probability: Any) -> Any:
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(clipped) - np.log1p(-clipped)


def _error(split: Judged, row: int, answered: int | None) -> dict[str, Any]:
    names, own = split.labels.ids, range(len(split.labels.ids) - len(split.labels.voice_ids))
    truth = split.truth[row, split.voices]
    voice = split.labels.voice_ids[int(truth.argmax())] if (truth == 1).any() else "none"
    return {
        "id": split.ids[row],
        "truth": [names[column] for column in own if split.truth[row, column] == 1],
        "answered": [names[column] for column in own if split.flags[row, column]],
        "voice_truth": "undecided" if (truth < 0).any() else voice,
        "voice_answered": "none" if answered is None else split.labels.voice_ids[answered],
    }


def plain(value: Any) -> Any:
    """Python's own types, floats rounded; adding 0.0 makes a rounded -0.0 plain zero."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return round(float(value), 6) + 0.0 if isinstance(value, float) else value
