"""What the encoder must beat: `python -m training.baselines` prints one table of it and of simpler systems.

All read the same splits, are calibrated and get their thresholds on validation by `training.train.conclude`, as an
artifact does. Any other system joins by its scores of validation and of the split (`--predictions NAME=FILE`, a file as
`training.predictions` reads it, for example from `training.score_hub`); its thresholds are chosen on validation too.
The column "AP respelled" is of the same texts, each written in another way (`training.perturb`).
The table goes to stdout, a line for every finished run to stderr.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler

from training.calibration import apply_calibration
from training.config import RunConfig, load_config
from training.data import Corpus, label_matrix, load_corpus
from training.errors import UserError, command
from training.figures import evaluation
from training.fit import fit, seed_everything
from training.intervals import RESAMPLES, macro_average_precision, of_sample, paired_bootstrap
from training.labels import Labels, load_labels
from training.model import BaseModel, Windows, encode, load_base, score, windows_of
from training.perturb import PERTURBATIONS
from training.predictions import judge_file
from training.thresholds import DEFAULT
from training.train import DEFAULT_CONFIG, conclude

Array = NDArray[np.floating[Any]]
Scorer = Callable[[Sequence[str]], Array]
Fitted = tuple[Scorer, dict[str, float]]
"""A fitted system: texts → raw scores (logits) of shape (texts, labels); and what it chose on validation."""
TFIDF_C, FROZEN_C = (10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7), (0.0001, 0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of regularisation tried on validation, wide enough that the best is neither the first nor last."""
logistic = partial(LogisticRegression, class_weight="balanced", solver="liblinear", max_iter=1000, random_state=0)
_NAME = re.compile(r"[A-Za-z][\w.-]{0,19}")
COLUMNS = {
    "macro_average_precision": ("macro AP", ".3f"),
    "macro_f1": ("macro F1", ".3f"),
    "respelled_average_precision": ("AP respelled", ".3f"),
    "wrongly_acted_upon": ("wrongly acted on", ".3f"),
    "direct_recall": ("direct recall", ".3f"),
    "fit_seconds": ("fit seconds", ".1f"),
    "ms_per_text": ("ms per text", ".3f"),
}


@dataclass(frozen=True)
class Task:
    """What every system is given; the seed is the configuration's."""

    config: RunConfig
    corpus: Corpus
    labels: Labels

    def texts(self, split: str) -> list[str]:
        return [example.text for example in self.corpus.split(split)]

    def truth(self, split: str) -> Array:
        return label_matrix(self.corpus.split(split), self.labels)


def fit_encoder(task: Task, *, fresh: bool = False) -> Fitted:
    """Fine-tune as `training.train` does, without artifact or output; `fresh` forgets the pretraining first."""
    seed_everything(task.config.seed)
    base = load_base(task.config.model, task.labels, task.texts("train"))
    base = fresh_weights(base, task.config.seed) if fresh else base
    windows = windows_of(task.config.model, base.tokenizer)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        fit(base, windows, task.config, task.corpus, task.labels, Path(folder), resume=False)
    return lambda texts: score(base.model, base.tokenizer, texts, windows, task.labels), {}


def fresh_weights(base: BaseModel, seed: int) -> BaseModel:
    """The same architecture and tokenizer, its weights drawn anew."""
    seed_everything(seed)
    return replace(base, model=type(base.model)(base.model.config).float(), pretrained=False)


def fit_tfidf(task: Task) -> Fitted:
    """TF-IDF of words and pairs of words (one-letter words too: « t ou ») and of 2 to 5 characters inside words."""
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    union = FeatureUnion([("words", words), ("characters", characters)]).fit(task.texts("train"))
    return _fit_linear(task, union.transform, lambda c: logistic(C=c), TFIDF_C)


def fit_frozen(task: Task) -> Fitted:
    """Logistic regression on standardised mean-pooled states of the encoder as it comes."""
    seed_everything(task.config.seed)
    base = load_base(task.config.model, task.labels, task.texts("train"))
    base.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    pooled = partial(mean_states, base, windows_of(task.config.model, base.tokenizer))
    return _fit_linear(task, pooled, lambda c: make_pipeline(StandardScaler(), logistic(C=c)), FROZEN_C)


def mean_states(base: BaseModel, windows: Windows, texts: Sequence[str]) -> Array:
    """Mean of the last layer over all tokens of all windows, of shape (texts, hidden size); one text at a time."""
    means = []
    for pieces in encode(texts, base.tokenizer, windows):
        rows = [torch.tensor(ids, device=base.model.device) for ids in pieces]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=windows.pad_id)
        mask = padded.ne(windows.pad_id)
        with torch.inference_mode():
            states = base.model.base_model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        means.append(states[mask].float().mean(0).cpu().numpy())
    return np.stack(means)


def fit_majority(task: Task) -> Fitted:
    """The same answer for every text: each label's log-odds in the training split."""
    truth = task.truth("train")
    odds = np.log((truth == 1).sum(axis=0) + 0.5) - np.log((truth == 0).sum(axis=0) + 0.5)
    return lambda texts: np.tile(odds, (len(texts), 1)), {}


SYSTEMS: dict[str, Callable[[Task], Fitted]] = {
    "encoder": fit_encoder,
    "random": partial(fit_encoder, fresh=True),
    "tfidf": fit_tfidf,
    "frozen": fit_frozen,
    "majority": fit_majority,
}


def compare(
    task: Task, names: Sequence[str], *, seeds: int, split: str, files: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Run the named systems, those that depend on a seed `seeds` times; the answer is what `--json` writes.

    Its `categories` counts those with positives; its `differences` needs both encoder and tfidf. The `notes` of a
    system of `files` say where its figures are not of the same things as the others'.
    """
    others = {name: _of_file(name, path, task, split) for name, path in (files or {}).items()}
    first, scores, systems = task.config.seed, {}, dict[str, dict[str, Any]]()
    for name in names:
        drawn = name in ("encoder", "random") or (name == "frozen" and task.config.model.base == "random")
        results = [_run(name, seed, task, split) for seed in (range(first, first + seeds) if drawn else [None])]
        runs, scores[name] = [run for run, _ in results], np.stack([values for _, values in results])
        systems[name] = {"runs": runs, "summary": {key: summarise(runs, key) for key in COLUMNS}}
    for name, (run, notes) in others.items():
        summary = {key: summarise([run], key) for key in COLUMNS}
        systems[name] = {"runs": [run], "summary": summary, "notes": notes}
    truth = task.truth(split)[:, : len(task.labels.category_ids)]
    groups = [example.group or example.id for example in task.corpus.split(split)]
    result: dict[str, Any] = {"split": split, "texts": len(groups), "groups": len(set(groups))}
    result |= {"categories": int((truth == 1).any(axis=0).sum()), "threads": torch.get_num_threads()}
    result |= {"systems": systems, "differences": {}, "config": task.config.model_dump(mode="json")}
    if {"encoder", "tfidf"} <= scores.keys() and result["categories"]:
        result["differences"] = _differences(truth, scores["encoder"], scores["tfidf"], groups, first)
    return result


def summarise(runs: Sequence[Mapping[str, Any]], key: str) -> dict[str, float | None]:
    """Mean, sample standard deviation, minimum and maximum of a figure; no spread for a single run."""
    values = [run[key] for run in runs if run[key] is not None]
    mean = float(np.mean(values)) if values else None
    spread = (float(np.std(values, ddof=1)), min(values), max(values)) if len(values) > 1 else (None, None, None)
    return dict(zip(("mean", "sd", "min", "max"), (mean, *spread), strict=True))


def print_table(result: Mapping[str, Any]) -> None:
    """One row a system, mean ± standard deviation over lowest–highest; then the differences."""
    size = f"{result['texts']} texts in {result['groups']} groups, macro over {result['categories']} categories"
    print(f"{result['split']}: {size}, balanced thresholds from validation, {result['threads']} threads")
    width = max(10, *(len(name) + 1 for name in result["systems"]))
    print(f"{'system':{width}}{'runs':>4}" + "".join(f"{title:>17}" for title, _ in COLUMNS.values()))
    for name, system in result["systems"].items():
        cells = [_cell(system["summary"][key], form) for key, (_, form) in COLUMNS.items()]
        print(f"{name:{width}}{len(system['runs']):>4}" + "".join(f"{above:>17}" for above, _ in cells))
        if any(below for _, below in cells):
            print(" " * (width + 4) + "".join(f"{below:>17}" for _, below in cells))
    for name, values in result["differences"].items():
        print(f"encoder − tfidf, macro AP, {name}: {values['difference']:+.3f}, {_interval(values)}")
    for name, system in result["systems"].items():
        for note in system.get("notes", []):
            print(f"{name} {note}")
    if result["split"] == "validation":
        print("note: validation also chose epoch, C and thresholds, so these figures are too good for every system")


def _interval(values: Mapping[str, Any]) -> str:
    if values["low"] is None:
        return "no interval (one group)"
    return f"95 % interval {values['low']:+.3f} to {values['high']:+.3f} ({RESAMPLES} resamples of groups)"


def _cell(summary: Mapping[str, float | None], form: str) -> tuple[str, str]:
    mean, sd, low, high = ("–" if value is None else f"{value:{form}}" for value in summary.values())
    return (mean, "") if sd == "–" else (f"{mean} ± {sd}", f"{low}–{high}")


def _run(name: str, seed: int | None, task: Task, split: str) -> tuple[dict[str, Any], Array]:
    """One run's figures, and its probabilities of the categories, of shape (texts of the split, categories)."""
    task = task if seed is None else replace(task, config=task.config.model_copy(update={"seed": seed}))
    started = time.perf_counter()
    scorer, choices = SYSTEMS[name](task)
    fit_seconds = time.perf_counter() - started
    logits, ms_per_text = {}, {}
    for part in ("validation", "test"):
        if texts := task.texts(part):
            started = time.perf_counter()
            logits[part] = scorer(texts)
            ms_per_text[part] = 1000 * (time.perf_counter() - started) / len(texts)
    calibration, _, metrics = conclude(logits, task.corpus, task.labels)
    categories = len(task.labels.category_ids)
    again, truth = scorer(respelled(task.texts(split)))[:, :categories], task.truth(split)[:, :categories]
    figures = {
        **_figures(metrics[split]),
        "respelled_average_precision": of_sample(macro_average_precision(truth, again), len(truth)),
        "fit_seconds": fit_seconds,
        "ms_per_text": ms_per_text[split],
    }
    run = {"seed": seed, **figures, **choices}
    _log(name, run)
    return run, apply_calibration(logits[split], calibration, task.labels.ids)[:, :categories]


def respelled(texts: Sequence[str]) -> list[str]:
    """Each text written in another way; the ways of `training.perturb` take turns, the same for every system."""
    ways, chance = tuple(PERTURBATIONS.values()), random.Random(1)
    return [ways[index % len(ways)].apply(text, chance) for index, text in enumerate(texts)]


def _of_file(name: str, path: Path, task: Task, split: str) -> tuple[dict[str, Any], list[str]]:
    """The figures of another system's scores, and what to know of them."""
    system = judge_file(path, task.corpus, task.labels, split=split, point=DEFAULT)
    metrics = evaluation(task.corpus.split(split), system.scores, system.thresholds, task.labels, resamples=0)
    absent = dict.fromkeys(("respelled_average_precision", "fit_seconds", "ms_per_text"))
    run = {"seed": None, **_figures(metrics), **absent}
    _log(name, run)
    of = task.labels.category_ids
    lacks = len(set(of) & set(metrics["not_scored"]))
    notes = [f"scores {len(of) - lacks} of {len(of)} categories: its macros run over these alone"] if lacks else []
    notes += [] if metrics["voice_confusion"] else ["scores no voices: it acts upon whatever it flags"]
    return run, notes


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the table that a split's figures fill."""
    protection = metrics["testimony_protection"]
    acted = protection if metrics["voice_confusion"] else protection["without_voices"]
    return {
        "macro_average_precision": metrics["macro"]["average_precision"],
        "macro_f1": metrics["macro"]["f1"],
        "wrongly_acted_upon": acted["wrongly_acted_upon"],
        "direct_recall": acted["direct_recall"],
    }


def _log(name: str, run: Mapping[str, Any]) -> None:
    print(f"{name}:", *(f"{key} {value:.4g}" for key, value in run.items() if value is not None), file=sys.stderr)


def _differences(truth: Array, encoder: Array, tfidf: Array, groups: Sequence[str], seed: int) -> dict[str, Any]:
    """Of one model (what ships), and of all seeds' averaged scores, an ensemble that nobody serves."""
    ours = {"mean of the seeds": encoder}
    if len(encoder) > 1:
        ours["averaged scores of the seeds"] = encoder.mean(axis=0, keepdims=True)
    return {name: paired_bootstrap(truth, scores, tfidf, groups, seed=seed) for name, scores in ours.items()}


def _fit_linear(task: Task, features: Callable[..., Any], make: Callable[..., Any], grid: Sequence[float]) -> Fitted:
    """One classifier a label, all with the C of the grid that has the best macro average precision on validation."""
    train, held = features(task.texts("train")), features(task.texts("validation"))
    fitted = {c: [_fit_label(make(c), train, target) for target in task.truth("train").T] for c in grid}
    truth, categories = task.truth("validation"), len(task.labels.category_ids)

    def scores(c: float, rows: Any) -> Array:
        return np.stack([decide(rows) for decide in fitted[c]], axis=1)

    def validation(c: float) -> float:
        macro = macro_average_precision(truth[:, :categories], scores(c, held)[:, :categories])
        return of_sample(macro, len(truth)) or 0.0

    best = max(grid, key=validation)
    return lambda texts: scores(best, features(texts)), {"C": best}


def _fit_label(classifier: Any, features: Any, target: Array) -> Callable[[Any], Array]:
    """Features → logits of one label, learnt from the rows where it is decided; constant where all are alike."""
    decided = np.flatnonzero(target >= 0)
    if len(set(target[decided])) < 2:
        return lambda rows: np.full(rows.shape[0], 5.0 if (target == 1).any() else -5.0)
    decide: Callable[[Any], Array] = classifier.fit(features[decided], target[decided]).decision_function
    return decide


def parse_files(texts: Sequence[str]) -> dict[str, Path]:
    """name → file of each NAME=FILE.

    Raises:
        UserError: something else, a name that stands twice or is one of ours, or no such file.
    """
    files: dict[str, Path] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not _NAME.fullmatch(name) or not path or name in SYSTEMS or name in files:
            raise UserError(
                f"--predictions {text!r}: must be NAME=FILE, each name once and none of {', '.join(SYSTEMS)}"
            )
        if not Path(path).is_file():
            raise UserError(f"--predictions {name}: {path}: no such file")
        files[name] = Path(path)
    return files


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.baselines", description="What the encoder must beat.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default: configs/default.yaml")
    parser.add_argument("--data", action="append", metavar="FILE-or-CARD", help="may be repeated")
    parser.add_argument("--seeds", type=int, default=5, help="runs of what depends on a seed; default: 5")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), metavar="NAME")
    parser.add_argument(
        "--predictions", action="append", default=[], metavar="NAME=FILE", help="another system's scores; repeatable"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every run there")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="for example optim.epochs=3")
    return parser.parse_args()


@command
def main() -> int:
    arguments, labels = _parse(), load_labels()
    config = load_config(arguments.config, arguments.set)
    config.data.sources = arguments.data or config.data.sources
    if arguments.seeds < 1:
        raise UserError(f"--seeds {arguments.seeds}: at least 1")
    if arguments.json and not arguments.json.parent.is_dir():
        raise UserError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    files = parse_files(arguments.predictions)
    task = Task(config, load_corpus(config.data.sources, labels, config.data), labels)
    if missing := [split for split in ("train", "validation", arguments.split) if not task.texts(split)]:
        raise UserError(f"the data has no {missing[0]} split: systems are fitted on train and tuned on validation")
    names = [name for name in SYSTEMS if name in arguments.only]
    if config.model.base == "random" and {"encoder", "random"} <= set(names):
        print("note: model.base is 'random': encoder and random coincide, random is left out", file=sys.stderr)
        names.remove("random")
    result = compare(task, names, seeds=arguments.seeds, split=arguments.split, files=files)
    print_table(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
