"""Bounds on what requests may bring and on how long one may take. `serving.intake` and the batcher enforce them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass

REQUEST_COST = 16 * 2**10
"""Bytes that a request takes beside its body, roughly: so the ceiling on bytes is one on requests too."""


@dataclass(frozen=True)
class Limits:
    """How much a request may hold and how long it may take; the environment variable of each stands beside it."""

    body_bytes: int = 4 * 2**20  # VIGIE_MAX_BODY_BYTES, of one request
    held_bytes: int = 32 * 2**20  # VIGIE_MAX_HELD_BYTES, of all requests in a process, being read or answered
    characters: int = 20_000  # VIGIE_MAX_CHARACTERS, of one text
    texts: int = 64  # VIGIE_MAX_TEXTS, of one request
    queue_texts: int = 512  # VIGIE_MAX_QUEUE, texts waiting in a process
    queue_characters: int = 1_000_000  # VIGIE_MAX_QUEUE_CHARACTERS, waiting in a process
    deadline_ms: int = 30_000  # VIGIE_DEADLINE_MS, from the request's being read to its answer
    read_timeout_s: int = 10  # VIGIE_READ_TIMEOUT_S, for a body to arrive

    @classmethod
    def from_environment(cls) -> Limits:
        """The defaults, or what the environment says.

        Raises:
            ValueError: a variable that is no positive whole number, or a ceiling under which no request would fit.
        """
        limits = cls(**{name: positive(variable, getattr(cls, name)) for name, variable in _VARIABLES.items()})
        if limits.held_bytes < limits.body_bytes + REQUEST_COST:
            least = limits.body_bytes + REQUEST_COST
            raise ValueError(f"VIGIE_MAX_HELD_BYTES must be at least {least}, or the largest body would never fit")
        return limits

    def too_long(self, text: str) -> str | None:
        """In what a text is too long, or None. Written out it may be twice as long, more than anybody types."""
        most = 2 * self.characters
        if len(text) > self.characters:
            return f"{len(text)} characters; at most {self.characters} are allowed"
        if len(text) * _LONGEST_SIGN > most and (length := written(text)) > most:
            return f"its characters stand for {length}, as ½ for 1/2; at most {most} are allowed"
        return None


_LONGEST_SIGN = 18
_VARIABLES = {
    "body_bytes": "VIGIE_MAX_BODY_BYTES",
    "held_bytes": "VIGIE_MAX_HELD_BYTES",
    "characters": "VIGIE_MAX_CHARACTERS",
    "texts": "VIGIE_MAX_TEXTS",
    "queue_texts": "VIGIE_MAX_QUEUE",
    "queue_characters": "VIGIE_MAX_QUEUE_CHARACTERS",
    "deadline_ms": "VIGIE_DEADLINE_MS",
    "read_timeout_s": "VIGIE_READ_TIMEOUT_S",
}


def written(text: str) -> int:
    """Characters of a text once each is written out as the tokenizer does (NFKC): ½ is three, the sign U+FDFA eighteen.

    The work for a text follows from this length. Each character is looked up by itself: normalising a whole text that
    was made to hurt takes time that grows with the square of its length.
    """
    if text.isascii() or unicodedata.is_normalized("NFKC", text):
        return len(text)
    return sum(count * len(unicodedata.normalize("NFKC", char)) for char, count in Counter(text).items())


def positive(variable: str, default: int) -> int:
    """An environment variable as a positive whole number.

    Raises:
        ValueError: it is something else.
    """
    value = os.environ.get(variable, str(default))
    if not value.isdecimal() or int(value) == 0:
        raise ValueError(f"{variable} must be a positive whole number, not {value!r}")
    return int(value)


def switch(variable: str, *, default: bool) -> bool:
    """An environment variable that is 1 or 0; unset or empty it is the default.

    Raises:
        ValueError: it is something else.
    """
    value = os.environ.get(variable) or str(int(default))
    if value not in ("0", "1"):
        raise ValueError(f"{variable} must be 1 or 0, not {value!r}")
    return value == "1"


def protects_testimony() -> bool:
    """VIGIE_PROTECT_TESTIMONY, on by default: who knows no voices gets lowered scores for testimony and commentary.

    Raises:
        ValueError: it is neither 1 nor 0.
    """
    return switch("VIGIE_PROTECT_TESTIMONY", default=True)
