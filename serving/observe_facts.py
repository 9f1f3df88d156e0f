"""What is known of the request being answered, for its line in the log, its figures and its span. Never a text."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Facts:
    """Sizes and names only. `refusal` is the kind of a `serving.gateway.Refusal`."""

    request_id: str
    texts: int = 0
    characters: int = 0
    refusal: str | None = None


current: ContextVar[Facts | None] = ContextVar("vigie_request", default=None)
"""The request that the running code works for; None outside of one, as in the engine's thread."""


def note_texts(texts: Sequence[str]) -> None:
    """Add the number and the length of texts to the current request, if there is one."""
    facts = current.get()
    if facts is not None:
        facts.texts += len(texts)
        facts.characters += sum(map(len, texts))


def note_refusal(kind: str) -> None:
    """Remember why the current request, if there is one, is not answered."""
    facts = current.get()
    if facts is not None:
        facts.refusal = kind
