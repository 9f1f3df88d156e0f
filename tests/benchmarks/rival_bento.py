"""BentoML as its documentation shows it, with a batchable method: around `transformers.pipeline`, and around Vigie's
own Classifier, so that what the service adds can be told from what the engine takes."""

from __future__ import annotations

import os
from typing import Any

import bentoml

WORKERS = int(os.environ.get("RIVAL_WORKERS", "1"))


@bentoml.service(workers=WORKERS)
class Pipeline:
    """RIVAL_MODEL names the model's folder."""

    def __init__(self) -> None:
        from transformers import pipeline

        self._pipe = pipeline("text-classification", model=os.environ["RIVAL_MODEL"], device="cpu", top_k=None)

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        answers: list[list[dict[str, Any]]] = self._pipe(texts, truncation=True)
        return answers


@bentoml.service(workers=WORKERS)
class Wrapped:
    """RIVAL_MODEL names an artifact, RIVAL_PRECISION its precision."""

    def __init__(self) -> None:
        from serving import Classifier

        self._classifier = Classifier.from_dir(os.environ["RIVAL_MODEL"], precision=os.environ["RIVAL_PRECISION"])

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        return [dict(answer) for answer in self._classifier.predict(texts)]
