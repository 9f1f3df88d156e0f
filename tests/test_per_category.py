"""The `evaluate` metric of training/per_category, loaded from its folder: no hub, no network, a cache of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from training import metrics
from training.intervals import FIGURES, interval, label_figures, macro_of, resample

NAMES = ["grooming", "racism", "sexism"]
THRESHOLDS = [0.5, 0.4, None]
# One process for all tests: importing evaluate takes seconds, and it reads HF_HOME only then.
CODE = """
import doctest, json, pathlib, socket, sys

def refuse(*_):
    raise OSError("this test has no network")

socket.socket.connect = refuse
given = json.load(sys.stdin)
import evaluate
metric = evaluate.load("training/per_category")
answers = {"cache": str(evaluate.config.HF_MODULES_CACHE), "code": str(sys.modules[type(metric).__module__].__file__)}
answers["whole"] = metric.compute(**given)
batches = evaluate.load("training/per_category")
for start in range(0, len(given["references"]), 7):
    part = slice(start, start + 7)
    batches.add_batch(predictions=given["predictions"][part], references=given["references"][part])
answers["batches"] = batches.compute(**{key: given[key] for key in ("label_names", "thresholds", "groups")})
answers["bare"] = metric.compute(predictions=given["predictions"], references=given["references"])
answers["errors"] = {}
wrong = {"label_names": ["grooming"], "thresholds": [0.5], "groups": ["a"], "references": [[1, 0]] * 40}
for key, value in wrong.items():
    try:
        metric.compute(**{**given, key: value})
    except ValueError as error:
        answers["errors"][key] = str(error)
answers["readme"] = doctest.testfile("training/per_category/README.md", module_relative=False)
pathlib.Path(sys.argv[1]).write_text(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    chance = np.random.default_rng(0)
    references = (chance.random((40, 3)) < 0.4).astype(int)
    references[chance.random((40, 3)) < 0.1] = -100
    return {
        "predictions": np.round(chance.random((40, 3)), 2).tolist(),
        "references": references.tolist(),
        "label_names": NAMES,
        "thresholds": THRESHOLDS,
        "groups": [f"w{index % 6}" for index in range(40)],
    }


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any]) -> dict[str, Any]:
    """What the metric gives in a process that has no cache yet and cannot connect to anything."""
    home, file = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("answers") / "answers.json"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(file)],
        cwd=ROOT,
        env=inherited | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"},
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert Path(read["cache"]).is_relative_to(home) and Path(read["code"]).is_relative_to(home)
    return read | {"output": result.stdout}


def test_it_gives_the_figures_of_training_metrics(answers: dict[str, Any], given: dict[str, Any]) -> None:
    """To the last digit, intervals included; a score of 0.37 is not cut to 0."""
    truth, score = np.array(given["references"], dtype=float), np.array(given["predictions"])
    rows = metrics.per_category(truth, score, THRESHOLDS, NAMES)
    flags = score >= np.array([0.5, 0.4, 2.0])
    drawn = resample(label_figures(truth, score, flags), given["groups"])
    assert drawn is not None
    whole = answers["whole"]
    assert (whole["groups"], whole["resamples"]) == (6, 1000)
    for column, (name, row) in enumerate(rows.items()):
        assert whole["labels"][name] == row | {
            "intervals": {key: interval(drawn[:, index, column]) for index, key in enumerate(FIGURES)}
        }
    means = {key: interval(macro_of(drawn)[:, index]) for index, key in enumerate(FIGURES)}
    assert whole["macro"] == metrics.macro(rows, NAMES) | {"intervals": means}
    assert whole["weighted"] == metrics.weighted(rows, NAMES)
    assert whole["micro"] == metrics.micro(truth, flags.astype(float))
    assert whole["labels"]["sexism"]["precision"] is None and whole["labels"]["grooming"]["average_precision"] > 0


def test_batches_add_up(answers: dict[str, Any]) -> None:
    assert answers["batches"] == answers["whole"]


def test_names_and_thresholds_may_be_left_out(answers: dict[str, Any], given: dict[str, Any]) -> None:
    bare, truth = answers["bare"], np.array(given["references"], dtype=float)
    names = ["label_0", "label_1", "label_2"]
    assert bare["labels"] == metrics.per_category(truth, np.array(given["predictions"]), [0.5] * 3, names)
    assert "groups" not in bare and "intervals" not in bare["macro"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("label_names", "label_names: 1 given for 3 labels"),
        ("thresholds", "thresholds: 1 given for 3 labels"),
        ("groups", "groups: 1 given for 40 examples"),
        ("references", "predictions have shape (40, 3), references (40, 2): one score a label"),
    ],
)
def test_what_does_not_fit_is_told(answers: dict[str, Any], key: str, said: str) -> None:
    assert answers["errors"][key] == said


def test_the_example_of_the_card_runs(answers: dict[str, Any]) -> None:
    """As a doctest, in the same process."""
    failed, tried = answers["readme"]
    assert failed == 0 and tried >= 10, answers["output"]
