"""python -m training.evaluate: an artifact, or anybody's scores, in one table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.test_compare import CANARY, varied_rows
from training.evaluate import main

Evaluate = Callable[..., int]
NEAR = ("--set", "data.near_duplicate=0.99")
"""The texts of the tiny artifact's corpus resemble each other."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """The command in this process: its exit code."""

    def command(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        return main()

    return command


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(artifact, tmp_path / "copy")


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def test_it_gives_the_figures_of_training_twice(artifact: Path, tmp_path: Path) -> None:
    """On the test split of its own data, what metrics.json says; byte-identical from run to run, and nothing else."""
    printed = []
    for name in "ab":
        command = [sys.executable, "-m", "training.evaluate", str(artifact), "--json", str(tmp_path / name)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        printed.append(result.stdout)
    assert printed[0] == printed[1] and "macro over 4 of 10 categories: F1 " in printed[0]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read(tmp_path / "a") == read(artifact / "metrics.json")["test"]


def test_written_scores_give_the_same_figures(
    artifact: Path, corpus_file: Path, run: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the artifact's thresholds all of them; with those chosen on the written validation scores too."""
    ours, chosen = tmp_path / "ours.json", ["--thresholds", artifact / "thresholds.json"]
    assert run(artifact, "--json", ours, "--write-predictions", tmp_path / "scores.csv") == 0
    printed = capsys.readouterr().out
    for given in (chosen, []):
        theirs = tmp_path / "theirs.json"
        scored = ["--predictions", tmp_path / "scores.csv", "--data", corpus_file, *NEAR]
        assert run(*scored, *given, "--json", theirs) == 0
        assert theirs.read_bytes() == ours.read_bytes() and capsys.readouterr().out == printed
    assert read(ours)["testimony_protection"]["at_validation_threshold"] is not None
    head, *rows = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert head == "id,label,score" and len({row.split(",")[0] for row in rows}) == 40


def test_an_operating_point_of_ones_own(copy: Path, run: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    """From a threshold of 0 on everything is flagged; another name is told, with those that there are."""
    file = read(copy / "thresholds.json")
    for points in file["labels"].values():
        points["all"] = points["balanced"] | {"threshold": 0.0}
    file["operating_points"].append("all")
    (copy / "thresholds.json").write_text(json.dumps(file), encoding="utf-8")
    assert run(copy, "--operating-point", "all", "--json", copy / "x.json") == 0
    found = read(copy / "x.json")
    assert found["operating_point"] == "all" and found["macro"]["recall"] == 1.0
    capsys.readouterr()
    assert run(copy, "--operating-point", "none") == 2
    message = capsys.readouterr().err
    assert "'none' is not in" in message and "precision_first, all" in message and len(message.splitlines()) == 1


def test_what_metrics_do_not_hold_is_left_out(copy: Path, run: Evaluate) -> None:
    """An artifact without validation figures, or with those of an earlier version, has no threshold of validation."""
    metrics = read(copy / "metrics.json")
    expected = metrics["test"]["testimony_protection"].pop("at_validation_threshold")
    del metrics["validation"]["testimony_protection"]["at_direct_recall"]
    for validation in (metrics["validation"], None):
        (copy / "metrics.json").write_text(json.dumps(metrics | {"validation": validation}), encoding="utf-8")
        assert run(copy, "--json", copy / "x.json") == 0
        protection = read(copy / "x.json")["testimony_protection"]
        assert protection.pop("at_validation_threshold") is None is not expected
        assert protection == metrics["test"]["testimony_protection"]


def test_another_systems_few_labels_are_shown_as_such(
    run: Evaluate, tmp_path: Path, write_jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """One category of ten and no voices: its own row, what is left out, and whom acting upon it would hit."""
    rows = varied_rows()
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    scores = [{"id": row["id"], "label": "racism", "score": 0.9 if "racism" in row["labels"] else 0.1} for row in rows]
    file = write_jsonl(tmp_path / "other.jsonl", scores)
    assert run("--predictions", file, "--data", data) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["label", "racism"]
    assert lines[1].split()[1:] == ["20", "1.000", "1.000", "1.000", "1.000"]
    assert lines[2].startswith("no scores for, and left out: grooming, ")
    assert lines[3].startswith("macro over 1 of 10 categories: F1 1.000")
    assert lines[4].startswith("the intervals rest on 6 groups")
    assert lines[5] == (
        "without voices, acting upon whatever is flagged took 50.0% of 20 testimonies and commentaries, "
        "and 50.0% of 20 direct texts"
    )
    assert CANARY not in captured.out + captured.err


def test_faults_of_a_file_are_told_without_a_text(
    run: Evaluate, tmp_path: Path, write_jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", varied_rows())
    file = write_jsonl(tmp_path / "other.jsonl", [{"id": f"dit {CANARY}", "label": "racism", "score": 0.5}])
    assert run("--predictions", file, "--data", data) == 2
    message = capsys.readouterr().err
    assert "other.jsonl:1: id: (a value of" in message and CANARY not in message


def test_validation_says_that_it_is_too_good(
    artifact: Path, corpus_file: Path, run: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(artifact, "--split", "validation") == 0
    assert "these figures are too good" in capsys.readouterr().out
    assert run(artifact, "--data", corpus_file) == 0
    assert "too good" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_without_artifact_is_told(
    tmp_path: Path, name: str, run: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / name) == 2
    assert "no artifact here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give an artifact directory, or --predictions FILE: one of the two"),
        (["here", "--predictions", "x.csv"], "give an artifact directory, or --predictions FILE: one of the two"),
        (["here", "--thresholds", "x.json"], "--thresholds: goes with --predictions"),
        (
            ["--predictions", "x.csv", "--thresholds", "x.json", "--validation-predictions", "y.csv"],
            "--thresholds and --validation-predictions: thresholds come from one of the two",
        ),
        (["--predictions", "x.csv", "--write-predictions", "y.csv"], "--write-predictions: goes with an artifact"),
        (["--predictions", "x.csv"], "--predictions: needs --data"),
        (["here", "--json", "/nowhere/x.json"], "--json /nowhere/x.json: there is no folder /nowhere"),
        (["here", "--write-predictions", "x.txt"], "--write-predictions x.txt: cannot write this format; allowed: "),
        (["--predictions", "nothing.csv", "--data", "nothing"], "nothing: no such card or file"),
        (["--predictions", "nothing.csv", "--data", "data_cards/testimonies"], "nothing.csv: no such file"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, run: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    message = capsys.readouterr().err
    assert expected in message and len(message.splitlines()) == 1
