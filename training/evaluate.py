"""Score an artifact on a labelled file or card: `python -m training.evaluate ARTIFACT [--data CARD-OR-FILE]`.

The figures are those of `training.figures`, which fills metrics.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.cards import SPLITS
from training.config import load_config
from training.data import load_corpus
from training.errors import UserError, command
from training.figures import evaluation
from training.labels import Labels, load_labels
from training.thresholds import DEFAULT, OPERATING_POINTS


def score_artifact(folder: Path, texts: Sequence[str], labels: Labels) -> np.ndarray:
    """Calibrated probabilities of an artifact's torch weights, of shape (texts, labels).

    Raises:
        UserError: the folder is no artifact, or its labels are not the project's.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from training.calibration import apply_calibration
    from training.model import Windows, score

    described = read_json(folder / "artifact.json")
    order = [label["id"] for kind in ("categories", "context", "voices") for label in described["labels"][kind]]
    if order != labels.ids:
        raise UserError(f"{folder}: has other labels than configs/labels.yaml, or in another order: {', '.join(order)}")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = described["tokenizer"]
    windows = Windows(**described["windows"], **{**ids, "special_ids": tuple(ids["special_ids"])})
    calibration = read_json(folder / "calibration.json")["labels"]
    return apply_calibration(score(model, tokenizer, texts, windows, labels), calibration, labels.ids)


def read_json(path: Path) -> Any:
    """A JSON file of an artifact.

    Raises:
        UserError: it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path.parent}: no artifact here ({path.name} is missing); python -m training.train makes one"
        ) from None
    except json.JSONDecodeError:
        raise UserError(f"{path}: broken JSON") from None


def print_evaluation(figures: dict[str, Any], labels: Labels) -> None:
    """A table for people; metrics.json and --json hold every figure."""
    print(f"{'label':22}{'support':>8}{'precision':>11}{'recall':>8}{'F1':>7}{'AP':>7}")
    for name in [*labels.category_ids, *labels.context_ids, *labels.voice_ids]:
        row = figures["labels"][name]
        cells = [row["precision"], row["recall"], row["f1"], row["average_precision"]]
        shown = ["–" if value is None else f"{value:.3f}" for value in cells]
        print(f"{name:22}{row['support']:>8}{shown[0]:>11}{shown[1]:>8}{shown[2]:>7}{shown[3]:>7}")
    means = figures["macro"]
    if means["over"]:
        print(
            f"macro over {means['over']} of {means['of']} categories: F1 {means['f1']:.3f}, "
            f"average precision {means['average_precision']:.3f}"
        )
    protection = figures["testimony_protection"]
    if protection["wrongly_acted_upon"] is not None and protection["direct_recall"] is not None:
        print(
            f"route 'moderate' took {protection['wrongly_acted_upon']:.1%} of {protection['protected_texts']} "
            f"testimonies and commentaries, and {protection['direct_recall']:.1%} of {protection['direct_texts']} "
            "direct texts"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description="Score an artifact.")
    parser.add_argument("artifact", type=Path, help="artifact directory")
    parser.add_argument("--data", action="append", metavar="FILE-or-CARD", help="default: the cards it was trained on")
    parser.add_argument("--split", choices=[*SPLITS, "all"], default="test")
    parser.add_argument("--operating-point", choices=OPERATING_POINTS, default=DEFAULT)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args()


@command
def main() -> int:
    arguments = _parse()
    labels = load_labels()
    thresholds = read_json(arguments.artifact / "thresholds.json")["labels"]
    config = load_config(arguments.artifact / "run.yaml")
    corpus = load_corpus(arguments.data or config.data.sources, labels, config.data, trainable=False)
    examples = list(corpus.examples) if arguments.split == "all" else corpus.split(arguments.split)
    if not examples:
        raise UserError(f"the data has no {arguments.split} split; choose another with --split")
    scores = score_artifact(arguments.artifact, [example.text for example in examples], labels)
    figures = evaluation(examples, scores, thresholds, labels, arguments.operating_point)
    print_evaluation(figures, labels)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
