"""Data cards: a folder whose README.md says, in its YAML header, which files hold the data and what they mean.

The header follows Hugging Face's dataset cards (`configs`, `data_files`, `license` …); the `vigie` section says which
columns to read and how a corpus with other labels maps onto ours.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import UserError
from training.labels import Labels

SPLITS = ("train", "validation", "test")
COLUMNS = ("text", "labels", "minor_involved", "voice", "id", "group", "split")


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rule(_Closed):
    """`label` holds where every column of `when` has one of the listed values, and no column of `unless` has."""

    label: str
    when: dict[str, list[str]]
    unless: dict[str, list[str]] = {}


class Mapping(_Closed):
    """The `vigie` section of a card."""

    columns: dict[str, str] = {}
    """Our column → the file's column, where the names differ."""
    metadata: list[str] = []
    """Further columns of the file that are kept out of training."""
    ignore_other_columns: bool = False
    rules: list[Rule] = []
    annotates: list[str] = []
    """Labels that the rules decide; all others stay unlabelled rather than negative."""
    multi_value: dict[str, str] = {}
    """Column → separator, for columns that hold several values, such as `hateful_abusive`."""
    skip: dict[str, list[str]] = {}
    """Rows to leave out: column → values."""
    separator: str | None = Field(None, min_length=1, max_length=1)
    obtain: str | None = None
    """How to get the files, shown where they are missing."""


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
    return Source(
        name=folder.resolve().name,
        files=files,
        mapping=mapping,
        version=str(header["version"]) if "version" in header else None,
        license=header.get("license"),
    )


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
    for label in [*mapping.annotates, *(rule.label for rule in mapping.rules)]:
        if label not in labels.ids:
            raise UserError(f"{readme}: vigie: unknown label {label!r}; allowed: {', '.join(labels.ids)}")
    undeclared = {rule.label for rule in mapping.rules} - set(mapping.annotates)
    if undeclared:
        raise UserError(f"{readme}: vigie.annotates: lacks {sorted(undeclared)[0]!r}, which a rule decides")
