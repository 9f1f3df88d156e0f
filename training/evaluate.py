"""Score an artifact on a labelled file or card: `python -m training.evaluate ARTIFACT [--data CARD-OR-FILE]`.

The figures are those of `training.figures`, which fills metrics.json. Any other system is put into the same table by
its scores: `python -m training.evaluate --predictions FILE --data CARD-OR-FILE`, with a file as `training.predictions`
reads it and `--write-predictions` writes it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.cards import SPLITS
from training.config import load_config
from training.data import Corpus, load_corpus
from training.errors import UserError, command
from training.figures import evaluation, strictness
from training.labels import Labels, load_labels
from training.predictions import (
    System,
    check_output,
    judge_file,
    read_thresholds,
    texts_of,
    write_predictions,
)
from training.readers import FORMATS
from training.rows import Example
from training.thresholds import DEFAULT

if TYPE_CHECKING:
    from training.model import Windows

_ACTS = {True: "route 'moderate'", False: "without voices, acting upon whatever is flagged"}
"""Whether there is a route → who acts."""
FEW_GROUPS = 20
"""With fewer, intervals over redrawn groups tend to be too narrow (Cameron, Gelbach and Miller, REStat 2008)."""


def score_artifact(folder: Path, texts: Sequence[str], labels: Labels) -> np.ndarray:
    """Calibrated probabilities of an artifact's torch weights, of shape (texts, labels).

    Raises:
        UserError: the folder is no artifact, or its labels are not the project's.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from training.calibration import apply_calibration
    from training.model import score

    transformers_logging.disable_progress_bar()
    windows = artifact_windows(folder, labels)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    calibration = read_json(folder / "calibration.json")["labels"]
    return apply_calibration(score(model, tokenizer, texts, windows, labels), calibration, labels.ids)


def artifact_windows(folder: Path, labels: Labels) -> Windows:
    """How an artifact cuts texts into windows.

    Raises:
        UserError: the folder is no artifact, or its labels are not the project's.
    """
    from training.model import Windows

    described = read_json(folder / "artifact.json")
    order = [label["id"] for kind in ("categories", "context", "voices") for label in described["labels"][kind]]
    if order != labels.ids:
        raise UserError(f"{folder}: has other labels than configs/labels.yaml, or in another order: {', '.join(order)}")
    ids = described["tokenizer"]
    return Windows(**described["windows"], **{**ids, "special_ids": tuple(ids["special_ids"])})


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


def judge_artifact(folder: Path, corpus: Corpus, labels: Labels, *, split: str, point: str) -> System:
    """The scores of an artifact for a split of the corpus, or for `all`, with its own thresholds.

    Raises:
        UserError: the folder is no artifact, or does not know the operating point.
    """
    validation = read_json(folder / "metrics.json").get("validation")
    thresholds = read_thresholds(folder / "thresholds.json", labels.ids, point)
    known = validation and "at_direct_recall" in validation["testimony_protection"]
    strict = strictness(validation) if known and split != "validation" else None
    texts = [example.text for example in texts_of(corpus, split)]
    return System(score_artifact(folder, texts, labels), thresholds, strict)


def print_evaluation(figures: dict[str, Any], labels: Labels) -> None:
    """A table for people; metrics.json and --json hold every figure."""
    print(f"{'label':22}{'support':>8}{'precision':>11}{'recall':>8}{'F1':>7}{'AP':>7}")
    for name, row in figures["labels"].items():
        cells = [row["precision"], row["recall"], row["f1"], row["average_precision"]]
        shown = ["–" if value is None else f"{value:.3f}" for value in cells]
        print(f"{name:22}{row['support']:>8}{shown[0]:>11}{shown[1]:>8}{shown[2]:>7}{shown[3]:>7}")
    if figures["not_scored"]:
        print(f"no scores for, and left out: {', '.join(figures['not_scored'])}")
    means = figures["macro"]
    if means["over"]:
        f1, precision = (_with_interval(means, key) for key in ("f1", "average_precision"))
        print(f"macro over {means['over']} of {means['of']} categories: F1 {f1}, average precision {precision}")
        print_few(figures["groups"])
    protection = figures["testimony_protection"]
    routed = not set(labels.voice_ids) & set(figures["not_scored"])
    acted = protection if routed else protection["without_voices"]
    if acted["wrongly_acted_upon"] is not None and acted["direct_recall"] is not None:
        print(
            f"{_ACTS[routed]} took {acted['wrongly_acted_upon']:.1%} of {protection['protected_texts']} "
            f"testimonies and commentaries, and {acted['direct_recall']:.1%} of {protection['direct_texts']} "
            "direct texts"
        )


def print_few(groups: int) -> None:
    """Say where the intervals rest on few groups, or where there are none."""
    if groups < 2:
        print("one group of texts: no interval")
    elif groups < FEW_GROUPS:
        print(f"the intervals rest on {groups} groups of texts (writers, mostly): so few make them too narrow")


def _with_interval(means: dict[str, Any], key: str) -> str:
    low_high = (means["intervals"] or {}).get(key)
    return f"{means[key]:.3f}" + (f" (95 % interval {low_high[0]:.3f}–{low_high[1]:.3f})" if low_high else "")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description="Score an artifact.")
    parser.add_argument("artifact", type=Path, nargs="?", help="artifact directory")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="another system's scores: id, label, score")
    parser.add_argument("--thresholds", type=Path, metavar="FILE", help="for --predictions, as in thresholds.json")
    parser.add_argument(
        "--validation-predictions", type=Path, metavar="FILE", help="its scores of validation, to choose thresholds on"
    )
    parser.add_argument("--data", action="append", metavar="FILE-or-CARD", help="default: the cards it was trained on")
    parser.add_argument("--split", choices=[*SPLITS, "all"], default="test")
    parser.add_argument("--operating-point", default=DEFAULT, metavar="NAME", help=f"default: {DEFAULT}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--write-predictions", type=Path, metavar="FILE", help="write the artifact's scores of split and validation"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="for example data.near_duplicate=1"
    )
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.artifact is None) == (arguments.predictions is None):
        raise UserError("give an artifact directory, or --predictions FILE: one of the two")
    others = {"--thresholds": arguments.thresholds, "--validation-predictions": arguments.validation_predictions}
    given = [option for option, value in others.items() if value]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: thresholds come from one of the two")
    if given and arguments.artifact:
        raise UserError(f"{given[0]}: goes with --predictions; an artifact has thresholds of its own")
    if arguments.predictions and arguments.write_predictions:
        raise UserError("--write-predictions: goes with an artifact")
    if arguments.predictions and not arguments.data:
        raise UserError("--predictions: needs --data, the card or file whose texts were scored")
    check_output("--json", arguments.json)
    check_output("--write-predictions", arguments.write_predictions, FORMATS)


@command
def main() -> int:
    arguments = _parse()
    _check(arguments)
    labels, folder, split, point = load_labels(), arguments.artifact, arguments.split, arguments.operating_point
    if folder:
        read_json(folder / "artifact.json")
        config = load_config(folder / "run.yaml", arguments.set)
        corpus = load_corpus(arguments.data or config.data.sources, labels, config.data, trainable=False)
        system = judge_artifact(folder, corpus, labels, split=split, point=point)
    else:
        corpus = load_corpus(arguments.data, labels, load_config(None, arguments.set).data, trainable=False)
        system = judge_file(
            arguments.predictions, corpus, labels, split=split, point=point,
            thresholds=arguments.thresholds, validation=arguments.validation_predictions,
        )  # fmt: skip
    examples = texts_of(corpus, split)
    figures = evaluation(examples, system.scores, system.thresholds, labels, point, strictness=system.strictness)
    print_evaluation(figures, labels)
    if split != "test" and not (folder and arguments.data):
        print(f"note: texts of {split} also taught the system or chose its thresholds, so these figures are too good")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.write_predictions:
        _write(arguments.write_predictions, folder, system, examples, corpus, labels)
    return 0


def _write(
    path: Path, folder: Path, system: System, examples: Sequence[Example], corpus: Corpus, labels: Labels
) -> None:
    """The scores that were judged, and those of validation, on which others may choose thresholds."""
    seen = {example.id for example in examples}
    others = [example for example in corpus.split("validation") if example.id not in seen]
    scores = [system.scores]
    if others:
        scores.append(score_artifact(folder, [example.text for example in others], labels))
    write_predictions(path, [*examples, *others], np.concatenate(scores), labels)


if __name__ == "__main__":
    raise SystemExit(main())
