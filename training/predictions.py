"""Scores of any system as a file, one row a text and label: columns id, label, score. No text, no torch.

What a file does not score is not judged. Every text of a split needs a score for each of the labels that the file has.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data import Corpus, label_matrix
from training.errors import UserError
from training.figures import evaluation, strictness
from training.labels import Labels
from training.readers import Record, read_records
from training.rows import Example, shown
from training.thresholds import OPERATING_POINTS, choose_thresholds

Array = NDArray[np.floating[Any]]
Thresholds = dict[str, dict[str, Any]]

COLUMNS = ("id", "label", "score")
_SHOWN = 20


@dataclass(frozen=True)
class System:
    """What is judged: scores of a split, (examples, labels) with NaN columns, and what was fixed without that split."""

    scores: Array
    thresholds: Thresholds
    """label → operating point → {"threshold": …}, of the labels that are scored."""
    strictness: Mapping[str, float | None] | None
    """What `training.figures.strictness` found on validation, where its scores are known."""


def judge_file(
    path: Path,
    corpus: Corpus,
    labels: Labels,
    *,
    split: str,
    point: str,
    thresholds: Path | None = None,
    validation: Path | None = None,
) -> System:
    """The scores of a file for a split of the corpus, or for `all`, and their thresholds.

    Args:
        point: the operating point that the thresholds must hold.
        thresholds: a file like an artifact's thresholds.json. Without it they are chosen on the validation split's
            scores, which stand in `validation` or in the file itself; never on other texts.

    Raises:
        UserError: one report of everything that is wrong in the file, or nothing to take thresholds from.
    """
    scores = read_predictions(path, corpus, labels, split=split)
    known = scores if validation is None else read_predictions(validation, corpus, labels, split="validation")
    own, held = _rows_of(texts_of(corpus, split), scores), corpus.split("validation")
    on_validation = _rows_of(held, known) if held and held[0].id in known else None
    scored = scored_labels(own, labels)
    if thresholds is not None:
        chosen = read_thresholds(thresholds, scored, point)
    elif on_validation is None:
        raise UserError(
            f"{path}: holds no score of the validation split, so no threshold can be chosen; add these scores "
            "(training.evaluate also takes --validation-predictions FILE or --thresholds FILE)"
        )
    elif lacking := [name for name in scored if name not in scored_labels(on_validation, labels)]:
        raise UserError(f"{validation}: lacks {', '.join(lacking)}, so no threshold can be chosen for it")
    else:
        chosen = _choose(held, on_validation, scored, labels)
        check_point(point, OPERATING_POINTS, "thresholds chosen here")
    if split == "validation" or on_validation is None:
        return System(own, chosen, None)
    judged = np.where(np.isnan(own).all(axis=0), np.nan, on_validation)
    return System(own, chosen, strictness(evaluation(held, judged, chosen, labels, point, resamples=0)))


def read_predictions(path: Path, corpus: Corpus, labels: Labels, *, split: str) -> dict[str, Array]:
    """id → scores of shape (labels,), NaN for labels that the file does not hold.

    Raises:
        UserError: rows that are broken, repeated, or of unknown texts or labels, scores that are none, and texts of
            the split (or of validation, where the file holds some of it) without a score.
    """
    known = {example.id for example in corpus.examples}
    first: dict[tuple[str, str], int] = {}
    scores: dict[str, Array] = {}
    problems: list[str] = []
    for record in read_records(path):
        row, found = _check_row(record, known, labels)
        if row is not None:
            name, label, score = row
            line = first.setdefault((name, label), record.line)
            if line != record.line:
                found.append(f"the same id and label stand on line {line}")
            scores.setdefault(name, np.full(len(labels.ids), np.nan))[labels.ids.index(label)] = score
        problems += [f"{path.name}:{record.line}: {problem}" for problem in found]
    held = {label for _, label in first}
    if not problems and not held & set(labels.category_ids):
        problems.append(f"{path.name}: holds no score of a category")
    if not problems:
        problems = [f"{path.name}: {problem}" for problem in _missing(corpus, scores, sorted(held), labels, split)]
    if problems:
        raise UserError(_report(path, problems))
    return scores


def write_predictions(path: Path, examples: Sequence[Example], scores: Array, labels: Labels) -> None:
    """Write scores of shape (examples, labels) as the ending of the path says; NaN is left out.

    Scores keep every digit, so that what is read is what was written.
    """
    rows = [
        (example.id, label, float(score))
        for example, row in zip(examples, scores, strict=True)
        for label, score in zip(labels.ids, row, strict=True)
        if not math.isnan(score)
    ]
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        table = pyarrow.table(dict(zip(COLUMNS, map(list, columns), strict=True)))
        pyarrow.parquet.write_table(table, path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".jsonl":
            file.writelines(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        else:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([COLUMNS, *rows])


def check_output(option: str, path: Path | None, formats: Sequence[str] = ()) -> None:
    """Raises UserError, before anything is computed, for a file that cannot be written there."""
    if path is not None and formats and path.suffix.lower() not in formats:
        raise UserError(f"{option} {path}: cannot write this format; allowed: {', '.join(formats)}")
    if path is not None and not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}")


def read_thresholds(path: Path, scored: Sequence[str], point: str) -> Thresholds:
    """The `labels` of a file like an artifact's thresholds.json.

    Raises:
        UserError: it is missing or broken, or lacks the operating point or one of the labels.
    """
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
        points, chosen = file["operating_points"], file["labels"]
        check_point(point, points, str(path))
        for label in scored:
            if label not in chosen:
                raise UserError(f"{path}: lacks {label}")
            value = chosen[label][point]["threshold"]
            if value is not None and not (isinstance(value, float | int) and 0 <= value <= 1):
                raise UserError(f"{path}: {label}: {point}: threshold must be null or a number from 0 to 1")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: must hold operating_points and labels (label, operating point, threshold) as thresholds.json does"
        ) from None
    return dict(chosen)


def check_point(point: str, points: Sequence[str], where: str) -> None:
    """Raises UserError for an operating point that is not there."""
    if point not in points:
        raise UserError(f"--operating-point: {point!r} is not in {where}; allowed: {', '.join(points)}")


def texts_of(corpus: Corpus, split: str) -> list[Example]:
    """The examples of a split, or of all.

    Raises:
        UserError: there are none.
    """
    examples = list(corpus.examples) if split == "all" else corpus.split(split)
    if not examples:
        raise UserError(f"the data has no {split} split; choose another with --split")
    return examples


def scored_labels(scores: Array, labels: Labels) -> list[str]:
    """The labels whose column is not NaN."""
    return [label for column, label in enumerate(labels.ids) if not np.isnan(scores[:, column]).all()]


def _rows_of(examples: Sequence[Example], scores: Mapping[str, Array]) -> Array:
    return np.stack([scores[example.id] for example in examples])


def _choose(held: Sequence[Example], scores: Array, scored: Sequence[str], labels: Labels) -> Thresholds:
    columns = [labels.ids.index(label) for label in scored]
    groups = [example.group or example.id for example in held]
    return choose_thresholds(label_matrix(held, labels)[:, columns], scores[:, columns], scored, groups)


def _check_row(record: Record, known: set[str], labels: Labels) -> tuple[tuple[str, str, float] | None, list[str]]:
    """A row's id, label and score, or None, and what is wrong with it."""
    if record.values is None:
        return None, [record.problem or "cannot be read"]
    if set(record.values) != set(COLUMNS):
        names = ", ".join(shown(str(name)) for name in record.values)
        return None, [f"columns {names}; must be id, label, score, one row a text and label"]
    problems = []
    name, label = (str(record.values[column]) for column in ("id", "label"))
    score = _number(record.values["score"])
    if name not in known:
        problems.append(f"id: {shown(name)} is no text of the data")
    if label not in labels.ids:
        problems.append(f"label: unknown label {shown(label)}; allowed: {', '.join(labels.ids)}")
    if score is None:
        problems.append("score: must be a number from 0 to 1")
    return (None if problems or score is None else (name, label, score)), problems


def _number(value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number <= 1 else None


def _missing(
    corpus: Corpus, scores: Mapping[str, Array], held: Sequence[str], labels: Labels, split: str
) -> Iterator[str]:
    """Texts without a score, of the split and of a validation split that the file holds in part."""
    wanted, held_out = texts_of(corpus, split), corpus.split("validation")
    if split in ("train", "test") and any(example.id in scores for example in held_out):
        wanted = [*wanted, *held_out]
    columns = [labels.ids.index(label) for label in held]
    for example in wanted:
        row = scores.get(example.id)
        lacking = held if row is None else [held[i] for i, column in enumerate(columns) if np.isnan(row[column])]
        if lacking:
            yield f"{example.split} text {shown(example.id)}: no score for {', '.join(lacking)}"


def _report(path: Path, problems: Sequence[str]) -> str:
    plural = "s" * (len(problems) > 1)
    lines = [f"{path}: {len(problems)} problem{plural}; nothing was judged", *problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"… and {len(problems) - _SHOWN} more")
    return "\n  ".join(lines)
