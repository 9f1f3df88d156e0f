"""training.export, training.onnx_graph, the model card and the report: all or nothing, and equal to torch."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from training.config import load_config
from training.errors import UserError
from training.evaluate import score_artifact
from training.export import _built_beside, golden_texts, refuse_existing
from training.labels import Labels
from training.model import Windows, encode, score
from training.onnx_run import onnx_scores

FILES = {
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "model.onnx", "model.int8.onnx",
    "model.8bit.onnx",
    "artifact.json", "thresholds.json", "calibration.json", "golden.jsonl", "metrics.json", "report.html", "README.md",
    "run.yaml",
}  # fmt: skip


def test_the_directory_holds_exactly_what_is_promised(artifact: Path) -> None:
    assert {path.name for path in artifact.iterdir()} == FILES


def test_any_hugging_face_tool_loads_it(artifact: Path, labels: Labels) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(artifact)
    assert [model.config.id2label[index] for index in range(14)] == labels.ids
    assert model.config.problem_type == "multi_label_classification"
    assert AutoTokenizer.from_pretrained(artifact)("la chorale")["input_ids"]


def test_the_onnx_graph_equals_torch(artifact: Path, labels: Labels) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(artifact)
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    described = json.loads((artifact / "artifact.json").read_text(encoding="utf-8"))
    ids = described["tokenizer"]
    windows = Windows(**described["windows"], **{**ids, "special_ids": tuple(ids["special_ids"])})
    texts = [*golden_texts(), "", "x", "é" * 400]
    exported = onnx_scores(artifact / "model.onnx", encode(texts, tokenizer, windows), 1, 3)
    np.testing.assert_allclose(exported, score(model, tokenizer, texts, windows, labels), atol=1e-4)


def test_golden_scores_are_those_of_the_torch_weights(artifact: Path, labels: Labels) -> None:
    rows = [json.loads(line) for line in (artifact / "golden.jsonl").read_text(encoding="utf-8").splitlines()]
    own = score_artifact(artifact, [row["text"] for row in rows], labels)
    np.testing.assert_allclose(own, np.array([row["scores"] for row in rows]), atol=1e-4)


def test_the_resolved_configuration_is_kept(artifact: Path) -> None:
    assert load_config(artifact / "run.yaml").name == "vigie-tiny"


def test_the_card_takes_its_figures_from_metrics(artifact: Path) -> None:
    card = (artifact / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n")[1])
    test = json.loads((artifact / "metrics.json").read_text(encoding="utf-8"))["test"]
    values = {item["type"]: item["value"] for item in header["model-index"][0]["results"][0]["metrics"]}
    assert values["average_precision"] == pytest.approx(test["macro"]["average_precision"], abs=1e-4)
    assert f"{test['labels']['racism']['average_precision']:.3f}" in card
    assert "written for the project" in card


def test_the_report_loads_nothing_from_elsewhere_and_quotes_no_text(artifact: Path, corpus_file: Path) -> None:
    page = (artifact / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", page)
    for line in corpus_file.read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["text"] not in page


def test_an_artifact_is_refused_its_place_unless_asked(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--overwrite"):
        refuse_existing(artifact, overwrite=False)
    refuse_existing(artifact, overwrite=True)
    (tmp_path / "thesis.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(UserError, match="is no artifact"):
        refuse_existing(tmp_path, overwrite=True)


def test_a_failure_leaves_what_stood_there(tmp_path: Path) -> None:
    """Nothing half-written, neither in the place nor beside it."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "artifact.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RuntimeError), _built_beside(target, overwrite=True) as folder:
        (folder / "artifact.json").write_text("half", encoding="utf-8")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "artifact.json").read_text(encoding="utf-8") == "{}"


def test_overwriting_replaces_the_whole_directory(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("old", encoding="utf-8")
    with _built_beside(target, overwrite=True) as folder:
        (folder / "new.txt").write_text("new", encoding="utf-8")
    assert [path.name for path in target.iterdir()] == ["new.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_graph_that_differs_from_torch_is_not_written(
    artifact: Path, labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check before the rename can fail: with one weight changed after the export it does."""
    from transformers import AutoModelForSequenceClassification

    import training.export as export
    from training.onnx_graph import write_onnx

    changed = shutil.copytree(artifact, tmp_path / "changed")
    model = AutoModelForSequenceClassification.from_pretrained(changed)
    model.classifier.out_proj.bias.data += 0.01
    write_onnx(model, changed / "model.onnx")
    original = AutoModelForSequenceClassification.from_pretrained(artifact)
    from transformers import AutoTokenizer

    from training.model import BaseModel, windows_of

    tokenizer = AutoTokenizer.from_pretrained(artifact)
    config = load_config(artifact / "run.yaml")
    base = BaseModel(original, tokenizer, "random", None, False)
    trained = export.Trained(base, windows_of(config.model, tokenizer), labels, config, None, {}, {}, {})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="differs from torch by"):
        export._check_onnx(trained, changed)
