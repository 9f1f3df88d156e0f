"""The client without its sending: texts cut into requests, attempts counted, answers and errors read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, get_args

import httpx

from serving.client_types import (
    BadRequest,
    Forbidden,
    Limits,
    Model,
    Overloaded,
    Prediction,
    RateLimited,
    Retry,
    Route,
    Score,
    ServerError,
    TooLarge,
    Unauthorized,
    UnexpectedAnswer,
    VigieError,
    Voice,
)

_HEAD = b'{"texts":['


@dataclass(frozen=True, slots=True)
class Request:
    """One request; of a slice of the caller's texts, the index of its first and how many they are."""

    method: str
    path: str
    body: bytes | None = None
    start: int = 0
    count: int = 0


class Attempts:
    """The attempts at one request: how long each may take, and how long to wait before the next."""

    def __init__(self, retry: Retry, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._retry, self._clock, self._jitter = retry, clock, jitter
        self._until = clock() + retry.budget_s
        self._made = 0

    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return max(self._until - self._clock(), 0.001)

    def wait_s(self, error: VigieError) -> float:
        """Seconds until the next attempt; raises the error where there is none."""
        most = min(self._retry.most_s, self._retry.first_s * 2.0 ** min(self._made, 60))
        wait = (error.retry_after_s or 0) + most * self._jitter()
        self._made += 1
        if not error.retryable or self._made >= self._retry.attempts or wait >= self._until - self._clock():
            raise error
        return wait


def checked_texts(texts: Iterable[str]) -> list[str]:
    """The texts, counted.

    Raises:
        TypeError: something other than strings.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be several strings, not one; for one text, give a list that holds it")
    asked = list(texts)
    for index, text in enumerate(asked):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] must be a string, not {type(text).__name__}")
    return asked


def cut(texts: Sequence[str], limits: Limits, operating_point: str | None) -> Iterator[Request]:
    """Requests within the limits, encoded as they are asked for. A text that is too large for any goes alone.

    Raises:
        BadRequest: a text is too long; before the first request, so that no work is lost. The server has the last word.
    """
    for index, text in enumerate(texts):
        if len(text) > limits.characters:
            fault = f"texts[{index}]: {len(text)} characters; at most {limits.characters} are allowed"
            raise BadRequest(fault, index=index)
    tail = b"]}" if operating_point is None else b'],"operating_point":' + _encoded(operating_point) + b"}"
    start, parts, characters, size = 0, list[bytes](), 0, 0
    room = limits.body_bytes - len(_HEAD) - len(tail)
    for index, text in enumerate(texts):
        part = _encoded(text)
        # One byte for the comma before it.
        fits = size + 1 + len(part) <= room and characters + len(text) <= limits.request_characters
        if parts and not (fits and len(parts) < limits.texts):
            yield _predict(parts, tail, start)
            start, parts, characters, size = index, [], 0, 0
        size, characters = size + len(part) + bool(parts), characters + len(text)
        parts.append(part)
    yield _predict(parts, tail, start)


def _predict(parts: list[bytes], tail: bytes, start: int) -> Request:
    return Request("POST", "/predict", _HEAD + b",".join(parts) + tail, start, len(parts))


def _encoded(text: str) -> bytes:
    """In JSON, in ASCII: half of a surrogate pair, as in a message cut within an emoji, has an escape and no UTF-8."""
    return json.dumps(text).encode("ascii")


def read(response: httpx.Response, request: Request) -> Any:
    """The JSON value of the answer, or the VigieError that it is."""
    try:
        value = json.loads(response.content)
    except (ValueError, RecursionError):
        value = None
    status = response.status_code
    if status == 200:
        return UnexpectedAnswer("the answer is not JSON; check base_url", status=200) if value is None else value
    error = _ERRORS.get(status, ServerError if status >= 500 else UnexpectedAnswer)
    message, index = _words(value, request)
    if index is None and error is TooLarge and request.count == 1:
        message, index = f"texts[{request.start}]: alone larger than a request may be", request.start
    if message is None:
        message = f"HTTP status {status}" + ("; check base_url" if error is UnexpectedAnswer else "")
    return error(message, status=status, index=index, retry_after_s=_retry_after_s(response.headers))


_ERRORS: Mapping[int, type[VigieError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    413: TooLarge,
    422: BadRequest,
    429: RateLimited,
    503: Overloaded,
}
_KINDS = frozenset(
    {"invalid", "too_large", "unauthorized", "forbidden", "rate_limited", "overloaded", "failed", "unsupported"}
)
_WHERE = re.compile(r"texts\[([0-9]{1,9})\]")
_MOST_WORDS = 500


def _words(value: Any, request: Request) -> tuple[str | None, int | None]:
    """What the server says, counted in the caller's texts, and which text it is about.

    Only Vigie's own words, which hold no text: anything in between might quote what it was sent.
    """
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict) or str(error.get("kind")) not in _KINDS or not isinstance(error.get("message"), str):
        return None, None
    message = _WHERE.sub(lambda match: f"texts[{request.start + int(match[1])}]", error["message"][:_MOST_WORDS])
    where = _WHERE.match(str(error.get("where")))
    return message, request.start + int(where[1]) if where else None


def _retry_after_s(headers: httpx.Headers) -> int | None:
    """Whole seconds; where a proxy gives a moment instead, those from the answer's own date to it."""
    value = headers.get("Retry-After", "")
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers["Date"])
    except (KeyError, TypeError, ValueError):
        return None
    return max(0, int(wait.total_seconds()))


def unreached(error: httpx.RequestError) -> str:
    """What went wrong underneath; httpx's words only where none of them can be out of a request or an answer."""
    words = f": {error}" if isinstance(error, httpx.ConnectError) else ""
    return f"no answer from base_url ({type(error).__name__}{words})"


def read_object(answer: Any) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UnexpectedAnswer: it is something else.
    """
    if not isinstance(answer, dict):
        raise UnexpectedAnswer("the answer is not Vigie's; check base_url", status=200)
    return answer


def read_limits(info: dict[str, Any]) -> Limits:
    """The server's limits in the body of `GET /info`.

    Raises:
        UnexpectedAnswer: it is of another form.
    """
    try:
        limits = {name: int(info["limits"][name]) for name in ("texts", "characters", "body_bytes")}
    except (KeyError, TypeError, ValueError):
        limits = {}
    if not limits:
        raise UnexpectedAnswer("the answer is not that of Vigie's GET /info; check base_url", status=200)
    return Limits(**limits)


def read_predictions(answer: Any, *, count: int) -> list[Prediction]:
    """The answers in the body of `POST /predict`.

    Raises:
        UnexpectedAnswer: it is of another form, or not `count` answers.
    """
    try:
        model = Model(str(answer["model"]["name"]), str(answer["model"]["version"]))
        predictions = [_prediction(raw, model) for raw in answer["predictions"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        predictions = []
    if len(predictions) != count:
        raise UnexpectedAnswer("the answer is not that of Vigie's POST /predict; check base_url", status=200)
    return predictions


def _prediction(raw: dict[str, Any], model: Model) -> Prediction:
    if raw["route"] not in get_args(Route):
        raise ValueError("no such route")
    voice = raw["voice"]
    return Prediction(
        categories={label: _score(score) for label, score in raw["categories"].items()},
        minor_involved=_score(raw["minor_involved"]),
        voice=Voice(voice["label"], {label: float(score) for label, score in voice["scores"].items()}),
        flagged=bool(raw["flagged"]),
        route=raw["route"],
        model=model,
        raw=raw,
    )


def _score(raw: dict[str, Any]) -> Score:
    return Score(float(raw["score"]), bool(raw["flagged"]))
