"""training.predictions: anybody's scores as a file, checked, and judged like an artifact's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data import Corpus, label_matrix
from training.errors import UserError
from training.figures import evaluation, strictness
from training.labels import Labels
from training.predictions import (
    check_output,
    judge_file,
    read_predictions,
    read_thresholds,
    scored_labels,
    texts_of,
    write_predictions,
)
from training.rows import Example
from training.thresholds import choose_thresholds

CANARY = "perroquet-bleu-7413"
SENTENCE = f"il a dit {CANARY} à la gare"
Write = Callable[[Path, list[Any]], Path]


@pytest.fixture(scope="module")
def corpus(labels: Labels) -> Corpus:
    """Sixty texts of six writers in each of validation and test, thirty of two more in train."""
    examples, voices = [], [*labels.voice_ids, None]
    for index in range(150):
        positive = {"grooming"} if index % 3 == 0 else {"racism"} if index % 3 == 1 else set()
        voice = voices[index % 4] if positive else None
        split = "validation" if index < 60 else "test" if index < 120 else "train"
        held = frozenset(positive | ({voice} if voice else set()))
        examples.append(
            Example(SENTENCE, held, frozenset(labels.ids), f"e{index}", f"w{index // 10}", split, "r.jsonl", index)
        )
    return Corpus(tuple(examples), ())


@pytest.fixture(scope="module")
def scores(corpus: Corpus, labels: Labels) -> np.ndarray:
    """Of all texts: the truth, blurred."""
    noise = np.random.default_rng(0).random((150, len(labels.ids)))
    return 0.55 * noise + 0.4 * (label_matrix(corpus.examples, labels) == 1)


def only(scores: np.ndarray, labels: Labels, *names: str) -> np.ndarray:
    """NaN in all other columns."""
    return np.where(np.isin(labels.ids, names), scores, np.nan)


@pytest.fixture
def file(tmp_path: Path, corpus: Corpus, scores: np.ndarray, labels: Labels) -> Path:
    """Of validation and test."""
    path = tmp_path / "other.csv"
    write_predictions(path, corpus.examples[:120], scores[:120], labels)
    return path


def refused(path: Path, corpus: Corpus, labels: Labels) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_predictions(path, corpus, labels, split="test")
    return [line.strip() for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_what_is_written_is_read(
    ending: str, tmp_path: Path, corpus: Corpus, scores: np.ndarray, labels: Labels
) -> None:
    """Every digit of every score; the columns that are not scored stay out; no text."""
    path, part = tmp_path / f"scores{ending}", only(scores, labels, "grooming", "direct")
    write_predictions(path, texts_of(corpus, "test"), part[60:120], labels)
    assert CANARY.encode() not in path.read_bytes()
    found = read_predictions(path, corpus, labels, split="test")
    assert list(found) == [f"e{index}" for index in range(60, 120)]
    np.testing.assert_array_equal(np.stack(list(found.values())), part[60:120])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "e60", "label": "grooming", "score": 1.01}, "score: must be a number from 0 to 1"),
        ({"id": "e60", "label": "grooming", "score": -0.01}, "score: must be a number from 0 to 1"),
        ({"id": "e60", "label": "grooming", "score": None}, "score: must be a number from 0 to 1"),
        ({"id": "e60", "label": "grooming", "score": True}, "score: must be a number from 0 to 1"),
        ({"id": "e60", "label": "grooming", "score": 10**400}, "score: must be a number from 0 to 1"),
        ({"id": "e60", "label": "grooming", "score": "NaN"}, "score: must be a number from 0 to 1"),
        ({"id": "e60", "label": "grooming", "score": SENTENCE}, "score: must be a number from 0 to 1"),
        ({"id": "e60", "label": "toxic", "score": 0.5}, "label: unknown label 'toxic'; allowed: grooming, "),
        ({"id": "e60", "label": SENTENCE, "score": 0.5}, "label: unknown label (a value of "),
        ({"id": "e999", "label": "grooming", "score": 0.5}, "id: 'e999' is no text of the data"),
        ({"id": SENTENCE, "label": "grooming", "score": 0.5}, "id: (a value of 38 characters, not an identifier)"),
        ({"id": "e61", "label": "grooming", "score": 0.5}, "the same id and label stand on line 1"),
        ({"id": "e60", "grooming": 0.5}, "columns 'id', 'grooming'; must be id, label, score"),
        ({"id": "e60", "label": "racism", "score": 0, SENTENCE: 1}, "columns 'id', 'label', 'score', (a value of"),
        (SENTENCE, "broken JSON"),
        ("3", "must be a JSON object"),
    ],
)
def test_a_fault_is_told_by_its_line_and_without_text(
    row: Any, expected: str, tmp_path: Path, write_jsonl: Write, corpus: Corpus, labels: Labels
) -> None:
    rows = [{"id": "e61", "label": "grooming", "score": 0.5}, row]
    lines = refused(write_jsonl(tmp_path / "other.jsonl", rows), corpus, labels)
    assert lines[0].endswith("other.jsonl: 1 problem; nothing was judged")
    assert lines[1].startswith(f"other.jsonl:2: {expected}") and len(lines) == 2
    assert CANARY not in "".join(lines)


def test_all_faults_are_told_at_once_and_the_first_twenty_shown(
    tmp_path: Path, write_jsonl: Write, corpus: Corpus, labels: Labels
) -> None:
    rows = [{"id": f"x{index}", "label": "toxic", "score": 2} for index in range(9)]
    lines = refused(write_jsonl(tmp_path / "other.jsonl", rows), corpus, labels)
    assert "27 problems" in lines[0] and len(lines) == 22 and lines[-1] == "… and 7 more"
    assert [line.split(":")[1] for line in lines[1:4]] == ["1", "1", "1"] and "other.jsonl:7: " in lines[19]


def test_every_text_of_the_split_needs_every_label_of_the_file(
    tmp_path: Path, write_jsonl: Write, corpus: Corpus, labels: Labels
) -> None:
    """So does validation, once it is there in part; train is nobody's business."""
    rows = [{"id": f"e{index}", "label": "grooming", "score": 0.5} for index in (5, *range(60, 119), 140)]
    rows.append({"id": "e60", "label": "racism", "score": 0.5})
    lines = refused(write_jsonl(tmp_path / "other.jsonl", rows), corpus, labels)
    assert "120 problems" not in lines[0] and "119 problems" in lines[0]
    assert lines[1] == "other.jsonl: test text 'e61': no score for racism"
    shown = refused(write_jsonl(tmp_path / "other.jsonl", rows[1:60]), corpus, labels)
    assert shown[1:] == ["other.jsonl: test text 'e119': no score for grooming"]


def test_without_a_category_there_is_nothing_to_judge(
    tmp_path: Path, corpus: Corpus, scores: np.ndarray, labels: Labels
) -> None:
    path = tmp_path / "voices.csv"
    write_predictions(path, corpus.examples, only(scores, labels, "direct"), labels)
    assert refused(path, corpus, labels)[1:] == ["voices.csv: holds no score of a category"]
    path.write_text("id,label,score\n", encoding="utf-8")
    assert refused(path, corpus, labels)[1:] == ["voices.csv: holds no score of a category"]


def test_thresholds_come_from_validation_and_never_from_test(
    file: Path, tmp_path: Path, corpus: Corpus, scores: np.ndarray, labels: Labels
) -> None:
    """As `choose_thresholds` gives them; with other test scores, or in two files, they are the same."""
    held = texts_of(corpus, "validation")
    groups = [example.group or "" for example in held]
    expected = choose_thresholds(label_matrix(held, labels), scores[:60], labels.ids, groups)
    system = judge_file(file, corpus, labels, split="test", point="balanced")
    assert system.thresholds == expected and expected["grooming"]["balanced"]["threshold"] is not None
    np.testing.assert_array_equal(system.scores, scores[60:120])
    moved, alone = tmp_path / "moved.csv", tmp_path / "alone.csv"
    write_predictions(moved, corpus.examples[:120], np.concatenate([scores[:60], 1 - scores[60:120]]), labels)
    assert judge_file(moved, corpus, labels, split="test", point="balanced").thresholds == expected
    write_predictions(alone, texts_of(corpus, "test"), scores[60:120], labels)
    apart = judge_file(alone, corpus, labels, split="test", point="balanced", validation=file)
    assert (apart.thresholds, apart.strictness) == (expected, system.strictness)
    with pytest.raises(UserError, match="holds no score of the validation split, so no threshold can be chosen"):
        judge_file(alone, corpus, labels, split="test", point="balanced")


def test_the_strictness_of_validation_is_applied_to_test(
    file: Path, corpus: Corpus, scores: np.ndarray, labels: Labels
) -> None:
    """As an artifact's metrics.json holds it, and not where validation itself is judged."""
    system = judge_file(file, corpus, labels, split="test", point="balanced")
    held = texts_of(corpus, "validation")
    assert system.strictness == strictness(evaluation(held, scores[:60], system.thresholds, labels, resamples=0))
    assert system.strictness["by_voice_share"] is not None
    assert judge_file(file, corpus, labels, split="validation", point="balanced").strictness is None


def test_validation_must_hold_the_labels_of_the_file(
    file: Path, tmp_path: Path, corpus: Corpus, scores: np.ndarray, labels: Labels
) -> None:
    part = tmp_path / "part.csv"
    write_predictions(part, texts_of(corpus, "validation"), only(scores[:60], labels, "grooming"), labels)
    with pytest.raises(UserError, match=r"part\.csv: lacks .*racism"):
        judge_file(file, corpus, labels, split="test", point="balanced", validation=part)


def test_a_system_of_few_labels_is_judged_on_these(
    tmp_path: Path, corpus: Corpus, scores: np.ndarray, labels: Labels
) -> None:
    """Their rows are those of a system that scores everything; without voices nothing is said about a route."""
    path, test = tmp_path / "two.csv", texts_of(corpus, "test")
    write_predictions(path, corpus.examples[:120], only(scores[:120], labels, "grooming", "racism"), labels)
    system = judge_file(path, corpus, labels, split="test", point="balanced")
    assert scored_labels(system.scores, labels) == list(system.thresholds) == ["grooming", "racism"]
    found = evaluation(test, system.scores, system.thresholds, labels, strictness=system.strictness)
    chosen = {name: system.thresholds.get(name, {"balanced": {"threshold": None}}) for name in labels.ids}
    whole = evaluation(test, scores[60:120], chosen, labels, strictness=system.strictness)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for key in ("labels", "curves"):
        assert found[key] == {name: whole[key][name] for name in ("grooming", "racism")}
    assert found["not_scored"] == [name for name in labels.ids if name not in ("grooming", "racism")]
    assert found["macro"] == whole["macro"] and found["macro"]["over"] == 2 and whole["not_scored"] == []
    assert found["voice_confusion"] is None and whole["voice_confusion"] is not None
    ours, theirs = found["testimony_protection"], whole["testimony_protection"]
    assert ours["without_voices"] == theirs["without_voices"] and ours["without_voices"]["direct_recall"] > 0
    assert (ours["direct_texts"], ours["protected_texts"]) == (theirs["direct_texts"], theirs["protected_texts"])
    assert ours["wrongly_acted_upon"] is ours["direct_recall"] is ours["intervals"] is None
    for key in ("at_direct_recall", "at_validation_threshold"):
        assert ours[key]["likeliest_voice"] == ours[key]["by_voice_share"] == dict.fromkeys(ours[key]["without_voices"])
    assert ours["at_direct_recall"]["without_voices"]["direct_recall"] >= 0.9
    assert ours["at_validation_threshold"]["without_voices"]["threshold"] == system.strictness["without_voices"]


def test_one_voice_of_three_makes_no_route(corpus: Corpus, scores: np.ndarray, labels: Labels) -> None:
    """Its own row stands; of the likeliest nothing is known, nor is any voice an error."""
    part, test = only(scores[60:120], labels, "grooming", "direct"), texts_of(corpus, "test")
    chosen = {name: {"balanced": {"threshold": 0.5}} for name in ("grooming", "direct")}
    found = evaluation(test, part, chosen, labels, resamples=0)
    assert found["labels"]["direct"]["average_precision"] > 0.5 and found["voice_confusion"] is None
    assert found["testimony_protection"]["wrongly_acted_upon"] is None
    assert found["hardest"] and all(error["voice_answered"] == "none" for error in found["hardest"])


POINT = {"balanced": {"threshold": 0.5}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "must hold operating_points and labels"),
        ("[]", "must hold operating_points and labels"),
        ({"operating_points": ["balanced"]}, "must hold operating_points and labels"),
        ({"operating_points": ["balanced"], "labels": {}}, "lacks grooming"),
        ({"operating_points": ["strict"], "labels": {"grooming": POINT}}, "'balanced' is not in .*allowed: strict"),
        ({"operating_points": ["balanced"], "labels": {"grooming": {}}}, "must hold operating_points and labels"),
        (
            {"operating_points": ["balanced"], "labels": {"grooming": {"balanced": {"threshold": 5}}}},
            "grooming: balanced: threshold must be null or a number from 0 to 1",
        ),
    ],
)
def test_a_wrong_file_of_thresholds_is_told(content: Any, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        read_thresholds(path, ["grooming"], "balanced")
    with pytest.raises(UserError, match=r"nothing\.json: cannot be read"):
        read_thresholds(tmp_path / "nothing.json", ["grooming"], "balanced")


def test_thresholds_of_a_file_are_used_as_they_stand(
    file: Path, tmp_path: Path, corpus: Corpus, scores: np.ndarray, labels: Labels
) -> None:
    """With a name of their own, and without validation scores."""
    path = tmp_path / "thresholds.json"
    own = {name: {"mine": {"threshold": None if name == "sexism" else 0.25}} for name in labels.ids}
    path.write_text(json.dumps({"operating_points": ["mine"], "labels": own}), encoding="utf-8")
    write_predictions(file, texts_of(corpus, "test"), scores[60:120], labels)
    system = judge_file(file, corpus, labels, split="test", point="mine", thresholds=path)
    assert (system.thresholds, system.strictness) == (own, None)


def test_a_file_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--json .*there is no folder"):
        check_output("--json", tmp_path / "nowhere" / "a.json")
    with pytest.raises(UserError, match=r"cannot write this format; allowed: \.csv"):
        check_output("--output", tmp_path / "a.xlsx", [".csv"])
    check_output("--output", tmp_path / "a.CSV", [".csv"])
