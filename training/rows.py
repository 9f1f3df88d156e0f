"""Check one row and turn it into an example. A problem names the line and the key, never the text."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from training.cards import SPLITS, Mapping
from training.labels import Labels
from training.readers import Record

_LABEL_SEPARATORS = re.compile(r"[|;,\s]+")
_TRUE, _FALSE = {"true", "1", "yes", "oui", "vrai"}, {"false", "0", "no", "non", "faux"}
# What UTF-8 becomes when a program reads it as Latin-1 or Windows-1252.
_MOJIBAKE = re.compile(r"Ã[\u0080-\u00bf\u0152-\u2122]|â€[\u0080-\u00bf\u0152-\u2122]|\ufffd")
_IDENTIFIER = re.compile(r"[\w.:-]{1,40}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to mend in a source: where, and what. `line` is None for the file as a whole."""

    source: str
    line: int | None
    id: str | None
    message: str

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}{f' (id {self.id})' if self.id else ''}: {self.message}"


@dataclass(frozen=True, slots=True)
class Example:
    """One checked text. `known` holds the labels somebody decided; the others are unlabelled, not negative."""

    text: str
    positive: frozenset[str]
    known: frozenset[str]
    id: str
    group: str | None
    split: str | None
    source: str
    line: int


def parse_row(
    record: Record, *, source: str, mapping: Mapping, labels: Labels, split: str | None, max_characters: int
) -> Example | list[Problem] | None:
    """Check one row against the codebook's schema.

    Args:
        split: the split that the card gives for the row's file, if it does.

    Returns:
        An example, or every problem of the row, or None where the card says to skip the row.
    """
    if record.values is None:
        return [Problem(source, record.line, None, record.problem or "cannot be read")]
    values = record.values
    if any(_has(values, column, wanted, mapping) for column, wanted in mapping.skip.items()):
        return None
    row = _Row(values, mapping, labels)
    text = row.text(max_characters)
    positive, known = row.labels()
    row.check_consistency(positive, known)
    identifier = row.optional("id")
    group = row.optional("group")
    own_split = row.split() or split
    if row.problems:
        return [Problem(source, record.line, identifier, message) for message in row.problems]
    return Example(
        text=text,
        positive=frozenset(positive),
        known=frozenset(known),
        id=identifier or f"{source}:{record.line}",
        group=group,
        split=own_split,
        source=source,
        line=record.line,
    )


class _Row:
    """Reads the columns of one row, collecting problems as it goes."""

    def __init__(self, values: dict[str, Any], mapping: Mapping, labels: Labels) -> None:
        self.values, self.mapping, self.labels_list = values, mapping, labels
        self.problems: list[str] = []

    def _get(self, column: str) -> Any:
        return self.values.get(self.mapping.columns.get(column, column))

    def _present(self, column: str) -> bool:
        return self.mapping.columns.get(column, column) in self.values

    def text(self, max_characters: int) -> str:
        text = self._get("text")
        if text is None:
            self.problems.append("text: null" if self._present("text") else "text: missing")
        elif not isinstance(text, str):
            self.problems.append(f"text: must be a string, not {_kind(text)}")
        else:
            self._check_text(text, max_characters)
            return text
        return ""

    def _check_text(self, text: str, max_characters: int) -> None:
        if not text.strip():
            self.problems.append("text: empty")
        if len(text) > max_characters:
            self.problems.append(f"text: {len(text)} characters, more than the {max_characters} of data.max_characters")
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.problems.append("text: wrong encoding: holds half of a surrogate pair")
        if _MOJIBAKE.search(text):
            self.problems.append("text: wrong encoding: UTF-8 that was read as another encoding")
        if _CONTROL.search(text):
            self.problems.append("text: holds control characters")

    def labels(self) -> tuple[set[str], set[str]]:
        if self.mapping.rules:
            return self._mapped(), set(self.mapping.annotates)
        positive = self._categories()
        known = set(self.labels_list.category_ids)
        if self._get("minor_involved") is not None and self._get("minor_involved") != "":
            known.add("minor_involved")
            if self._flag("minor_involved"):
                positive.add("minor_involved")
        if self._present("voice"):
            known |= set(self.labels_list.voice_ids)
            positive |= self._voice()
        return positive, known

    def _mapped(self) -> set[str]:
        def holds(conditions: dict[str, list[str]], how: Any) -> bool:
            return bool(how(_has(self.values, column, wanted, self.mapping) for column, wanted in conditions.items()))

        for column in {column for rule in self.mapping.rules for column in rule.when}:
            if column not in self.values:
                self.problems.append(f"column {column!r} is missing, which the card's rules read")
        return {rule.label for rule in self.mapping.rules if holds(rule.when, all) and not holds(rule.unless, any)}

    def _categories(self) -> set[str]:
        if not self._present("labels"):
            self.problems.append("labels: missing (an ordinary text has an empty list)")
            return set()
        given = self._get("labels")
        if given is None:
            self.problems.append("labels: null (an ordinary text has an empty list)")
            return set()
        if isinstance(given, str):
            given = _split_labels(given)
        if not isinstance(given, list):
            self.problems.append(f"labels: must be a list of ids, not {_kind(given)}")
            return set()
        return self._known_only(given)

    def _known_only(self, given: Sequence[Any]) -> set[str]:
        allowed = self.labels_list.category_ids
        for label in given:
            if not isinstance(label, str):
                self.problems.append(f"labels: ids are strings, not {_kind(label)}")
            elif label not in allowed:
                self.problems.append(f"labels: unknown label {shown(label)}{_nearest(label, allowed)}")
        names = [label for label in given if isinstance(label, str)]
        if len(set(names)) < len(names):
            self.problems.append("labels: the same label stands twice")
        return set(names) & set(allowed)

    def _flag(self, column: str) -> bool:
        value = self._get(column)
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
        if word not in _TRUE | _FALSE:
            self.problems.append(f"{column}: must be true or false, not {_kind(value)}")
        return word in _TRUE

    def _voice(self) -> set[str]:
        voice = self._get("voice")
        if voice is None or voice == "":
            return set()
        if not isinstance(voice, str) or voice not in self.labels_list.voice_ids:
            given = shown(voice) if isinstance(voice, str) else _kind(voice)
            self.problems.append(
                f"voice: unknown voice {given}; allowed: {', '.join(self.labels_list.voice_ids)}, null"
            )
            return set()
        return {voice}

    def check_consistency(self, positive: set[str], known: set[str]) -> None:
        """What the codebook excludes: a minor or a direct message where no category holds."""
        if self.problems or positive & set(self.labels_list.category_ids):
            return
        if "minor_involved" in positive:
            self.problems.append("minor_involved: true although no category holds (codebook, rule 12)")
        if "direct" in positive and not self.mapping.rules:
            self.problems.append("voice: direct although no category holds (a harmful message has at least one)")

    def optional(self, column: str) -> str | None:
        value = self._get(column)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            self.problems.append(f"{column}: must be a string, not {_kind(value)}")
            return None
        return str(value)

    def split(self) -> str | None:
        split = self.optional("split")
        if split is not None and split not in SPLITS:
            self.problems.append(f"split: unknown split {shown(split)}; allowed: {', '.join(SPLITS)}")
            return None
        return split


def shown(value: str) -> str:
    """A value as an error may quote it: an identifier as it stands, anything that could be a text by its length."""
    return repr(value) if _IDENTIFIER.fullmatch(value) else f"(a value of {len(value)} characters, not an identifier)"


def _split_labels(text: str) -> Any:
    text = text.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return [label for label in _LABEL_SEPARATORS.split(text) if label]


def _has(values: dict[str, Any], column: str, wanted: Iterable[str], mapping: Mapping) -> bool:
    value = str(values.get(column, ""))
    separator = mapping.multi_value.get(column)
    held = value.split(separator) if separator else [value]
    return any(item.strip() in wanted for item in held)


def _nearest(label: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(allowed)}"


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a string"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
