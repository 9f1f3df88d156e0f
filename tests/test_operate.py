"""python -m training.operate: an operating point of one's own, from a target to the served answer."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving import Classifier
from tests.conftest import corpus_rows
from training.labels import Labels
from training.operate import add_point, main

CANARY = "perroquet-bleu-7413"
Write = Callable[[Path, list[Any]], Path]
Operate = Callable[..., int]


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(artifact, tmp_path / "copy")


@pytest.fixture(scope="module")
def own_texts(tmp_path_factory: pytest.TempPathFactory, write_jsonl: Write) -> Path:
    """Texts that the artifact never saw, 20 of each of four categories, each with the canary in it."""
    rows = [row | {"split": "validation", "text": f"{row['text']} {CANARY}"} for row in corpus_rows(100, seed=7)]
    return write_jsonl(tmp_path_factory.mktemp("own") / "own.jsonl", rows)


@pytest.fixture
def operate(monkeypatch: pytest.MonkeyPatch) -> Operate:
    """The command in this process: its exit code."""

    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["operate", *map(str, arguments)])
        return main()

    return run


def read(folder: Path) -> dict[str, Any]:
    file: dict[str, Any] = json.loads((folder / "thresholds.json").read_text(encoding="utf-8"))
    return file


def test_a_new_name_can_be_asked_for_at_once(copy: Path, own_texts: Path, operate: Operate, labels: Labels) -> None:
    """Flags follow its thresholds; no score moves, and no other operating point."""
    before, texts = read(copy), ["il insulte les gens à cause de leur origine", "on chante à la chorale"]
    old = Classifier.from_dir(copy).predict(texts)
    assert operate(copy, "--target", "recall=0.95", "--name", "triage95", "--data", own_texts) == 0
    after = read(copy)
    classifier = Classifier.from_dir(copy)
    assert classifier.predict(texts) == old
    for answer, former in zip(classifier.predict(texts, operating_point="triage95"), old, strict=True):
        for label in labels.category_ids:
            threshold, score = after["labels"][label]["triage95"]["threshold"], former["categories"][label]["score"]
            assert answer["categories"][label] == {
                "score": score,
                "flagged": threshold is not None and score >= threshold,
            }
    for points in after["labels"].values():
        del points["triage95"]
    assert after == before | {"operating_points": [*before["operating_points"], "triage95"]}


def test_the_file_says_what_was_asked_and_reached(copy: Path, own_texts: Path, operate: Operate) -> None:
    assert operate(copy, "--target", "recall=0.95", "--data", own_texts) == 0
    points = {label: entry["recall_0.95"] for label, entry in read(copy)["labels"].items()}
    racism = points["racism"]
    assert racism["positives"] == 20 and racism["recall"] >= 0.95
    assert racism["recall_interval"][0] < racism["recall"] <= racism["recall_interval"][1]
    assert (racism["target"], racism["data"], racism["texts"]) == ({"recall": 0.95}, "own.jsonl", 100)
    assert points["sexism"]["threshold"] is None and points["sexism"]["reason"] == "0 positives, fewer than 10"


def test_the_table_tells_figures_and_reasons(
    copy: Path, own_texts: Path, operate: Operate, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing that somebody wrote."""
    assert operate(copy, "--target", "precision=0.5", "--name", "half", "--data", own_texts) == 0
    out, err = capsys.readouterr()
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    racism = read(copy)["labels"]["racism"]["half"]
    low, high = racism["precision_interval"]
    assert f"{racism['threshold']:.4f}  {racism['precision']:.3f} ({low:.3f}–{high:.3f})" in lines["racism"]
    assert "never  0 positives, fewer than 10" in lines["sexism"]
    assert CANARY not in out + err


def test_without_data_it_is_the_validation_split_of_the_run(copy: Path, operate: Operate) -> None:
    assert operate(copy, "--target", "recall=0.9", "--name", "own") == 0
    metrics = json.loads((copy / "metrics.json").read_text(encoding="utf-8"))
    point = read(copy)["labels"]["testimony"]["own"]
    assert point["texts"] == metrics["counts"]["validation"]["texts"]
    assert point["positives"] == metrics["counts"]["validation"]["testimony"]


def test_labels_that_were_not_named_stay(copy: Path, own_texts: Path, operate: Operate) -> None:
    """As the default operating point has them at first, and as the name has them when it is added to."""
    common = (copy, "--name", "mine", "--data", own_texts)
    assert operate(*common, "--target", "recall=0.95", "--label", "racism") == 0
    first = read(copy)["labels"]
    assert first["racism"]["mine"]["target"] == {"recall": 0.95}
    assert first["grooming"]["mine"] == {**first["grooming"]["balanced"], "copied_from": "balanced"}
    assert operate(*common, "--target", "precision=0.5", "--label", "grooming", "--overwrite") == 0
    second = read(copy)["labels"]
    assert second["racism"]["mine"] == first["racism"]["mine"]
    assert second["grooming"]["mine"]["target"] == {"precision": 0.5}


def test_a_dry_run_changes_nothing(
    copy: Path, own_texts: Path, operate: Operate, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / "thresholds.json").read_bytes()
    assert operate(copy, "--target", "recall=0.95", "--data", own_texts, "--dry-run") == 0
    assert (copy / "thresholds.json").read_bytes() == before
    assert "racism" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--target", "recall=0.9", "--target", "precision=0.8"], "--target: one at a time, not 2"),
        (["--target", "recall=1.2"], "must be recall=R or precision=P, above 0 and at most 1; not 'recall=1.2'"),
        (["--target", "recall=nan"], "not 'recall=nan'"),
        (["--target", "f1=0.9"], "must be recall=R or precision=P"),
        (["--target", "recall=0.9", "--label", "spam"], "--label: unknown spam; allowed: "),
        (["--target", "recall=0.9", "--name", "balanced"], "'balanced' stands in thresholds.json already"),
        (["--target", "recall=0.9", "--name", "a b"], "--name: 'a b' is no name"),
        (["--target", "recall=0.9", "--split", "test"], "test texts are for measuring"),
        (["--target", "recall=0.9", "--split", "train"], "the model knows its train texts by heart"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    copy: Path, operate: Operate, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    before = (copy / "thresholds.json").read_bytes()
    assert operate(copy, *arguments) == 2
    err = capsys.readouterr().err
    assert expected in err and len(err.splitlines()) == 1
    assert (copy / "thresholds.json").read_bytes() == before


@pytest.mark.parametrize("split", ["test", "train"])
def test_test_texts_are_refused_under_another_name(
    copy: Path, tmp_path: Path, write_jsonl: Write, operate: Operate, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    rows = [row | {"split": "validation"} for row in corpus_rows() if row["split"] == split]
    before = (copy / "thresholds.json").read_bytes()
    file = write_jsonl(tmp_path / "innocent.jsonl", rows)
    assert operate(copy, "--target", "recall=0.9", "--data", file) == 2
    assert f"{len(rows)} of its {len(rows)} validation texts are {split} texts of the run" in capsys.readouterr().err
    assert (copy / "thresholds.json").read_bytes() == before


def test_where_that_cannot_be_checked_it_is_said(
    copy: Path, own_texts: Path, operate: Operate, corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy / "run.yaml"
    text = run.read_text(encoding="utf-8")
    assert str(corpus_file) in text
    run.write_text(text.replace(str(corpus_file), "gone.jsonl"), encoding="utf-8")
    assert operate(copy, "--target", "recall=0.9", "--data", own_texts) == 0
    assert "nothing tells whether these are its test texts" in capsys.readouterr().err


def test_data_without_validation_texts_is_told(
    copy: Path, tmp_path: Path, write_jsonl: Write, operate: Operate, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_jsonl(tmp_path / "own.jsonl", [row | {"split": "test"} for row in corpus_rows(20, seed=9)])
    assert operate(copy, "--target", "recall=0.9", "--data", file) == 2
    assert "no validation split; rows of your own need `split: validation`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file["labels"].pop("racism"),
        lambda file: file["labels"]["racism"].pop("balanced"),
        lambda file: file.pop("default"),
        lambda file: file.update(default="best"),
    ],
)
def test_a_broken_file_is_told_before_anything_is_scored(
    copy: Path, operate: Operate, capsys: pytest.CaptureFixture[str], change: Callable[[Any], Any]
) -> None:
    file = read(copy)
    change(file)
    (copy / "thresholds.json").write_text(json.dumps(file), encoding="utf-8")
    assert operate(copy, "--target", "recall=0.9") == 2
    err = capsys.readouterr().err
    assert "thresholds.json" in err and "Traceback" not in err


def test_a_write_that_fails_leaves_the_file_as_it_was(
    copy: Path,
    own_texts: Path,
    operate: Operate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    monkeypatch.setattr(Path, "replace", full)
    assert operate(copy, "--target", "recall=0.9", "--data", own_texts) == 2
    assert "cannot be written (No space left on device); it is as it was" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_adding_a_point_keeps_the_default_and_the_order() -> None:
    balanced = {"threshold": 0.4}
    file = {"format": 1, "default": "balanced", "operating_points": ["balanced"],
            "labels": {"a": {"balanced": balanced}, "b": {"balanced": balanced}}}  # fmt: skip
    once = add_point(file, "mine", {"a": {"threshold": 0.1}})
    twice = add_point(once, "mine", {"a": {"threshold": 0.2}})
    assert (twice["default"], twice["operating_points"]) == ("balanced", ["balanced", "mine"])
    assert twice["labels"]["a"] == {"balanced": balanced, "mine": {"threshold": 0.2}}
    assert twice["labels"]["b"]["mine"] == {"threshold": 0.4, "copied_from": "balanced"}
    assert file["operating_points"] == ["balanced"]
