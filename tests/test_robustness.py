"""What other spellings cost: figures worked out by hand, and the command on an artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.robustness as module
from tests.conftest import ROOT
from training.labels import Labels
from training.perturb import PERTURBATIONS, Perturbation
from training.robustness import perturbed, robustness, score_readings
from training.rows import Example

CANARY = "perroquet-bleu-7413"
HARM = f"il menace {CANARY}"


@pytest.fixture
def thresholds(labels: Labels) -> dict[str, dict[str, Any]]:
    """0.5 everywhere, except that racism has too few positives on validation for any."""
    return {name: {"balanced": {"threshold": None if name == "racism" else 0.5}} for name in labels.ids}


def examples(labels: Labels, positives: dict[str, int], *, voice: str = "testimony") -> list[Example]:
    """So many numbered positive texts of each category, and five texts of nothing."""
    known = frozenset(labels.ids)
    made = [
        Example(f"{HARM} {index} {name}", frozenset({name, voice}), known, f"{name}{index}", None, "test", "here", 1)
        for name, count in positives.items()
        for index in range(count)
    ]
    return made + [Example(f"le chat {i}", frozenset(), known, f"n{i}", None, "test", "here", 1) for i in range(5)]


def scorer(labels: Labels, *, read_as: str = "testimony") -> Any:
    """A system that knows the word « menace » and nothing else."""

    def score(texts: list[str]) -> np.ndarray:
        scores = np.full((len(texts), len(labels.ids)), 0.1)
        for row, text in enumerate(texts):
            if "menace" in text:
                scores[row, : len(labels.category_ids)] = 0.9
                scores[row, labels.ids.index(read_as)] = 0.9
        return scores

    return score


def hide(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """A way of writing, `hidden`, that hides the word in the grooming texts of these numbers."""
    hidden = {f"{HARM} {number} grooming" for number in numbers}

    def apply(text: str, chance: object) -> str:
        return text.replace("menace", "m3nace") if text in hidden else text

    monkeypatch.setitem(PERTURBATIONS, "hidden", Perturbation(apply, "caché", "hidden"))


def run(labels: Labels, positives: dict[str, int], thresholds: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return robustness(
        scorer(labels), examples(labels, positives), thresholds=thresholds, labels=labels, seed=1, **settings
    )


def test_a_lost_recall_by_hand(
    labels: Labels, thresholds: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of twenty texts hidden: ten points of recall; each moved by 0.8 of 45 texts in all."""
    hide(monkeypatch, 3, 8)
    result = run(labels, {"grooming": 20, "sexism": 20}, thresholds, names=["hidden"])
    row = result["perturbations"]["hidden"]
    grooming = row["categories"]["grooming"]
    assert (grooming["recall_clean"], grooming["recall_perturbed"], grooming["points_lost"]) == (1.0, 0.9, 10.0)
    assert grooming["mean_score_change"] == pytest.approx(2 * 0.8 / 45)
    assert row["mean_score_change"] == pytest.approx(2 * 0.8 / 45)
    assert row["categories"]["sexism"]["points_lost"] == 0.0
    assert row["macro_recall_points_lost"] == 5.0
    assert (row["worst_category"], row["changed_texts"]) == ("grooming", 2)
    assert row["macro_average_precision"] < result["clean"]["macro_average_precision"]
    assert (row["goal_met"], row["goal_missed_by"]) == (False, ["grooming"])
    missed = {"perturbation": "hidden", "category": "grooming", "points_lost": 10.0}
    assert result["goal"] == {"points": 5.0, "met": False, "missed": [missed]}


def test_a_loss_of_exactly_five_points_meets_the_goal(
    labels: Labels, thresholds: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, 3)
    result = run(labels, {"grooming": 20}, thresholds, names=["hidden"])
    assert result["perturbations"]["hidden"]["categories"]["grooming"]["points_lost"] == 5.0
    assert result["goal"]["met"] is True and result["goal"]["missed"] == []


def test_few_positives_and_a_missing_threshold_are_told_and_not_judged(
    labels: Labels, thresholds: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine positives of which all are lost, a category without threshold, and one without positives."""
    hide(monkeypatch, *range(9))
    result = run(labels, {"grooming": 9, "racism": 12}, thresholds, names=["hidden"])
    row = result["perturbations"]["hidden"]
    grooming, racism, sexism = (row["categories"][name] for name in ("grooming", "racism", "sexism"))
    assert (grooming["too_few"], grooming["judged"], grooming["points_lost"]) == (True, False, 100.0)
    assert (racism["too_few"], racism["judged"], racism["recall_clean"]) == (False, False, None)
    assert (sexism["positives"], sexism["points_lost"]) == (0, None)
    assert row["goal_met"] is None and row["worst_category"] is None and result["goal"]["met"] is None


def test_testimony_protection_under_each(labels: Labels, thresholds: dict[str, dict[str, Any]]) -> None:
    """A system that takes testimonies for direct texts when their letters are spaced acts upon those."""
    usual, wrong = scorer(labels), scorer(labels, read_as="direct")

    def score(texts: list[str]) -> np.ndarray:
        return np.stack([(wrong if text.isupper() else usual)([text.lower()])[0] for text in texts])

    result = robustness(
        score,
        examples(labels, {"grooming": 10}),
        thresholds=thresholds,
        labels=labels,
        seed=1,
        names=["accents", "upper_case"],
    )
    assert result["clean"]["testimony_protection"]["wrongly_acted_upon"] == 0.0
    rows = result["perturbations"]
    assert rows["accents"]["testimony_protection"]["wrongly_acted_upon"] == 0.0
    protection = rows["upper_case"]["testimony_protection"]
    assert (protection["wrongly_acted_upon"], protection["protected_texts"]) == (1.0, 10)


def test_the_answer_is_plain_json_without_a_text(
    labels: Labels, thresholds: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(labels, {"grooming": 12}, thresholds)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result["perturbations"]) == list(PERTURBATIONS)
    module.print_robustness(result)
    assert CANARY not in json.dumps(result, ensure_ascii=False) + capsys.readouterr().out


def test_every_distinct_text_is_scored_once(labels: Labels, thresholds: dict[str, dict[str, Any]]) -> None:
    calls: list[list[str]] = []
    usual = scorer(labels)

    def score(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return np.asarray(usual(texts))

    known = examples(labels, {"grooming": 12})
    robustness(score, known, thresholds=thresholds, labels=labels, seed=1, names=["accents", "spaced"])
    (texts,) = calls
    assert len(texts) == len(set(texts)) and {example.text for example in known} < set(texts)


def test_the_rewriting_depends_on_the_seed_alone() -> None:
    texts = [HARM, "on mange une tarte chez mamie"] * 5
    assert perturbed(texts, "typos", seed=1) == perturbed(texts, "typos", seed=1)
    assert perturbed(texts, "typos", seed=1) != perturbed(texts, "typos", seed=2)


def test_what_the_tokenizer_reads_alike_is_scored_once(
    artifact: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its scores are those of every text scored by itself."""
    texts = ["il menace de publier", "on mange une tarte", "IL MENACE DE PUBLIER", "il me\u200bnace de publier"]
    expected = module.score_artifact(artifact, texts, labels)
    counted: list[int] = []

    def counting(folder: Path, given: list[str], known: Labels) -> np.ndarray:
        counted.append(len(given))
        return scored(folder, given, known)

    scored = module.score_artifact
    monkeypatch.setattr(module, "score_artifact", counting)
    scores = score_readings(artifact, texts, labels)
    assert counted == [2]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.abs(scores[0] - scores[1]).max() > 0.01


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "training.robustness", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_the_table_and_writes_the_figures(artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "robustness.json"
    result = command(artifact, "--only", "upper_case", "dotted", "--json", file)
    assert result.returncode == 0, result.stderr
    written = json.loads(file.read_text(encoding="utf-8"))
    assert list(written["perturbations"]) == ["dotted", "upper_case"]
    # Capitals are undone by the normaliser, so nothing may move.
    assert written["perturbations"]["upper_case"]["mean_score_change"] == 0.0
    assert written["perturbations"]["dotted"]["mean_score_change"] > 0.0
    assert "upper_case" in result.stdout and "goal, no category loses more than 5 points" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["nothing"], "no artifact here"), (["ARTIFACT", "--json", "nowhere/file.json"], "there is no folder nowhere")],
)
def test_a_users_mistake_is_one_line(artifact: Path, arguments: list[str], expected: str) -> None:
    result = command(*[artifact if argument == "ARTIFACT" else argument for argument in arguments])
    assert result.returncode == 2
    assert expected in result.stderr and "Traceback" not in result.stderr
