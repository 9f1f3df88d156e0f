"""One line for each event on stderr, and no text that a person wrote in any of them.

What our own loggers (`vigie` and below) say was written here, and is kept. Of what a library says only the words that
stand in its source are kept, never what it put into them; of an exception only its class and where it was raised. That
happens where Python makes a log record, so it holds for every logger and every handler of the process.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import orjson

from serving.observe_facts import current

logger = logging.getLogger("vigie")

_HERE = Path(__file__).resolve().parent
_WITHHELD = "(message withheld)"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SILENT = ("uvicorn.access", "bentoml.access")
"""They write down paths and query strings, which hold keys and whatever else somebody typed."""
_CHAIN_LIMIT = 8
_NOTHING_UNASKED = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""Objects are not looked into: what is in them might be a text."""


def configure_logging() -> None:
    """Send everything this process logs, warns of or dies from through here.

    To be called after BentoML's own set-up and before the first request: first thing in the service's constructor.
    VIGIE_LOG_FORMAT is `json` or `text`; VIGIE_LOG_LEVEL is the least level of our own lines; libraries are heard
    from WARNING on, or from that level where it is higher.

    Raises:
        ValueError: a variable has another value.
    """
    layout, level = check_logging()
    logging.setLogRecordFactory(SafeRecord)
    # Else a handler that fails prints the record's arguments.
    logging.raiseExceptions = False
    # Not shown, as anything may be in a name; and not looked up for nothing.
    logging.logThreads = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if layout == "json" else TextLines())
    _take_over(handler)
    logging.getLogger().setLevel(max(level, logging.WARNING))
    logger.setLevel(level)
    sys.excepthook = _on_uncaught
    threading.excepthook = _on_uncaught_in_thread
    sys.unraisablehook = _on_unraisable
    warnings.showwarning = _on_warning


def check_logging() -> tuple[str, int]:
    """The layout and the level that the environment asks for; nothing is set up.

    Raises:
        ValueError: a variable has a value that it cannot have.
    """
    layout = _choice("VIGIE_LOG_FORMAT", "json", ("json", "text"))
    return layout, logging.getLevelNamesMapping()[_choice("VIGIE_LOG_LEVEL", "INFO", _LEVELS)]


class SafeRecord(logging.LogRecord):
    """A log record that holds no text of a person's, whoever made it."""

    def __init__(
        self,
        name: str,
        level: int,
        pathname: str,
        lineno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        sinfo: str | None = None,
        **_: Any,
    ) -> None:
        # Named apart, for a library may bring a `request_id` of its own in `extra`.
        self.vigie_ours = f"{name}.".startswith("vigie.")
        msg, args = (msg, _without_errors(args)) if self.vigie_ours else (_own_words(msg, pathname), ())
        super().__init__(name, level, pathname, lineno, msg, args, None, func, None)
        self.vigie_fault = describe(exc_info[1]) if exc_info and exc_info[1] is not None else {}
        facts = current.get()
        self.vigie_request = facts.request_id if facts else None


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event and what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        described = dict(_described(record))
        with contextlib.suppress(TypeError):
            line = orjson.dumps(described, option=_NOTHING_UNASKED)
            # Else signs that some readers take for the end of a line would stand in it as they are.
            if line.isascii():
                return line.decode("ascii")
        return _encode(described)


class TextLines(logging.Formatter):
    """The same for people's eyes: time, level, event, then key=value."""

    def format(self, record: logging.LogRecord) -> str:
        described = dict(_described(record))
        head = [" ".join(described.pop(key).split()) for key in ("time", "level", "event")]
        return " ".join([*head, *(f"{key}={_shown(value)}" for key, value in described.items())])


def describe(error: BaseException) -> dict[str, Any]:
    """The classes of an exception and of those behind it, and where it was raised: never what it says.

    `at` is the innermost line of this package, `raised_at` the innermost of all where that is another.
    """
    places = [_place(frame.f_code.co_filename, line) for frame, line in _frames(error.__traceback__)]
    ours = [place for place in places if place.startswith("serving/")]
    fault: dict[str, Any] = {"error": type(error).__name__}
    if ours:
        fault["at"] = ours[-1]
    if places and places[-1:] != ours[-1:]:
        fault["raised_at"] = places[-1]
    if behind := [type(cause).__name__ for cause in _behind(error)]:
        fault["because"] = behind
    return fault


def _described(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    yield "time", datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    yield "level", record.levelname
    yield "event", record.getMessage()
    yield "pid", record.process
    if request := getattr(record, "vigie_request", None):
        yield "request_id", request
    if getattr(record, "vigie_ours", False):
        yield from getattr(record, "fields", {}).items()
    else:
        yield "logger", record.name
        yield "from", _place(record.pathname, record.lineno)
    yield from getattr(record, "vigie_fault", {}).items()


def _take_over(handler: logging.Handler) -> None:
    root = logging.getLogger()
    root.handlers = [handler]
    for known in list(root.manager.loggerDict.values()):
        if isinstance(known, logging.Logger):
            known.handlers, known.propagate = [], True
            known.setLevel(logging.NOTSET)
    for name in _SILENT:
        silent = logging.getLogger(name)
        silent.propagate = False
        silent.disabled = True


def _own_words(message: object, path: str) -> str:
    """A library's message where it stands in its source as it is; what was put together might quote a text."""
    if isinstance(message, str) and message.strip() in _constants(path):
        return message.strip()
    return _WITHHELD


@lru_cache(maxsize=256)
def _constants(path: str) -> frozenset[str]:
    """Every string in a Python source file; none where it cannot be read."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return frozenset()
    found = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return frozenset(value.strip() for value in found if isinstance(value, str))


def _without_errors(arguments: Any) -> Any:
    """Exceptions among a message's arguments become their classes' names."""
    if isinstance(arguments, tuple):
        return tuple(type(value).__name__ if isinstance(value, BaseException) else value for value in arguments)
    return arguments


def _frames(trace: TracebackType | None) -> Iterator[tuple[Any, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _place(path: str, line: int) -> str:
    """`serving/engine.py:60`, or folder, file and line of somebody else's."""
    file = Path(path)
    folder = "serving" / file.relative_to(_HERE).parent if file.is_relative_to(_HERE) else Path(file.parent.name)
    return f"{(folder / file.name).as_posix()}:{line}"


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Causes and contexts, nearest first; a chain may be endless."""
    following: BaseException | None = error
    for _ in range(_CHAIN_LIMIT):
        assert following is not None
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
        if following is None:
            return
        yield following


def _on_uncaught(_: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logger.critical("uncaught exception", exc_info=(type(error), error, trace))


def _on_uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    if uncaught.exc_type is not SystemExit and uncaught.exc_value is not None:
        logger.critical("uncaught exception in a thread", exc_info=uncaught.exc_value)


def _on_unraisable(unraisable: Any) -> None:
    logger.error("exception where none can be raised", exc_info=unraisable.exc_value)


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    logger.warning("warning", extra={"fields": {"warning": category.__name__, "at": _place(filename, lineno)}})


def _choice(variable: str, default: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(variable, default)
    for choice in allowed:
        if value.lower() == choice.lower():
            return choice
    raise ValueError(f"{variable} must be one of: {', '.join(allowed)}; not {value!r}")


def _shown(value: Any) -> str:
    plain = isinstance(value, str) and value.isascii() and value.isprintable() and value and " " not in value
    return str(value) if plain else _encode(value)


_encode = json.JSONEncoder(default=lambda value: type(value).__name__).encode
