"""serving.logs: every line is JSON, and none holds a text, whoever logs, warns or dies."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from serving.logs import configure_logging, describe
from serving.observe_facts import Facts, current
from tests.conftest import ROOT

CANARY = "perroquet-bleu-7413"
ours = logging.getLogger("vigie")
theirs = logging.getLogger("somebody.else")


@contextmanager
def captured(layout: str = "json", level: str = "INFO") -> Iterator[Callable[[], str]]:
    """What the process writes to stderr once logging is configured; all is put back at the end."""
    root = logging.getLogger()
    loggers = [root, *(one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    before = [(one, one.handlers, one.level, one.propagate, one.disabled) for one in loggers]
    factory = logging.getLogRecordFactory()
    with pytest.MonkeyPatch.context() as patch:
        for holder, name in [(sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")]:
            patch.setattr(holder, name, getattr(holder, name))
        for name in ("raiseExceptions", "logThreads", "logMultiprocessing"):
            patch.setattr(logging, name, True)
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        patch.setattr(sys, "stderr", io.StringIO())
        patch.setenv("VIGIE_LOG_FORMAT", layout)
        patch.setenv("VIGIE_LOG_LEVEL", level)
        written = sys.stderr
        try:
            configure_logging()
            yield written.getvalue  # type: ignore[attr-defined]
        finally:
            logging.setLogRecordFactory(factory)
            for one, handlers, threshold, propagate, disabled in before:
                one.handlers, one.propagate, one.disabled = handlers, propagate, disabled
                one.setLevel(threshold)


def parsed(written: str) -> list[dict[str, Any]]:
    """The lines, each of which must be one JSON object."""
    lines = [json.loads(line) for line in written.splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    return lines


def fail() -> None:
    """Raise with the canary in message, arguments and cause."""
    try:
        raise KeyError(CANARY)
    except KeyError as cause:
        raise RuntimeError(f"broke on {CANARY}", CANARY) from cause


def test_a_line_of_ours_is_told_in_full() -> None:
    with captured() as written:
        ours.info("read %d texts", 3, extra={"fields": {"route": "/predict", "status": 200}})
    (line,) = parsed(written())
    assert {"level": "INFO", "event": "read 3 texts", "route": "/predict", "status": 200}.items() <= line.items()
    assert line["time"].endswith("Z") and datetime.fromisoformat(line["time"]).year > 2000
    assert isinstance(line["pid"], int)


@pytest.mark.parametrize("layout", ["json", "text"])
def test_a_line_break_or_half_a_surrogate_pair_does_not_break_the_line(layout: str) -> None:
    with captured(layout) as written:
        ours.info("a\nb", extra={"fields": {"key": "\ud83d", "odd": object(), "more": "c\nd"}})
    assert len(written().splitlines()) == 1 and "\\ud83d" in written()


def test_an_object_is_told_by_its_class_and_signs_that_end_a_line_by_number() -> None:
    """A dataclass might hold a text; U+2028 ends a line for some readers."""
    with captured() as written:
        ours.info("a", extra={"fields": {"facts": Facts(CANARY), "name": "b\u2028c"}})
    assert CANARY not in written() and '"Facts"' in written() and "b\\u2028c" in written()


def test_a_line_says_for_which_request() -> None:
    with captured() as written:
        token = current.set(Facts("id-1"))
        ours.warning("inside")
        current.reset(token)
        ours.warning("outside")
    inside, outside = parsed(written())
    assert inside["request_id"] == "id-1" and "request_id" not in outside


@pytest.mark.parametrize("layout", ["json", "text"])
def test_of_a_library_only_the_words_of_its_source_are_kept(layout: str) -> None:
    """Arguments, messages put together and objects are where a text could hide."""
    with captured(layout) as written:
        theirs.error("cannot read %s", CANARY)
        theirs.error(f"cannot read {CANARY}")
        theirs.error(ValueError(CANARY))
        theirs.error("extra", extra={"fields": {"text": CANARY}, "request_id": CANARY, "text": CANARY})
        logging.error("%(text)s", {"text": CANARY})
    assert CANARY not in written() and "cannot read %s" in written()
    assert written().count("(message withheld)") == 2
    assert "somebody.else" in written() and "tests/test_logs.py:" in written()


@pytest.mark.parametrize("logger", [ours, theirs], ids=["ours", "theirs"])
@pytest.mark.parametrize("layout", ["json", "text"])
def test_of_an_exception_only_class_and_place_are_kept(logger: logging.Logger, layout: str) -> None:
    with captured(layout) as written:
        try:
            fail()
        except RuntimeError as error:
            logger.exception("it failed")
            logger.error("it failed: %s", error)
    assert CANARY not in written()
    assert "RuntimeError" in written() and "KeyError" in written() and "tests/test_logs.py:" in written()


def test_an_exception_is_placed_in_our_code() -> None:
    """A library's line says little about what we asked of it."""
    from serving.artifact import ArtifactError, read_artifact

    with pytest.raises(ArtifactError) as caught:
        read_artifact(ROOT / "nowhere")
    described = describe(caught.value)
    assert described["error"] == "ArtifactError" and described["at"].startswith("serving/artifact.py:")


def test_an_endless_chain_of_causes_ends() -> None:
    first, second = ValueError(CANARY), TypeError(CANARY)
    first.__cause__, second.__cause__ = second, first
    assert set(describe(first)["because"]) == {"ValueError", "TypeError"}


def test_a_handler_that_somebody_adds_later_gets_no_text_either() -> None:
    """What is taken out, is taken out where the record is made."""
    late = io.StringIO()
    with captured():
        handler = logging.StreamHandler(late)
        handler.setFormatter(logging.Formatter("%(message)s %(args)s %(exc_text)s"))
        theirs.addHandler(handler)
        try:
            fail()
        except RuntimeError:
            theirs.exception("late %s", CANARY)
    theirs.handlers = []
    assert "late %s" in late.getvalue() and CANARY not in late.getvalue()


def test_handlers_that_were_there_before_are_gone() -> None:
    """BentoML and uvicorn bring their own, which write tracebacks."""
    early = io.StringIO()
    server = logging.getLogger("uvicorn.error")
    server.addHandler(logging.StreamHandler(early))
    try:
        with captured() as written:
            server.error("once")
            assert len(parsed(written())) == 1 and not early.getvalue()
    finally:
        server.handlers = []


@pytest.mark.parametrize("name", ["uvicorn.access", "bentoml.access"])
def test_what_writes_down_paths_is_silent(name: str) -> None:
    with captured(level="DEBUG") as written:
        logging.getLogger(name).critical("GET /?key=secret")
        assert not logging.getLogger(name).hasHandlers()
    assert written() == ""


@pytest.mark.parametrize(("level", "expected"), [("DEBUG", 3), ("INFO", 2), ("WARNING", 1), ("error", 0)])
def test_the_level_is_the_environments(level: str, expected: int) -> None:
    with captured(level=level) as written:
        ours.debug("a")
        ours.info("b")
        ours.warning("c")
        theirs.info("libraries speak from WARNING on")
    assert len(parsed(written())) == expected


def test_a_warning_is_told_by_its_class_alone() -> None:
    with captured() as written, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = sys.modules["serving.logs"]._on_warning
        warnings.warn(CANARY, UserWarning, stacklevel=1)
    (line,) = parsed(written())
    assert line["warning"] == "UserWarning" and line["at"].startswith("tests/test_logs.py:")
    assert CANARY not in written()


@pytest.mark.parametrize(("variable", "value"), [("VIGIE_LOG_FORMAT", "xml"), ("VIGIE_LOG_LEVEL", "LOUD")])
def test_another_value_is_told(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{variable} must be one of"):
        configure_logging()


def test_text_lines_are_for_people() -> None:
    with captured("text") as written:
        ours.info("request", extra={"fields": {"route": "/predict", "what": "two words"}})
    head, _, tail = written().strip().partition(" INFO request ")
    assert datetime.fromisoformat(head) and tail.endswith('route=/predict what="two words"')


_DYING = """
import asyncio, gc, sys, threading, warnings
from serving.logs import configure_logging
from tests.test_logs import CANARY, fail
configure_logging()
warnings.warn(CANARY)
thread = threading.Thread(target=fail, name=CANARY)
thread.start()
thread.join()
class Broken:
    def __del__(self):
        fail()
Broken()
async def work():
    fail()
async def main():
    asyncio.create_task(work(), name=CANARY)
    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
loop = __import__(sys.argv[1])
loop.run(main())
fail()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_way_to_die_shows_a_text(loop: str) -> None:
    """A warning, a thread, a destructor, a lost task, a callback, and the end of the process."""
    pytest.importorskip(loop)
    command = [sys.executable, "-c", _DYING, loop]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1 and result.stdout == ""
    assert CANARY not in result.stderr
    lines = parsed(result.stderr)
    told = [line["event"] for line in lines if line.get("error") == "RuntimeError"]
    assert told[:2] == ["uncaught exception in a thread", "exception where none can be raised"]
    assert told[-1] == "uncaught exception" and len(told) == 5
    assert [line["warning"] for line in lines if "warning" in line] == ["UserWarning"]
