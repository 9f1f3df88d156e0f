"""Whether system B is better than system A: `python -m training.compare A B [--data CARD-OR-FILE]`.

Each is an artifact directory, or a file of scores as `training.predictions` reads it, of which the validation scores
choose the thresholds. Both are judged on the same texts, and every difference gets a 95 % interval over redrawn groups
of texts. Choose texts that neither was trained on: nothing here can tell.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.cards import SPLITS
from training.config import load_config
from training.data import Corpus, load_corpus
from training.errors import UserError, command
from training.evaluate import judge_artifact, print_few, read_json
from training.figures import Judged, judged, plain
from training.intervals import (
    RESAMPLES,
    Statistic,
    at_flags,
    average_precisions,
    macro_average_precision,
    macro_of,
    of_sample,
    paired_difference,
    share,
)
from training.labels import Labels, load_labels
from training.predictions import System, check_output, judge_file, texts_of
from training.rows import Example
from training.thresholds import DEFAULT

OVERALL = ("macro_average_precision", "macro_f1", "wrongly_acted_upon", "direct_recall")
BY_CATEGORY = ("average_precision", "f1", "recall")
LESS_IS_BETTER = ("wrongly_acted_upon",)
_AT_FLAGS = ("precision", "recall", "f1")


def compare(
    a: System,
    b: System,
    examples: Sequence[Example],
    labels: Labels,
    *,
    point: str = DEFAULT,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Figures of both over the categories that both score, and what B gains, as plain JSON values.

    Who is acted upon is each system's own doing: by its route, or without voices all that it flags in any category.

    Returns:
        verdict: that of macro average precision. examples, groups, resamples, operating_point.
        categories: those compared, which both score and which have positives. not_compared: the others.
        routes: whether each has voices.
        figures, by_category: figure → a, b, difference (b less a), low and high of its 95 % interval, and a verdict:
            "better" or "worse" where the interval leaves out 0, else "not told apart".

    Raises:
        UserError: there is no such category.
    """
    sides = [judged(examples, system.scores, system.thresholds, labels, point) for system in (a, b)]
    columns = [column for column in range(len(labels.category_ids)) if all(_measured(side, column) for side in sides)]
    if not columns:
        raise UserError("there is no category that both score and that has positives: nothing to compare")
    names = [labels.category_ids[column] for column in columns]
    groups = sides[0].groups
    overall = [_overall(side, columns) for side in sides]
    figures = {name: _gain(name, [side[name] for side in overall], groups, resamples) for name in OVERALL}
    by_category: dict[str, dict[str, Any]] = {}
    for category, column in zip(names, columns, strict=True):
        pair = [_of_category(side, column) for side in sides]
        by_category[category] = {
            name: _gain(name, [side[name] for side in pair], groups, resamples) for name in BY_CATEGORY
        }
    return {
        "verdict": figures["macro_average_precision"]["verdict"],
        "examples": len(examples),
        "groups": len(set(groups)),
        "resamples": resamples,
        "operating_point": point,
        "categories": names,
        "not_compared": [name for name in labels.category_ids if name not in names],
        "routes": {name: side.has_voices for name, side in zip("ab", sides, strict=True)},
        "figures": plain(figures),
        "by_category": plain(by_category),
    }


def print_comparison(result: dict[str, Any]) -> None:
    """The verdict in one line, a table of every figure, and where B is better and where worse."""
    main = result["figures"]["macro_average_precision"]
    verdict = {"not told apart": "B and A are not told apart"}.get(
        result["verdict"], f"B is {result['verdict']} than A"
    )
    print(f"{verdict}: macro average precision {main['b']:.3f} against {main['a']:.3f}, {_shown(main)}")
    print_few(result["groups"])
    texts = f"{result['examples']} texts in {result['groups']} groups"
    print(f"{texts}, {len(result['categories'])} categories, operating point {result['operating_point']}")
    if result["not_compared"]:
        print(f"not compared, without positives or not scored by both: {', '.join(result['not_compared'])}")
    for name, routes in result["routes"].items():
        if not routes:
            print(f"{name.upper()} scores no voices: it acts upon whatever it flags")
    rows = dict(result["figures"])
    for category, figures in result["by_category"].items():
        rows |= {f"{category} {name}": row for name, row in figures.items()}
    print(f"{'':38}{'A':>7}{'B':>7}  B − A")
    for name, row in rows.items():
        cells = "".join(f"{'–' if row[side] is None else format(row[side], '.3f'):>7}" for side in "ab")
        mark = "" if row["verdict"] == "not told apart" else f"  {row['verdict']}"
        print(f"{name:38}{cells}  {_shown(row)}{mark}")
    for verdict in ("better", "worse"):
        where = [name for name, row in rows.items() if row["verdict"] == verdict]
        print(f"B is {verdict} in: {', '.join(where) or 'nothing that can be told apart'}")
    print(f"{len(rows)} figures: of differences that are none, one in twenty looks like one all the same")


def _measured(side: Judged, column: int) -> bool:
    return bool((side.truth[:, column] == 1).any())


def _overall(side: Judged, columns: Sequence[int]) -> dict[str, Statistic]:
    truth, scores = side.truth[:, columns], side.scores[:, columns]
    flagged, acted = at_flags(truth, side.flags[:, columns]), side.acted_upon()
    return {
        "macro_average_precision": macro_average_precision(truth, scores),
        "macro_f1": lambda weights: macro_of(flagged(weights))[:, _AT_FLAGS.index("f1")],
        "wrongly_acted_upon": share(acted, side.protected),
        "direct_recall": share(acted, side.direct),
    }


def _of_category(side: Judged, column: int) -> dict[str, Statistic]:
    truth, only = side.truth[:, [column]], slice(column, column + 1)
    ranked, flagged = average_precisions(truth, side.scores[:, only]), at_flags(truth, side.flags[:, only])
    return {
        "average_precision": lambda weights: ranked(weights)[:, 0],
        "f1": lambda weights: flagged(weights)[:, _AT_FLAGS.index("f1"), 0],
        "recall": lambda weights: flagged(weights)[:, _AT_FLAGS.index("recall"), 0],
    }


def _gain(name: str, pair: Sequence[Statistic], groups: Sequence[str], resamples: int) -> dict[str, Any]:
    """Of A's statistic and B's: both figures on the texts as they are, the difference and what it says."""
    found = paired_difference(pair[1:], pair[:1], groups, resamples=resamples)
    a, b = (of_sample(statistic, len(groups)) for statistic in pair)
    gained = {key: found[key] for key in ("difference", "low", "high")}
    return {"a": a, "b": b, **gained, "verdict": _verdict(name, found["low"], found["high"])}


def _verdict(name: str, low: float | None, high: float | None) -> str:
    # As they are written, so that an interval that ends in 0.000000 holds 0.
    if low is None or high is None or round(low, 6) <= 0 <= round(high, 6):
        return "not told apart"
    return "better" if (low > 0) != (name in LESS_IS_BETTER) else "worse"


def _shown(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return "–"
    if row["low"] is None:
        return f"{row['difference']:+.3f} (no interval)"
    return f"{row['difference']:+.3f} (95 % interval {row['low']:+.3f} to {row['high']:+.3f})"


def read_texts(
    locations: Sequence[Path], data: Sequence[str] | None, labels: Labels, *, settings: Sequence[str] = ()
) -> Corpus:
    """The texts to judge on: those of `data`, else those that the artifacts among the systems were made from.

    Raises:
        UserError: there is no artifact to say so, or two that say otherwise.
    """
    folders = [location for location in locations if _is_artifact(location)]
    configs = [load_config(folder / "run.yaml", settings).data for folder in folders]
    sources = {tuple(config.sources) for config in configs}
    if not data and len(sources) != 1:
        why = "was made from other data than the other" if sources else "is no artifact, so it does not say its data"
        raise UserError(f"{locations[-1]}: {why}; say with --data which texts to compare on")
    config = configs[0] if configs else load_config(None, settings).data
    return load_corpus(data or config.sources, labels, config, trainable=False)


def _is_artifact(location: Path) -> bool:
    """Raises UserError for what can be no system at all."""
    if location.suffix == ".json":
        raise UserError(f"{location}: figures of a whole split cannot be compared text by text; give the scores behind")
    if location.is_file():
        return False
    read_json(location / "artifact.json")
    return True


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.compare", description="Whether B is better than A.")
    parser.add_argument("a", type=Path, metavar="A", help="artifact directory, or a file of scores: id, label, score")
    parser.add_argument("b", type=Path, metavar="B", help="the same of the system that may be better")
    parser.add_argument("--data", action="append", metavar="FILE-or-CARD", help="default: the artifacts' cards")
    parser.add_argument("--split", choices=[*SPLITS, "all"], default="test")
    parser.add_argument("--operating-point", default=DEFAULT, metavar="NAME", help=f"default: {DEFAULT}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--fail-if-worse", action="store_true", help="exit code 1 where B is worse on macro AP")
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="for example data.near_duplicate=1"
    )
    return parser.parse_args()


@command
def main() -> int:
    arguments, labels = _parse(), load_labels()
    check_output("--json", arguments.json)
    corpus = read_texts([arguments.a, arguments.b], arguments.data, labels, settings=arguments.set)
    split, point = arguments.split, arguments.operating_point
    a, b = (
        (judge_artifact if location.is_dir() else judge_file)(location, corpus, labels, split=split, point=point)
        for location in (arguments.a, arguments.b)
    )
    result = compare(a, b, texts_of(corpus, split), labels, point=point)
    print_comparison(result)
    if arguments.json:
        named = {"a": str(arguments.a), "b": str(arguments.b), "split": split, **result}
        arguments.json.write_text(json.dumps(named, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(arguments.fail_if_worse and result["verdict"] == "worse")


if __name__ == "__main__":
    raise SystemExit(main())
