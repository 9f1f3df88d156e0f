"""Softer targets from a teacher that has never seen the text: what pieces and pairs of pieces say about its labels.

The encoder has read little French and soon knows a few thousand training texts by heart. A linear model of n-grams has
another view and overfits in another way; told by it how sure a label is, from other writers' texts alone, the encoder
keeps what both find (Hinton, Vinyals and Dean 2015; predictions across folds as in stacking, Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.calibration import fit_platt, sigmoid
from training.data import UNKNOWN

Pieces = Sequence[Sequence[int]]
FOLDS = 5
C = 100.0
"""Inverse strength of the teacher's regularisation, chosen on the validation split."""


def blended_targets(
    pieces: Pieces, targets: NDArray[np.float32], groups: Sequence[str], *, weight: float
) -> NDArray[np.float32]:
    """(1 - weight) · target + weight · the teacher's probability, where somebody decided the label.

    Args:
        pieces: token ids of every text. targets: (texts, labels) with 1, 0 or -100, which stays.
        groups: the writer or conversation of every text; the teacher of a text has read none of its group.
    """
    known = targets != UNKNOWN
    soft = cross_fitted(pieces, targets, groups)
    return np.where(known, (1 - weight) * targets + weight * soft, targets).astype(np.float32)


def cross_fitted(pieces: Pieces, targets: NDArray[np.float32], groups: Sequence[str]) -> NDArray[np.float64]:
    """The teacher's calibrated probabilities, of shape (texts, labels), each text judged without its group.

    A label that a fold's training part has only positives or only negatives of gets the label's share there.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import GroupKFold

    features = TfidfVectorizer(analyzer=ngrams, sublinear_tf=True).fit_transform(pieces)
    scores = np.zeros(targets.shape)
    # A corpus whose rows all share one group, or have none, is dealt out by rows.
    owners = groups if len(set(groups)) > 1 else list(range(len(pieces)))
    folds = GroupKFold(min(FOLDS, len(set(owners))))
    for rest, held in folds.split(features, groups=owners):
        for label in range(targets.shape[1]):
            scores[held, label] = _fitted(features, targets[:, label], rest, held)
    return np.stack([_calibrated(scores[:, label], targets[:, label]) for label in range(targets.shape[1])], axis=1)


def ngrams(ids: Sequence[int]) -> list[str]:
    """Pieces and pairs of neighbouring pieces."""
    return [*map(str, ids), *(f"{first} {second}" for first, second in pairwise(ids))]


def _fitted(features: Any, target: NDArray[np.float32], rest: Any, held: Any) -> NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression

    rows = rest[target[rest] != UNKNOWN]
    if len(set(target[rows])) < 2:
        share = (target[rows].sum() + 0.5) / (len(rows) + 1)
        return np.full(len(held), np.log(share / (1 - share)))
    model = LogisticRegression(C=C, class_weight="balanced", solver="liblinear", max_iter=1000, random_state=0)
    decided: NDArray[np.float64] = model.fit(features[rows], target[rows]).decision_function(features[held])
    return decided


def _calibrated(scores: NDArray[np.float64], target: NDArray[np.float32]) -> NDArray[np.float64]:
    known = target != UNKNOWN
    if len(set(target[known])) < 2:
        return np.asarray(sigmoid(scores))
    slope, intercept = fit_platt(scores[known], target[known])
    return np.asarray(sigmoid(scores * slope + intercept), dtype=np.float64)
