"""Percentile bootstrap intervals over whole groups, for all resamples at once. Pure arrays.

Texts of one writer resemble each other, so groups are drawn and not texts (cluster bootstrap: Field and Welsh, JRSS B
2007). A resample is a row of weights, how often each example was drawn; a figure of it is the weighted figure of the
examples as they stand, which equals the figure of the repeated sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Statistic = Callable[[Array], Array]
"""Weights of shape (resamples, examples) → figures of shape (resamples, …), NaN where one is undefined."""

RESAMPLES = 1000
SEED = 0
TAILS = (2.5, 97.5)
"""Percentiles between which the middle 95 % of the resamples lie."""
FIGURES = ("precision", "recall", "f1", "average_precision")
"""What `label_figures` and `macro_of` give, in order."""
MOST_UNDEFINED = 0.05
"""Where more of the resamples leave a figure undefined, an interval over the rest would describe something else."""
_CELLS = 2_000_000
"""Weights held at a time: 16 MB."""


def resample(
    statistic: Statistic, groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = SEED
) -> Array | None:
    """The statistic of redrawn samples: as many groups as there are, with replacement, each with all its examples.

    Args:
        groups: the group of each example.

    Returns:
        Shape (resamples, …); None with fewer than two groups, of which nothing can be learnt about others, or with no
        resample asked for.
    """
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2 or not resamples:
        return None
    chance = np.random.default_rng(seed)
    size = max(1, _CELLS // len(owner))
    shapes = [(min(size, resamples - start), len(names)) for start in range(0, resamples, size)]
    return np.concatenate([_of_draws(statistic, owner, chance.integers(len(names), size=shape)) for shape in shapes])


def _of_draws(statistic: Statistic, owner: NDArray[np.intp], draws: NDArray[np.int64]) -> Array:
    """Of few groups there are few different samples (ten of three): each is computed once."""
    rows, groups = draws.shape
    cells = np.arange(rows)[:, None] * groups + draws
    counts = np.bincount(cells.ravel(), minlength=rows * groups).reshape(rows, groups)
    distinct, position = np.unique(counts, axis=0, return_inverse=True)
    return statistic(distinct[:, owner].astype(np.float64))[position.ravel()]


def of_sample(statistic: Statistic, examples: int) -> float | None:
    """A statistic of one figure, of the sample as it is; None where it is undefined."""
    value = float(statistic(np.ones((1, examples)))[0])
    return None if np.isnan(value) else value


def interval(values: Array | None) -> list[float] | None:
    """The middle 95 % of one figure's resamples; None without resamples or with too many undefined."""
    if values is None or np.isnan(values).mean() > MOST_UNDEFINED:
        return None
    low, high = np.nanpercentile(values, TAILS)
    return [float(low), float(high)]


def named_intervals(names: Sequence[str], drawn: Array | None) -> dict[str, list[float] | None] | None:
    """The interval of each column of (resamples, figures) under its name; None without resamples."""
    return None if drawn is None else {name: interval(drawn[:, index]) for index, name in enumerate(names)}


def average_precisions(y_true: Array, y_score: Array) -> Statistic:
    """Weighted average precision of each column, ties taken together: → (resamples, labels).

    Args:
        y_true: (examples, labels) with 1, 0 or -100 (left out). y_score: the same shape.
    """
    ranked = [_rank(truth, score) for truth, score in zip(y_true.T, y_score.T, strict=True)]
    return lambda weights: np.stack([_average_precision(weights, *column) for column in ranked], axis=1)


def _rank(truth: Array, score: Array) -> tuple[NDArray[np.intp], Array, NDArray[np.intp]]:
    """Decided examples from the highest score down, which are positive, and where a tie that holds a positive ends."""
    decided = np.flatnonzero(truth >= 0)
    order = decided[np.argsort(-score[decided], kind="stable")]
    hits = np.asarray(truth[order], dtype=np.float64)
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) if len(order) else order
    return order, hits, ends[np.diff(np.cumsum(hits)[ends], prepend=0.0) > 0]


def _average_precision(weights: Array, order: NDArray[np.intp], hits: Array, ends: NDArray[np.intp]) -> Array:
    if not len(ends):
        return np.full(len(weights), np.nan)
    drawn = weights[:, order]
    ranked = np.cumsum(drawn, axis=1)[:, ends]
    found = np.cumsum(drawn * hits, axis=1)[:, ends]
    steps = np.diff(found, axis=1, prepend=0.0)
    return _ratio((steps * found / np.maximum(ranked, 1.0)).sum(axis=1), found[:, -1])


def label_figures(y_true: Array, y_score: Array, flags: NDArray[np.bool_]) -> Statistic:
    """Precision, recall and F1 of each label as flagged, and its average precision: → (resamples, 4, labels)."""
    ranked, flagged = average_precisions(y_true, y_score), at_flags(y_true, flags)
    return lambda weights: np.concatenate([flagged(weights), ranked(weights)[:, None]], axis=1)


def at_flags(y_true: Array, flags: NDArray[np.bool_]) -> Statistic:
    """Precision, recall and F1 of each label as flagged: → (resamples, 3, labels)."""
    truth = (y_true == 1).astype(np.float64)
    flagged = (flags & (y_true >= 0)).astype(np.float64)

    def statistic(weights: Array) -> Array:
        hits, found, positives = weights @ (truth * flagged), weights @ flagged, weights @ truth
        f1 = np.where(positives > 0, _ratio(2 * hits, found + positives), np.nan)
        return np.stack([_ratio(hits, found), _ratio(hits, positives), f1], axis=1)

    return statistic


def macro_of(figures: Array) -> Array:
    """Means of `label_figures`, (resamples, 4, labels) → (resamples, 4), over labels with positives in the resample."""
    has_positives = ~np.isnan(figures[:, [FIGURES.index("recall")]])
    return _mean(np.where(has_positives, figures, np.nan))


def macro_average_precision(y_true: Array, y_score: Array) -> Statistic:
    """Mean average precision over the labels that have positives in the resample: → (resamples,)."""
    labels = average_precisions(y_true, y_score)
    return lambda weights: _mean(labels(weights))


def share(held: NDArray[np.bool_], among: NDArray[np.bool_]) -> Statistic:
    """Share of the examples `among` that are `held`: → (resamples,)."""
    counted, all_of = (held & among).astype(np.float64), among.astype(np.float64)
    return lambda weights: _ratio(weights @ counted, weights @ all_of)


def paired_bootstrap(
    truth: Array,
    ours: Array,
    theirs: Array,
    groups: Sequence[str],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    metric: Callable[[Array, Array], Statistic] = macro_average_precision,
) -> dict[str, Any]:
    """Difference of two systems' macro average precision (or another metric) with its interval over redrawn groups.

    Args:
        truth: (examples, labels) with 1, 0 or -100.
        ours, theirs: (runs, examples, labels); of several runs the mean of the metric counts.
        metric: truth and the scores of a run → its statistic of shape (resamples,).

    Returns:
        What `paired_difference` does.
    """
    our_runs, their_runs = [[metric(truth, scores) for scores in system] for system in (ours, theirs)]
    return paired_difference(our_runs, their_runs, groups, seed=seed, resamples=resamples)


def paired_difference(
    ours: Sequence[Statistic],
    theirs: Sequence[Statistic],
    groups: Sequence[str],
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Difference of two systems' means over their runs, both judged on the same resamples (Koehn, EMNLP 2004).

    Returns:
        difference (ours less theirs), low and high of the 95 % interval, groups. What is undefined is None, so are
        low and high with a single group.
    """

    def difference(weights: Array) -> Array:
        means = [np.mean([statistic(weights) for statistic in runs], axis=0) for runs in (ours, theirs)]
        return np.asarray(means[0] - means[1])

    whole = of_sample(difference, len(groups))
    low, high = interval(resample(difference, groups, resamples=resamples, seed=seed)) or (None, None)
    return {"difference": whole, "low": low, "high": high, "groups": len(set(groups))}


def _ratio(part: Array, whole: Array) -> Array:
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))


def _mean(values: Array) -> Array:
    """Over the last axis, of what is defined."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))
