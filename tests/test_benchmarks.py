"""The benchmarks' own machinery, with fake servers and fake engines. Nothing here says how fast anything is."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.benchmarks import load, offline, overhead, servers, soak
from tests.benchmarks.contestants import Contestant
from tests.benchmarks.engines import REFERENCE, OfflineEngine, all_engines
from tests.benchmarks.models import BASE, ENCODER, Shape, compact_shape
from tests.benchmarks.offline import Timed
from tests.benchmarks.report import Table, machine, markdown
from tests.benchmarks.rounds import Budget, alternate, percentile, ratio
from tests.benchmarks.texts import Drawer, describe, length_at
from tests.conftest import ROOT
from training.errors import UserError

CANARY = "perroquet-bleu-7413"

FAKE_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def fake(name: str, code: str = FAKE_SERVER) -> Contestant:
    return Contestant(name, lambda port: [sys.executable, "-c", code, str(port)], "/", lambda text: {"text": text})


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def working(self, seconds: float) -> Callable[[int], float]:
        def work(_: int) -> float:
            self.now += seconds
            return seconds

        return work


def test_what_a_section_leaves_goes_to_the_others() -> None:
    """Ten minutes by 1 : 3 : 1; the first section takes one of its two minutes, so nine are left for 3 : 1."""
    clock = Clock()
    budget = Budget(10, {"a": 1, "b": 3, "c": 1}, clock=clock)
    assert budget.deadline("a") == pytest.approx(100 + 120)
    clock.now += 60
    assert budget.deadline("b") == pytest.approx(160 + 540 * 3 / 4)
    clock.now += 1000
    assert budget.deadline("c") == clock.now


def test_contestants_take_turns_and_stop_in_time() -> None:
    """A round takes 3 s: a third would end at 109, after the limit. Who began first ends last in the next round."""
    clock, order = Clock(), list[str]()

    def noted(name: str, seconds: float) -> Callable[[int], float]:
        work = clock.working(seconds)
        return lambda number: order.append(name) or work(number)  # type: ignore[func-returns-value]

    found = alternate({"a": noted("a", 1), "b": noted("b", 2)}, until=108, most=9, clock=clock)
    assert order == ["a", "b", "b", "a"]
    assert found == {"a": [1, 1], "b": [2, 2]}


def test_one_round_is_run_however_late_it_is() -> None:
    clock = Clock()
    assert alternate({"a": clock.working(1)}, until=0, most=9, clock=clock) == {"a": [1]}


def test_ratios_are_taken_within_rounds() -> None:
    """By round 2, 2 and 4; the ratio of the medians would be 20 / 8."""
    assert ratio([2, 20, 40], [1, 10, 10]) == 2


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.51, 3), (0.95, 4), (1.0, 4)])
def test_percentiles_are_values_that_were_met(share: float, expected: float) -> None:
    assert percentile([4, 1, 3, 2], share) == expected
    assert percentile([], share) is None


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    return Drawer(ENCODER / "tokenizer.json")


def test_texts_have_the_promised_lengths(drawer: Drawer) -> None:
    found = describe(drawer.lengths(drawer.draw(400, seed=3)))
    assert 20 <= found["median"] <= 24 and 33 <= found["mean"] <= 39 and 105 <= found["p95"] <= 123
    assert found["max"] > 300 and length_at(1.0) == 505 and length_at(0.5) == 22


def test_texts_depend_on_the_seed_alone(drawer: Drawer) -> None:
    assert drawer.draw(20, seed=1) == drawer.draw(20, seed=1) != drawer.draw(20, seed=2)
    assert {len(text) for text in drawer.of_characters(20, 300, seed=1)} == {300}


def test_no_text_is_longer_than_the_window() -> None:
    """A cut text may be spelled in a token more than it had in its whole."""
    short = Drawer(ENCODER / "tokenizer.json", longest=32)
    assert max(short.lengths(short.draw(100, seed=1))) <= 34


Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_server(answering: Answering, scene: Callable[[int], Awaitable[load.Load]]) -> load.Load:
    """Run a load on a server in the same loop."""

    async def both() -> load.Load:
        server = await asyncio.start_server(answering, "127.0.0.1", 0)
        async with server:
            return await scene(server.sockets[0].getsockname()[1])

    return load.run(both())


def answers(*heads: bytes) -> Answering:
    """A server that gives these answers in turn, whoever asks; a head that is empty ends the connection."""
    left = list(heads)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (await reader.readuntil(b"\r\n\r\n")) and (head := left.pop(0) if len(left) > 1 else left[0]):
                writer.write(head)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    return serve


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def test_a_burst_counts_every_request_once() -> None:
    """Answers of both kinds of length, a refusal, and a connection that ends without an answer."""
    requests = [load.request("/", b"", port=1)] * 5
    found = with_server(answers(OK, CHUNKED, BUSY, b"", OK), lambda port: load.burst(port, requests))
    assert found.statuses == Counter({200: 3, 503: 1}) and found.broken == 1
    assert found.answered == len(found.latencies) == 3 and found.errors == 2


def test_a_closed_load_reconnects_when_it_is_sent_away() -> None:
    requests = [load.request("/", b"", port=1)]
    found = with_server(
        answers(OK, BUSY, b"", OK), lambda port: load.closed(port, requests, connections=2, seconds=0.2)
    )
    assert found.statuses[503] == 1 and found.broken == 1 and found.answered > 2


def test_without_a_server_everything_is_broken() -> None:
    found = load.run(load.closed(1, [b""], connections=2, seconds=0.5))
    assert found.answered == 0 and found.broken == found.errors > 0


def test_a_paced_load_sends_as_many_as_are_due() -> None:
    """A Poisson process of 400 a second over half a second: 200 within five standard deviations, whatever the load."""
    requests = [load.request("/", b"", port=1)]
    found = with_server(answers(OK), lambda port: load.paced(port, requests, rate=400, seconds=0.5, seed=1))
    assert 130 < found.answered < 270 and found.errors == 0


def test_a_request_says_how_many_bytes_it_has() -> None:
    request = fake("x").request("été", 80)
    head, _, body = request.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head and json.loads(body) == {"text": "été"}


def test_a_server_is_ended_with_its_children(tmp_path: Path) -> None:
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {FAKE_SERVER!r}, sys.argv[1]])"
    with fake("parent", parent).running(tmp_path) as server:
        members = server.family.members
        assert len(members) == 2 and server.family.rss() > 0 and server.family.cpu_seconds() > 0
    assert not any(psutil.pid_exists(member.pid) and member.is_running() for member in members)


def test_a_server_that_ends_at_once_is_told(tmp_path: Path) -> None:
    contestant = fake("broken", "raise SystemExit('no such model')")
    with pytest.raises(UserError, match=r"broken: did not start .* no such model"), contestant.running(tmp_path):
        pass


def test_servers_are_compared_and_no_text_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that does not start is left out and named; the others have a row at each level."""
    monkeypatch.setattr(servers, "_SHORTEST_S", 0.1)
    contestants = [fake("Vigie, fake"), fake("other"), fake("broken", "raise SystemExit('no such model')")]
    found = servers.servers(contestants, [CANARY], deadline=time.monotonic(), logs=tmp_path, levels=(1, 2))
    levels = found.figures["levels"]
    assert list(levels) == ["1", "2"] and list(levels["2"]) == ["Vigie, fake", "other"]
    assert levels["2"]["Vigie, fake"]["rate_of_first"] == 1 and levels["1"]["other"]["errors"] == 0
    printed = markdown(found.tables) + json.dumps(found.figures) + str(capsys.readouterr())
    assert "against the strongest other, other: Vigie, fake: × " in printed and "left out: broken" in printed
    assert CANARY not in printed


def test_engines_are_compared_by_round() -> None:
    """Twice and four times as fast as the reference, so three; half an operation of its peak; logits 0.5 away."""
    reference = OfflineEngine(REFERENCE, lambda _: None)
    fast = OfflineEngine("fast", lambda _: None, peak="int8")
    found = {
        REFERENCE: [Timed(2.0, 2.0, np.zeros((1, 2))), Timed(8.0, 8.0, None)],
        "fast": [Timed(1.0, 1.0, np.array([[0.0, 1.0]])), Timed(2.0, 2.0, None)],
    }
    section = offline.summarise(
        "x", [reference, fast], found, lengths=[3, 5], gflop=6.0, peaks={"fp32": 4.0, "int8": 8.0}
    )
    figures = section.figures["x"]["engines"]["fast"]
    assert figures["times_reference"] == 3 and figures["cpu_ms"] == 1500 and figures["drift"] == 0.5
    assert figures["share_of_peak"] == pytest.approx(6 / 1.5 / 8)


def test_all_engines_score_the_same_thing(artifact: Path, tmp_path: Path) -> None:
    """Each rival, and ours in each precision, gives the reference's logits, in the artifact's order."""
    shape = compact_shape(artifact, tmp_path)
    texts = ["la chorale chante jeudi au port", "il menace", "toute la classe se moque de moi"]
    reference, *others = all_engines(shape)
    assert reference.logits
    expected = reference.logits(reference.run(texts))
    assert expected.shape == (3, 14) and np.ptp(expected) > 0.5
    for engine in others:
        if engine.logits:
            difference = np.abs(engine.logits(engine.run(texts)) - expected).max()
            assert difference < (1e-3 if engine.peak == "fp32" else 0.3), engine.name
    assert {f"Vigie engine, {precision}" for precision in shape.precisions} <= {engine.name for engine in others}


def test_what_rivals_read_is_built_once(artifact: Path, tmp_path: Path) -> None:
    before = compact_shape(artifact, tmp_path).rival
    (before / "mark").touch()
    assert (compact_shape(artifact, tmp_path).rival / "mark").exists()


def test_operations_are_counted(tmp_path: Path) -> None:
    """Base, 10 tokens, by hand: 12 layers of 2·10·(4·768² + 2·768·3072) + 4·10²·768."""
    (tmp_path / "config.json").write_text(json.dumps(BASE), encoding="utf-8")
    assert Shape("base", tmp_path, tmp_path).flops(10) == 12 * (2 * 10 * 7_077_888 + 4 * 100 * 768)


def sampled(minute: int, pss: float, *, errors: int = 0) -> soak.Sample:
    return soak.Sample(60 * minute, 10, errors, 1.0, 2.0, 5.0 + minute, pss + 50, pss)


def test_memory_that_grows_is_seen() -> None:
    """Two megabytes a minute are 120 an hour; what happens in the first third, while caches fill, does not count."""
    found = soak.summarise([sampled(n, 500.0 if n < 3 else 100 + 2.0 * n) for n in range(9)])
    assert found["pss_mb_an_hour"] == pytest.approx({"slope": 120, "low": 120, "high": 120})
    assert found["answered"] == 90 and found["pss_mb"] == {"first": 500, "most": 500, "last": 116}
    assert found["p99_ms"] == {"all": 9, "first_third": 6, "last_third": 12}
    assert soak.faults(found, most_mb=600, most_mb_an_hour=130) == []
    assert "grows by 120 MB" in soak.faults(found, most_mb=600, most_mb_an_hour=110)[0]
    assert "reached 500 MB" in soak.faults(found, most_mb=499, most_mb_an_hour=130)[0]


def test_memory_that_only_wavers_is_no_growth() -> None:
    """By hand, y = 0, 1, 0, 1 at x = 0 … 3: slope 0.2, residual variance 0.4, so ± 1.96 · √(0.4 / 5)."""
    spread = 1.96 * 0.08**0.5
    assert soak.slope(list(enumerate([0.0, 1.0, 0.0, 1.0]))) == pytest.approx(
        {"slope": 0.2, "low": 0.2 - spread, "high": 0.2 + spread}
    )
    found = soak.summarise([sampled(n, 400 + 5 * (n % 2)) for n in range(90)])
    assert soak.faults(found, most_mb=600, most_mb_an_hour=1) == []


def test_a_request_without_an_answer_is_a_fault() -> None:
    found = soak.summarise([sampled(0, 400, errors=1)])
    assert soak.faults(found, most_mb=600, most_mb_an_hour=60) == ["1 requests were not answered with 200"]


def test_overhead_is_what_a_server_takes_more_than_its_engine() -> None:
    """By hand: CPU 5 − 3, 9 − 4 and 6 − 3; the cheapest rounds 5 and 3; waiting 8 − 3, 12 − 5 and 9 − 3."""
    costs = [overhead.Cost(5, 8), overhead.Cost(9, 12), overhead.Cost(6, 9)]
    engine = [overhead.Cost(3, 3), overhead.Cost(4, 5), overhead.Cost(3, 3)]
    assert overhead.compare(costs, engine, alone=True) == {
        "server_cpu_ms": 6,
        "overhead_cpu_ms": 3,
        "least_overhead_cpu_ms": 2,
        "p50_ms": 9,
        "overhead_ms": 6,
        "engine_cpu_ms": 3,
    }


def test_memory_is_told_for_each_process(tmp_path: Path) -> None:
    """Shares add up to no more than what each has in all, and to no less than what it has alone."""
    with fake("one").running(tmp_path) as server:
        one, total = server.family.memory()
    assert one.what.startswith("python") and total.what == "all"
    assert 0 < one.uss_mb <= one.pss_mb <= one.rss_mb == total.rss_mb


def test_tables_show_three_digits_that_count() -> None:
    table = Table("T", ("a", "b"), [["x", 1234.5], ["y", 0.012345], ["z", None]], ["n"])
    assert markdown([table]).split("\n")[2:] == [
        "| a | b |", "| --- | ---: |", "| x | 1,234 |", "| y | 0.0123 |", "| z | – |", "", "- n", "",
    ]  # fmt: skip


def test_the_machine_is_described() -> None:
    found = machine()
    assert found["cores"] >= 1 and found["cpu"] and found["libraries"]["onnxruntime"]
    json.dumps(found)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("module", ["tests.benchmarks", "tests.benchmarks.soak", "tests.benchmarks.burst"])
def test_a_missing_artifact_is_told_in_one_line(module: str, tmp_path: Path) -> None:
    found = run(module, "--artifact", str(tmp_path))
    assert found.returncode == 2 and "no artifact to serve" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
