"""Raw scores to probabilities: Platt scaling per label, fitted on validation. Pure arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

MIN_POSITIVES = 10
"""With fewer positives (or negatives) two parameters are not fitted: the sigmoid of the logit stands as it is."""


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), without overflow."""
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def fit_platt(logits: Array, y_true: Array, iterations: int = 100) -> tuple[float, float]:
    """Slope a > 0 and intercept b so that sigmoid(a·logit + b) is the probability of a positive.

    Maximum likelihood on Platt's smoothed targets (N₊+1)/(N₊+2) and 1/(N₋+2) (Platt 1999), by Newton's method with
    step halving (Lin, Lin and Weng 2007). A slope that is not positive would turn the ranking round: the slope is then
    kept at 1 and only the intercept fitted.
    """
    positives = float(y_true.sum())
    negatives = len(y_true) - positives
    target = np.where(y_true == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logits, np.ones_like(logits)], axis=1).astype(np.float64)
    slope, intercept = _newton(design, target, np.array([1.0, 0.0]), iterations)
    if slope <= 0.05:
        offset = design[:, :1]
        (intercept,) = _newton(design[:, 1:], target, np.array([0.0]), iterations, offset[:, 0])
        slope = 1.0
    return float(slope), float(intercept)


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


def fit_calibration(logits: Array, y_true: Array, label_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Calibrate every label on the validation split.

    Args:
        logits: (examples, labels). y_true: the same shape with 1, 0 or -100.

    Returns:
        label → {"method": "platt", "a", "b", "positives"}, or {"method": "identity", "positives"} where there are too
        few positives to fit on.
    """
    fitted: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(label_names):
        decided = y_true[:, column] >= 0
        truth = y_true[decided, column]
        positives = int(truth.sum())
        if min(positives, len(truth) - positives) < MIN_POSITIVES:
            fitted[name] = {"method": "identity", "positives": positives}
            continue
        slope, intercept = fit_platt(logits[decided, column], truth)
        fitted[name] = {"method": "platt", "a": round(slope, 6), "b": round(intercept, 6), "positives": positives}
    return fitted


def apply_calibration(
    logits: Array, calibration: dict[str, dict[str, Any]], label_names: Sequence[str]
) -> NDArray[np.float64]:
    """Probabilities of the shape of `logits`."""
    slope = np.array([calibration[name].get("a", 1.0) for name in label_names])
    intercept = np.array([calibration[name].get("b", 0.0) for name in label_names])
    return np.asarray(sigmoid(np.asarray(logits, dtype=np.float64) * slope + intercept), dtype=np.float64)
