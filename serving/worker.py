"""What one process of the service holds: an artifact, its micro-batcher, the routes and what stands before them."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable
from functools import cache

from starlette.types import ASGIApp

from serving.api import create_app
from serving.artifact import ArtifactError
from serving.auth import Access
from serving.batcher import Batcher
from serving.classifier import Classifier
from serving.gateway import Gateway
from serving.limits import Limits
from serving.logs import configure_logging
from serving.middleware import middlewares, origins_from_environment
from serving.observe_metrics import Metrics
from serving.options import DEFAULT_ARTIFACT

logger = logging.getLogger("vigie")
_GIVE_BACK_EVERY_S = 60


class Worker:
    """Made when the process begins to serve; it answers once `load` has returned."""

    def __init__(self) -> None:
        """
        Raises:
            ValueError: a setting in the environment that cannot be.
        """
        self.ready = False
        self._trim = _malloc_trim()
        self._limits = Limits.from_environment()
        self._app = create_app(self._limits)
        self._layers = middlewares(
            self._app,
            limits=self._limits,
            access=Access.from_environment(),
            origins=origins_from_environment(),
            gateway=lambda: self._app.state.gateway,
        )

    def way_in(self, health: ASGIApp) -> ASGIApp:
        """The routes with all that stands before them; `health` answers the health checks."""
        app = health
        for layer in reversed(self._layers):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        return app

    def load(self) -> None:
        """Read the artifact and begin to answer.

        Raises:
            ArtifactError: there is nothing to serve; the log says why.
        """
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
            queue_texts=self._limits.queue_texts,
            queue_characters=self._limits.queue_characters,
            deadline_s=self._limits.deadline_ms / 1000,
            on_run=metrics.record_batch,
            on_waiting=metrics.set_waiting,
        )
        self._app.state.metrics = metrics
        self._app.state.gateway = Gateway(classifier, self._batcher, self._limits, metrics=metrics)
        logger.info("ready", extra={"fields": {"model": artifact.version}})
        # The golden sentences were replayed, so everything that stays is there: no need to look at it again and again.
        gc.collect()
        gc.freeze()
        self._give_back()
        self.ready = True

    def _give_back(self) -> None:
        """Return what loading or a burst took, some 30 MB, whenever nothing is to do."""
        if self._batcher.idle:
            self._trim(0)
        asyncio.get_running_loop().call_later(_GIVE_BACK_EVERY_S, self._give_back)

    def close(self) -> None:
        """Let the batch under way end."""
        self.ready = False
        self._batcher.close()


@cache
def worker() -> Worker:
    """The one of this process."""
    return Worker()


def _read() -> Classifier:
    """The artifact, or the reason in the log why there is nothing to serve."""
    folder = os.environ.get("VIGIE_ARTIFACT", DEFAULT_ARTIFACT)
    try:
        return Classifier.from_dir(folder, precision=os.environ.get("VIGIE_PRECISION") or None)
    except ArtifactError as error:
        logger.critical("not started: %s", str(error))
        raise


def _malloc_trim() -> Callable[[int], int]:
    """Gives memory that was freed back to the system. Only the GNU C library has it, and needs it."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return getattr(library, "malloc_trim", int)
