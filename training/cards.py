"""Data cards: a folder whose README.md says, in its YAML header, which files hold the data and what they mean.

The header follows Hugging Face's dataset cards (`configs`, `data_files`, `license` …); the `vigie` section says which
columns to read and how a corpus with other labels maps onto ours.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from training.errors import UserError
from training.labels import Labels

SPLITS = ("train", "validation", "test")
COLUMNS = ("text", "labels", "minor_involved", "voice", "id", "group", "split")
COMPARISON = re.compile(r"(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)")
"""A value of a condition that compares numbers instead of naming one, such as `>=2.5`."""
_Conditions = dict[str, list[str]]
_Tolerable = Literal[
    "broken", "empty", "mojibake", "control_characters", "contradictions", "duplicates", "near_duplicates"
]
_log = logging.getLogger(__name__)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rule(_Closed):
    """`label` holds where every column of `when` has one of the listed values, and no column of `unless` has."""

    label: str
    when: _Conditions
    unless: _Conditions = {}


class Undecided(_Closed):
    """`labels` stay unlabelled where these conditions hold, in a card that annotates them elsewhere."""

    labels: list[str]
    when: _Conditions
    unless: _Conditions = {}


class Mapping(_Closed):
    """The `vigie` section of a card."""

    columns: dict[str, str] = {}
    """Our column → the file's column, where the names differ. With `annotates`, only `text` and these are ours."""
    metadata: list[str] = []
    """Further columns of the file that are kept out of training."""
    ignore_other_columns: bool = False
    rules: list[Rule] = []
    annotates: list[str] = []
    """Labels that the card decides, negative where no rule says positive; all others stay unlabelled."""
    undecided: list[Undecided] = []
    """Rows in which some of those labels are left open after all."""
    multi_value: dict[str, str] = {}
    """Column → separator, for columns that hold several values, such as `hateful_abusive`."""
    skip: _Conditions = {}
    """Rows to leave out: column → values."""
    values: dict[str, list[str]] = {}
    """Column → every value it may hold. Another one is told, rather than quietly taken for a negative."""
    splits: dict[str, Literal["train", "validation", "test"]] = {}
    """The corpus's name of a split → ours, for its `split` column."""
    tolerate: list[_Tolerable] = []
    """Faults of a corpus that nobody here can mend: their rows are left out and counted, instead of refused."""
    quotas: dict[str, Any] = {}
    """What the corpus promises to hold; read by training.audit."""
    separator: str | None = Field(None, min_length=1, max_length=1)
    obtain: str | None = None
    """How to get the files, shown where they are missing."""
    _left_out: set[tuple[str, int]] = PrivateAttr(default_factory=set)

    def leave_out(self, file: str, line: int) -> None:
        """Leave a tolerated row out of what is read."""
        self._left_out.add((file, line))

    def leaves_out(self, file: str, line: int) -> bool:
        return (file, line) in self._left_out

    def conditions(self) -> Iterator[tuple[str, list[str]]]:
        """Every column that decides something, with the values asked for."""
        entries: list[Rule | Undecided] = [*self.rules, *self.undecided]
        for part in (self.skip, *(entry.when for entry in entries), *(entry.unless for entry in entries)):
            yield from part.items()


class DataFile(_Closed):
    """One data file of a source, and the split it holds (or the `split` column says, or nobody)."""

    path: Path
    split: str | None = None


class Source(_Closed):
    """Data to read: a card's files, or one plain file with our own columns."""

    name: str
    files: list[DataFile]
    mapping: Mapping = Mapping()
    version: str | None = None
    license: str | None = None
    left_out: dict[str, int] = {}
    """Rows that the card tolerates and that are not read, by kind."""

    def file_name(self, file: DataFile) -> str:
        """How reports call a file: a plain file by its name, a card's with its folder."""
        return file.path.name if file.path.name == self.name else str(file.path)

    def sha256(self) -> str:
        """Hash over the bytes of all files, in order."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.path.read_bytes())
        return digest.hexdigest()


def open_source(location: str | Path, labels: Labels) -> Source:
    """Find out what a card folder or a data file holds.

    Raises:
        UserError: nothing there, no card in the folder, a header that is wrong, or data files that are not in place.
    """
    path = Path(location)
    if path.is_dir():
        return _read_card(path, labels)
    if path.is_file():
        return Source(name=path.name, files=[DataFile(path=path)])
    raise UserError(f"{path}: no such card or file; cards are folders with a README.md, as in data_cards/")


def _read_card(folder: Path, labels: Labels) -> Source:
    readme = folder / "README.md"
    if not readme.is_file():
        raise UserError(f"{folder}: no README.md, so this is no data card (see data_cards/README.md)")
    header = read_header(readme)
    try:
        mapping = Mapping.model_validate(header.get("vigie") or {})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UserError(f"{readme}: vigie.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    _check_mapping(readme, mapping, labels)
    files = [DataFile(path=folder / path, split=split) for split, path in _data_files(readme, header)]
    missing = [file.path.name for file in files if not file.path.is_file()]
    if missing:
        hint = mapping.obtain or "the card says where to get them"
        raise UserError(f"{folder}: {', '.join(missing)} not in place; {hint}")
    source = Source(
        name=folder.resolve().name,
        files=files,
        mapping=mapping,
        version=str(header["version"]) if "version" in header else None,
        license=header.get("license"),
    )
    if mapping.tolerate:
        _leave_out(source, folder, labels)
    return source


def _leave_out(source: Source, folder: Path, labels: Labels) -> None:
    """Find the rows that the card tolerates, and say how many there are."""
    from training.rows import tolerated

    rows = tolerated(source, labels)
    for file, line in rows:
        source.mapping.leave_out(file, line)
    source.left_out = dict(Counter(rows.values()).most_common())
    if rows:
        kinds = ", ".join(f"{count} {kind}" for kind, count in source.left_out.items())
        plural = "s" * (len(rows) != 1)
        _log.warning("%s: left out %d row%s that the card tolerates: %s", folder, len(rows), plural, kinds)


def read_header(readme: Path) -> dict[str, Any]:
    """The YAML header of a card.

    Raises:
        UserError: there is no header between two `---` lines, or it is not YAML.
    """
    text = readme.read_text(encoding="utf-8")
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        raise UserError(f"{readme}: must begin with a YAML header between two lines of ---")
    try:
        header = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise UserError(f"{readme}: header is not valid YAML ({error})") from None
    if not isinstance(header, dict):
        raise UserError(f"{readme}: header must hold keys and values")
    return header


def _data_files(readme: Path, header: dict[str, Any]) -> list[tuple[str | None, str]]:
    configs = header.get("configs")
    if not isinstance(configs, list) or not configs or not isinstance(configs[0], dict):
        raise UserError(f"{readme}: configs: must name the data files, as `- config_name: default` with `data_files:`")
    entries = configs[0].get("data_files")
    if isinstance(entries, str):
        return [(None, entries)]
    files: list[tuple[str | None, str]] = []
    for entry in entries or []:
        if not isinstance(entry, dict) or "path" not in entry:
            raise UserError(f"{readme}: configs.data_files: each entry needs `path:` and may have `split:`")
        split = entry.get("split")
        if split not in (None, "all", *SPLITS):
            raise UserError(f"{readme}: configs.data_files: split {split!r}; allowed: {', '.join(SPLITS)}, all")
        paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
        files += [(None if split == "all" else split, path) for path in paths]
    if not files:
        raise UserError(f"{readme}: configs.data_files: names no file")
    return files


def _check_mapping(readme: Path, mapping: Mapping, labels: Labels) -> None:
    for column in mapping.columns:
        if column not in COLUMNS:
            raise UserError(f"{readme}: vigie.columns: {column!r} is not ours; allowed: {', '.join(COLUMNS)}")
    undecided = [label for entry in mapping.undecided for label in entry.labels]
    decided = [rule.label for rule in mapping.rules]
    for label in [*mapping.annotates, *decided, *undecided]:
        if label not in labels.ids:
            raise UserError(f"{readme}: vigie: unknown label {label!r}; allowed: {', '.join(labels.ids)}")
    for label in sorted({*decided, *undecided} - set(mapping.annotates)):
        section = "rules" if label in decided else "undecided"
        raise UserError(f"{readme}: vigie.annotates: lacks {label!r}, which vigie.{section} names")
    for column, wanted in mapping.conditions():
        for value in wanted:
            if value[:1] in ("<", ">") and not COMPARISON.fullmatch(value):
                raise UserError(f"{readme}: vigie: {column}: {value!r} compares with no number; write it as '>=2.5'")
