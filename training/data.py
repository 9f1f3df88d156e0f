"""From sources to a checked dataset: every row read, every problem reported at once, splits kept apart by group.

`python -m training.audit CARD` prints how sound a corpus is.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from training.cards import SPLITS, Source, open_source
from training.config import DataConfig
from training.errors import UserError
from training.labels import Labels
from training.readers import read_records
from training.rows import Example, Problem, parse_row, shown
from training.similarity import near_duplicates

if TYPE_CHECKING:
    from datasets import DatasetDict

UNKNOWN = -100.0
"""Target of a label that nobody decided: left out of the loss and of every metric."""
_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
_SHOWN = 200


@dataclass(frozen=True)
class Corpus:
    """Checked examples, each with a split, and the sources they came from."""

    examples: tuple[Example, ...]
    sources: tuple[Source, ...]

    def split(self, name: str) -> list[Example]:
        return [example for example in self.examples if example.split == name]


def load_corpus(locations: Sequence[str], labels: Labels, config: DataConfig, *, trainable: bool = True) -> Corpus:
    """Read and check all sources.

    Args:
        locations: cards (folders) or files.
        trainable: also require what training needs, such as enough positives a category.

    Raises:
        UserError: one report of every problem found, by line and id, without any text.
    """
    sources = tuple(open_source(location, labels) for location in locations)
    examples, problems = _read_all(sources, labels, config)
    problems += _check_ids(examples)
    problems += _check_files(examples)
    problems += _check_groups(examples)
    problems += _check_duplicates(examples, config.near_duplicate)
    if not problems:
        examples = _assign_splits(examples, labels, config.near_duplicate)
    if trainable:
        problems += _check_learnable(examples, labels, config.min_positives, partial=bool(problems))
    if problems:
        raise UserError(report(problems))
    return Corpus(tuple(examples), sources)


def report(problems: Sequence[Problem]) -> str:
    """All problems as one message, in file and line order."""
    ordered = sorted(problems, key=lambda problem: (problem.source, problem.line or 10**9, problem.message))
    lines = [f"{len(ordered)} problem{'s' * (len(ordered) > 1)} in the data; nothing was loaded"]
    lines += [f"  {problem}" for problem in ordered[:_SHOWN]]
    if len(ordered) > _SHOWN:
        kinds = Counter(problem.message.split(":")[0] for problem in ordered[_SHOWN:])
        rest = ", ".join(f"{count} about {kind}" for kind, count in kinds.most_common())
        lines.append(f"  … and {len(ordered) - _SHOWN} more: {rest}")
    return "\n".join(lines)


def label_matrix(examples: Iterable[Example], labels: Labels) -> np.ndarray:
    """Targets of shape (examples, labels), float32: 1 positive, 0 negative, -100 where nobody decided."""
    rows = [
        [float(label in example.positive) if label in example.known else UNKNOWN for label in labels.ids]
        for example in examples
    ]
    return np.asarray(rows, dtype=np.float32).reshape(-1, len(labels.ids))


def to_dataset(corpus: Corpus, labels: Labels) -> DatasetDict:
    """The corpus as a `datasets.DatasetDict` with columns id, text, group and targets (one float per label)."""
    from datasets import Dataset, DatasetDict, Features, List, Value

    features = Features(
        {"id": Value("string"), "text": Value("string"), "group": Value("string"), "targets": List(Value("float32"))}
    )
    splits = {}
    for name in SPLITS:
        chosen = corpus.split(name)
        columns = {
            "id": [example.id for example in chosen],
            "text": [example.text for example in chosen],
            "group": [example.group or example.id for example in chosen],
            "targets": label_matrix(chosen, labels).tolist(),
        }
        splits[name] = Dataset.from_dict(columns, features=features)
    return DatasetDict(splits)


def _read_all(sources: Sequence[Source], labels: Labels, config: DataConfig) -> tuple[list[Example], list[Problem]]:
    examples: list[Example] = []
    problems: list[Problem] = []
    for source in sources:
        allowed = _allowed_columns(source)
        for file in source.files:
            name = source.file_name(file)
            unknown: dict[str, int] = {}
            rows = 0
            for record in read_records(file.path, source.mapping.separator):
                rows += 1
                if allowed is not None:
                    for column in (record.values or {}).keys() - allowed:
                        unknown.setdefault(column, record.line)
                parsed = parse_row(
                    record,
                    source=name,
                    mapping=source.mapping,
                    labels=labels,
                    split=file.split,
                    max_characters=config.max_characters,
                )
                if isinstance(parsed, Example):
                    examples.append(parsed)
                else:
                    problems += parsed or []
            problems += [_unknown_column(name, line, column, allowed or set()) for column, line in unknown.items()]
            if not rows:
                problems.append(Problem(name, None, None, "holds no row"))
    return examples, problems


def _allowed_columns(source: Source) -> set[str] | None:
    mapping = source.mapping
    if mapping.ignore_other_columns or mapping.rules:
        return None
    own = {mapping.columns.get(column, column) for column in ("text", "labels", "minor_involved", "voice")}
    own |= {mapping.columns.get(column, column) for column in ("id", "group", "split")}
    return own | set(mapping.metadata)


def _unknown_column(source: str, line: int, column: str, allowed: set[str]) -> Problem:
    return Problem(
        source,
        line,
        None,
        f"unknown column {shown(column)}, first seen here; allowed: {', '.join(sorted(allowed))} "
        "(a card can declare others under vigie.metadata)",
    )


def _check_ids(examples: Sequence[Example]) -> list[Problem]:
    first: dict[str, Example] = {}
    problems = []
    for example in examples:
        other = first.setdefault(example.id, example)
        if other is not example:
            problems.append(_at(example, f"id: stands already at {other.source}:{other.line}"))
    return problems


def _check_files(examples: Sequence[Example]) -> list[Problem]:
    """A file says the split of every row or of none: a row without one would be dealt at random."""
    problems = []
    by_source: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_source[example.source].append(example)
    for rows in by_source.values():
        without = [example for example in rows if example.split is None]
        if without and len(without) < len(rows):
            problems += [_at(example, "split: missing, though other rows of the file have one") for example in without]
    return problems


def _check_groups(examples: Sequence[Example]) -> list[Problem]:
    first: dict[str, Example] = {}
    problems = []
    for example in examples:
        if example.group is None or example.split is None:
            continue
        other = first.setdefault(example.group, example)
        if other.split != example.split:
            problems.append(
                _at(
                    example,
                    f"group: {shown(example.group)} is in {example.split} here and in {other.split} at "
                    f"{other.source}:{other.line}; keep a group in one split",
                )
            )
    return problems


def _check_duplicates(examples: Sequence[Example], threshold: float) -> list[Problem]:
    problems = []
    for i, j, similarity in near_duplicates([example.text for example in examples], threshold):
        a, b = examples[i], examples[j]
        where = f"{a.source}:{a.line} (id {a.id})"
        if a.split != b.split:
            kind = "the same text" if similarity == 1 else f"a near-identical text (similarity {similarity:.2f})"
            problems.append(
                _at(b, f"text: {kind} is in {b.split or 'no split'} here and in {a.split or 'no split'} at {where}")
            )
        elif similarity == 1 and a.text == b.text and a.known == b.known and a.positive != b.positive:
            problems.append(_at(b, f"labels: differ from those of the same text at {where}"))
    return problems


def _check_learnable(examples: Sequence[Example], labels: Labels, minimum: int, *, partial: bool) -> list[Problem]:
    train = [example for example in examples if example.split == "train" or (partial and example.split is None)]
    problems = []
    for label in labels.category_ids:
        if not any(label in example.known for example in train):
            continue
        positives = sum(label in example.positive for example in train)
        if positives < minimum:
            problems.append(
                Problem(
                    "training split",
                    None,
                    None,
                    f"{label}: {positives} positive text{'s' * (positives != 1)}, too few to learn from "
                    f"(data.min_positives is {minimum}); add examples, another --data, or --set data.min_positives=0",
                )
            )
    return problems


def _assign_splits(examples: list[Example], labels: Labels, threshold: float) -> list[Example]:
    """Deal rows without a split 80/10/10, a group and its near-duplicates together, labels spread evenly.

    Greedy iterative stratification (after Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011): the rarest labels first,
    each bundle to the split that lacks most of them. The order comes from a hash, so the same file is always dealt the
    same way.
    """
    free = [index for index, example in enumerate(examples) if example.split is None]
    if not free:
        return examples
    bundles = _bundle([examples[index] for index in free], threshold)
    totals = Counter(label for index in free for label in examples[index].positive)
    wanted = {split: {label: totals[label] * share for label in labels.ids} for split, share in _SHARES.items()}
    room = {split: len(free) * share for split, share in _SHARES.items()}

    def rarity(bundle: list[int]) -> tuple[int, str]:
        held = [totals[label] for index in bundle for label in examples[free[index]].positive]
        key = min(examples[free[index]].id for index in bundle)
        return (min(held, default=10**9), hashlib.sha256(key.encode("utf-8")).hexdigest())

    result = list(examples)
    for bundle in sorted(bundles, key=rarity):
        held = Counter(label for index in bundle for label in examples[free[index]].positive)
        rarest = min(held, key=lambda label: (totals[label], label), default=None)

        def need(split: str, rarest: str | None = rarest) -> tuple[float, float]:
            share = _SHARES[split]
            lacking = wanted[split][rarest] / share if rarest in wanted[split] else 0.0
            return (lacking, room[split] / share)

        split = max(SPLITS, key=need)
        room[split] -= len(bundle)
        for label, count in held.items():
            wanted[split][label] -= count
        for index in bundle:
            result[free[index]] = replace(examples[free[index]], split=split)
    return result


def _bundle(examples: Sequence[Example], threshold: float) -> list[list[int]]:
    """Indices that must stay together: the same group, or near-identical texts (connected components)."""
    parent = list(range(len(examples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, example in enumerate(examples):
        if example.group is not None:
            parent[root(index)] = root(first.setdefault(example.group, index))
    for i, j, _ in near_duplicates([example.text for example in examples], threshold):
        parent[root(j)] = root(i)
    bundles: dict[int, list[int]] = defaultdict(list)
    for index in range(len(examples)):
        bundles[root(index)].append(index)
    return list(bundles.values())


def _at(example: Example, message: str) -> Problem:
    shown = None if example.id == f"{example.source}:{example.line}" else example.id
    return Problem(example.source, example.line, shown, message)
