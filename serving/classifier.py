"""What tools embed: `Classifier.from_dir(path).predict(texts)`. No web code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from serving.artifact import Artifact, ArtifactError, Calibration, read_artifact
from serving.engine import Engine


class Score(TypedDict):
    """A probability from 0 to 1, and whether it passes the threshold of the operating point."""

    score: float
    flagged: bool


class Voice(TypedDict):
    """Who speaks: the likeliest of the three voices where it passes its threshold, else None."""

    label: str | None
    scores: dict[str, float]


class Prediction(TypedDict):
    """The answer for one text.

    `route` says what kind of attention it needs, and never more: `moderate` (a harmful message itself), `support`
    (somebody tells what was done to them: keep it up, offer help), `none`. It proposes; a person decides.
    """

    categories: dict[str, Score]
    minor_involved: Score
    voice: Voice
    flagged: bool
    route: str


_ROUTES = {"direct": "moderate", "testimony": "support"}


class Probabilities:
    """Logits to probabilities, both of shape (texts, labels): the one place where calibration is applied."""

    def __init__(self, calibration: Calibration) -> None:
        self._slopes = np.array(calibration.slopes)
        self._intercepts = np.array(calibration.intercepts)
        self._curves = {column: (np.array(x), np.array(y)) for column, (x, y) in calibration.curves.items()}

    def __call__(self, logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        exact = logits.astype(np.float64)
        # The bounds keep exp from overflowing; a probability moves by less than 1e-300.
        scores = 1 / (1 + np.exp(-np.clip(exact * self._slopes + self._intercepts, -700, 700)))
        for column, (x, y) in self._curves.items():
            scores[:, column] = np.interp(exact[:, column], x, y)
        return np.asarray(scores)


class Classifier:
    """An artifact, ready to answer. The same texts give the same answers here and through the HTTP service."""

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        self.artifact = artifact
        self._engine = Engine(artifact, threads=threads)
        self._probabilities = Probabilities(artifact.calibration)
        # A label without threshold is never flagged: no probability reaches 2.
        self._thresholds = {
            point: np.array([2.0 if value is None else value for value in chosen.values()])
            for point, chosen in artifact.thresholds.items()
        }

    @classmethod
    def from_dir(cls, folder: str | Path, *, precision: str | None = None, threads: int = 1) -> Classifier:
        """Read an artifact, and replay its golden sentences before anything is answered.

        Args:
            precision: `fp32`, `int8` or `8bit`; the artifact's own choice when left out.
            threads: for one matrix product. Several processes with one thread each beat one with several.

        Raises:
            ArtifactError: the directory is not sound, or the scores here are not those of its export.
        """
        artifact = read_artifact(folder, precision=precision)
        classifier = cls(artifact, threads=threads)
        classifier._replay_golden()
        return classifier

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Calibrated probabilities of shape (texts, labels), columns in the order of `artifact.label_ids`.

        Raises:
            TypeError: something other than strings.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("texts must be a list of strings")
        return self._probabilities(self._engine.logits(texts))

    def predict(self, texts: Sequence[str], *, operating_point: str | None = None) -> list[Prediction]:
        """Answers for texts of any length, in order.

        Args:
            operating_point: one of `artifact.thresholds`; the artifact's default when left out. It changes what is
                flagged, never a score.

        Raises:
            ValueError: an operating point that the artifact does not have.
            TypeError: something other than strings.
        """
        self.check_operating_point(operating_point)
        return self.answers(self.scores(texts), operating_point=operating_point)

    def check_operating_point(self, operating_point: str | None) -> None:
        """Raises ValueError for an operating point that the artifact does not have."""
        if operating_point is not None and operating_point not in self._thresholds:
            raise ValueError(f"operating_point must be one of: {', '.join(self._thresholds)}")

    def answers(self, scores: NDArray[np.float64], *, operating_point: str | None = None) -> list[Prediction]:
        """Turn probabilities of shape (texts, labels) into answers."""
        thresholds = self._thresholds[operating_point or self.artifact.default_operating_point]
        return [self._answer(row, row >= thresholds) for row in scores]

    def _answer(self, scores: NDArray[np.float64], flags: NDArray[np.bool_]) -> Prediction:
        artifact = self.artifact
        rounded = [round(float(score), 6) for score in scores]
        named = dict(zip(artifact.label_ids, zip(rounded, flags.tolist(), strict=True), strict=True))
        voices = {label: named[label][0] for label in artifact.voice_ids}
        likeliest = max(voices, key=lambda label: voices[label])
        flagged = any(named[label][1] for label in artifact.category_ids)
        return {
            "categories": {
                label: Score(score=named[label][0], flagged=named[label][1]) for label in artifact.category_ids
            },
            "minor_involved": Score(score=named["minor_involved"][0], flagged=named["minor_involved"][1]),
            "voice": {"label": likeliest if named[likeliest][1] else None, "scores": voices},
            "flagged": flagged,
            # The likeliest voice decides even where it is not sure enough to be named.
            "route": _ROUTES.get(likeliest, "none") if flagged else "none",
        }

    def _replay_golden(self) -> None:
        artifact = self.artifact
        expected = np.array([scores for _, scores in artifact.golden])
        difference = float(np.abs(self.scores([text for text, _ in artifact.golden]) - expected).max())
        tolerance = artifact.golden_tolerance
        if not difference <= tolerance:
            raise ArtifactError(
                f"{artifact.folder}: scores here differ from those at export by up to {difference:.4f}, more than "
                f"{tolerance}; this machine or its libraries compute something else, so nothing is served"
            )
