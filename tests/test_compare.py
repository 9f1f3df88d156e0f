"""python -m training.compare: better, worse or not told apart, and said so."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.compare import BY_CATEGORY, OVERALL, compare, main
from training.config import DataConfig
from training.data import label_matrix, load_corpus
from training.errors import UserError
from training.figures import evaluation
from training.intervals import interval, label_figures, resample
from training.labels import Labels
from training.predictions import System, write_predictions
from training.rows import Example

CANARY = "perroquet-bleu-7413"
Write = Callable[[Path, list[Any]], Path]
Compare = Callable[..., int]


def varied_rows(writers: int = 6) -> list[dict[str, Any]]:
    """Sixty texts of validation, sixty of test, unlike each other; two categories, all voices or none."""
    chance, rows = random.Random(0), []
    for index in range(120):
        words = ["".join(chance.choices("bcdfgmnprstaeiou", k=7)) for _ in range(8)]
        category = ("grooming", "racism", None)[index % 3]
        voice = ("direct", "testimony", "commentary", "direct")[index % 4] if category else None
        split = "validation" if index < 60 else "test"
        row = {"id": f"e{index}", "text": f"{CANARY} {' '.join(words)}", "labels": [category] if category else []}
        rows.append(row | {"voice": voice, "group": f"{split}{index % writers}", "split": split})
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_jsonl: Write) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("compare") / "rows.jsonl", varied_rows())


@pytest.fixture(scope="module")
def examples(data: Path, labels: Labels) -> list[Example]:
    return list(load_corpus([str(data)], labels, DataConfig(), trainable=False).examples)


def noisy(examples: Sequence[Example], labels: Labels, noise: float) -> np.ndarray:
    """The truth under more or less noise."""
    chance = np.random.default_rng(0).random((len(examples), len(labels.ids)))
    return noise * chance + (1 - noise) * (label_matrix(examples, labels) == 1)


def system(scores: np.ndarray, labels: Labels) -> System:
    return System(scores, {name: {"balanced": {"threshold": 0.5}} for name in labels.ids}, None)


@pytest.fixture(scope="module")
def files(data: Path, examples: list[Example], labels: Labels, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A good system, and one of much noise."""
    folder = tmp_path_factory.mktemp("systems")
    for name, noise in (("good", 0.55), ("noisy", 0.85)):
        write_predictions(folder / f"{name}.csv", examples, noisy(examples, labels, noise), labels)
    return [folder / "good.csv", folder / "noisy.csv"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Compare:
    """The command in this process: its exit code."""

    def command(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
        return main()

    return command


def test_worse_one_way_is_better_the_other(examples: list[Example], labels: Labels) -> None:
    good, bad = (system(noisy(examples, labels, noise), labels) for noise in (0.55, 0.85))
    worse, better = compare(good, bad, examples, labels), compare(bad, good, examples, labels)
    assert (worse["verdict"], better["verdict"]) == ("worse", "better")
    assert (worse["groups"], worse["categories"]) == (12, ["grooming", "racism"])
    ours, theirs = (result["figures"]["macro_average_precision"] for result in (worse, better))
    assert (ours["a"], ours["b"], ours["difference"]) == (theirs["b"], theirs["a"], -theirs["difference"])
    assert (ours["low"], ours["high"]) == (-theirs["high"], -theirs["low"]) and ours["high"] < 0


def test_a_system_is_not_told_apart_from_itself(examples: list[Example], labels: Labels) -> None:
    same = system(noisy(examples, labels, 0.8), labels)
    result = compare(same, same, examples, labels)
    rows = [*result["figures"].values(), *(row for held in result["by_category"].values() for row in held.values())]
    assert len(rows) == len(OVERALL) + 2 * len(BY_CATEGORY)
    for row in rows:
        assert (row["difference"], row["low"], row["high"], row["verdict"]) == (0, 0, 0, "not told apart")
        assert row["a"] == row["b"] and 0 < row["a"] < 1


def test_both_sides_are_the_figures_of_evaluate(examples: list[Example], labels: Labels) -> None:
    """And the interval of a difference is that of the resampled differences."""
    pair = [system(noisy(examples, labels, noise), labels) for noise in (0.7, 0.8)]
    result = compare(*pair, examples, labels)
    for side, one in zip("ab", pair, strict=True):
        expected = evaluation(examples, one.scores, one.thresholds, labels, resamples=0)
        means, protection = expected["macro"], expected["testimony_protection"]
        figures = [means["average_precision"], means["f1"]]
        figures += [protection["wrongly_acted_upon"], protection["direct_recall"]]
        assert [result["figures"][name][side] for name in OVERALL] == pytest.approx(figures, abs=1e-6)
        for category in ("grooming", "racism"):
            found = {name: result["by_category"][category][name][side] for name in BY_CATEGORY}
            assert found == pytest.approx({name: expected["labels"][category][name] for name in BY_CATEGORY}, abs=1e-6)
    truth, groups = label_matrix(examples, labels)[:, :1], [example.group or "" for example in examples]
    columns = [one.scores[:, :1] for one in pair]
    statistics = [label_figures(truth, scores, scores >= 0.5) for scores in columns]
    drawn = resample(lambda weights: statistics[1](weights) - statistics[0](weights), groups)
    assert drawn is not None
    row = result["by_category"]["grooming"]["recall"]
    assert [row["low"], row["high"]] == pytest.approx(interval(drawn[:, 1, 0]), abs=1e-6)


def example(index: int, group: str, labels: Labels, *positive: str) -> Example:
    return Example("", frozenset(positive), frozenset(labels.ids), f"e{index}", group, "test", "rows.jsonl", index)


def test_by_hand(labels: Labels) -> None:
    """B finds the text that A misses, and acts upon the testimony, which A leaves alone.

    In group a B's recall is 1 to A's 0, in group b both have 1: a twice gives 1, b twice 0, one of each 1/2. Of the
    testimonies, one in each group, B acts upon both and A upon none: 1 whichever groups are drawn.
    """
    kinds = [("grooming", "direct"), ("grooming", "testimony")]
    given = [example(i, "ab"[i // 2], labels, *kinds[i % 2]) for i in range(4)]
    names = labels.ids

    def scores(*rows: dict[str, float]) -> np.ndarray:
        return np.array([[row.get(name, 0.0) for name in names] for row in rows])

    told, direct = {"grooming": 0.9, "testimony": 0.9}, {"grooming": 0.9, "direct": 0.9}
    a = system(scores({"direct": 0.9}, told, direct, told), labels)
    b = system(scores(direct, direct, direct, direct), labels)
    result = compare(a, b, given, labels)
    shown = {name: (row["a"], row["b"], row["low"], row["high"]) for name, row in result["figures"].items()}
    assert shown["wrongly_acted_upon"] == (0, 1, 1, 1) and shown["direct_recall"] == (0.5, 1, 0, 1)
    assert result["figures"]["wrongly_acted_upon"]["verdict"] == "worse"
    assert result["figures"]["direct_recall"]["verdict"] == "not told apart"
    recall = result["by_category"]["grooming"]["recall"]
    assert (recall["a"], recall["b"], recall["low"], recall["high"]) == (0.75, 1, 0, 0.5)


def test_only_what_both_score_is_compared(examples: list[Example], labels: Labels) -> None:
    """A system without voices acts upon all that it flags, whatever the other does."""
    whole = noisy(examples, labels, 0.7)
    part = np.where(np.isin(labels.ids, ["racism", "sexism"]), whole, np.nan)
    result = compare(system(whole, labels), system(part, labels), examples, labels)
    assert result["categories"] == list(result["by_category"]) == ["racism"]
    assert "grooming" in result["not_compared"] and "sexism" in result["not_compared"]
    assert result["routes"] == {"a": True, "b": False}
    figures = result["figures"]
    assert figures["macro_average_precision"]["a"] == figures["macro_average_precision"]["b"]
    direct = label_matrix(examples, labels)[:, labels.ids.index("direct")] == 1
    flagged = (part[:, [labels.ids.index(name) for name in ("racism", "sexism")]] >= 0.5).any(axis=1)
    assert figures["direct_recall"]["b"] == pytest.approx(flagged[direct].mean(), abs=1e-6)
    alone = np.where(np.isin(labels.ids, ["sexism"]), whole, np.nan)
    with pytest.raises(UserError, match="no category that both score"):
        compare(system(whole, labels), system(alone, labels), examples, labels)


def test_one_group_has_no_interval_and_no_verdict(labels: Labels) -> None:
    given = [example(i, "ann", labels, *(["grooming"] if i % 2 else [])) for i in range(4)]
    pair = [system(noisy(given, labels, noise), labels) for noise in (1.0, 0.1)]
    result = compare(*pair, given, labels)
    row = result["figures"]["macro_average_precision"]
    assert row["difference"] > 0 and row["low"] is row["high"] is None
    assert (result["verdict"], result["groups"]) == ("not told apart", 1)


def test_the_verdict_is_the_first_line_and_the_exit_code(
    files: list[Path], data: Path, run: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*files, "--data", data) == 0
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert lines[0].startswith("B is worse than A: macro average precision 0.") and "95 % interval -0." in lines[0]
    assert "6 groups of texts" in lines[1] and lines[-2].startswith("B is worse in: macro_average_precision")
    assert CANARY not in told
    assert run(*files, "--data", data, "--fail-if-worse") == 1
    assert run(*files[::-1], "--data", data, "--fail-if-worse") == 0
    assert run(files[0], files[0], "--data", data, "--fail-if-worse") == 0
    assert "B and A are not told apart" in capsys.readouterr().out


def test_two_runs_are_byte_identical(
    files: list[Path], data: Path, run: Compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for name in "xy":
        assert run(*files, "--data", data, "--json", tmp_path / name) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    read = json.loads((tmp_path / "x").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert (read["verdict"], read["split"], read["examples"], read["groups"]) == ("worse", "test", 60, 6)
    assert read["a"] == str(files[0])


def test_an_artifact_is_no_better_than_its_own_scores(
    artifact: Path, data: Path, examples: list[Example], labels: Labels, run: Compare, tmp_path: Path
) -> None:
    """Artifact against file: the same ranking. The file's thresholds are chosen on its own validation scores."""
    from training.evaluate import score_artifact

    held = [texts for split in ("test", "validation") for texts in examples if texts.split == split]
    scores = score_artifact(artifact, [texts.text for texts in held[:60]], labels)
    others = score_artifact(artifact, [texts.text for texts in held[60:]], labels)
    write_predictions(tmp_path / "own.jsonl", held, np.concatenate([scores, others]), labels)
    assert run(artifact, tmp_path / "own.jsonl", "--data", data, "--json", tmp_path / "x.json") == 0
    figures = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["figures"]
    assert figures["macro_average_precision"]["difference"] == 0


def test_artifacts_of_one_corpus_are_compared_on_it(artifact: Path, run: Compare, tmp_path: Path) -> None:
    """And those of two corpora only on texts that somebody names."""
    assert run(artifact, artifact, "--json", tmp_path / "x.json") == 0
    expected = json.loads((artifact / "metrics.json").read_text(encoding="utf-8"))["test"]
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert found["examples"] == expected["examples"] and found["verdict"] == "not told apart"
    assert found["figures"]["macro_f1"]["b"] == pytest.approx(expected["macro"]["f1"], abs=1e-6)


def test_users_mistakes_are_one_line(
    artifact: Path, files: list[Path], run: Compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy")
    run_yaml = (copy / "run.yaml").read_text(encoding="utf-8")
    (copy / "run.yaml").write_text(run_yaml.replace("rows.jsonl", "other.jsonl"), encoding="utf-8")
    mistakes = {
        "was made from other data than the other; say with --data": [artifact, copy],
        "is no artifact, so it does not say its data; say with --data": files,
        "figures of a whole split cannot be compared": [artifact / "metrics.json", artifact],
        "no artifact here": [tmp_path / "nothing", artifact],
        "'strict' is not in": [artifact, artifact, "--operating-point", "strict"],
        "there is no folder": [artifact, artifact, "--json", tmp_path / "nothing" / "x.json"],
    }
    for expected, arguments in mistakes.items():
        assert run(*arguments) == 2
        message = capsys.readouterr().err
        assert expected in message and len(message.splitlines()) == 1
