"""serving.engine: the same answers in every precision, whatever else is asked at the same time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import ArtifactError, Classifier
from serving.artifact import PRECISIONS, Windows, read_artifact
from serving.engine import _batches, cut, pack

TEXTS = [f"{'il menace ' * (index % 40)}la chorale numéro {index}" for index in range(60)]
WINDOWS = Windows(max_tokens=12, overlap=3, bos_id=0, eos_id=2, pad_id=1, unk_id=3, special_ids=frozenset({0, 1, 2, 4}))


def redescribe(artifact: Path, target: Path, **precision: Any) -> Path:
    """A copy whose artifact.json says something else about precision."""
    copy = shutil.copytree(artifact, target)
    described = json.loads((copy / "artifact.json").read_text(encoding="utf-8"))
    described["precision"].update(precision)
    (copy / "artifact.json").write_text(json.dumps(described), encoding="utf-8")
    return copy


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_are_those_of_a_lone_run(artifact: Path, precision: str) -> None:
    classifier = Classifier.from_dir(artifact, precision=precision)
    alone = np.concatenate([classifier.scores([text]) for text in TEXTS])
    np.testing.assert_allclose(classifier.scores(TEXTS), alone, atol=1e-3)
    np.testing.assert_allclose(classifier.scores(TEXTS[::-3]), alone[::-3], atol=1e-3)


def test_precision_overrides_the_artifacts_choice(artifact: Path) -> None:
    scores = {name: Classifier.from_dir(artifact, precision=name).scores(TEXTS) for name in PRECISIONS}
    assert np.array_equal(Classifier.from_dir(artifact).scores(TEXTS), scores["fp32"])
    for name in ("int8", "8bit"):
        assert 0 < np.abs(scores[name] - scores["fp32"]).max() < 0.1


def test_an_artifact_whose_gate_chose_int8_answers_so(artifact: Path, tmp_path: Path) -> None:
    copy = redescribe(artifact, tmp_path / "int8", served="int8")
    classifier = Classifier.from_dir(copy)
    assert classifier.artifact.precision == "int8"
    assert np.array_equal(classifier.scores(TEXTS), Classifier.from_dir(artifact, precision="int8").scores(TEXTS))
    assert classifier.predict(TEXTS[:1])[0]["route"] in ("moderate", "support", "none")


def test_a_precision_that_computes_otherwise_than_at_export_is_refused(artifact: Path, tmp_path: Path) -> None:
    """As products of 8-bit integers do on a processor that cuts their sums off."""
    copy = redescribe(artifact, tmp_path / "other", golden_tolerance={"int8": 0.0})
    with pytest.raises(ArtifactError, match="differ from those at export"):
        Classifier.from_dir(copy, precision="int8")


def test_where_company_matters_every_window_runs_alone(artifact: Path, tmp_path: Path) -> None:
    copy = redescribe(artifact, tmp_path / "alone", runs={"int8": "alone"})
    assert not read_artifact(copy).runs_alone and read_artifact(copy, precision="int8").runs_alone
    classifier = Classifier.from_dir(copy, precision="int8")
    assert np.array_equal(classifier.scores(TEXTS), np.concatenate([classifier.scores([text]) for text in TEXTS]))


@given(st.lists(st.integers(1, 300), max_size=40), st.sampled_from([0, 64, 512]))
def test_every_window_is_in_one_run_within_the_budget(lengths: list[int], budget: int) -> None:
    runs = list(_batches(lengths, budget))
    assert sorted(index for run in runs for index in run) == list(range(len(lengths)))
    assert all(len(run) == 1 or sum(lengths[index] for index in run) <= budget for run in runs)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60))
def test_windows_are_trainings(ids: list[int]) -> None:
    from training.model import Windows as TrainingWindows

    theirs = TrainingWindows(12, 3, bos_id=0, eos_id=2, pad_id=1, unk_id=3, special_ids=(0, 1, 2, 4))
    assert cut(ids, WINDOWS) == theirs.split(ids)


def test_a_packed_row_by_hand() -> None:
    """Two windows of 2 and 3 tokens: the first has one place of padding, at the end."""
    inputs = pack([[0, 2], [0, 9, 2]], pad_id=1)
    assert {name: value.tolist() for name, value in inputs.items()} == {
        "input_ids": [0, 2, 0, 9, 2],
        "position_ids": [2, 3, 2, 3, 4],
        "pad_index": [[0, 1, 0], [2, 3, 4]],
        "lengths": [2, 3],
        "unpad_index": [0, 1, 3, 4, 5],
        "first_index": [0, 2],
    }
    assert {name: value.dtype.name for name, value in inputs.items() if name != "lengths"} == dict.fromkeys(
        set(inputs) - {"lengths"}, "int64"
    )
    assert inputs["lengths"].dtype == np.int32
