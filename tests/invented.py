"""An invented run: what artifact.json, metrics.json and thresholds.json hold, computed from made-up scores."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from training.behaviour import Functionality, behaviour
from training.calibration import apply_calibration, calibration_figures, calibration_report, fit_calibration
from training.data import label_matrix
from training.figures import evaluation, strictness
from training.labels import Labels, load_labels
from training.robustness import robustness
from training.rows import Example
from training.thresholds import choose_thresholds

CANARY = "perroquet-bleu-7413"
Files = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


@functools.cache
def _files() -> Files:
    labels = load_labels()
    splits = {name: _examples(labels, name, seed) for seed, name in enumerate(("validation", "test"))}
    truth = {name: label_matrix(examples, labels) for name, examples in splits.items()}
    groups = [str(example.group) for example in splits["validation"]]
    noise = np.random.default_rng(2)
    logits = {name: 4.0 * (each == 1) - 3.0 + 1.5 * noise.standard_normal(each.shape) for name, each in truth.items()}
    calibration = fit_calibration(logits["validation"], truth["validation"], labels.ids, groups)
    scores = {name: apply_calibration(values, calibration, labels.ids) for name, values in logits.items()}
    thresholds = choose_thresholds(truth["validation"], scores["validation"], labels.ids, groups)
    metrics: dict[str, Any] = {"operating_point": "balanced", "counts": _counts(splits, labels)}
    strict = None
    for name, examples in splits.items():
        metrics[name] = evaluation(examples, scores[name], thresholds, labels, resamples=40, strictness=strict)
        strict = strictness(metrics[name])
    metrics["calibration"] = {
        "validation": calibration_report(logits["validation"], truth["validation"], labels.ids, groups),
        "test": calibration_figures(logits["test"], truth["test"], calibration, labels.ids),
    }
    metrics |= _checks(splits["test"], scores["test"], thresholds, labels)
    return _described(labels), metrics, thresholds


def invented_run(**changed: Any) -> Files:
    """artifact.json, metrics.json and thresholds.json's labels, from invented scores of texts that hold the canary.

    All categories but the last have positives. What is `changed` replaces a part of the metrics.
    """
    described, metrics, thresholds = copy.deepcopy(_files())
    return described, metrics | changed, thresholds


def _examples(labels: Labels, split: str, seed: int) -> list[Example]:
    chance, examples = np.random.default_rng(seed), []
    for index in range(150):
        voice = [*labels.voice_ids, None][index % 4]
        positive = {name for name in labels.category_ids[:-1] if voice and chance.random() < 0.2}
        positive |= {"minor_involved"} if positive and chance.random() < 0.5 else set()
        text, name = f"{CANARY} {split} {index}", f"{split}-{index}"
        known = frozenset(labels.ids)
        held = frozenset(positive | ({voice} if voice else set()))
        examples.append(Example(text, held, known, name, f"w{index // 25}", split, "rows.jsonl", index))
    return examples


def _counts(splits: dict[str, list[Example]], labels: Labels) -> dict[str, dict[str, int]]:
    return {
        split: {"texts": len(examples)}
        | {label: sum(label in example.positive for example in examples) for label in labels.ids}
        | {"no_category": sum(not example.positive & set(labels.category_ids) for example in examples)}
        for split, examples in splits.items()
    }


def _checks(examples: list[Example], scores: np.ndarray, thresholds: dict[str, Any], labels: Labels) -> dict[str, Any]:
    """Robustness, behaviour and bias, from scores that fall where a text was rewritten."""
    known = {example.text: row for example, row in zip(examples, scores, strict=True)}
    untold = 0.5 * scores.mean(axis=0)

    def score(texts: list[str]) -> np.ndarray:
        return np.array([known.get(text, untold) for text in texts])

    cases = [{"text": examples[0].text, "voice": "direct"}, {"text": f"{CANARY} neuf", "flagged": False}]
    items = [Functionality(id="invented", name="Inventée", kind="MFT", checks=CANARY, cases=cases)]
    figures = {
        "subgroup_auc": 0.8125, "bpsn_auc": 0.6, "bnsp_auc": None, "flag_rate": 0.375, "ordinary_texts": 8,
        "positive_texts": 4,
    }  # fmt: skip
    groups = {"origin": {**figures, "flag_rate_gap": 0.0, "terms": {"invités": figures}}}
    return {
        "robustness": robustness(
            score, examples, thresholds=thresholds, labels=labels, seed=1, names=["accents", "emoji"]
        ),
        "behaviour": behaviour(score, thresholds, labels, items),
        "bias": {"groups": groups, "names": {"groups": {"nordic": groups["origin"]}}, "ordinary_flag_rate": 0.375},
    }


def _described(labels: Labels) -> dict[str, Any]:
    return {
        "name": "vigie-invented",
        "version": "2000.01.01-0123abcd",
        "created": "2000-01-01T00:00:00+00:00",
        "libraries": {"numpy": "0.0.1"},
        "labels": labels.describe(),
        "windows": {"max_tokens": 256, "overlap": 64},
        "base_model": {"name": "training/encoder", "revision": None, "pretrained": True},
        "data": [
            {"card": "testimonies", "version": "1.0", "license": "cc-by-4.0", "sha256": "ab" * 32, "left_out": {}}
        ],
        "seed": 1,
        "files": {},
    }
