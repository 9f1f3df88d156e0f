"""What every route asks: texts in, answers out, or a `Refusal` that each protocol words in its own shape.

A protocol translates its wire format into `Gateway.predict` and back; it never touches the engine, the batcher or the
limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from serving.batcher import Batcher, EngineError, Overloaded
from serving.classifier import Classifier, Prediction
from serving.limits import Limits
from serving.observe_facts import note_texts

if TYPE_CHECKING:
    from serving.observe_metrics import Metrics

Kind = Literal[
    "invalid", "too_large", "unauthorized", "forbidden", "rate_limited", "overloaded", "failed", "unsupported"
]
STATUS: Mapping[Kind, int] = {
    "invalid": 422,
    "too_large": 413,
    "unauthorized": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "overloaded": 503,
    "failed": 500,
    "unsupported": 501,
}


@dataclass(eq=False)
class Refusal(Exception):
    """Why a request is not answered.

    `message` says which field, what is allowed and what to do, and never quotes a text. `where` names the field at
    fault, as `texts[3]`. `retry_after_s` is set where trying again later helps.
    """

    kind: Kind
    message: str
    where: str | None = None
    retry_after_s: int | None = None

    @property
    def status(self) -> int:
        """The HTTP status of the native routes; a protocol may have another for the same kind."""
        return STATUS[self.kind]


class Gateway:
    """The classifier behind its batcher and limits: one in each process, shared by all routes."""

    def __init__(
        self, classifier: Classifier, batcher: Batcher, limits: Limits, *, metrics: Metrics | None = None
    ) -> None:
        self.classifier, self.batcher, self.limits, self.metrics = classifier, batcher, limits, metrics

    @property
    def model(self) -> dict[str, str]:
        """Name and version of the artifact, for every answer."""
        artifact = self.classifier.artifact
        return {"name": artifact.name, "version": artifact.version}

    async def predict(
        self, texts: Sequence[str], *, operating_point: str | None = None, field: str = "texts"
    ) -> list[Prediction]:
        """Answers in the order of the texts. Cancelled, as when the client leaves, it costs no further inference.

        Args:
            field: what the caller's wire format calls the list, for the error's words.

        Raises:
            Refusal: there are too many texts or one is too long, the operating point is unknown, the queue is full,
                the deadline passed, or scoring failed.
        """
        note_texts(texts)
        self._check(texts, field)
        try:
            self.classifier.check_operating_point(operating_point)
        except ValueError as error:
            raise Refusal("invalid", str(error), "operating_point") from None
        if not texts:
            return []
        try:
            scores = await self.batcher.scores(texts)
        except Overloaded as error:
            raise Refusal("overloaded", str(error), retry_after_s=error.retry_after_s) from None
        except EngineError as error:
            raise Refusal("failed", f"scoring failed ({error}); the texts were not kept") from None
        if not np.isfinite(scores).all():
            # No threshold is passed by what is no number: it would be answered as harmless.
            raise Refusal("failed", "scoring failed (a score is no number); the texts were not kept")
        predictions = self.classifier.answers(scores, operating_point=operating_point)
        if self.metrics:
            self.metrics.record_answers(scores, predictions)
        return predictions

    def check_room(self) -> None:
        """Raises Refusal where the queue is so full that reading a request would be for nothing."""
        try:
            self.batcher.check_room()
        except Overloaded as error:
            raise Refusal("overloaded", str(error), retry_after_s=error.retry_after_s) from None

    def _check(self, texts: Sequence[str], field: str) -> None:
        if len(texts) > self.limits.texts:
            raise Refusal("invalid", f"{field}: {len(texts)} texts; at most {self.limits.texts} are allowed", field)
        for index, text in enumerate(texts):
            if fault := self.limits.too_long(text):
                where = f"{field}[{index}]"
                raise Refusal("invalid", f"{where}: {fault}", where)


def actionable(prediction: Prediction, *, protect: bool) -> dict[str, float]:
    """The score of each category for a tool that knows no voices and acts on a number.

    With `protect`, a text whose likeliest voice is not `direct` has its scores multiplied by the share of `direct`
    among the three voices (at most a half), so that somebody who tells what was done to them falls below a tool's
    threshold. The likeliest voice decides, as it does for `route`. Without `protect` the scores are those of
    `/predict`.
    """
    scores = {label: score["score"] for label, score in prediction["categories"].items()}
    if not (protect and _is_told(prediction)):
        return scores
    voices = prediction["voice"]["scores"]
    share = voices["direct"] / max(sum(voices.values()), 1e-9)
    return {label: round(score * share, 6) for label, score in scores.items()}


def acted_upon(prediction: Prediction, *, protect: bool) -> dict[str, bool]:
    """Whether a tool that knows no voices should act on each category: those that are flagged.

    With `protect`, nothing is acted upon in a text whose likeliest voice is not `direct`.
    """
    told = protect and _is_told(prediction)
    return {label: score["flagged"] and not told for label, score in prediction["categories"].items()}


def _is_told(prediction: Prediction) -> bool:
    """Whether somebody tells of it or speaks about it, rather than does it."""
    voices = prediction["voice"]["scores"]
    return max(voices, key=lambda label: voices[label]) != "direct"
