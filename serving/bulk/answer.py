"""From rows to the lines that are written: flat for tables, or nested as /predict answers. Never a text."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from serving.artifact import Artifact
from serving.bulk.rows import Row, import_pyarrow
from serving.classifier import Classifier, Prediction

PARQUET_ROWS = 10_000
"""Rows of one row group of Parquet output."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How an answer becomes a line: `csv`, or JSON, nested where it is `full`."""

    csv: bool = False
    full: bool = False
    operating_point: str | None = None


class Scored(NamedTuple):
    """What a chunk of rows adds to the output and to the rejects, and what the summary counts of it."""

    output: bytes
    rejects: bytes
    tally: Counter[str]


def columns(artifact: Artifact) -> list[str]:
    """Of the flat layout, in order."""
    return ["id", *artifact.label_ids, "voice", "flagged", "route", "model_version"]


def header(artifact: Artifact, layout: Layout) -> bytes:
    """What stands before the first line."""
    return _csv_lines([columns(artifact)]) if layout.csv else b""


def score_rows(classifier: Classifier, rows: Sequence[Row], layout: Layout) -> Scored:
    """Score the rows that can be, and say why the others cannot."""
    answers = iter(_predict(classifier, [row.text for row in rows if row.text is not None], layout.operating_point))
    good: list[tuple[Row, Prediction]] = []
    bad: list[tuple[Row, str]] = []
    for row in rows:
        answer = str(row.reason) if row.text is None else next(answers)
        if isinstance(answer, str):
            bad.append((row, answer))
        else:
            good.append((row, answer))
    return Scored(_lines(classifier.artifact, good, layout), _rejects(bad), _tally(good, len(bad)))


def _predict(classifier: Classifier, texts: list[str], operating_point: str | None) -> Sequence[Prediction | str]:
    """An answer for each text, or why there is none: one text that fails does not take its neighbours along."""
    try:
        return classifier.predict(texts, operating_point=operating_point)
    except Exception as error:  # noqa: BLE001 - whatever a library raises; its message may quote the text
        if len(texts) == 1:
            return [f"scoring failed ({type(error).__name__})"]
    return [answer for text in texts for answer in _predict(classifier, [text], operating_point)]


def _lines(artifact: Artifact, answers: list[tuple[Row, Prediction]], layout: Layout) -> bytes:
    if layout.full:
        model = {"name": artifact.name, "version": artifact.version}
        return _json_lines({"id": row.id, **answer, "model": model} for row, answer in answers)
    flat = (_flat(row, answer, artifact.version) for row, answer in answers)
    if layout.csv:
        return _csv_lines({**cells, "flagged": "|".join(cells["flagged"])}.values() for cells in flat)
    return _json_lines(flat)


def _flat(row: Row, answer: Prediction, version: str) -> dict[str, Any]:
    categories = answer["categories"]
    return {
        "id": row.id,
        **{label: score["score"] for label, score in categories.items()},
        "minor_involved": answer["minor_involved"]["score"],
        **answer["voice"]["scores"],
        "voice": answer["voice"]["label"],
        "flagged": [label for label, score in categories.items() if score["flagged"]],
        "route": answer["route"],
        "model_version": version,
    }


def _rejects(bad: Iterable[tuple[Row, str]]) -> bytes:
    where = ((row, {} if row.line is None else {"line": row.line}, reason) for row, reason in bad)
    return _json_lines({"row": row.number, **line, "reason": reason} for row, line, reason in where)


def _tally(good: list[tuple[Row, Prediction]], rejected: int) -> Counter[str]:
    tally: Counter[str] = Counter(rows=len(good) + rejected, rejected=rejected)
    for row, answer in good:
        tally.update(f"flagged {label}" for label, score in answer["categories"].items() if score["flagged"])
        tally[f"route {answer['route']}"] += 1
        tally["ids not whole"] += not (isinstance(row.id, int) and -(2**63) <= row.id < 2**63)
    return tally


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv_lines(rows: Iterable[Iterable[Any]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def write_parquet(lines: Path, target: Path, artifact: Artifact, *, whole_ids: bool) -> None:
    """Flat JSON lines as Parquet, one row group in memory at a time; ids are int64 where all of them are whole."""
    pyarrow, parquet = import_pyarrow("pyarrow"), import_pyarrow("pyarrow.parquet")
    kinds = {"id": pyarrow.int64() if whole_ids else pyarrow.string(), "flagged": pyarrow.list_(pyarrow.string())}
    kinds |= dict.fromkeys(artifact.label_ids, pyarrow.float64())
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns(artifact)])
    with lines.open(encoding="utf-8", newline="\n") as file, parquet.ParquetWriter(target, schema) as writer:
        while group := [json.loads(line) for line in islice(file, PARQUET_ROWS)]:
            if not whole_ids:
                group = [{**row, "id": str(row["id"])} for row in group]
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
