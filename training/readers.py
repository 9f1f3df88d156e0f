"""Read JSONL, CSV and Parquet row by row, so that one bad row costs one row and is found by its line.

The JSON and CSV loaders of `datasets` accept a null text and, given one number among the texts, rewrite the whole
column; so every row is read and checked here first, and `datasets` receives only what passed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet

from training.errors import UserError

FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")
_SEPARATORS = ",;\t|"


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stands in a file: its line (1 is the first of the file) and its values, or why there are none."""

    line: int
    values: dict[str, Any] | None
    problem: str | None = None


def read_records(path: Path, separator: str | None = None) -> Iterator[Record]:
    """Yield every row of a data file, broken ones included.

    Args:
        path: a .jsonl, .csv, .tsv or .parquet file. For Parquet, `line` is the row number.
        separator: of a CSV file; found from its header when left out.

    Raises:
        UserError: the file is missing, is of another format, or is no Parquet file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    match path.suffix.lower():
        case ".jsonl":
            return _read_jsonl(path)
        case ".csv" | ".tsv":
            return _read_csv(path, separator)
        case ".parquet":
            return _read_parquet(path)
        case other:
            raise UserError(f"{path}: cannot read {other or 'a file without ending'}; allowed: {', '.join(FORMATS)}")


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.strip():
                yield _parse_json_line(number, raw)


def _parse_json_line(number: int, raw: bytes) -> Record:
    try:
        values = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        return Record(number, None, f"wrong encoding: not UTF-8 from byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        return Record(number, None, f"broken JSON: {error.msg} at column {error.colno}")
    except _RepeatedKey as error:
        return Record(number, None, f"broken JSON: the key {error.args[0]!r} stands twice")
    except RecursionError:
        return Record(number, None, "broken JSON: nested too deeply")
    if not isinstance(values, dict):
        return Record(number, None, f"must be a JSON object, not {type(values).__name__}")
    return Record(number, values)


class _RepeatedKey(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _RepeatedKey(key)
        values[key] = value
    return values


def _read_csv(path: Path, separator: str | None) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)
    # surrogateescape keeps undecodable bytes visible, so that the row is reported instead of the whole file failing.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header = file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter=separator or _find_separator(header), strict=True)
        columns = [name.strip() for name in next(rows, [])]
        while True:
            start = rows.line_num + 1
            try:
                fields = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(start, None, f"broken CSV: {error}")
                continue
            if fields:
                yield _csv_record(start, columns, fields)


def _find_separator(header: str) -> str:
    return max(_SEPARATORS, key=header.count)


def _csv_record(line: int, columns: list[str], fields: list[str]) -> Record:
    if len(fields) != len(columns):
        return Record(line, None, f"has {len(fields)} fields where the header has {len(columns)} columns")
    if any("\udc80" <= character <= "\udcff" for field in fields for character in field):
        return Record(line, None, "wrong encoding: not UTF-8")
    return Record(line, dict(zip(columns, fields, strict=True)))


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid:
        raise UserError(f"{path}: not a Parquet file") from None
    number = 0
    for batch in file.iter_batches(batch_size=1024):
        for values in batch.to_pylist():
            number += 1
            yield Record(number, values)
