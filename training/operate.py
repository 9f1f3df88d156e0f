"""An operating point of your own: `python -m training.operate ARTIFACT --target recall=0.95 --name triage95`.

Scores validation texts, finds for each label the threshold that keeps the target with the best of the other figure,
and adds it to the artifact's thresholds.json, from where serving offers it under its name. Scores stay as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.cards import SPLITS
from training.config import RunConfig, load_config
from training.data import Corpus, label_matrix, load_corpus
from training.errors import UserError, command
from training.evaluate import read_json, score_artifact
from training.labels import Labels, load_labels
from training.rows import Example
from training.thresholds import FIGURES, reach_target

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")


def parse_target(texts: Sequence[str]) -> tuple[str, float]:
    """The one `figure=value` that was asked for.

    Raises:
        UserError: none, several, or something else.
    """
    if len(texts) != 1:
        raise UserError(f"--target: one at a time, not {len(texts)}; give another operating point another --name")
    figure, _, value = texts[0].partition("=")
    try:
        target = float(value)
    except ValueError:
        target = 0.0
    if figure not in FIGURES or not 0 < target <= 1:
        raise UserError(f"--target: must be recall=R or precision=P, above 0 and at most 1; not {texts[0]!r}")
    return figure, target


def read_points(folder: Path, labels: Labels) -> dict[str, Any]:
    """The artifact's thresholds.json.

    Raises:
        UserError: it is missing, broken, or not of these labels.
    """
    path = folder / "thresholds.json"
    file: dict[str, Any] = read_json(path)
    if not {"default", "operating_points", "labels"} <= file.keys() or set(file["labels"]) != set(labels.ids):
        raise UserError(f"{path}: needs default, operating_points, and labels as in configs/labels.yaml")
    for label, points in file["labels"].items():
        if missing := [point for point in file["operating_points"] if point not in points]:
            raise UserError(f"{path}: {label}: lacks {', '.join(missing)}, which operating_points names")
    if file["default"] not in file["operating_points"]:
        raise UserError(f"{path}: default {file['default']!r} is not one of {', '.join(file['operating_points'])}")
    return file


def check_name(name: str, file: dict[str, Any], *, overwrite: bool) -> None:
    """Raises UserError for a name that cannot be asked for in a request, or is taken."""
    if not _NAME.fullmatch(name):
        raise UserError(f"--name: {name!r} is no name; a letter, then letters, digits and _ . - (40 at most)")
    if name in file["operating_points"] and not overwrite:
        raise UserError(f"--name: {name!r} stands in thresholds.json already; choose another, or add --overwrite")


def add_point(file: dict[str, Any], name: str, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A copy of thresholds.json with one operating point more.

    Labels without an entry keep what they have under that name, else they take over the default operating point's.
    """
    default = file["default"]
    described = {}
    for label, points in file["labels"].items():
        rest = points.get(name) or {**points[default], "copied_from": default}
        described[label] = {**points, name: entries.get(label, rest)}
    points = list(dict.fromkeys([*file["operating_points"], name]))
    return {**file, "operating_points": points, "labels": described}


def write_points(folder: Path, file: dict[str, Any]) -> None:
    """Replace thresholds.json at once: a reader sees the old file or the new one."""
    path = folder / "thresholds.json"
    part = folder / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        part.write_text(json.dumps(file, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.copymode(path, part)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); it is as it was") from None
    finally:
        part.unlink(missing_ok=True)


def read_texts(folder: Path, data: Sequence[str] | None, split: str, labels: Labels) -> tuple[list[Example], str]:
    """The texts to tune on, and the names of their sources.

    Raises:
        UserError: they are the test split, or texts that the model was trained on, under whatever file name.
    """
    if split == "test":
        raise UserError(
            "--split: test texts are for measuring; an operating point tuned on them would report figures that no "
            "other texts keep. Tune on validation, then look at it with python -m training.evaluate"
        )
    if split == "train":
        raise UserError("--split: the model knows its train texts by heart; tune on validation")
    config = load_config(folder / "run.yaml")
    corpus = load_corpus(data or config.data.sources, labels, config.data, trainable=False)
    examples = corpus.split(split)
    if not examples:
        raise UserError(f"the data has no {split} split; rows of your own need `split: validation`")
    if data:
        _refuse_seen(examples, config, labels)
    return examples, ", ".join(source.name for source in corpus.sources)


def _refuse_seen(examples: Sequence[Example], config: RunConfig, labels: Labels) -> None:
    own = _run_corpus(config, labels)
    if own is None:
        print(
            "note: the data of the run is not here, so nothing tells whether these are its test texts", file=sys.stderr
        )
        return
    for split in ("train", "test"):
        known = {example.text for example in own.split(split)}
        count = sum(example.text in known for example in examples)
        if count:
            raise UserError(f"--data: {count} of its {len(examples)} validation texts are {split} texts of the run")


def _run_corpus(config: RunConfig, labels: Labels) -> Corpus | None:
    try:
        return load_corpus(config.data.sources, labels, config.data, trainable=False)
    except UserError:
        return None


def tune(
    folder: Path, examples: Sequence[Example], labels: Labels, *, figure: str, target: float, only: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """label → the operating point that keeps the target on these texts, for the labels in `only` or for all."""
    scores = score_artifact(folder, [example.text for example in examples], labels)
    groups = [example.group or example.id for example in examples]
    truth = label_matrix(examples, labels)
    reached = reach_target(truth, scores, labels.ids, figure=figure, target=target, groups=groups)
    return {label: entry for label, entry in reached.items() if not only or label in only}


def print_point(point: dict[str, dict[str, Any]]) -> None:
    """One row a label: what its threshold gave, and the 95 % intervals; or why it has none."""
    print(f"{'label':22}{'positives':>9}{'threshold':>11}  {'precision':22}recall")
    for label, entry in point.items():
        row = f"{label:22}{entry['positives']:>9}"
        if entry["threshold"] is None:
            print(f"{row}{'never':>11}  {entry.get('reason', 'no threshold')}")
            continue
        source = f"as {entry['copied_from']}" if "copied_from" in entry else ""
        shown = "".join(f"{_shown(entry, figure):22}" for figure in FIGURES)
        print(f"{row}{entry['threshold']:>11.4f}  {shown}{source}".rstrip())


def _shown(entry: dict[str, Any], figure: str) -> str:
    low_high = entry.get(f"{figure}_interval")
    return f"{entry[figure]:.3f}" + (f" ({low_high[0]:.3f}–{low_high[1]:.3f})" if low_high else "")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.operate", description="Add an operating point.")
    parser.add_argument("artifact", type=Path, help="artifact directory")
    parser.add_argument("--target", action="append", required=True, metavar="FIGURE=VALUE", help="recall=0.95, say")
    parser.add_argument("--label", action="append", help="may be repeated; the others stay as they are, default: all")
    parser.add_argument("--name", help="what requests call it; default: the target, as in recall_0.95")
    parser.add_argument("--data", action="append", metavar="CARD-OR-FILE", help="default: the cards it was trained on")
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--dry-run", action="store_true", help="print the table and change nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace the operating point of that name")
    return parser.parse_args()


@command
def main() -> int:
    arguments = _parse()
    labels = load_labels()
    figure, target = parse_target(arguments.target)
    name = arguments.name or f"{figure}_{target:g}"
    if unknown := sorted(set(arguments.label or []) - set(labels.ids)):
        raise UserError(f"--label: unknown {', '.join(unknown)}; allowed: {', '.join(labels.ids)}")
    file = read_points(arguments.artifact, labels)
    check_name(name, file, overwrite=arguments.overwrite)
    examples, data = read_texts(arguments.artifact, arguments.data, arguments.split, labels)
    entries = tune(arguments.artifact, examples, labels, figure=figure, target=target, only=arguments.label)
    about = {"target": {figure: target}, "data": data, "texts": len(examples)}
    changed = add_point(file, name, {label: entry | about for label, entry in entries.items()})
    print_point({label: changed["labels"][label][name] for label in labels.ids})
    print(f"{figure} {target:g} on {len(examples)} {arguments.split} texts, 95 % intervals; new texts may give less")
    if arguments.dry_run:
        print("dry run: thresholds.json is as it was")
        return 0
    write_points(arguments.artifact, changed)
    print(f'{arguments.artifact / "thresholds.json"} now has "operating_point": "{name}"')
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
