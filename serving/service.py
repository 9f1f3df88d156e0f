"""The BentoML service: `bentoml serve serving.service:Vigie`, or better `python -m serving`.

The artifact is `VIGIE_ARTIFACT`, or artifacts/vigie-compact beside this package; `VIGIE_PRECISION` chooses fp32 or int8
and `VIGIE_WORKERS` the number of processes (one a core when unset).
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml

from serving.api import State, create_app
from serving.batcher import Batcher
from serving.classifier import Classifier
from serving.limits import Limits

DEFAULT_ARTIFACT = Path(__file__).resolve().parent.parent / "artifacts" / "vigie-compact"

app = create_app(Limits.from_environment())


@bentoml.service(
    name="vigie",
    workers=int(os.environ.get("VIGIE_WORKERS") or os.cpu_count() or 1),
    traffic={"timeout": 60},
)
@bentoml.asgi_app(app, path="/")
class Vigie:
    """One process: an artifact, its micro-batcher and the routes."""

    def __init__(self) -> None:
        classifier = Classifier.from_dir(
            os.environ.get("VIGIE_ARTIFACT", DEFAULT_ARTIFACT), precision=os.environ.get("VIGIE_PRECISION") or None
        )
        self._batcher = Batcher(classifier.scores)
        app.state.vigie = State(classifier, self._batcher)

    def __is_ready__(self) -> bool:
        """True once the golden sentences were replayed, which the constructor did."""
        return hasattr(app.state, "vigie")

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Let the batch under way end."""
        self._batcher.close()
