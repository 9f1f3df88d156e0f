"""The BentoML service: `bentoml serve serving.service:Vigie`, or better `python -m serving`.

The artifact is `VIGIE_ARTIFACT`, or artifacts/vigie-compact beside this package; `VIGIE_PRECISION` chooses fp32 or int8
and `VIGIE_WORKERS` the number of processes (one a core when unset).
"""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import bentoml
from bentoml._internal.utils.analytics.usage_stats import do_not_track
from uvicorn.config import HTTP_PROTOCOLS

from serving.api import create_app
from serving.artifact import ArtifactError
from serving.auth import Access
from serving.batcher import Batcher
from serving.classifier import Classifier
from serving.gateway import Gateway
from serving.limits import Limits, positive
from serving.logs import configure_logging
from serving.middleware import middlewares, origins_from_environment
from serving.observe_metrics import Metrics

DEFAULT_ARTIFACT = Path(__file__).resolve().parent.parent / "artifacts" / "vigie-compact"

# BentoML reports each start to its makers unless told not to before the command begins. It remembers what it was told,
# so under a plain `bentoml serve` that memory has to go too; nothing was sent yet when it imports this module.
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
do_not_track.cache_clear()
# Each server counts in a folder of its own: BentoML empties the one that servers of a machine would share.
if _folder := os.environ.get("VIGIE_METRICS_DIR"):
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _folder
# In its containers BentoML leaves a worker that died dead, until all have.
os.environ.pop("BENTOML_CONTAINERIZED", None)
# The server's own protocol waits for headers without end, in time and in bytes.
HTTP_PROTOCOLS["auto"] = "serving.connection:BoundedHttp"

logger = logging.getLogger("vigie")
limits = Limits.from_environment()
app = create_app(limits)

_LONGEST_RUN_S = 60
_LEAN = {
    # Off: its figures are kept for every path that anybody asks for, and its log has a line for each request.
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
    # Off: half a millisecond a request even where nothing is traced, and it writes down query strings, and so keys.
    "tracing": {"excluded_urls": [".*"]},
    # Only a net below our own time-outs, which answer in the words of each protocol; and no ceiling on concurrency,
    # for the queue has one.
    "traffic": {"timeout": limits.read_timeout_s + limits.deadline_ms / 1000 + _LONGEST_RUN_S},
}


@bentoml.service(name="vigie", workers=positive("VIGIE_WORKERS", os.cpu_count() or 1), **_LEAN)
@bentoml.asgi_app(app, path="/")
class Vigie:
    """One process: an artifact, its micro-batcher and the routes."""

    def __init__(self) -> None:
        # First of all: nothing that a library has to say may quote a text.
        configure_logging()
        classifier = _read()
        artifact = classifier.artifact
        metrics = Metrics(
            model={"name": artifact.name, "version": artifact.version},
            categories=artifact.category_ids,
            context=artifact.context_ids,
            voices=artifact.voice_ids,
        )
        self._batcher = Batcher(
            classifier.scores,
            queue_texts=limits.queue_texts,
            queue_characters=limits.queue_characters,
            deadline_s=limits.deadline_ms / 1000,
            on_run=metrics.record_batch,
            on_waiting=metrics.set_waiting,
        )
        app.state.metrics = metrics
        app.state.gateway = Gateway(classifier, self._batcher, limits, metrics=metrics)
        logger.info("ready", extra={"fields": {"model": artifact.version}})
        # The golden sentences were replayed, so everything that stays is there: no need to look at it again and again.
        gc.collect()
        gc.freeze()
        self._ready = True

    async def __is_ready__(self) -> bool:
        """True once the golden sentences were scored in this process, which the constructor did, until its end.

        From the signal to stop on, no new connection is accepted, so that nothing asks for this in between.
        """
        return self._ready

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Let the batch under way end."""
        self._ready = False
        self._batcher.close()


def _read() -> Classifier:
    """The artifact, or the reason in the log why there is nothing to serve."""
    folder = os.environ.get("VIGIE_ARTIFACT", DEFAULT_ARTIFACT)
    try:
        return Classifier.from_dir(folder, precision=os.environ.get("VIGIE_PRECISION") or None)
    except ArtifactError as error:
        logger.critical("not started: %s", str(error))
        raise


for middleware in middlewares(
    app,
    limits=limits,
    access=Access.from_environment(),
    origins=origins_from_environment(),
    gateway=lambda: app.state.gateway,
):
    Vigie.add_asgi_middleware(middleware.cls, **middleware.kwargs)  # type: ignore[attr-defined]
