"""What bulk scoring takes from a row, and the way to say that a row or an option will not do.

A reason why a row is rejected names the fault and never quotes the row.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from serving.engine import clean


class UsageError(Exception):
    """A mistake in an option or a file, found before anything is written; one line that says how to mend it."""


class Row(NamedTuple):
    """One row: its number (from 1), its line where the format has lines, and its text or why it is rejected."""

    number: int
    line: int | None
    id: str | int | float
    text: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where reading goes on: so many rows, lines and bytes (unpacked; 0 in Parquet) after the start."""

    rows: int = 0
    line: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is taken from a row. Without a named `id` column, `id` is used where there is one, else the row number."""

    text: str = "text"
    id: str | None = None
    max_characters: int = 1_000_000

    @property
    def max_bytes(self) -> int:
        """Of one line: JSON may take twelve bytes for a character, and there may be other fields."""
        return 12 * self.max_characters + 4 * 2**20

    def row(self, number: int, line: int | None, values: Mapping[str, Any]) -> Row:
        """The row, rejected where its id or its text will not do."""
        try:
            return Row(number, line, self._id(values, number), self._text(values))
        except BadRow as bad:
            return Row(number, line, number, None, str(bad))

    def _id(self, values: Mapping[str, Any], number: int) -> str | int | float:
        value = values.get(self.id or "id")
        if value is None or value == "":
            if self.id:
                raise BadRow("no id")
            return number
        if isinstance(value, str):
            return clean(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadRow(f"the id is neither a string nor a number, but {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadRow("the id is no finite number")
        return value

    def _text(self, values: Mapping[str, Any]) -> str:
        text = values.get(self.text)
        if text is None:
            raise BadRow("no text")
        if not isinstance(text, str):
            raise BadRow(f"the text is not a string, but {type(text).__name__}")
        if not text.strip():
            raise BadRow("the text is empty")
        if len(text) > self.max_characters:
            raise BadRow(f"the text has {len(text)} characters; at most {self.max_characters} (--max-characters)")
        return text


class BadRow(Exception):
    """Why a row is rejected."""


class Source(ABC):
    """Rows in order, after `begin`. After each of them, `place` says where the next one starts."""

    total: int | None = None
    """Units of the whole input (bytes on disk, or rows of Parquet), None where it is not known."""

    def __init__(self, path: Path | None, wanted: Wanted) -> None:
        self._name = str(path or "standard input")
        self._wanted = wanted
        self._rows = 0

    @abstractmethod
    def begin(self, place: Place) -> None:
        """Check what can be checked before the first row, and go to `place`."""

    @property
    @abstractmethod
    def place(self) -> Place: ...

    @property
    @abstractmethod
    def done(self) -> int:
        """How far into the input that is, in the units of `total`."""

    @abstractmethod
    def __iter__(self) -> Iterator[Row]: ...

    @abstractmethod
    def close(self) -> None: ...


def import_pyarrow(module: str) -> Any:
    """A module of pyarrow, which only Parquet needs.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError('Parquet needs pyarrow: pip install "vigie[bulk]"') from None
