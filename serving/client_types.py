"""What the client takes, gives and raises: bounds, typed answers, and errors that hold no text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Route = Literal["moderate", "support", "none"]


@dataclass(frozen=True, slots=True)
class Score:
    """A probability from 0 to 1, and whether it passes the threshold of the operating point."""

    score: float
    flagged: bool


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks: the likeliest of `direct`, `testimony` and `commentary` where it is sure enough, else None."""

    label: str | None
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Model:
    """Which artifact answered."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one text.

    `route` says what kind of attention it needs, and never more: `moderate` (a harmful message itself), `support`
    (somebody tells what was done to them: keep it up, offer help), `none`. It proposes; a person decides.
    """

    categories: Mapping[str, Score]
    minor_involved: Score
    voice: Voice
    flagged: bool
    route: Route
    model: Model
    raw: dict[str, Any] = field(repr=False)
    """The answer as the server sent it, with what a newer one may have added."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server takes, as its `GET /info` says; the last is this client's own."""

    texts: int = 64
    """Of one request."""
    characters: int = 20_000
    """Of one text."""
    body_bytes: int = 4 * 2**20
    """Of one request."""
    request_characters: int = 200_000
    """Of one request: ten of the longest texts, so that other clients get their turn and none waits past a deadline."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How long one request is tried where the server is busy (429, 503) or cannot be reached.

    Before the attempt n + 1 it waits between nothing and `first_s` · 2ⁿ⁻¹ seconds, at most `most_s`, drawn at random,
    and where the server says how long to wait, that long first. No attempt begins after `budget_s`.
    """

    attempts: int = 5
    budget_s: float = 60.0
    first_s: float = 0.5
    most_s: float = 8.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not (self.budget_s > 0 and self.first_s >= 0 and self.most_s >= 0):
            raise ValueError("Retry: attempts must be at least 1, budget_s above 0, first_s and most_s not below 0")


class VigieError(Exception):
    """Why there is no answer. The message holds no text that was sent, so it may be logged."""

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        index: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """
        Args:
            status: the HTTP status, where there was an answer.
            index: which of the texts given to `predict` is at fault, where one is.
            retry_after_s: how long the server asks to wait, where it does.
        """
        super().__init__(message)
        self.status, self.index, self.retry_after_s = status, index, retry_after_s


class BadRequest(VigieError):
    """A text is too long, or the operating point unknown (400, 422)."""


class Unauthorized(VigieError):
    """No API key, or one that the server does not know (401)."""


class Forbidden(VigieError):
    """The server has no API keys and answers its own machine alone (403)."""


class TooLarge(VigieError):
    """The server takes smaller requests than this (413)."""


class RateLimited(VigieError):
    """The key has used up its rate (429), and still had when the last attempt was made."""

    retryable = True


class Overloaded(VigieError):
    """Too much waits at the server (503), and still did when the last attempt was made."""

    retryable = True


class ServerError(VigieError):
    """The server failed (5xx)."""


class Unreachable(VigieError):
    """No connection, or no answer in time, up to the last attempt."""

    retryable = True


class UnexpectedAnswer(VigieError):
    """What answered does not seem to be Vigie: check `base_url`. Redirections are not followed."""
