"""Softer targets from a teacher that has never seen the text: what pieces and pairs of pieces say about its labels.

The encoder has read little French and soon knows a few thousand training texts by heart. A linear model of n-grams has
another view and overfits in another way; told by it how sure a label is, from other writers' texts alone, the encoder
keeps what both find (Hinton, Vinyals and Dean 2015; predictions across folds as in stacking, Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from training.calibration import fit_platt, sigmoid
from training.data import UNKNOWN

Pieces = Sequence[Sequence[int]]
FOLDS = 5


class View(Protocol):
    """Features of texts, of shape (texts, features), for a linear model."""

    c: float
    """Inverse strength of the regularisation, chosen on the validation split."""
    most: int | None
    """Texts, drawn at random, that are enough to fit it; None for all."""

    def fit_transform(self, pieces: Pieces) -> Any: ...

    def transform(self, pieces: Pieces) -> Any: ...


class Ngrams:
    """TF-IDF of pieces and pairs of neighbouring pieces."""

    c = 100.0
    most: int | None = None

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(analyzer=ngrams, sublinear_tf=True)

    def fit_transform(self, pieces: Pieces) -> Any:
        return self._vectorizer.fit_transform(pieces)

    def transform(self, pieces: Pieces) -> Any:
        return self._vectorizer.transform(pieces)

    def shares(self, ids: Sequence[int], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each piece adds, of shape (pieces, labels), before a text's length is divided out.

        Its own weight, and half of that of each pair it is in; `weights` are of shape (features, labels). Without
        n-grams that come twice, the sum over a text is what `transform` and the weights make of it, times its norm.
        """
        columns, rarity = self._vectorizer.vocabulary_, self._vectorizer.idf_
        told = np.zeros((len(ids), weights.shape[1]))
        for place, name in enumerate(map(str, ids)):
            if (column := columns.get(name)) is not None:
                told[place] += weights[column] * rarity[column]
        for place, (first, second) in enumerate(pairwise(ids)):
            if (column := columns.get(f"{first} {second}")) is not None:
                told[place : place + 2] += weights[column] * rarity[column] / 2
        return told


class Words:
    """TF-IDF of words and pairs of words, and of 2 to 5 characters inside words, of what the pieces spell.

    As `training.baselines` has it for whole texts; here words are what the tokenizer makes of them, in lower case.
    """

    c = 300.0
    most: int | None = None

    def __init__(self, decode: Callable[[Pieces], list[str]]) -> None:
        """`decode` turns token ids into texts."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import FeatureUnion

        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
        self._union = FeatureUnion([("words", words), ("characters", characters)])
        self._decode = decode

    def fit_transform(self, pieces: Pieces) -> Any:
        return self._union.fit_transform(self._decode(pieces))

    def transform(self, pieces: Pieces) -> Any:
        return self._union.transform(self._decode(pieces))


class Teacher:
    """One logistic regression a label over each view, the first calibrated on unseen groups; their log-odds averaged.

    `unseen` are the first view's probabilities of the texts it was fitted on, of shape (texts, labels), each text
    judged by fits that have read none of its group; None where they were not asked for. Called with other texts, it
    answers with what it learnt from all.
    """

    def __init__(
        self,
        pieces: Pieces,
        targets: NDArray[np.float32],
        groups: Sequence[str],
        views: Sequence[View] | None = None,
        *,
        unseen: bool = True,
    ) -> None:
        """
        Args:
            pieces: token ids of every text.
            targets: (texts, labels) with 1, 0 or -100 for what nobody decided.
            groups: the writer or conversation of every text.
            views: what the linear models see; n-grams alone by default. Label by label, the log-odds of the others are
                brought to the mean and spread of the first one's on these texts: an encoder that has met a text
                before is too sure of it, and no folds are needed to calibrate them.
            unseen: judge every text. Without, one fold in five is judged, enough to calibrate, in a third of the time.
        """
        first, *others = views or [Ngrams()]
        features = first.fit_transform(pieces)
        folds = _folds(features, groups)[: None if unseen else 1]
        fits = _each(lambda target: _calibrated(features, target, folds, first.c), targets)
        self.unseen: NDArray[np.float64] | None = None
        if unseen:
            self.unseen = np.asarray(sigmoid(np.stack([fit.unseen for fit in fits], axis=1)), dtype=np.float64)
        weights, biases = np.stack([fit.weights for fit in fits], axis=1), np.array([fit.bias for fit in fits])
        self._views: list[tuple[View, Any, Any]] = [(first, weights, biases)]
        told = features @ weights + biases
        for view in others:
            part = _drawn(len(pieces), view.most)
            features = view.fit_transform([pieces[index] for index in part])
            lines = _each(partial(_linear, features, rows=np.arange(len(part)), c=view.c), targets[part])
            weights, biases = np.stack([line[0] for line in lines], axis=1), np.array([line[1] for line in lines])
            own = features @ weights + biases
            scale = told[part].std(axis=0) / np.maximum(own.std(axis=0), 1e-9)
            self._views.append((view, weights * scale, (biases - own.mean(axis=0)) * scale + told[part].mean(axis=0)))

    def __call__(self, pieces: Pieces) -> NDArray[np.float64]:
        """Calibrated logits of shape (texts, labels)."""
        told = [np.asarray(view.transform(pieces) @ weights + biases) for view, weights, biases in self._views]
        return np.asarray(np.mean(told, axis=0), dtype=np.float64)

    def shares(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """What each piece adds to the log-odds of the n-grams, of shape (pieces, labels), up to a text's length.

        Raises:
            ValueError: the first view is not n-grams of pieces.
        """
        view, weights, _ = self._views[0]
        if not isinstance(view, Ngrams):
            raise ValueError("only n-grams of pieces say what each piece adds")
        return view.shares(ids, weights)


def blended_targets(targets: NDArray[np.float32], unseen: NDArray[np.float64], *, weight: float) -> NDArray[np.float32]:
    """(1 - weight) · target + weight · the teacher's probability, where somebody decided the label; -100 stays."""
    return np.where(targets != UNKNOWN, (1 - weight) * targets + weight * unseen, targets).astype(np.float32)


def ngrams(ids: Sequence[int]) -> list[str]:
    """Pieces and pairs of neighbouring pieces."""
    return [*map(str, ids), *(f"{first} {second}" for first, second in pairwise(ids))]


def _drawn(texts: int, most: int | None) -> NDArray[np.int64]:
    """All places, or `most` of them, in order."""
    if most is None or texts <= most:
        return np.arange(texts)
    return np.sort(np.random.default_rng(0).choice(texts, most, replace=False))


def _each(fit: Callable[[NDArray[np.float32]], Any], targets: NDArray[np.float32]) -> list[Any]:
    """`fit` of every label, in order, on a thread a processor: liblinear holds no lock while it fits, and its primal
    solver draws no numbers, so how many threads there are changes nothing."""
    from sklearn.utils.parallel import Parallel, delayed

    return list(Parallel(n_jobs=-1, prefer="threads")(delayed(fit)(target) for target in targets.T))


class _Fit(NamedTuple):
    """A label's calibrated linear model, and its logits of the texts by fits that have not read their group; NaN where
    none was made."""

    weights: NDArray[np.float64]
    bias: float
    unseen: NDArray[np.float64]


def _folds(features: Any, groups: Sequence[str]) -> list[tuple[Any, Any]]:
    from sklearn.model_selection import GroupKFold

    # A corpus whose rows all share one group, or have none, is dealt out by rows.
    owners = groups if len(set(groups)) > 1 else list(range(len(groups)))
    return list(GroupKFold(min(FOLDS, len(set(owners)))).split(features, groups=owners))


def _calibrated(features: Any, target: NDArray[np.float32], folds: Sequence[tuple[Any, Any]], c: float) -> _Fit:
    weights, bias = _linear(features, target, np.arange(len(target)), c)
    unseen = np.full(len(target), np.nan)
    for rest, held in folds:
        part, offset = _linear(features, target, rest, c)
        unseen[held] = features[held] @ part + offset
    judged = np.flatnonzero((target != UNKNOWN) & ~np.isnan(unseen))
    if len(set(target[judged])) < 2:
        return _Fit(weights, bias, unseen)
    slope, intercept = fit_platt(unseen[judged], target[judged])
    return _Fit(weights * slope, bias * slope + intercept, unseen * slope + intercept)


def _linear(features: Any, target: NDArray[np.float32], rows: Any, c: float) -> tuple[NDArray[np.float64], float]:
    """Weights and bias from the rows whose target is known; where these are all alike, the share of positives alone."""
    from sklearn.linear_model import LogisticRegression

    rows = rows[target[rows] != UNKNOWN]
    if len(set(target[rows])) < 2:
        share = (target[rows].sum() + 0.5) / (len(rows) + 1)
        return np.zeros(features.shape[1]), float(np.log(share / (1 - share)))
    # A few hundred dense features: there L-BFGS takes a fraction of liblinear's time.
    solver = "lbfgs" if isinstance(features, np.ndarray) else "liblinear"
    model = LogisticRegression(C=c, class_weight="balanced", solver=solver, max_iter=1000, random_state=0)
    model.fit(features[rows], target[rows])
    return model.coef_[0], float(model.intercept_[0])
