"""The BentoML service: `bentoml serve serving.service:Vigie`, or better `python -m serving`.

The artifact is `VIGIE_ARTIFACT`, or artifacts/vigie-compact beside this package; `VIGIE_PRECISION` chooses fp32 or int8
and `VIGIE_WORKERS` the number of processes (one a core when unset).

The process that watches over the workers imports this module too, so what only they need is loaded by the classes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import bentoml
from bentoml._internal.utils.analytics.usage_stats import do_not_track
from uvicorn.config import HTTP_PROTOCOLS

from serving.limits import positive
from serving.options import ROOT

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

_OFF = {
    # Its figures are kept for every path that anybody asks for, and its log has a line for each request.
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
    # It writes down query strings, and so keys.
    "tracing": {"excluded_urls": [".*"]},
}


class WayIn:
    """ASGI middleware: once the worker is there, what stands before the routes, and the routes, take its place.

    BentoML is left with its health checks. Its other layers would still ask for each request whether they are off, and
    start a task and a timer that stays for a minute, for a time-out above ours.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from serving.worker import worker

        async def take_over(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                scope["app"].middleware_stack = worker().way_in(self.app)
            await send(message)

        if scope["type"] != "lifespan":
            raise RuntimeError("asked before it was started")
        await self.app(scope, receive, take_over)


@bentoml.service(name="vigie", workers=positive("VIGIE_WORKERS", os.cpu_count() or 1), **_OFF)
class Vigie:
    """What BentoML makes in each worker when it starts, and ends with it."""

    def __init__(self) -> None:
        from serving.worker import worker

        self._worker = worker()
        self._worker.load()

    async def __is_ready__(self) -> bool:
        """True once the golden sentences were scored in this process, which the constructor did, until its end.

        From the signal to stop on, no new connection is accepted, so that nothing asks for this in between.
        """
        return self._worker.ready

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def check() -> None:
        """Before there is a worker: what would keep each of them from starting ends the command, told in one line."""
        if _folder:
            # `python -m serving` did the same.
            return
        # This very package, whatever is called so in the folder where the command was given.
        places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-P", "-m", "serving.preflight", "--port", "0"]
        checked = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": places}, stdout=subprocess.DEVNULL, check=False
        )
        if checked.returncode:
            raise SystemExit(checked.returncode)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Let the batch under way end."""
        self._worker.close()


Vigie.add_asgi_middleware(WayIn)  # type: ignore[attr-defined]
