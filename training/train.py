"""Fine-tune, from cards to an artifact: `python -m training.train`.

The story: read the data, split it, fine-tune, calibrate, evaluate, export. On several processes it is the same command
behind `torchrun --nproc_per_node N -m`.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.cards import SPLITS
from training.config import RunConfig, dump_config, load_config
from training.data import Corpus, label_matrix, load_corpus
from training.errors import UserError, command
from training.fit import first_process, fit, seed_everything
from training.labels import ROOT, Labels, load_labels

DEFAULT_CONFIG = ROOT / "configs" / "default.yaml"


def train(config: RunConfig, corpus: Corpus, labels: Labels, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Fine-tune, calibrate, evaluate and export.

    Returns:
        The artifact directory. Checkpoints lie beside it in `.<name>.checkpoints` until it is written.

    Raises:
        UserError: the base model cannot be had, the place is taken, or there is nothing to resume.
    """
    from training.export import Trained, refuse_existing, write_artifact
    from training.model import load_base, score, windows_of

    target = Path(config.output)
    refuse_existing(target, overwrite=overwrite)
    checkpoints = _checkpoints(config, target, resume=resume)
    seed_everything(config.seed)
    base = load_base(config.model, labels, [example.text for example in corpus.split("train")])
    if first_process() and not base.pretrained:
        print("note: the encoder starts from random weights (model.base is 'random'): expect modest scores")
    windows = windows_of(config.model, base.tokenizer)
    fit(base, windows, config, corpus, labels, checkpoints, resume=resume)
    if not first_process():
        return target
    logits = {
        split: score(base.model, base.tokenizer, [e.text for e in corpus.split(split)], windows, labels)
        for split in ("validation", "test")
    }
    calibration, thresholds, metrics = conclude(logits, corpus, labels)
    trained = Trained(base, windows, labels, config, corpus, calibration, thresholds, metrics)
    base.model.cpu()
    write_artifact(trained, target, overwrite=overwrite)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return target


def conclude(
    logits: dict[str, np.ndarray], corpus: Corpus, labels: Labels
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Calibration and thresholds from validation, and the figures of validation and test.

    Returns:
        calibration, thresholds, metrics as their files hold them.
    """
    from training.calibration import apply_calibration, calibration_figures, calibration_report, fit_calibration
    from training.figures import evaluation, strictness
    from training.thresholds import DEFAULT, choose_thresholds

    examples = {split: corpus.split(split) for split in ("validation", "test")}
    truth = {split: label_matrix(examples[split], labels) for split in examples}
    groups = [example.group or example.id for example in examples["validation"]]
    calibration = fit_calibration(logits["validation"], truth["validation"], labels.ids, groups)
    scores = {split: apply_calibration(values, calibration, labels.ids) for split, values in logits.items()}
    thresholds = choose_thresholds(truth["validation"], scores["validation"], labels.ids, groups)
    metrics: dict[str, Any] = {"operating_point": DEFAULT, "counts": counts(corpus, labels)}
    strict = None
    for split in ("validation", "test"):
        measured = bool(examples[split])
        metrics[split] = (
            evaluation(examples[split], scores[split], thresholds, labels, strictness=strict) if measured else None
        )
        strict = strictness(metrics["validation"]) if metrics["validation"] else None
    metrics["calibration"] = {
        "validation": calibration_report(logits["validation"], truth["validation"], labels.ids, groups),
        "test": calibration_figures(logits["test"], truth["test"], calibration, labels.ids)
        if examples["test"]
        else None,
    }
    return calibration, thresholds, metrics


def counts(corpus: Corpus, labels: Labels) -> dict[str, dict[str, int]]:
    """Texts and positives of every label, by split."""
    table = {}
    for split in SPLITS:
        examples = corpus.split(split)
        row = {"texts": len(examples)}
        row |= {label: sum(label in example.positive for example in examples) for label in labels.ids}
        row["no_category"] = sum(not example.positive & set(labels.category_ids) for example in examples)
        table[split] = row
    return table


def print_counts(corpus: Corpus, labels: Labels) -> None:
    """The counts as a table."""
    table = counts(corpus, labels)
    print(f"{'':22}" + "".join(f"{split:>12}" for split in SPLITS))
    for row in table["train"]:
        print(f"{row:22}" + "".join(f"{table[split][row]:>12}" for split in SPLITS))


def _checkpoints(config: RunConfig, target: Path, *, resume: bool) -> Path:
    """The checkpoint folder of a run: emptied for a new run, checked against the configuration for a resumed one."""
    folder = target.parent / f".{target.name}.checkpoints"
    saved = folder / "run.yaml"
    if resume:
        if not any(folder.glob("checkpoint-*")):
            raise UserError(f"{folder}: no checkpoint to resume from; start without --resume")
        if saved.read_text(encoding="utf-8") != dump_config(config):
            raise UserError(f"{saved}: the interrupted run had another configuration; resume with the same settings")
    elif first_process():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        saved.write_text(dump_config(config), encoding="utf-8")
    return folder


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Fine-tune and write an artifact.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default: configs/default.yaml")
    parser.add_argument(
        "--data", action="append", metavar="FILE-or-CARD", help="may be repeated; replaces data.sources"
    )
    parser.add_argument("--output", help="artifact directory; replaces output")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="for example optim.epochs=3")
    parser.add_argument("--check", action="store_true", help="check configuration and data, print the counts, stop")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of an interrupted run")
    parser.add_argument("--overwrite", action="store_true", help="replace the artifact that stands at --output")
    return parser.parse_args(arguments)


@command
def main() -> int:
    arguments = _parse()
    labels = load_labels()
    config = load_config(arguments.config, arguments.set)
    if arguments.data:
        config.data.sources = arguments.data
    if arguments.output:
        config.output = arguments.output
    corpus = load_corpus(config.data.sources, labels, config.data)
    if first_process():
        print_counts(corpus, labels)
    if arguments.check:
        print("configuration and data are sound")
        return 0
    target = train(config, corpus, labels, overwrite=arguments.overwrite, resume=arguments.resume)
    if first_process():
        from training.evaluate import print_evaluation, read_json

        if test := read_json(target / "metrics.json")["test"]:
            print_evaluation(test, labels)
        else:
            print("the data has no test split, so nothing was measured")
        print(f"artifact written to {target}; serve it with: python -m serving --artifact {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
