"""What evasion and hasty writing cost: `python -m training.robustness ARTIFACT` scores a split in other spellings.

Every way of writing of `training.perturb` rewrites all texts; labels stay (codebook rule 6). The goal: no category
loses more than five points of recall.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.cards import SPLITS
from training.config import load_config
from training.data import load_corpus
from training.errors import UserError, command
from training.evaluate import read_json, score_artifact
from training.figures import evaluation
from training.labels import Labels, load_labels
from training.perturb import PERTURBATIONS
from training.rows import Example
from training.thresholds import DEFAULT, MIN_POSITIVES, OPERATING_POINTS

GOAL_POINTS = 5.0
"""Points of recall that a category may lose."""
Scorer = Callable[[list[str]], np.ndarray]
"""Texts → calibrated probabilities of shape (texts, labels)."""


def robustness(
    score: Scorer,
    examples: Sequence[Example],
    *,
    thresholds: dict[str, dict[str, Any]],
    labels: Labels,
    seed: int,
    names: Sequence[str] = tuple(PERTURBATIONS),
    operating_point: str = DEFAULT,
) -> dict[str, Any]:
    """Figures of the examples as they are and under each named way of writing, as plain JSON data.

    A category is judged where it has a threshold and at least 10 positives; goal, worst category and macro recall loss
    run over the judged ones (None without any, and no worst category where none loses), average precision over all
    with positives. Points are hundredths.

    Args:
        score: called once, with every distinct text.
        thresholds: label → operating point → {"threshold": …}, as in thresholds.json.

    Returns:
        `goal` (met, and who misses it), `clean`, and `perturbations`: name → figures.
    """
    versions = {"": [example.text for example in examples]}
    versions |= {name: perturbed(versions[""], name, seed=seed) for name in names}
    scores = _score_all(score, versions)
    figures = {
        name: evaluation(examples, values, thresholds, labels, operating_point, resamples=0)
        for name, values in scores.items()
    }
    results = {}
    for name in names:
        change = np.abs(scores[name] - scores[""]).mean(axis=0)
        moved = dict(zip(labels.ids, (float(value) for value in change), strict=True))
        row = _compare(figures[""], figures[name], moved, labels.category_ids)
        changed = sum(a != b for a, b in zip(versions[""], versions[name], strict=True))
        words = {"french": PERTURBATIONS[name].french, "english": PERTURBATIONS[name].english}
        results[name] = {**words, "changed_texts": changed, **row}
    return {
        "examples": len(examples),
        "operating_point": operating_point,
        "seed": seed,
        "goal": _goal(results),
        "clean": {
            "macro_average_precision": figures[""]["macro"]["average_precision"],
            "testimony_protection": _protection(figures[""]),
        },
        "perturbations": results,
    }


def perturbed(texts: Sequence[str], name: str, *, seed: int) -> list[str]:
    """All texts in one way of writing; the same seed gives the same."""
    chance = random.Random(f"{seed} {name}")
    return [PERTURBATIONS[name].apply(text, chance) for text in texts]


def _score_all(score: Scorer, versions: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    place: dict[str, int] = {}
    for texts in versions.values():
        for text in texts:
            place.setdefault(text, len(place))
    scores = score(list(place))
    return {name: scores[[place[text] for text in texts]] for name, texts in versions.items()}


def score_readings(folder: Path, texts: Sequence[str], labels: Labels) -> np.ndarray:
    """`score_artifact`, what the tokenizer reads alike only once: spellings that it undoes cost no computing."""
    from transformers import AutoTokenizer

    from training.model import Windows, encode

    described = read_json(folder / "artifact.json")
    windows = Windows(**described["windows"], **described["tokenizer"])
    readings = [str(pieces) for pieces in encode(texts, AutoTokenizer.from_pretrained(folder), windows)]
    kept = dict(zip(readings, texts, strict=True))
    place = {reading: row for row, reading in enumerate(kept)}
    scores = score_artifact(folder, list(kept.values()), labels)
    result: np.ndarray = scores[[place[reading] for reading in readings]]
    return result


def _compare(
    clean: Mapping[str, Any], other: Mapping[str, Any], moved: Mapping[str, float], categories: Sequence[str]
) -> dict[str, Any]:
    rows = {name: _category(clean["labels"][name], other["labels"][name], moved[name]) for name in categories}
    lost = {name: row["points_lost"] for name, row in rows.items() if row["judged"]}
    missed = [name for name, points in lost.items() if points > GOAL_POINTS]
    return {
        "macro_average_precision": other["macro"]["average_precision"],
        "macro_recall_points_lost": round(float(np.mean(list(lost.values()))), 2) if lost else None,
        "mean_score_change": float(np.mean([moved[name] for name in categories])),
        "worst_category": max(lost, key=lambda name: lost[name])
        if any(points > 0 for points in lost.values())
        else None,
        "goal_met": not missed if lost else None,
        "goal_missed_by": missed,
        "testimony_protection": _protection(other),
        "categories": rows,
    }


def _protection(figures: Mapping[str, Any]) -> dict[str, Any]:
    of = figures["testimony_protection"]
    return {key: of[key] for key in ("wrongly_acted_upon", "protected_texts", "direct_recall", "direct_texts")}


def _category(clean: Mapping[str, Any], other: Mapping[str, Any], moved: float) -> dict[str, Any]:
    """One category as it is and perturbed; without threshold or positives it has no recall."""
    decided = clean["threshold"] is not None and clean["support"] > 0
    before, after = (clean["recall"], other["recall"]) if decided else (None, None)
    return {
        "positives": clean["support"],
        "too_few": clean["support"] < MIN_POSITIVES,
        "judged": decided and clean["support"] >= MIN_POSITIVES,
        "recall_clean": before,
        "recall_perturbed": after,
        # Rounded, so that a loss of exactly the goal is not above it by the last bit.
        "points_lost": None if before is None or after is None else round(100 * (before - after), 2),
        "mean_score_change": moved,
    }


def _goal(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Over all ways of writing: met, or missed by whom and by how much; None where no category could be judged."""
    judged = [row["goal_met"] for row in results.values() if row["goal_met"] is not None]
    missed = [
        {"perturbation": name, "category": category, "points_lost": row["categories"][category]["points_lost"]}
        for name, row in results.items()
        for category in row["goal_missed_by"]
    ]
    return {"points": GOAL_POINTS, "met": not missed if judged else None, "missed": missed}


def print_robustness(result: Mapping[str, Any]) -> None:
    """A table for people; --json holds every figure."""
    print(
        f"{'':12}{'macro AP':>9}{'recall lost':>12}  {'worst category':27}{'wrongly acted on':>17}{'score moved':>12}"
    )
    clean = result["clean"]
    acted = _percent(clean["testimony_protection"]["wrongly_acted_upon"])
    print(f"{'as written':12}{_number(clean['macro_average_precision']):>9}{'':12}  {'':27}{acted:>17}")
    for name, row in result["perturbations"].items():
        worst, lost = row["worst_category"], row["macro_recall_points_lost"]
        shown = "–" if worst is None else f"{worst} {-row['categories'][worst]['points_lost']:+.1f}"
        acted = _percent(row["testimony_protection"]["wrongly_acted_upon"])
        print(
            f"{name:12}{_number(row['macro_average_precision']):>9}{'–' if lost is None else f'{lost:.1f}':>12}  "
            f"{shown:27}{acted:>17}{row['mean_score_change']:>12.3f}"
        )
    few = sorted(
        {c for row in result["perturbations"].values() for c, of in row["categories"].items() if of["too_few"]}
    )
    if few:
        print(f"too few positives (under {MIN_POSITIVES}) to be judged: {', '.join(few)}")
    goal, missed = result["goal"], {item["perturbation"] for item in result["goal"]["missed"]}
    verdict = {None: "not judged", True: "met"}.get(
        goal["met"], f"missed under {len(missed)}: {', '.join(sorted(missed))}"
    )
    print(f"goal, no category loses more than {goal['points']:.0f} points of recall: {verdict}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.robustness", description="What other spellings cost.")
    parser.add_argument("artifact", type=Path, help="artifact directory")
    parser.add_argument("--data", action="append", metavar="FILE-or-CARD", help="default: the cards it was trained on")
    parser.add_argument("--split", choices=[*SPLITS, "all"], default="test")
    parser.add_argument("--operating-point", choices=OPERATING_POINTS, default=DEFAULT)
    parser.add_argument("--only", nargs="+", choices=list(PERTURBATIONS), default=list(PERTURBATIONS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=1, help="of the rewriting; default: 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args()


@command
def main() -> int:
    arguments = _parse()
    labels = load_labels()
    thresholds = read_json(arguments.artifact / "thresholds.json")["labels"]
    config = load_config(arguments.artifact / "run.yaml")
    if arguments.json and not arguments.json.parent.is_dir():
        raise UserError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    corpus = load_corpus(arguments.data or config.data.sources, labels, config.data, trainable=False)
    examples = list(corpus.examples) if arguments.split == "all" else corpus.split(arguments.split)
    if not examples:
        raise UserError(f"the data has no {arguments.split} split; choose another with --split")
    result = robustness(
        lambda texts: score_readings(arguments.artifact, texts, labels),
        examples,
        thresholds=thresholds,
        labels=labels,
        seed=arguments.seed,
        names=[name for name in PERTURBATIONS if name in arguments.only],
        operating_point=arguments.operating_point,
    )
    print_robustness(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
