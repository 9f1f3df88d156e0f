"""Check one row and turn it into an example. A problem names the line and the key, never the text."""

from __future__ import annotations

import difflib
import json
import math
import operator
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from training.cards import COMPARISON, SPLITS, Mapping, Rule, Source, Undecided
from training.config import DataConfig
from training.labels import Labels
from training.readers import Record, read_records
from training.similarity import grams, near_duplicates

_LABEL_SEPARATORS = re.compile(r"[|;,\s]+")
_TRUE, _FALSE = {"true", "1", "yes", "oui", "vrai"}, {"false", "0", "no", "non", "faux"}
# What UTF-8 becomes when a program reads it as Latin-1 or Windows-1252.
_MOJIBAKE = re.compile(r"Ã[\u0080-\u00bf\u0152-\u2122]|â€[\u0080-\u00bf\u0152-\u2122]|\ufffd")
_IDENTIFIER = re.compile(r"[\w.:-]{1,40}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to mend in a source: where, and what. `line` is None for the file as a whole."""

    source: str
    line: int | None
    id: str | None
    message: str
    kind: str | None = None
    """What a card may tolerate it as (`vigie.tolerate`)."""

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
        An example, or every problem of the row, or None where the card says to skip the row or decides nothing in it.
    """
    if mapping.leaves_out(source, record.line):
        return None
    if record.values is None:
        return [Problem(source, record.line, None, record.problem or "cannot be read", "broken")]
    values = record.values
    row = _Row(values, mapping, labels)
    row.check_columns()
    if not row.problems and any(_has(values, column, wanted, mapping) for column, wanted in mapping.skip.items()):
        return None
    text = row.text(max_characters)
    positive, known = row.labels()
    row.check_consistency(positive, known)
    identifier = row.optional("id")
    group = row.optional("group")
    own_split = row.split() or split
    if row.problems:
        return [Problem(source, record.line, identifier, fault, row.kinds.get(fault)) for fault in row.problems]
    if not known:
        return None
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


def tolerated(source: Source, labels: Labels) -> dict[tuple[str, int], str]:
    """Rows whose faults the source's card tolerates.

    Of rows that repeat a text one stays, in the test split if it is there, so that figures on a corpus's own test split
    compare with those of others. Texts that are the same but labelled otherwise all go.

    Returns:
        (file, line) → kind. Faults that the card does not tolerate are not among them.
    """
    tolerate = source.mapping.tolerate
    rows: dict[tuple[str, int], str] = {}
    examples: list[Example] = []
    for file in source.files:
        for record in read_records(file.path, source.mapping.separator):
            parsed = parse_row(
                record,
                source=str(file.path),
                mapping=source.mapping,
                labels=labels,
                split=file.split,
                max_characters=sys.maxsize,
            )
            if isinstance(parsed, Example):
                examples.append(parsed)
            elif parsed and all(problem.kind in tolerate for problem in parsed):
                rows[str(file.path), record.line] = str(parsed[0].kind)
    rows |= {(example.source, example.line): kind for example, kind in _repeated(examples, tolerate)}
    return rows


def _repeated(examples: Sequence[Example], tolerate: Sequence[str]) -> Iterator[tuple[Example, str]]:
    ordered = sorted(examples, key=lambda example: SPLITS.index(example.split or "train"), reverse=True)
    same: dict[frozenset[str], list[Example]] = defaultdict(list)
    for example in ordered:
        same[grams(example.text)].append(example)
    left: list[Example] = []
    for group in same.values():
        contradict = _contradict(group)
        if contradict and "contradictions" in tolerate:
            yield from ((example, "contradictions") for example in group)
        elif not contradict and "duplicates" in tolerate:
            yield from ((example, "duplicates") for example in group[1:])
            left.append(group[0])
        elif not contradict:
            left += group
    if "near_duplicates" not in tolerate:
        return
    gone: set[int] = set()
    for i, j, _ in near_duplicates([example.text for example in left], DataConfig().near_duplicate):
        if i not in gone and j not in gone:
            gone.add(j)
            yield left[j], "near_duplicates"


def _contradict(group: Sequence[Example]) -> bool:
    """Whether one decides for a label what another decides against."""
    decided = {label for example in group for label in example.known}
    return any(len({label in e.positive for e in group if label in e.known}) > 1 for label in decided)


class _Row:
    """Reads the columns of one row, collecting problems as it goes."""

    def __init__(self, values: dict[str, Any], mapping: Mapping, labels: Labels) -> None:
        self.values, self.mapping, self.labels_list = values, mapping, labels
        self.problems: list[str] = []
        self.kinds: dict[str, str] = {}

    def _tolerable(self, kind: str, message: str) -> None:
        self.problems.append(message)
        self.kinds[message] = kind

    def _get(self, column: str) -> Any:
        value = self._find(column)
        return None if value is _MISSING else value

    def _present(self, column: str) -> bool:
        return self._find(column) is not _MISSING

    def _find(self, column: str) -> Any:
        """Our column. A corpus with labels of its own may mean something else by `group` or `split`: it must say so."""
        name = self.mapping.columns.get(column, column)
        if self.mapping.annotates and column != "text" and column not in self.mapping.columns:
            return _MISSING
        return _lookup(self.values, name)

    def check_columns(self) -> None:
        """Every column that the card reads to decide something is there and holds what the card expects."""
        for column in {*self.mapping.values, *(column for column, _ in self.mapping.conditions())}:
            if _lookup(self.values, column) is _MISSING:
                self.problems.append(f"column {column!r} is missing, which the card's rules read")
        if self.problems:
            return
        for column, allowed in self.mapping.values.items():
            for value in _held(self.values, column, self.mapping) - set(allowed):
                self.problems.append(f"column {column!r}: {shown(value)} is not among the card's vigie.values")
        for column, wanted in self.mapping.conditions():
            compares = any(COMPARISON.fullmatch(item) for item in wanted)
            if compares and _number(_lookup(self.values, column)) is None:
                self.problems.append(f"column {column!r}: must hold a number, which the card's rules compare")

    def text(self, max_characters: int) -> str:
        text = self._get("text")
        if text is None and self._present("text"):
            self._tolerable("empty", "text: null")
        elif text is None:
            self.problems.append("text: missing")
        elif not isinstance(text, str):
            self.problems.append(f"text: must be a string, not {_kind(text)}")
        else:
            self._check_text(text, max_characters)
            return text
        return ""

    def _check_text(self, text: str, max_characters: int) -> None:
        if not text.strip():
            self._tolerable("empty", "text: empty")
        if len(text) > max_characters:
            self.problems.append(f"text: {len(text)} characters, more than the {max_characters} of data.max_characters")
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.problems.append("text: wrong encoding: holds half of a surrogate pair")
        if _MOJIBAKE.search(text):
            self._tolerable("mojibake", "text: wrong encoding: UTF-8 that was read as another encoding")
        if _CONTROL.search(text):
            self._tolerable("control_characters", "text: holds control characters")

    def labels(self) -> tuple[set[str], set[str]]:
        if self.mapping.annotates:
            return self._mapped()
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

    def _mapped(self) -> tuple[set[str], set[str]]:
        undecided = {label for entry in self.mapping.undecided if self._applies(entry) for label in entry.labels}
        known = set(self.mapping.annotates) - undecided
        return {rule.label for rule in self.mapping.rules if self._applies(rule)} & known, known

    def _applies(self, entry: Rule | Undecided) -> bool:
        when, unless = (
            [_has(self.values, column, wanted, self.mapping) for column, wanted in conditions.items()]
            for conditions in (entry.when, entry.unless)
        )
        return all(when) and not any(unless)

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
        split = self.mapping.splits.get(split, split) if split else None
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


def _lookup(values: dict[str, Any], column: str) -> Any:
    """The value of a column; `a.b` is the key b of the object in column a, where there is no column of that name."""
    if column in values:
        return values[column]
    outer, _, inner = column.partition(".")
    nested = values.get(outer)
    return _lookup(nested, inner) if inner and isinstance(nested, dict) else _MISSING


def _held(values: dict[str, Any], column: str, mapping: Mapping) -> set[str]:
    found = _lookup(values, column)
    value = "" if found is None else str(found)
    separator = mapping.multi_value.get(column)
    return {item.strip() for item in (value.split(separator) if separator else [value])}


def _has(values: dict[str, Any], column: str, wanted: Iterable[str], mapping: Mapping) -> bool:
    """Whether the column holds one of the values, all parts of one such as `hateful_abusive`, or a number like that."""
    held, separator = _held(values, column, mapping), mapping.multi_value.get(column)

    def holds(condition: str) -> bool:
        comparison = COMPARISON.fullmatch(condition)
        if comparison is None:
            return held >= set(condition.split(separator) if separator else [condition])
        number = _number(_lookup(values, column))
        return number is not None and bool(_COMPARE[comparison[1]](number, float(comparison[2])))

    return any(holds(condition) for condition in wanted)


def _number(value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _nearest(label: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(allowed)}"


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a string"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
