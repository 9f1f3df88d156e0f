"""serving.artifact and serving.classifier: nothing is served that does not check out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import ArtifactError, Classifier
from serving.artifact import read_artifact
from training.labels import Labels

Change = Callable[[Any], Any]


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(artifact, tmp_path / "elsewhere")


def edit(path: Path, change: Change) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def rehash(folder: Path, name: str) -> None:
    """Bring artifact.json in line with a changed file, so that a later check is the one that must catch it."""
    import hashlib

    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    edit(folder / "artifact.json", lambda value: value["files"].update({name: digest}))


def test_labels_are_read_from_the_artifact(artifact: Path, labels: Labels) -> None:
    assert list(read_artifact(artifact).label_ids) == labels.ids


@pytest.mark.parametrize("name", ["artifact.json", "model.onnx", "golden.jsonl", "thresholds.json", "tokenizer.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} missing"):
        read_artifact(copy)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "calibration.json"])
def test_an_altered_file_is_refused(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match=f"{name}: is not the file that was exported"):
        read_artifact(copy)


def _swap(value: Any) -> None:
    value["labels"]["categories"][0], value["labels"]["categories"][1] = (
        value["labels"]["categories"][1],
        value["labels"]["categories"][0],
    )


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("artifact.json", lambda value: value.update(format=99), "format 99; this version of Vigie reads format 1"),
        ("artifact.json", _swap, "in another order"),
        ("artifact.json", lambda value: value.pop("windows"), "lacks 'windows'"),
        ("thresholds.json", lambda value: value.update(default="best"), "default 'best' is not one of recall_first"),
        ("thresholds.json", lambda value: value["labels"].pop("racism"), "check racism"),
        (
            "thresholds.json",
            lambda value: value["labels"]["racism"]["balanced"].update(threshold=1.5),
            "racism.balanced",
        ),
        (
            "thresholds.json",
            lambda value: value["labels"]["racism"]["balanced"].update(threshold="0.5"),
            "racism.balanced",
        ),
        ("thresholds.json", lambda value: value["operating_points"].append("mine"), r"mine.threshold is 'missing'"),
        ("thresholds.json", lambda value: value["labels"].update(racism=[0.5]), "holds it in another form"),
    ],
)
def test_what_does_not_fit_is_told_by_key(copy: Path, name: str, change: Change, expected: str) -> None:
    edit(copy / name, change)
    with pytest.raises(ArtifactError, match=expected):
        read_artifact(copy)


CURVE = {"method": "isotonic", "x": [-4.0, 0.0, 3.0], "y": [0.01, 0.3, 0.98]}


def set_calibration(folder: Path, label: str, entry: Any) -> None:
    edit(folder / "calibration.json", lambda value: value["labels"].update({label: entry}))
    rehash(folder, "calibration.json")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"method": "beta"}, r"racism\.method is 'beta'; allowed: identity, temperature, platt, isotonic"),
        ({"a": 1.0}, r"racism\.method is None"),
        ("platt", "racism must hold a method and what it needs"),
        ({"method": "platt", "a": 1.0}, r"racism: lacks b, which method platt needs"),
        ({"method": "temperature", "a": float("nan")}, r"racism\.a is nan; a finite number is needed"),
        ({"method": "platt", "a": "1", "b": 0.0}, r"racism\.a is '1'; a finite number"),
        ({"method": "platt", "a": -1.0, "b": 0.0}, r"racism\.a is -1\.0; a slope must be above 0"),
        (CURVE | {"x": [0.0, 1.0]}, "racism: x has 2 points and y 3"),
        (CURVE | {"x": [0.0], "y": [0.5]}, "at least 2"),
        (CURVE | {"x": [-4.0, 3.0, 3.0]}, r"racism\.x must rise"),
        (CURVE | {"y": [0.01, 0.3, 0.2]}, r"racism\.y falls"),
        (CURVE | {"y": [0.01, float("nan"), 0.98]}, r"racism\.y\[1\] is nan"),
        (CURVE | {"y": [0.0, 0.3, 0.98]}, r"racism\.y goes from 0\.0 to 0\.98"),
        (CURVE | {"y": [0.01, 0.3, 1.0]}, "above 0 and below 1"),
        (CURVE | {"x": 3.0}, r"racism\.x must be a list of numbers"),
    ],
)
def test_a_calibration_that_does_not_hold_is_told_by_key(copy: Path, entry: Any, expected: str) -> None:
    set_calibration(copy, "racism", entry)
    with pytest.raises(ArtifactError, match=r"calibration\.json: " + expected if "racism" in expected else expected):
        read_artifact(copy)


def test_an_artifact_of_before_is_still_read(copy: Path) -> None:
    """Written when there were two methods, and nothing but these keys."""
    for label in read_artifact(copy).label_ids:
        set_calibration(copy, label, {"method": "identity", "positives": 3})
    set_calibration(copy, "racism", {"method": "platt", "a": 0.5, "b": -0.25, "positives": 45})
    artifact = read_artifact(copy)
    column = artifact.label_ids.index("racism")
    assert (artifact.calibration.slopes[column], artifact.calibration.intercepts[column]) == (0.5, -0.25)
    assert set(artifact.calibration.slopes) == {0.5, 1.0} and artifact.calibration.curves == {}


def test_every_method_is_served_as_training_means_it(copy: Path, labels: Labels) -> None:
    from training.evaluate import score_artifact

    set_calibration(copy, "racism", CURVE)
    set_calibration(copy, "grooming", {"method": "temperature", "a": 0.5})
    set_calibration(copy, "sexism", {"method": "platt", "a": 2.0, "b": 1.0})
    set_calibration(copy, "direct", {"method": "identity"})
    texts = ["la chorale chante", "il insulte les gens à cause de leur origine", "il menace de publier les images"]
    served = Classifier(read_artifact(copy)).scores(texts)
    np.testing.assert_allclose(served, score_artifact(copy, texts, labels), atol=1e-4)


def test_a_precision_that_is_not_there_is_told(copy: Path) -> None:
    with pytest.raises(ArtifactError, match="precision 'fp16' is not in this artifact; it has: fp32, int8"):
        read_artifact(copy, precision="fp16")
    (copy / "model.int8.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.int8\.onnx: missing, which precision int8 needs"):
        read_artifact(copy, precision="int8")


def test_golden_sentences_that_score_otherwise_stop_it(copy: Path) -> None:
    """As a library that computes something else would: here, other calibration than at export."""
    edit(
        copy / "calibration.json", lambda value: value["labels"].update(racism={"method": "platt", "a": 1.0, "b": 3.0})
    )
    rehash(copy, "calibration.json")
    with pytest.raises(ArtifactError, match=r"differ from those at export by up to 0\.\d+, more than 0\.001"):
        Classifier.from_dir(copy)


def test_a_copy_in_another_folder_scores_the_same(artifact: Path, copy: Path) -> None:
    """Weights of torch are not needed to serve, so a copy without them does as well."""
    (copy / "model.safetensors").unlink()
    texts = ["la chorale chante", "il menace de publier les images", ""]
    first, second = Classifier.from_dir(artifact).scores(texts), Classifier.from_dir(copy).scores(texts)
    assert np.array_equal(first, second)


def test_served_scores_are_trainings(artifact: Path, labels: Labels) -> None:
    """Two rooms, two implementations, one meaning: torch there, packed ONNX here, on texts of any kind and length."""
    from training.evaluate import score_artifact

    composed = [
        "e\u0301te\u0301",
        "\uff50\uff4c\uff45\uff49\uff4e\uff45 largeur",
        "\u202eà l'envers",
        "\u200bzéro\u200b",
    ]
    typed = ["<s> </s> <mask>", "\ud83d seul", "a\u0000b", "\U0001f469\u200d\U0001f692", "MAJUSCULES !!!"]
    texts = ["court", "", "é" * 500, "un texte " * 200, *composed, *typed]
    np.testing.assert_allclose(
        Classifier.from_dir(artifact).scores(texts), score_artifact(artifact, texts, labels), atol=1e-4
    )


def test_scores_do_not_depend_on_company(artifact: Path) -> None:
    classifier = Classifier.from_dir(artifact)
    texts = [f"{'mot ' * (index % 70)}numéro {index}" for index in range(120)]
    together = classifier.scores(texts)
    alone = np.concatenate([classifier.scores([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_an_answer_holds_what_is_promised(artifact: Path, labels: Labels) -> None:
    (answer,) = Classifier.from_dir(artifact).predict(["il menace de publier les images si je ne paie pas"])
    assert list(answer["categories"]) == labels.category_ids
    assert list(answer["voice"]["scores"]) == labels.voice_ids
    assert answer["route"] in ("moderate", "support", "none")
    assert answer["flagged"] == any(score["flagged"] for score in answer["categories"].values())


def test_an_operating_point_changes_flags_and_never_scores(copy: Path) -> None:
    def open_and_shut(value: Any) -> None:
        for label in value["labels"].values():
            label["recall_first"]["threshold"], label["precision_first"]["threshold"] = 0.0, None

    edit(copy / "thresholds.json", open_and_shut)
    classifier = Classifier.from_dir(copy)
    wide, narrow = (
        classifier.predict(["bonjour"], operating_point=point)[0] for point in ("recall_first", "precision_first")
    )
    assert [score["score"] for score in wide["categories"].values()] == [
        score["score"] for score in narrow["categories"].values()
    ]
    assert all(score["flagged"] for score in wide["categories"].values()) and wide["voice"]["label"] is not None
    assert not narrow["flagged"] and narrow["voice"]["label"] is None and narrow["route"] == "none"
    with pytest.raises(ValueError, match="recall_first, balanced, precision_first"):
        classifier.predict(["bonjour"], operating_point="best")


def test_editing_the_thresholds_changes_flags_and_never_a_score(copy: Path) -> None:
    """Also under a name of the operator's own."""

    def add_point(value: Any) -> None:
        value["operating_points"].append("night_shift")
        for label in value["labels"].values():
            label["night_shift"] = {"threshold": 0.0}
        value["labels"]["racism"]["night_shift"] = {"threshold": None, "reason": "not our task"}

    texts = ["bonjour", "il insulte les gens à cause de leur origine"]
    before = Classifier.from_dir(copy)
    with pytest.raises(ValueError, match="operating_point must be one of"):
        before.predict(texts, operating_point="night_shift")
    edit(copy / "thresholds.json", add_point)
    after = Classifier.from_dir(copy)
    assert np.array_equal(before.scores(texts), after.scores(texts))
    for old, new in zip(before.predict(texts), after.predict(texts, operating_point="night_shift"), strict=True):
        for label, answer in new["categories"].items():
            assert answer == {"score": old["categories"][label]["score"], "flagged": label != "racism"}
        assert new["voice"]["scores"] == old["voice"]["scores"]
    assert after.predict(texts) == before.predict(texts)


@pytest.mark.parametrize(
    ("voice", "flagged", "route"),
    [
        ("direct", True, "moderate"),
        ("testimony", True, "support"),
        ("commentary", True, "none"),
        ("direct", False, "none"),
    ],
)
def test_the_route_follows_the_likeliest_voice(copy: Path, voice: str, flagged: bool, route: str) -> None:
    """Also where no voice is sure enough to be named."""

    def all_at_half(value: Any) -> None:
        for label in value["labels"].values():
            label["balanced"]["threshold"] = 0.5

    edit(copy / "thresholds.json", all_at_half)
    classifier = Classifier.from_dir(copy)
    ids = classifier.artifact.label_ids
    scores = np.full((1, len(ids)), 0.1)
    scores[0, ids.index(voice)] = 0.2
    scores[0, ids.index("racism")] = 0.9 if flagged else 0.1
    (answer,) = classifier.answers(scores)
    assert (answer["route"], answer["voice"]["label"]) == (route, None)


@pytest.mark.parametrize("wrong", ["une chaîne seule", [b"octets"], [None]])
def test_something_other_than_texts_is_refused(artifact: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        Classifier.from_dir(artifact).predict(wrong)


def test_int8_answers_nearly_the_same(artifact: Path) -> None:
    texts = ["la chorale chante", "il menace de publier les images"]
    exact, coarse = (Classifier.from_dir(artifact, precision=name).scores(texts) for name in ("fp32", "int8"))
    np.testing.assert_allclose(exact, coarse, atol=0.1)
