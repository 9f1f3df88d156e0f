"""training.readers: one bad row costs one row."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from training.errors import UserError
from training.readers import Record, read_records


def records(path: Path) -> list[Record]:
    return list(read_records(path))


def test_jsonl_keeps_line_numbers_over_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "un"}\n\n{"text": "trois"}\n')
    assert records(path) == [Record(1, {"text": "un"}), Record(3, {"text": "trois"})]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "a"', "broken JSON"),
        (b'["text"]', "must be a JSON object"),
        (b'{"text": "caf\xe9"}', "not UTF-8"),
        (b'{"text": "a", "text": "b"}', "stands twice"),
        (b"[" * 100_000, "broken JSON"),
    ],
    ids=["cut", "list", "latin-1", "double key", "nested"],
)
def test_a_broken_line_is_reported_and_the_next_one_read(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b'\n{"text": "suite"}\n')
    first, second = records(path)
    assert first.values is None
    assert expected in str(first.problem)
    assert second.values == {"text": "suite"}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_finds_its_separator(tmp_path: Path, separator: str) -> None:
    """French spreadsheets write semicolons."""
    path = tmp_path / "a.csv"
    path.write_text(f'text{separator}labels\n"un, deux; trois"{separator}racism\n', encoding="utf-8")
    assert records(path) == [Record(2, {"text": "un, deux; trois", "labels": "racism"})]


def test_csv_counts_lines_through_quoted_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,labels\n"un\ndeux",\nquatre,\n', encoding="utf-8")
    assert [record.line for record in records(path)] == [2, 4]


def test_csv_reports_a_short_row_and_a_wrong_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,labels\nseul\ncaf\xe9,racism\nbon,racism\n")
    short, encoding, good = records(path)
    assert "1 fields where the header has 2" in str(short.problem)
    assert "not UTF-8" in str(encoding.problem)
    assert good.values == {"text": "bon", "labels": "racism"}


def test_parquet_keeps_lists_and_nulls(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"text": "un", "labels": ["racism"]}, {"text": None, "labels": []}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert [record.values for record in records(path)] == rows


@pytest.mark.parametrize(("name", "expected"), [("a.xlsx", "allowed: .jsonl"), ("b.jsonl", "no such file")])
def test_what_cannot_be_read_is_refused_at_once(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "a.xlsx").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        read_records(tmp_path / name)


def test_a_false_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("no table", encoding="utf-8")
    with pytest.raises(UserError, match="not a Parquet file"):
        records(path)
