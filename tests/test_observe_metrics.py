"""serving.observe_metrics: exact figures, bounded labels, and workers added up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from serving.classifier import Prediction
from serving.observe_metrics import SCORE_BINS, Metrics, exposition
from tests.conftest import ROOT

MODEL = {"name": "vigie-tiny", "version": "1.2"}


def make_metrics(registry: CollectorRegistry) -> Metrics:
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ, "figures would be kept from one test to the next"
    return Metrics(
        model=MODEL,
        categories=["grooming", "racism"],
        context=["minor_involved"],
        voices=["direct", "testimony", "commentary"],
        registry=registry,
    )


def prediction(*, flags: str = "", voice: str | None = None, route: str = "none") -> Prediction:
    return {
        "categories": {label: {"score": 0.5, "flagged": label in flags.split()} for label in ("grooming", "racism")},
        "minor_involved": {"score": 0.5, "flagged": "minor_involved" in flags.split()},
        "voice": {"label": voice, "scores": {}},
        "flagged": bool(flags),
        "route": route,
    }


def test_keys_beyond_a_ceiling_share_a_label() -> None:
    registry = CollectorRegistry()
    metrics = make_metrics(registry)
    for index in range(1000):
        metrics.record_request(route="/predict", method="POST", status=200, seconds=0.1, key=f"key{index}")
    keys = [
        sample
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "vigie_key_requests_total"
    ]
    assert len(keys) == 201 and registry.get_sample_value("vigie_key_requests_total", {"key": "other"}) == 800


def test_runs_of_the_engine_are_counted() -> None:
    registry = CollectorRegistry()
    metrics = make_metrics(registry)
    metrics.set_waiting(7)
    metrics.record_batch(texts=3, tokens=50, seconds=0.02, waits=[0.001, 0.2])
    metrics.record_batch(texts=64, seconds=0.3)
    expected = {
        "vigie_queue_texts": 7,
        "vigie_batch_texts_count": 2,
        "vigie_batch_texts_sum": 67,
        "vigie_tokens_total": 50,
        "vigie_batch_seconds_sum": 0.32,
        "vigie_wait_seconds_count": 2,
        "vigie_workers": 1,
    }
    assert {name: registry.get_sample_value(name) for name in expected} == pytest.approx(expected)
    assert registry.get_sample_value("vigie_batch_texts_bucket", {"le": "4.0"}) == 1
    assert registry.get_sample_value("vigie_model_info", MODEL) == 1


def test_answers_are_counted_by_flag_voice_and_route() -> None:
    registry = CollectorRegistry()
    answers = [
        prediction(flags="grooming minor_involved", voice="testimony", route="support"),
        prediction(flags="grooming racism", voice="direct", route="moderate"),
        prediction(voice="direct"),
        prediction(),
    ]
    make_metrics(registry).record_answers(np.full((4, 6), 0.5), answers)

    def counted(name: str, label: str, *values: str) -> list[float | None]:
        return [registry.get_sample_value(name, {label: value}) for value in values]

    assert registry.get_sample_value("vigie_texts_total") == 4
    assert counted("vigie_flags_total", "label", "grooming", "racism", "minor_involved") == [2, 1, 1]
    assert counted("vigie_voices_total", "voice", "direct", "testimony", "commentary", "none") == [2, 1, 0, 1]
    assert counted("vigie_routes_total", "route", "moderate", "support", "none") == [1, 1, 2]


def test_while_serving_answers_are_written_when_somebody_asks() -> None:
    """Or a second later: other workers' figures are read from files."""
    registry = CollectorRegistry()

    async def scene() -> tuple[float | None, bytes]:
        metrics = make_metrics(registry)
        metrics.record_answers(np.full((1, 6), 0.5), [prediction(route="support")])
        metrics.record_answers(np.full((1, 6), 0.5), [prediction(route="support")])
        return registry.get_sample_value("vigie_texts_total"), exposition(registry)

    before, shown = asyncio.run(scene())
    assert before == 0 and b"vigie_texts_total 2.0" in shown and b'vigie_routes_total{route="support"} 2.0' in shown
    assert b'vigie_scores_total{bin="0.5-0.6",label="racism"} 2.0' in shown


def test_every_score_falls_into_one_bin_of_its_label() -> None:
    """By hand: 0 and 0.0099 fall below the first edge, an edge belongs to the bin above it, and 1 to the last."""
    registry = CollectorRegistry()
    columns = np.array([[0.0, 0.01, 0.5, 1.0, 0.99, 0.0099], [0.0099, 0.049, 0.55, 0.989, 0.2, 0.0]])
    make_metrics(registry).record_answers(columns, [prediction(), prediction()])
    found = {
        (sample.labels["label"], sample.labels["bin"]): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "vigie_scores_total" and sample.value
    }
    assert found == {
        ("grooming", "0-0.01"): 2,
        ("racism", "0.01-0.05"): 2,
        ("minor_involved", "0.5-0.6"): 2,
        ("direct", "0.99-1"): 1,
        ("direct", "0.95-0.99"): 1,
        ("testimony", "0.99-1"): 1,
        ("testimony", "0.2-0.3"): 1,
        ("commentary", "0-0.01"): 2,
    }
    assert len(SCORE_BINS) == 14


def test_every_series_of_the_answers_is_there_before_the_first() -> None:
    """A rate needs its zero, and answers must never add series."""
    registry = CollectorRegistry()
    metrics = make_metrics(registry)
    before = generate_latest(registry).count(b"\n")
    chance = np.random.default_rng(0)
    for voice, route in (("direct", "moderate"), ("testimony", "support"), (None, "none")):
        answers = [prediction(flags="grooming racism minor_involved", voice=voice, route=route)] * 50
        metrics.record_answers(chance.random((50, 6)), answers)
    assert generate_latest(registry).count(b"\n") == before


_WORKER = """
import sys
from serving.observe_metrics import Metrics, exposition
metrics = Metrics(model={"name": "n", "version": "1"}, categories=["c"], context=["m"], voices=["v"])
metrics.record_batch(texts=1, tokens=5, seconds=0.1)
metrics.set_waiting(3)
sys.stdout.write(exposition().decode())
"""


def test_workers_are_added_up_and_the_dead_wait_for_nothing(tmp_path: Path) -> None:
    """The first worker has ended when the second is asked: its counts stay, its queue does not."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        command = [sys.executable, "-c", _WORKER]
        shown = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    lines = shown.stdout.splitlines()
    assert "vigie_tokens_total 10.0" in lines and "vigie_batch_texts_count 2.0" in lines
    assert "vigie_queue_texts 3.0" in lines and "vigie_workers 1.0" in lines
    assert 'vigie_model_info{name="n",version="1"} 1.0' in lines


def test_one_process_alone_shows_its_own_registry() -> None:
    registry = CollectorRegistry()
    make_metrics(registry).record_batch(texts=1, tokens=9, seconds=0.1)
    assert b"vigie_tokens_total 9.0" in exposition(registry)
