"""Read JSONL, CSV (gzipped or not) and Parquet row by row in constant memory; a bad row costs one row."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from serving.bulk.rows import BadRow, Place, Row, Source, UsageError, Wanted, import_pyarrow

FORMATS = ("jsonl", "csv", "parquet")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_SEPARATORS = ",;\t|"
_BOM = b"\xef\xbb\xbf"
_PARQUET_ROWS = 256


def guess_format(path: Path, option: str) -> str:
    """The format that a file's name tells.

    Raises:
        UsageError: it tells none, so that `option` must.
    """
    name = Path(path.stem) if path.suffix.lower() == ".gz" else path
    found = _SUFFIXES.get(name.suffix.lower())
    if not found:
        raise UsageError(f"{path}: its name tells no format; add {option} with one of: {', '.join(FORMATS)}")
    return found


def open_source(path: Path | None, file_format: str, wanted: Wanted, place: Place) -> Source:
    """A source of rows from `place` on; a path of None is standard input.

    Raises:
        UsageError: the file cannot be read, has no such column, or is not of that format.
    """
    kinds: dict[str, type[JsonlSource | CsvSource | ParquetSource]] = {
        "jsonl": JsonlSource,
        "csv": CsvSource,
        "parquet": ParquetSource,
    }
    try:
        source = kinds[file_format](path, wanted)
        try:
            source.begin(place)
        except BaseException:
            source.close()
            raise
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'damaged'})") from None
    return source


class _Lines:
    """Lines of a stream with their number and the byte that follows them; None stands for one that is too long."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self.number = self.offset = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> bytes | None:
        line = self._stream.readline(self._limit)
        if not line:
            raise StopIteration
        self.number += 1
        first, piece = self.offset == 0, line
        self.offset += len(line)
        while len(piece) == self._limit and not piece.endswith(b"\n"):
            piece = self._stream.readline(self._limit)
            self.offset += len(piece)
        if piece is not line:
            return None
        return line.removeprefix(_BOM) if first else line

    def skip_to(self, place: Place) -> None:
        """Go to a place past the start; a gzipped file is unpacked again up to it."""
        self._stream.seek(place.offset)
        self.number, self.offset = place.line, place.offset


class _TextSource(Source):
    def __init__(self, path: Path | None, wanted: Wanted) -> None:
        super().__init__(path, wanted)
        self._raw: BinaryIO = path.open("rb") if path else sys.stdin.buffer
        if path:
            self.total = os.fstat(self._raw.fileno()).st_size
        self._unpacked = gzip.GzipFile(fileobj=self._raw) if path and path.suffix.lower() == ".gz" else None
        self._lines = _Lines(cast(BinaryIO, self._unpacked or self._raw), wanted.max_bytes)

    def begin(self, place: Place) -> None:
        if self._unpacked:
            self._unpacked.peek(1)
        if place.offset:
            self._rows = place.rows
            self._lines.skip_to(place)

    @property
    def place(self) -> Place:
        return Place(self._rows, self._lines.number, self._lines.offset)

    @property
    def done(self) -> int:
        # Of a compressed file, the packed bytes are those that the total counts.
        return self._raw.tell() if self._unpacked else self._lines.offset

    def close(self) -> None:
        if self._raw is not sys.stdin.buffer:
            self._raw.close()

    def _too_long(self) -> str:
        return f"the line takes {self._wanted.max_bytes} bytes or more"


class JsonlSource(_TextSource):
    """One JSON object a line; blank lines are no rows."""

    def __iter__(self) -> Iterator[Row]:
        for raw in self._lines:
            if raw is None or raw.strip():
                self._rows += 1
                yield self._row(raw)

    def _row(self, raw: bytes | None) -> Row:
        number, line = self._rows, self._lines.number
        try:
            if raw is None:
                raise BadRow(self._too_long())
            return self._wanted.row(number, line, _json_object(raw))
        except BadRow as bad:
            return Row(number, line, number, None, str(bad))


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        values = json.loads(raw.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8 from byte {error.start + 1} of the line") from None
    except json.JSONDecodeError as error:
        raise BadRow(f"broken JSON at character {error.pos + 1} of the line") from None
    except (ValueError, RecursionError):
        raise BadRow("broken JSON: a number too long, or nested too deeply") from None
    if not isinstance(values, dict):
        raise BadRow(f"not a JSON object, but {type(values).__name__}")
    return values


class CsvSource(_TextSource):
    """CSV with a header; the separator (comma, semicolon, tab or bar) is the commonest one of the header."""

    def begin(self, place: Place) -> None:
        # Past four times the longest text, a quote was most likely left open: reading goes on with the next line.
        csv.field_size_limit(4 * self._wanted.max_characters)
        try:
            header = (next(self._lines, b"") or b"").decode("utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{self._name}: the header is not UTF-8; convert the file first") from None
        separator = max(_SEPARATORS, key=header.count)
        self._columns = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
        _check_columns(self._name, self._columns, self._wanted)
        self._reader = csv.reader(map(self._decode, self._lines), delimiter=separator, strict=True)
        super().begin(place)

    def _decode(self, raw: bytes | None) -> str:
        if raw is None:
            raise BadRow(self._too_long())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self._not_utf8 = True
            return raw.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[Row]:
        while True:
            line = self._lines.number + 1
            try:
                row = self._next(line)
            except StopIteration:
                return
            except BadRow as bad:
                row = Row(self._rows + 1, line, self._rows + 1, None, str(bad))
            if row:
                self._rows += 1
                yield row

    def _next(self, line: int) -> Row | None:
        """The row that starts at `line`; None for a blank line."""
        self._not_utf8 = False
        try:
            fields = next(self._reader)
        except csv.Error:
            raise BadRow(f"broken CSV, lines {line} to {self._lines.number}; is a quote left open?") from None
        if not fields:
            return None
        if len(fields) != len(self._columns):
            raise BadRow(f"{len(fields)} fields where the header has {len(self._columns)}")
        if self._not_utf8:
            raise BadRow("not UTF-8")
        return self._wanted.row(self._rows + 1, line, dict(zip(self._columns, fields, strict=True)))


class ParquetSource(Source):
    """Parquet, a few rows at a time and only the columns that are needed."""

    def __init__(self, path: Path | None, wanted: Wanted) -> None:
        super().__init__(path, wanted)
        if path is None:
            raise UsageError("Parquet cannot be read from standard input; name a file")
        parquet = import_pyarrow("pyarrow.parquet")
        path.open("rb").close()
        try:
            # A buffer makes pyarrow read a column piece by piece instead of a whole row group at once.
            self._file = parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
        except (ValueError, OSError):
            raise UsageError(f"{path}: not a Parquet file") from None
        self.total = self._file.metadata.num_rows

    def begin(self, place: Place) -> None:
        names = self._file.schema_arrow.names
        _check_columns(self._name, names, self._wanted)
        self._needed = [name for name in (self._wanted.text, self._wanted.id or "id") if name in names]
        self._rows = place.rows

    @property
    def place(self) -> Place:
        return Place(self._rows)

    @property
    def done(self) -> int:
        return self._rows

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Row]:
        groups, passed = self._from_here()
        for batch in self._file.iter_batches(_PARQUET_ROWS, row_groups=groups, columns=self._needed, use_threads=False):
            start = max(0, self._rows - passed)
            passed += len(batch)
            columns = {name: batch.column(name)[start:] for name in self._needed}
            for index in range(len(batch) - start):
                self._rows += 1
                yield self._row({name: column[index] for name, column in columns.items()})

    def _from_here(self) -> tuple[list[int], int]:
        """Row groups that are not read to their end yet, and how many rows stand before the first of them."""
        before, group = 0, 0
        while group < self._file.num_row_groups:
            rows = self._file.metadata.row_group(group).num_rows
            if before + rows > self._rows:
                break
            before, group = before + rows, group + 1
        return list(range(group, self._file.num_row_groups)), before

    def _row(self, scalars: dict[str, Any]) -> Row:
        number = self._rows
        try:
            return self._wanted.row(number, None, {name: scalar.as_py() for name, scalar in scalars.items()})
        except UnicodeDecodeError:
            return Row(number, None, number, None, "not UTF-8")


def _check_columns(name: str, columns: Sequence[str], wanted: Wanted) -> None:
    """What the header holds is not quoted: without a header, it is somebody's text."""
    for option, column in (("--text-column", wanted.text), ("--id-column", wanted.id)):
        if column is None:
            continue
        if columns.count(column) != 1:
            times = "no" if column not in columns else "more than one"
            raise UsageError(f"{name}: {times} column {column!r} in the header; name another with {option}")
