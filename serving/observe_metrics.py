"""What is counted, for Prometheus. Labels are bounded: a path, a method or a text never becomes one.

Each worker counts for itself; `exposition` adds up what all of them counted. Prometheus' counters are written to a file
shared by the workers, which costs more than counting: those of answers, twenty a text, are written once a second.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.classifier import Prediction
from serving.gateway import Kind

SCORE_EDGES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Where one bin of scores ends and the next begins: finer where calibrated scores crowd."""
SCORE_BINS = tuple(f"{low:g}-{high:g}" for low, high in zip((0, *SCORE_EDGES), (*SCORE_EDGES, 1), strict=True))
ROUTES = ("moderate", "support", "none")
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64)
_WRITE_EVERY_S = 1.0
_MAX_KEYS = 200
"""Keys' names that are counted apart. An operator gives them, so this only stops a mistake."""


class Metrics:
    """All figures of one process; to be made once in it, for a registry takes each name once."""

    def __init__(
        self,
        *,
        model: Mapping[str, str],
        categories: Sequence[str],
        context: Sequence[str],
        voices: Sequence[str],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """
        Args:
            model: `name` and `version` of the artifact.
            categories, context, voices: label ids, together in the order of the scores' columns.
        """
        self.model = model
        self._labels = (*categories, *context, *voices)
        self._offsets = np.arange(len(self._labels)) * len(SCORE_BINS)
        self._requests: dict[tuple[str, str, int], Counter] = {}
        self._seconds: dict[str, Histogram] = {}
        self._keys: dict[str, Counter] = {}
        self._make_request_figures(registry)
        self._make_engine_figures(registry)
        self._make_answer_figures(registry, flaggable=(*categories, *context), voices=voices)
        self._make_process_figures(registry)
        self._binned = np.zeros(len(self._bins), dtype=np.int64)
        self._counted: Tally[Counter] = Tally()
        self._writing: asyncio.TimerHandle | None = None
        _OF_THIS_PROCESS.add(self)

    def record_request(
        self,
        *,
        route: str,
        method: str,
        status: int,
        seconds: float,
        key: str | None = None,
        refusal: str | None = None,
    ) -> None:
        """Count an answered request. `route` and `method` come from a closed list (see `serving.observe`)."""
        counter = self._requests.get((route, method, status))
        if counter is None:
            counter = self._requests[route, method, status] = self._request_counter.labels(route, method, str(status))
        counter.inc()
        duration = self._seconds.get(route)
        if duration is None:
            duration = self._seconds[route] = self._request_seconds.labels(route)
        duration.observe(seconds)
        if key is not None:
            self._key(key).inc()
        if refusal in self._refusals:
            self._refusals[refusal].inc()

    def record_batch(
        self, *, texts: int, seconds: float, tokens: int | None = None, waits: Iterable[float] = ()
    ) -> None:
        """Count one run of the engine; `waits` are the seconds that each request in it waited for its first run."""
        self._batch_texts.observe(texts)
        self._batch_seconds.observe(seconds)
        if tokens is not None:
            self._tokens.inc(tokens)
        for wait in waits:
            self._wait_seconds.observe(wait)

    def set_waiting(self, texts: int) -> None:
        """Texts that are accepted and not yet taken by a run."""
        self._waiting.set(texts)

    def record_answers(self, scores: NDArray[Any], predictions: Sequence[Prediction]) -> None:
        """Count the answers of one request; `scores` has shape (texts, labels), columns as given to the constructor."""
        bins = np.searchsorted(SCORE_EDGES, scores, side="right") + self._offsets
        self._binned += np.bincount(bins.ravel(), minlength=len(self._bins))
        counted = self._counted
        counted[self._texts] += len(predictions)
        for prediction in predictions:
            counted[self._routes[prediction["route"]]] += 1
            counted[self._voices[prediction["voice"]["label"]]] += 1
            for label in _flagged(prediction):
                counted[self._flags[label]] += 1
        self._write_soon()

    def write(self) -> None:
        """Write down now what of the answers is only counted yet."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        for index in self._binned.nonzero()[0].tolist():
            self._bins[index].inc(int(self._binned[index]))
        self._binned[:] = 0
        for counter, count in self._counted.items():
            counter.inc(count)
        self._counted.clear()

    def _write_soon(self) -> None:
        if self._writing is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # Nobody would come back to it.
            self.write()
        else:
            self._writing = loop.call_later(_WRITE_EVERY_S, self.write)

    def _key(self, name: str) -> Counter:
        if name not in self._keys:
            if len(self._keys) >= _MAX_KEYS:
                return self._key_counter.labels("other")
            self._keys[name] = self._key_counter.labels(name)
        return self._keys[name]

    def _make_request_figures(self, registry: CollectorRegistry) -> None:
        count, span = partial(Counter, registry=registry), partial(Histogram, registry=registry, buckets=_SECONDS)
        self._request_counter = count("vigie_requests", "Requests answered", ["route", "method", "status"])
        self._request_seconds = span("vigie_request_seconds", "From a request's head to its answer's end", ["route"])
        self._key_counter = count("vigie_key_requests", "Requests by the name of the API key", ["key"])
        refusals = count("vigie_refusals", "Requests refused, by reason", ["kind"])
        self._refusals: dict[str | None, Counter] = {kind: refusals.labels(kind) for kind in get_args(Kind)}

    def _make_engine_figures(self, registry: CollectorRegistry) -> None:
        count, span = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        self._waiting = gauge("vigie_queue_texts", "Texts that wait for the engine")
        self._wait_seconds = span(
            "vigie_wait_seconds", "From a request's entering the queue to a run", buckets=_SECONDS
        )
        self._batch_texts = span("vigie_batch_texts", "Texts that one run of the engine scored", buckets=_TEXTS)
        self._batch_seconds = span("vigie_batch_seconds", "Time of one run of the engine", buckets=_SECONDS)
        self._tokens = count("vigie_tokens", "Tokens that the engine read")

    def _make_answer_figures(
        self, registry: CollectorRegistry, *, flaggable: Sequence[str], voices: Sequence[str]
    ) -> None:
        count = partial(Counter, registry=registry)
        self._texts = count("vigie_texts", "Texts answered")
        scores = count("vigie_scores", "Scores by label and bin, to see them drift", ["label", "bin"])
        flags = count("vigie_flags", "Texts flagged, by category or context", ["label"])
        voice = count("vigie_voices", "Texts by voice; none where no voice passes its threshold", ["voice"])
        route = count("vigie_routes", "Texts by the attention they need", ["route"])
        # Every child is made now: a rate needs its zero, and looking one up costs more than counting.
        self._bins = [scores.labels(label, name) for label in self._labels for name in SCORE_BINS]
        self._flags = {label: flags.labels(label) for label in flaggable}
        self._voices = {label: voice.labels(label or "none") for label in (*voices, None)}
        self._routes = {name: route.labels(name) for name in ROUTES}

    def _make_process_figures(self, registry: CollectorRegistry) -> None:
        info = Gauge(
            "vigie_model_info", "The model served", [*self.model], registry=registry, multiprocess_mode="livemax"
        )
        info.labels(*self.model.values()).set(1)
        Gauge("vigie_workers", "Processes that answer", registry=registry, multiprocess_mode="livesum").set(1)


_OF_THIS_PROCESS: WeakSet[Metrics] = WeakSet()


def exposition(registry: CollectorRegistry = REGISTRY) -> bytes:
    """Everything counted, in Prometheus's text format: by all processes where there are several, else in `registry`.

    Answers that another process counted in the last second may be missing.
    """
    for metrics in _OF_THIS_PROCESS:
        metrics.write()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(registry)
    _forget_the_dead(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    shared = CollectorRegistry()
    MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
    return generate_latest(shared)


def _forget_the_dead(folder: Path) -> None:
    """What a worker that was killed left behind is no longer so; what it counted stays."""
    for pid in {file.stem.rpartition("_")[2] for file in folder.glob("gauge_live*_*.db")}:
        if pid.isdecimal() and not _alive(int(pid)):
            mark_process_dead(int(pid))  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _flagged(prediction: Prediction) -> Iterable[str]:
    for label, score in prediction["categories"].items():
        if score["flagged"]:
            yield label
    if prediction["minor_involved"]["flagged"]:
        yield "minor_involved"
