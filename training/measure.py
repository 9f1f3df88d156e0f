"""What training leaves out because it takes minutes: `python -m training.measure ARTIFACT`.

Robustness to other ways of writing, behavioural tests and bias, added to the artifact's metrics.json; its report and
model card are then written again. Nothing about the model changes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.behaviour import CASES, behaviour, print_behaviour, read_functionalities
from training.bias import bias, print_bias
from training.config import load_config
from training.data import load_corpus
from training.errors import UserError, command
from training.evaluate import read_json
from training.labels import Labels, load_labels
from training.report import rewrite
from training.robustness import print_robustness, robustness, score_readings
from training.rows import Example

Scorer = Callable[[list[str]], np.ndarray]
PARTS = ("robustness", "behaviour", "bias")


def measure(
    score: Scorer,
    thresholds: dict[str, dict[str, Any]],
    labels: Labels,
    *,
    examples: Sequence[Example],
    parts: Sequence[str] = PARTS,
) -> dict[str, Any]:
    """The named parts at the balanced operating point, as metrics.json holds them.

    Args:
        score: texts → calibrated probabilities of shape (texts, labels).
        examples: of the test split, for robustness.
    """
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "robustness": lambda: robustness(score, examples, thresholds=thresholds, labels=labels, seed=1),
        "behaviour": lambda: {
            **behaviour(score, thresholds, labels, read_functionalities(CASES, labels)),
            "hatecheck": "absent",
        },
        "bias": lambda: bias(score, thresholds, labels),
    }
    return {part: measures[part]() for part in parts}


_PRINT = {"robustness": print_robustness, "behaviour": print_behaviour, "bias": print_bias}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.measure", description="Measure robustness, behaviour and bias, and write the report."
    )
    parser.add_argument("artifact", type=Path, help="artifact directory")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    return parser.parse_args()


@command
def main() -> int:
    arguments, labels = _parse(), load_labels()
    folder: Path = arguments.artifact
    metrics, thresholds = read_json(folder / "metrics.json"), read_json(folder / "thresholds.json")["labels"]
    config = load_config(folder / "run.yaml")
    examples = load_corpus(config.data.sources, labels, config.data, trainable=False).split("test")
    if "robustness" in arguments.only and not examples:
        raise UserError("the data has no test split to rewrite; choose parts with --only behaviour bias")
    score = partial(score_readings, folder, labels=labels)
    figures = measure(score, thresholds, labels, examples=examples, parts=arguments.only)
    for part, values in figures.items():
        print(f"\n{part}\n")
        _PRINT[part](values)
    rewrite(folder, {**metrics, **figures})
    print(f"\n{folder / 'metrics.json'}, {folder / 'report.html'} and {folder / 'README.md'} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
