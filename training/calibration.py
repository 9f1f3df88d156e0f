"""Raw scores to probabilities: per label the method that does best on held-out validation texts. Pure arrays.

Candidates, simplest first: the sigmoid as it stands (identity), a slope (temperature), slope and intercept (Platt), a
monotone curve (isotonic). All of them rise strictly, so no ranking of texts changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.metrics import expected_calibration_error

Array = NDArray[np.floating[Any]]

METHODS = ("identity", "temperature", "platt", "isotonic")
MIN_POSITIVES = 10
"""With fewer positives (or negatives) nothing is fitted: the sigmoid of the logit stands as it is."""
MIN_POSITIVES_ISOTONIC = 30
"""A curve estimates a rate per step, not two parameters for all. Ten steps over thirty positives are three positives a
step, the least from which a rate means anything; with fewer, a curve draws the accidents of the sample, and two folds
are too coarse to catch it at that."""
TIE = 0.002
"""Nats of log loss a text. A more complex method has to win by more than that: less is noise on a few hundred texts."""
FOLDS = 5
_MIN_IN_FOLD = 5
_FLAT = 0.05
_TAIL = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), without overflow."""
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def fit_platt(logits: Array, y_true: Array, iterations: int = 100) -> tuple[float, float]:
    """Slope a > 0 and intercept b so that sigmoid(a·logit + b) is the probability of a positive.

    Maximum likelihood on Platt's smoothed targets (N₊+1)/(N₊+2) and 1/(N₋+2) (Platt 1999), by Newton's method with
    step halving (Lin, Lin and Weng 2007). A slope that is not positive would turn the ranking round: the slope is then
    kept at 1 and only the intercept fitted.
    """
    target = _smoothed(y_true)
    design = np.stack([logits, np.ones_like(logits)], axis=1).astype(np.float64)
    slope, intercept = _newton(design, target, np.array([1.0, 0.0]), iterations)
    if slope <= _FLAT:
        offset = design[:, :1]
        (intercept,) = _newton(design[:, 1:], target, np.array([0.0]), iterations, offset[:, 0])
        slope = 1.0
    return float(slope), float(intercept)


def fit_temperature(logits: Array, y_true: Array, iterations: int = 100) -> float:
    """Slope a > 0, one over the temperature of Guo et al. (ICML 2017); 1 where the best slope is not positive."""
    design = np.asarray(logits, dtype=np.float64)[:, None]
    (slope,) = _newton(design, _smoothed(y_true), np.array([1.0]), iterations)
    return float(slope) if slope > _FLAT else 1.0


def fit_isotonic(logits: Array, y_true: Array) -> tuple[list[float], list[float]]:
    """Points of a strictly rising, piecewise linear curve from logit to probability, both lists increasing.

    Isotonic regression on Platt's smoothed targets, each flat step drawn together to one point at its mean logit and
    the points joined by lines (centred isotonic regression, Oron and Flournoy 2017): steps would give many texts one
    score and lose their order. Beyond the outermost points the curve bends towards 0 and 1 as Platt's does.
    """
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(logits, kind="stable")
    x = np.asarray(logits[order], dtype=np.float64)
    y = IsotonicRegression(out_of_bounds="clip").fit_transform(x, _smoothed(y_true[order]))
    starts = np.flatnonzero(np.diff(y, prepend=-np.inf) > 1e-9)
    steps = np.split(np.arange(len(x)), starts[1:])
    centres, rates = np.array([x[step].mean() for step in steps]), y[starts]
    reach = np.array(_TAIL) / fit_platt(logits, y_true)[0]
    first, last = np.log(rates[0] / (1 - rates[0])), np.log(rates[-1] / (1 - rates[-1]))
    left, right = sigmoid(first - np.array(_TAIL)), sigmoid(last + np.array(_TAIL))
    points = np.concatenate([centres[0] - reach[::-1], centres, centres[-1] + reach])
    return points.tolist(), np.concatenate([left[::-1], rates, right]).tolist()


def _smoothed(y_true: Array) -> Array:
    positives = float(y_true.sum())
    return np.where(y_true == 1, (positives + 1) / (positives + 2), 1 / (len(y_true) - positives + 2))


def _newton(design: Array, target: Array, start: Array, iterations: int, offset: Array | float = 0.0) -> Array:
    def loss(weights: Array) -> float:
        z = design @ weights + offset
        return float(np.sum(np.logaddexp(0, z) - target * z))

    weights, current = start, loss(start)
    for _ in range(iterations):
        probability = sigmoid(design @ weights + offset)
        gradient = design.T @ (probability - target)
        curvature = design.T @ (design * (probability * (1 - probability))[:, None])
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), gradient)
        size = 1.0
        while size > 1e-6 and loss(weights - size * step) > current:
            size /= 2
        weights = weights - size * step
        improved = current - loss(weights)
        current -= improved
        if improved < 1e-10:
            break
    return weights


def fit_calibration(
    logits: Array, y_true: Array, label_names: Sequence[str], groups: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Calibrate every label on the validation split, with the method that `calibration_report` accounts for.

    Args:
        logits: (examples, labels). y_true: the same shape with 1, 0 or -100.
        groups: who wrote each text, (examples,); a group is never on both sides of a fold.

    Returns:
        label → {"method", "positives"} and what the method needs: "a" (temperature, platt), "b" (platt), "x" and "y"
        (isotonic). "reason" says why nothing could be fitted.
    """
    fitted: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(label_names):
        chosen = _choose(*decided(logits, y_true, column, groups))
        fitted[name] = chosen.fitted | {"positives": chosen.positives} | chosen.why
    return fitted


def apply_calibration(
    logits: Array, calibration: dict[str, dict[str, Any]], label_names: Sequence[str]
) -> NDArray[np.float64]:
    """Probabilities of the shape of `logits`."""
    columns = [_probability(logits[:, column], calibration[name]) for column, name in enumerate(label_names)]
    return np.stack(columns, axis=1) if columns else np.zeros(logits.shape)


def calibration_report(
    logits: Array, y_true: Array, label_names: Sequence[str], groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """How each label was calibrated and what it gained, every figure on texts that the fit had not seen.

    The folds that chose the method also give the figures after it, so these are a little kind to the choice; the test
    split (`calibration_figures`) had no part in it.

    Returns:
        label → method, positives, folds, candidates (method → log loss, None where it was no candidate), and `before`
        (the sigmoid of the logit) and `after`, as `calibration_figures` gives them.
    """
    rows: dict[str, Any] = {}
    for column, name in enumerate(label_names):
        values, truth, who = decided(logits, y_true, column, groups)
        chosen = _choose(values, truth, who)
        rows[name] = {
            "method": chosen.fitted["method"],
            "positives": chosen.positives,
            **chosen.why,
            "folds": chosen.folds,
            "candidates": {method: _rounded(chosen.losses.get(method)) for method in METHODS},
            "before": reliability(truth, sigmoid(values)),
            "after": reliability(truth, chosen.held_out),
        }
    return rows


def calibration_figures(
    logits: Array, y_true: Array, calibration: dict[str, dict[str, Any]], label_names: Sequence[str]
) -> dict[str, Any]:
    """The same figures before and after a calibration that was fitted elsewhere: label → before, after."""
    rows: dict[str, Any] = {}
    for column, name in enumerate(label_names):
        values, truth, _ = decided(logits, y_true, column, None)
        after = _probability(values, calibration[name])
        rows[name] = {"before": reliability(truth, sigmoid(values)), "after": reliability(truth, after)}
    return rows


def reliability(truth: Array, score: Array, bins: int = 10) -> dict[str, Any] | None:
    """Log loss in nats, expected calibration error, Brier score, and the diagram's bins of equal mass by rising score.

    Returns:
        None without positives, where no rate can be compared.
    """
    if not truth.sum():
        return None
    parts = [part for part in np.array_split(np.argsort(score, kind="stable"), bins) if len(part)]
    return {
        "log_loss": _rounded(_log_loss(truth, score)),
        "ece": _rounded(expected_calibration_error(truth, score, bins)),
        "brier": _rounded(float(np.mean((score - truth) ** 2))),
        "bins": [
            {
                "score": _rounded(float(score[part].mean())),
                "observed": _rounded(float(truth[part].mean())),
                "count": len(part),
            }
            for part in parts
        ],
    }


@dataclass(frozen=True)
class _Choice:
    """The chosen method fitted on everything, and its probabilities of each text from a fit without its fold."""

    fitted: dict[str, Any]
    positives: int
    held_out: Array
    losses: dict[str, float]
    folds: dict[str, Any] | None
    why: dict[str, str]


def _choose(logits: Array, truth: Array, groups: Sequence[str] | None) -> _Choice:
    positives = int(truth.sum())
    scarce = min(positives, len(truth) - positives)
    if scarce < MIN_POSITIVES:
        kind = "positives" if scarce == positives else "negatives"
        why = {"reason": f"{scarce} {kind}, fewer than {MIN_POSITIVES}"}
        return _Choice({"method": "identity"}, positives, sigmoid(logits), {}, None, why)
    fold, kind = deal_folds(truth, groups)
    candidates = METHODS if scarce >= MIN_POSITIVES_ISOTONIC else METHODS[:-1]
    held_out = {method: _held_out(method, logits, truth, fold) for method in candidates}
    losses = {method: _log_loss(truth, score) for method, score in held_out.items()}
    best = min(losses.values())
    method = next(name for name in candidates if losses[name] <= best + TIE)
    folds = {"by": kind, "number": int(fold.max()) + 1}
    return _Choice(_fit(method, logits, truth), positives, held_out[method], losses, folds, {})


def deal_folds(truth: Array, groups: Sequence[str] | None, *, seed: int = 0) -> tuple[NDArray[np.int_], str]:
    """The fold of each text, at most five, and how they were dealt.

    By "group" the largest group goes first to the smallest fold. Where there is one group, or a fold would take nearly
    all positives (or negatives) from the rest, they are dealt by "text": at random, positives and negatives apart.
    """
    chance = np.random.default_rng(seed)
    if groups is not None and len(set(groups)) > 1:
        fold = _group_folds(groups, chance)
        rests = [truth[fold != index] for index in range(int(fold.max()) + 1)]
        if min(min(rest.sum(), len(rest) - rest.sum()) for rest in rests) >= _MIN_IN_FOLD:
            return fold, "group"
    fold = np.empty(len(truth), dtype=np.int_)
    for side in (0, 1):
        members = chance.permutation(np.flatnonzero(truth == side))
        fold[members] = np.arange(len(members)) % FOLDS
    return fold, "text"


def _group_folds(groups: Sequence[str], chance: np.random.Generator) -> NDArray[np.int_]:
    sizes = Counter(groups)
    names = sorted(sizes)
    chance.shuffle(names)
    held = [0] * min(FOLDS, len(names))
    place: dict[str, int] = {}
    for name in sorted(names, key=lambda name: -sizes[name]):
        place[name] = held.index(min(held))
        held[place[name]] += sizes[name]
    return np.array([place[name] for name in groups])


def _held_out(method: str, logits: Array, truth: Array, fold: NDArray[np.int_]) -> Array:
    score = np.empty(len(truth))
    for index in range(int(fold.max()) + 1):
        out = fold == index
        score[out] = _probability(logits[out], _fit(method, logits[~out], truth[~out]))
    return score


def _fit(method: str, logits: Array, truth: Array) -> dict[str, Any]:
    if method == "temperature":
        return {"method": method, "a": round(fit_temperature(logits, truth), 6)}
    if method == "platt":
        slope, intercept = fit_platt(logits, truth)
        return {"method": method, "a": round(slope, 6), "b": round(intercept, 6)}
    if method == "isotonic":
        x, y = fit_isotonic(logits, truth)
        return {"method": method, "x": x, "y": y}
    return {"method": method}


def _probability(logits: Array, fitted: dict[str, Any]) -> NDArray[np.float64]:
    values = np.asarray(logits, dtype=np.float64)
    if fitted["method"] == "isotonic":
        return np.asarray(np.interp(values, fitted["x"], fitted["y"]))
    return np.asarray(sigmoid(values * fitted.get("a", 1.0) + fitted.get("b", 0.0)))


def decided(
    values: Array, y_true: Array, column: int, groups: Sequence[str] | None
) -> tuple[Array, Array, list[str] | None]:
    """One label's column of `values`, its truth and the groups, without the texts that nobody decided."""
    rows = np.flatnonzero(y_true[:, column] >= 0)
    who = None if groups is None else [groups[int(row)] for row in rows]
    return np.asarray(values[rows, column], np.float64), np.asarray(y_true[rows, column], np.float64), who


def _log_loss(truth: Array, score: Array) -> float:
    """Mean negative log-likelihood in nats; a probability that rounds to 0 or 1 costs what 1e-15 does."""
    right = np.where(truth == 1, score, 1 - score)
    return float(-np.mean(np.log(np.maximum(right, 1e-15))))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
