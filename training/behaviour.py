"""Behavioural tests of an artifact: `python -m training.behaviour ARTIFACT`.

Each functionality tests one thing that a moderator relies on, in the manner of CheckList (Ribeiro et al., ACL 2020) and
HateCheck (Röttger et al., ACL 2021): a minimum (MFT), an invariance (INV) or a direction (DIR). A pass rate says where
a model is weak, not how often it errs on real messages; so nothing is summed over kinds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.cards import Mapping, read_header
from training.data import report
from training.errors import UserError, command
from training.evaluate import score_artifact
from training.figures import route
from training.labels import ROOT, Labels, load_labels
from training.predictions import read_thresholds
from training.readers import read_records
from training.rows import Problem, parse_row, shown
from training.thresholds import DEFAULT

CASES = ROOT / "tests" / "behaviour"
HATECHECK_FILE = ROOT / "data_cards" / "hatecheck_fr" / "hatecheck_cases_final_french.csv"
TOLERANCE = 0.2
"""Most that a score may differ between variants: a greeting moves it a little, but queues are sorted by score."""
STEP = 0.05
"""Least that a score must move in a direction: less could be the wording of the addition alone."""
CERTAIN = 0.95
"""A score at or beyond this (or 1 less this, downwards) before and after has nowhere left to go, and passes."""
NO_VOICE = "none"


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sides(_Closed):
    """Labels that must be flagged, of which one must be, that must not be; all others may go either way."""

    present: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


class Minimum(_Closed):
    """One text and its answer: `flagged` is any category, the voice `none` is no voice, and None is not checked."""

    text: str = Field(min_length=1)
    labels: Sides = Sides()
    voice: str | None = None
    route: Literal["moderate", "support", "none"] | None = None
    flagged: bool | None = None
    id: str | None = None


class Invariance(_Closed):
    """Texts that differ only in what must not matter, so their answers must be the same."""

    variants: tuple[str, ...] = Field(min_length=2)


class Direction(_Closed):
    """A text before and after a change that must raise or lower the score of a label."""

    before: str = Field(min_length=1)
    after: str = Field(min_length=1)
    label: str
    direction: Literal["up", "down"]


Case = Minimum | Invariance | Direction
_KINDS: dict[str, type[Case]] = {"MFT": Minimum, "INV": Invariance, "DIR": Direction}


class Functionality(_Closed):
    """One thing tested. The kind MHC is Multilingual HateCheck: minimum tests of another suite, counted apart."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    name: str = Field(min_length=1)
    kind: Literal["MFT", "INV", "DIR", "MHC"]
    checks: str = Field(min_length=1)
    cases: tuple[Case, ...] = Field(min_length=1)


def case_texts(case: Case) -> tuple[str, ...]:
    if isinstance(case, Minimum):
        return (case.text,)
    return case.variants if isinstance(case, Invariance) else (case.before, case.after)


def read_functionalities(folder: Path, labels: Labels) -> list[Functionality]:
    """Every functionality of a folder's .yaml files, in the order of files and places.

    Raises:
        UserError: what is wrong, by file, functionality and case number, never with a text.
    """
    read = [item for path in sorted(folder.glob("*.yaml")) for item in _read_file(path, labels)]
    if not read:
        raise UserError(f"{folder}: no .yaml file with cases here")
    name, count = Counter(item.id for item in read).most_common(1)[0]
    if count > 1:
        raise UserError(f"{folder}: functionality {name} stands twice")
    return read


def _read_file(path: Path, labels: Labels) -> Iterator[Functionality]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)  # the library's own message quotes the text
        raise UserError(f"{path}: not valid YAML{f' (line {mark.line + 1})' if mark else ''}") from None
    if not isinstance(content, dict) or not isinstance(content.get("functionalities"), list) or len(content) > 1:
        raise UserError(f"{path}: must hold one key, functionalities, with a list")
    for number, raw in enumerate(content["functionalities"], 1):
        yield _read_functionality(raw, f"{path}: functionality {number}", labels)


def _read_functionality(raw: Any, where: str, labels: Labels) -> Functionality:
    if not (isinstance(raw, dict) and isinstance(raw.get("cases"), list) and isinstance(raw.get("expect", {}), dict)):
        raise UserError(f"{where}: must hold a list of cases and, for what they share, keys under expect")
    where += f" ({shown(str(raw.get('id')))})"
    if (model := _KINDS.get(str(raw.get("kind")))) is None:
        raise UserError(f"{where}: kind: must be one of {', '.join(_KINDS)}")
    cases = tuple(
        _read_case(case, raw.get("expect", {}), model=model, where=f"{where}, case {number}", labels=labels)
        for number, case in enumerate(raw["cases"], 1)
    )
    raw = {key: value for key, value in raw.items() if key != "expect"}
    read: Functionality = _validated(Functionality, raw | {"cases": cases}, where)
    return read


def _read_case(raw: Any, common: dict[str, Any], *, model: type[Case], where: str, labels: Labels) -> Case:
    if not isinstance(raw, dict):
        raise UserError(f"{where}: must hold keys and values")
    case: Case = _validated(model, {**common, **raw}, where)
    if fault := next(_faults(case, labels), None):
        raise UserError(f"{where}: {fault}")
    return case


def _validated(model: type[BaseModel], raw: dict[str, Any], where: str) -> Any:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(shown(str(part)).strip("'") for part in first["loc"])
        allowed = f"; allowed: {', '.join(model.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UserError(f"{where}: {key}: {first['msg']}{allowed}") from None


def _faults(case: Case, labels: Labels) -> Iterator[str]:
    """Labels that do not exist, and what the codebook excludes."""
    if len(set(case_texts(case))) < len(case_texts(case)):
        yield "the same text stands twice"
    if isinstance(case, Direction) and case.label not in labels.ids:
        yield f"label: {shown(case.label)} is unknown; allowed: {', '.join(labels.ids)}"
    if not isinstance(case, Minimum):
        return
    named = [*case.labels.present, *case.labels.any_of, *case.labels.absent]
    for label in set(named) - {*labels.category_ids, *labels.context_ids}:
        yield f"labels: {shown(label)} is no category or context flag of configs/labels.yaml"
    if len(set(named)) < len(named):
        yield "labels: the same label stands twice"
    if case.voice not in (None, NO_VOICE, *labels.voice_ids):
        yield f"voice: unknown; allowed: {', '.join(labels.voice_ids)}, {NO_VOICE}"
    if not named and (case.voice, case.route, case.flagged) == (None, None, None):
        yield "expects nothing"
    category = not {*case.labels.present, *case.labels.any_of}.isdisjoint(labels.category_ids)
    if category and (case.flagged is False or case.voice == NO_VOICE):
        yield "expects a category and also none"
    if not category and (case.labels.present or case.voice == "direct" or case.route in ("moderate", "support")):
        yield "minor_involved, the voice direct and a route other than none need a category (codebook, rule 12)"
    voices = np.array([voice == case.voice for voice in labels.voice_ids])
    if category and case.voice and case.route and case.route != route(category, voices, labels):
        yield f"route: {case.route} does not follow from the voice {case.voice}"


class Answer(NamedTuple):
    """Scores of one text, of shape (labels,), and what follows: flags (voices apart), voice and route."""

    scores: np.ndarray
    flagged: frozenset[str]
    voice: str
    route: str


def behaviour(
    score: Callable[[list[str]], np.ndarray],
    thresholds: dict[str, dict[str, Any]],
    labels: Labels,
    functionalities: Sequence[Functionality],
    operating_point: str = DEFAULT,
) -> dict[str, Any]:
    """Run every case, with one call of `score` for all texts.

    Args:
        score: texts → calibrated probabilities of shape (texts, labels).
        thresholds: label → operating point → {"threshold": …}, as in thresholds.json.

    Returns:
        Plain data: a row per functionality (with the numbers of failed cases, from 1, and no text) and one per kind.
    """
    texts = [text for item in functionalities for case in item.cases for text in case_texts(case)]
    scores = np.asarray(score(texts))
    chosen = [thresholds[label][operating_point]["threshold"] for label in labels.ids]
    limits = np.array([np.inf if threshold is None else threshold for threshold in chosen])
    answers = iter([_answer(row, limits, labels) for row in scores])
    rows = [_row(item, answers, labels) for item in functionalities]
    kinds = {row["kind"]: [other for other in rows if other["kind"] == row["kind"]] for row in rows}
    return {
        "operating_point": operating_point,
        "limits": {"inv_score_change": TOLERANCE, "dir_step": STEP, "dir_certain": CERTAIN},
        "functionalities": rows,
        "kinds": {
            kind: _rate(*(sum(row[key] for row in same) for key in ("passed", "cases"))) for kind, same in kinds.items()
        },
    }


def _answer(scores: np.ndarray, limits: np.ndarray, labels: Labels) -> Answer:
    above = {label for label, passed in zip(labels.ids, scores >= limits, strict=True) if passed}
    voices = scores[-len(labels.voice_ids) :]
    likeliest = labels.voice_ids[int(voices.argmax())]
    voice = likeliest if likeliest in above else NO_VOICE
    category = not above.isdisjoint(labels.category_ids)
    return Answer(scores, frozenset(above - set(labels.voice_ids)), voice, route(category, voices, labels))


def _row(item: Functionality, answers: Iterator[Answer], labels: Labels) -> dict[str, Any]:
    failed: list[int | str] = []
    missed: Counter[str] = Counter()
    for number, case in enumerate(item.cases, 1):
        faults = _missed(case, [next(answers) for _ in case_texts(case)], labels)
        missed.update(faults)
        if faults:
            failed.append(getattr(case, "id", None) or number)
    named = {"id": item.id, "name": item.name, "kind": item.kind}
    return {**named, **_rate(len(item.cases) - len(failed), len(item.cases)), "failed": failed, "missed": dict(missed)}


def _rate(passed: int, cases: int) -> dict[str, Any]:
    return {"cases": cases, "passed": passed, "pass_rate": passed / cases}


def _missed(case: Case, answers: Sequence[Answer], labels: Labels) -> list[str]:
    """What was checked and did not hold; a case passes where nothing is missed."""
    match case:
        case Minimum():
            held = _minimum(case, answers[0], labels)
        case Invariance():
            said = {(answer.flagged, answer.voice, answer.route) for answer in answers}
            change = np.ptp([answer.scores for answer in answers], axis=0).max()
            held = {"same_answer": len(said) == 1, "close_scores": bool(change <= TOLERANCE)}
        case Direction():
            column = labels.ids.index(case.label)
            before, after = (float(answer.scores[column]) for answer in answers)
            held = {"moved": _rose(before, after) if case.direction == "up" else _rose(1 - before, 1 - after)}
    return [part for part, holds in held.items() if not holds]


def _minimum(case: Minimum, answer: Answer, labels: Labels) -> dict[str, bool]:
    flagged, sides = answer.flagged, case.labels
    some = not sides.any_of or not flagged.isdisjoint(sides.any_of)
    return {
        "labels": some and flagged.issuperset(sides.present) and flagged.isdisjoint(sides.absent),
        "flagged": case.flagged in (None, not flagged.isdisjoint(labels.category_ids)),
        "voice": case.voice in (None, answer.voice),
        "route": case.route in (None, answer.route),
    }


def _rose(before: float, after: float) -> bool:
    return after - before >= STEP or min(before, after) >= CERTAIN


def read_hatecheck(path: Path, labels: Labels) -> list[Functionality]:
    """Multilingual HateCheck, read as its card says: a hateful case needs one of the card's labels, any other none.

    Raises:
        UserError: no such file, or rows that the card does not tolerate, by line.
    """
    mapping = Mapping.model_validate(read_header(HATECHECK_FILE.parent / "README.md")["vigie"])
    reading: dict[str, Any] = {"mapping": mapping, "labels": labels, "split": None, "max_characters": sys.maxsize}
    groups: dict[str, list[Minimum]] = defaultdict(list)
    problems: list[Problem] = []
    for record in read_records(path, mapping.separator):
        row = parse_row(record, source=path.name, **reading)
        if isinstance(row, list):
            problems += [problem for problem in row if problem.kind not in mapping.tolerate]
        elif row and record.values:
            sides = Sides.model_validate({"any_of" if row.positive else "absent": mapping.annotates})
            groups[str(record.values["functionality"])].append(Minimum(text=row.text, labels=sides, id=row.id))
    if problems:
        raise UserError(report(problems))
    shared = {"kind": "MHC", "checks": "a functionality of Multilingual HateCheck"}
    items = [{"id": name, "name": name, "cases": tuple(cases), **shared} for name, cases in groups.items()]
    return [_validated(Functionality, item, path.name) for item in items]


def print_behaviour(figures: dict[str, Any]) -> None:
    """A line per functionality, then one per kind; --json holds what held of every part."""
    for row in figures["functionalities"]:
        failed = f"  failed: {', '.join(map(str, row['failed'][:12]))}" if row["failed"] else ""
        print(f"{row['kind']} {row['id']:32}{row['passed']:>4} of {row['cases']:<4}{row['pass_rate']:>5.0%}{failed}")
    for kind, row in figures["kinds"].items():
        print(f"{kind}: {row['passed']} of {row['cases']} cases")
    if figures["hatecheck"] == "absent":
        print("Multilingual HateCheck: absent, so not run (its card says where to get it)")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.behaviour", description="Behavioural tests.")
    parser.add_argument("artifact", type=Path, help="artifact directory")
    parser.add_argument("--cases", type=Path, default=CASES, metavar="FOLDER", help="default: tests/behaviour")
    parser.add_argument("--operating-point", default=DEFAULT, metavar="NAME", help=f"default: {DEFAULT}")
    parser.add_argument("--hatecheck", type=Path, metavar="FILE", help="default: the file of data_cards/hatecheck_fr")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args()


@command
def main() -> int:
    arguments, labels = _parse(), load_labels()
    artifact, point = arguments.artifact, arguments.operating_point
    thresholds = read_thresholds(artifact / "thresholds.json", labels.ids, point)
    items = read_functionalities(arguments.cases, labels)
    hatecheck = arguments.hatecheck or (HATECHECK_FILE if HATECHECK_FILE.is_file() else None)
    items += read_hatecheck(hatecheck, labels) if hatecheck else []
    figures = behaviour(lambda texts: score_artifact(artifact, texts, labels), thresholds, labels, items, point)
    figures |= {"hatecheck": "run" if hatecheck else "absent"}
    print_behaviour(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
