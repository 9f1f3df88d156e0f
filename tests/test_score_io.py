"""serving.bulk: a bad row costs one row and is never quoted; a record of progress can be trusted."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from serving.bulk.answer import Layout, Scored, score_rows
from serving.bulk.progress import Progress, summary
from serving.bulk.read import guess_format, open_source
from serving.bulk.resume import FileSink, Paths, State, install, read_state
from serving.bulk.rows import Place, Row, UsageError, Wanted

CANARY = "perroquet-bleu-7413"
RUN = {"artifact": "v1", "--full": False, "--id-column": None}


def read(path: Path, wanted: Wanted | None = None, place: Place | None = None) -> list[tuple[Row, Place]]:
    """Every row with the place after it."""
    source = open_source(path, guess_format(path, "--format"), wanted or Wanted(), place or Place())
    try:
        return [(row, source.place) for row in source]
    finally:
        source.close()


def rows(path: Path, wanted: Wanted | None = None) -> list[Row]:
    return [row for row, _ in read(path, wanted)]


def test_jsonl_counts_rows_and_lines_over_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "un"}\n\n{"text": "trois", "id": "x"}\n')
    assert rows(path) == [Row(1, 1, 1, "un"), Row(2, 3, "x", "trois")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f'{{"text": "{CANARY}"', "broken JSON"),
        (f'["{CANARY}"]', "not a JSON object, but list"),
        (f'{{"autre": "{CANARY}"}}', "no text"),
        ('{"text": null}', "no text"),
        (f'{{"text": ["{CANARY}"]}}', "not a string, but list"),
        ('{"text": " \\n"}', "is empty"),
        (f'{{"text": "{CANARY * 10}"}}', "190 characters; at most 100"),
        (f'{{"text": "ok", "id": ["{CANARY}"]}}', "neither a string nor a number"),
        ('{"text": "ok", "id": NaN}', "no finite number"),
        (f'{{"text": "{CANARY}", "n": {"9" * 5000}}}', "number too long"),
        ("[" * 100_000, "broken JSON"),
        (f'{{"text": "{CANARY} caf\udce9"}}', "not UTF-8 from byte 34"),
        (f'{{"text": "{CANARY}", "autre": "{"x" * 4_200_000}"}}', "bytes or more"),
    ],
    ids=range(13),
)
def test_a_bad_line_is_named_not_quoted_and_the_next_one_read(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogateescape") + b'\n{"text": "suite"}\n')
    first, second = rows(path, Wanted(max_characters=100))
    assert first.text is None and reason in str(first.reason) and CANARY not in str(first)
    assert second == Row(2, 2, 2, "suite")


def test_half_a_surrogate_pair_is_a_text(tmp_path: Path) -> None:
    """JSON can carry one; an id that holds one is made writable."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud83d", "id": "b\\ud83d"}\n', encoding="utf-8")
    assert rows(path) == [Row(1, 1, "b\ufffd", "a\ud83d")]


def test_an_id_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "un", "ref": 7}\n{"text": "deux"}\n', encoding="utf-8")
    found = rows(path, Wanted(id="ref"))
    assert found[0].id == 7 and found[1].reason == "no id"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_finds_its_separator_and_counts_lines_through_quoted_breaks(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'id{separator}text\nx{separator}"un,\n""deux"""\ny{separator}trois\n', encoding="utf-8")
    assert rows(path) == [Row(1, 2, "x", 'un,\n"deux"'), Row(2, 4, "y", "trois")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"x,{CANARY},z", "3 fields where the header has 2"),
        (CANARY, "1 fields where the header has 2"),
        (f'x,"{CANARY}"z', "broken CSV, lines 2 to 2"),
        (f"x,{CANARY} caf\udce9", "not UTF-8"),
        ("x,", "is empty"),
        (f"x,{CANARY * 10}", "190 characters; at most 100"),
    ],
)
def test_a_bad_csv_row_is_named_not_quoted_and_the_next_one_read(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n" + line.encode("utf-8", "surrogateescape") + b"\n\ny,suite\n")
    first, second = rows(path, Wanted(max_characters=100))
    assert first.text is None and reason in str(first.reason) and CANARY not in str(first)
    assert second == Row(2, 4, "y", "suite")


def test_a_quote_left_open_costs_a_bounded_stretch(tmp_path: Path) -> None:
    """The csv module would otherwise take the rest of the file, however large, for one field."""
    path = tmp_path / "a.csv"
    path.write_text('id,text\nx,"ouvert\n' + "".join(f"{n},suite\n" for n in range(100)), encoding="utf-8")
    found = rows(path, Wanted(max_characters=50))
    assert "is a quote left open?" in str(found[0].reason)
    assert found[-1].text == "suite" and len(found) > 50


def test_parquet_reads_nulls_numbers_and_wrong_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pyarrow.array([b"un", None, b"caf\xe9", b"quatre"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"id": [5, 6, 7, 8], "text": texts}), path)
    found = rows(path)
    assert [(row.id, row.text) for row in found] == [(5, "un"), (2, None), (3, None), (8, "quatre")]
    assert [row.reason for row in found] == [None, "no text", "not UTF-8", None]


def _write(path: Path) -> None:
    values = [{"id": f"i{n}", "text": f"é{n}\nsuite" if n % 3 else None} for n in range(40)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), path, row_group_size=7)
    elif ".csv" in path.name:
        lines = "".join(f'{row["id"]},"{row["text"] or ""}"\n' for row in values)
        data = b"\xef\xbb\xbfid,text\n" + lines.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    else:
        data = "".join(json.dumps(row) + "\n\n" for row in values).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.parquet"])
def test_reading_goes_on_from_every_place(tmp_path: Path, name: str) -> None:
    """What a resumed run reads is what the interrupted one would have read, numbers and lines included."""
    path = tmp_path / name
    _write(path)
    whole = read(path)
    assert len(whole) == 40 and any(row.text for row, _ in whole)
    for index, (_, place) in enumerate(whole):
        assert read(path, place=place) == whole[index + 1 :]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", f"{CANARY},x\n".encode(), "no column 'text'"),
        ("a.csv", b"text,text\n", "more than one column 'text'"),
        ("a.csv", "texte\n".encode("utf-16"), "not UTF-8"),
        ("a.parquet", CANARY.encode(), "not a Parquet file"),
        ("a.jsonl.gz", CANARY.encode(), "damaged"),
    ],
)
def test_a_file_that_is_something_else_is_refused_and_not_quoted(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """A CSV file without header starts with somebody's text."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read(tmp_path / name)
    assert CANARY not in str(caught.value)


class Fragile:
    """Fails on one text, as a library could, with a message that quotes it."""

    artifact = SimpleNamespace(version="v1")

    def predict(self, texts: Sequence[str], *, operating_point: str | None) -> list[dict[str, Any]]:
        if any(CANARY in text for text in texts):
            raise RuntimeError(f"cannot encode {texts}")
        score = {"score": 0.5, "flagged": True}
        voice = {"label": None, "scores": {"direct": 0.1}}
        return [
            {"categories": {"racism": score}, "minor_involved": score, "voice": voice, "flagged": True, "route": "none"}
            for _ in texts
        ]


def test_a_text_that_cannot_be_scored_costs_itself_alone() -> None:
    given = [Row(1, 1, "a", "un"), Row(2, 2, "b", CANARY), Row(3, 3, 3, None, "no text"), Row(4, 4, "d", "quatre")]
    scored = score_rows(Fragile(), given, Layout())  # type: ignore[arg-type]
    assert [json.loads(line)["id"] for line in scored.output.splitlines()] == ["a", "d"]
    assert [json.loads(line) for line in scored.rejects.splitlines()] == [
        {"row": 2, "line": 2, "reason": "scoring failed (RuntimeError)"},
        {"row": 3, "line": 3, "reason": "no text"},
    ]
    assert scored.tally == {"rows": 4, "rejected": 2, "flagged racism": 2, "route none": 2, "ids not whole": 2}
    assert CANARY.encode() not in scored.output + scored.rejects


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "o.jsonl", tmp_path / "o.rejects.jsonl")


def _sink(paths: Paths, state: State | None = None) -> FileSink:
    return FileSink(paths, RUN, state=state, header=b"head\n")


def test_a_record_is_read_as_it_was_written_and_what_follows_it_is_cut_off(paths: Paths) -> None:
    sink = _sink(paths)
    sink.write(Scored(b"one\n", b"bad\n", Counter(rows=2, rejected=1)), Place(2, 3, 40))
    sink.close()
    state = read_state(paths, RUN)
    assert state is not None
    assert (state.place, state.output_bytes, state.rejects_bytes) == (Place(2, 3, 40), 9, 4)
    assert state.tally == {"rows": 2, "rejected": 1} and not state.complete
    for file in (paths.partial, paths.rejects):
        file.write_bytes(file.read_bytes() + b"half a li")
    sink = _sink(paths, state)
    sink.write(Scored(b"two\n", b"worse\n", Counter(rows=2, rejected=1)), Place(4, 5, 80))
    sink.close()
    assert paths.partial.read_bytes() == b"head\none\ntwo\n" and paths.rejects.read_bytes() == b"bad\nworse\n"


def test_a_record_of_a_run_with_other_settings_is_refused_by_name(paths: Paths) -> None:
    _sink(paths).close()
    with pytest.raises(UsageError, match="another --full, --id-column;"):
        read_state(paths, {**RUN, "--full": True, "--id-column": "ref"})


def test_a_record_that_promises_more_than_there_is_is_refused(paths: Paths) -> None:
    """After a power cut on a disk that lies; going on would leave a hole."""
    _sink(paths).close()
    state = read_state(paths, RUN)
    paths.partial.write_bytes(b"")
    with pytest.raises(UsageError, match="holds less than its record says"):
        _sink(paths, state)
    paths.progress.write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="damaged"):
        read_state(paths, RUN)


def test_two_runs_cannot_write_the_same_file(paths: Paths) -> None:
    first = _sink(paths)
    with pytest.raises(UsageError, match="another run is writing it"):
        _sink(paths)
    first.close()
    _sink(paths).close()


def _table(lines: Path, table: Path) -> None:
    table.write_bytes(lines.read_bytes().upper())


def _stopped(lines: Path, table: Path) -> None:
    table.write_bytes(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize(("to_table", "expected"), [(None, b"head\n"), (_table, b"HEAD\n")])
def test_the_last_step_can_be_taken_again(
    paths: Paths, to_table: Callable[[Path, Path], None] | None, expected: bytes
) -> None:
    """Killed in the conversion, or between the new name and the end of the record."""
    sink = _sink(paths)
    sink.complete()
    sink.close()
    record = paths.progress.read_bytes()
    if to_table:
        with pytest.raises(KeyboardInterrupt):
            install(paths, _stopped)
        assert not paths.output.exists()
    install(paths, to_table)
    paths.progress.write_bytes(record)
    state = read_state(paths, RUN)
    assert state is not None and state.complete
    install(paths, to_table)
    assert [file.name for file in paths.output.parent.iterdir()] == ["o.jsonl"]
    assert paths.output.read_bytes() == expected


def test_progress_says_a_line_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serving.bulk.progress._LINE_EVERY_S", 0)
    Progress(rows=100, done=500, total=1000).update(200, 750)
    Progress(rows=0, done=0, total=None).update(200, 750)
    known, unknown = capsys.readouterr().err.splitlines()
    assert known.startswith("200 texts, ") and ", 75%, about " in known
    assert "left" not in unknown


def test_the_summary_holds_every_count() -> None:
    tally = Counter({"rows": 2000, "rejected": 3, "flagged racism": 1200, "route moderate": 7, "ids not whole": 5})
    assert summary(tally, 4.0, "o.rejects.jsonl") == (
        "2,000 rows, 3 rejected (o.rejects.jsonl), 4.0 s, 500.0 texts/s; flagged: racism 1,200; route: moderate 7"
    )
