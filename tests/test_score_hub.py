"""training.score_hub: any sequence classifier's scores as a file, on tiny models with random weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_compare import CANARY, varied_rows
from training import score_hub
from training.config import load_config
from training.data import load_corpus
from training.errors import UserError
from training.labels import Labels
from training.model import load_base
from training.predictions import read_predictions

TEXTS = ["il insulte les gens " * 30, "bus", "on chante à la chorale", ""]
Score = Callable[..., int]


def save(folder: Path, labels: Labels, outputs: list[str], **config: Any) -> Path:
    """A classifier of the smallest size, read at most 30 tokens at a time, with outputs of these names."""
    from transformers import CamembertForSequenceClassification

    shape = "model.compact={hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, vocabulary: 400}"
    settings = load_config(None, ["model.base=random", "model.max_tokens=32", "model.overlap=8", shape])
    torch.manual_seed(0)
    base = load_base(settings.model, labels, [row["text"] for row in varied_rows()])
    named = {"id2label": dict(enumerate(outputs)), "label2id": {name: i for i, name in enumerate(outputs)}}
    changed = {**base.model.config.to_dict(), "problem_type": None, **named, "num_labels": len(outputs), **config}
    CamembertForSequenceClassification(type(base.model.config)(**changed)).save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, labels: Labels) -> Path:
    return save(tmp_path_factory.mktemp("two"), labels, ["ordinary", "toxic"])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Score:
    def command(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["score_hub", *map(str, arguments)])
        return score_hub.main()

    return command


def alone(folder: Path, text: str) -> torch.Tensor:
    """The logits of one text, computed without us."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    encoded = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=32, return_tensors="pt")
    with torch.inference_mode():
        logits: torch.Tensor = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**encoded).logits[0]
    return logits


def test_two_outputs_share_one_and_independent_ones_do_not(two: Path) -> None:
    """Each text as it would be alone: the order of the batch and its padding change nothing."""
    model, tokenizer = score_hub.load(str(two))
    softmax, cut = score_hub.probabilities(model, tokenizer, TEXTS)
    sigmoid, _ = score_hub.probabilities(model, tokenizer, TEXTS, activation="sigmoid")
    assert cut == 1 and softmax.shape == sigmoid.shape == (4, 2)
    for row, text in enumerate(TEXTS):
        logits = alone(two, text).double()
        np.testing.assert_allclose(softmax[row], logits.softmax(-1).numpy(), atol=1e-6)
        np.testing.assert_allclose(sigmoid[row], logits.sigmoid().numpy(), atol=1e-6)
    assert np.ptp(softmax[:, 0]) > 1e-4


@pytest.mark.parametrize(
    ("outputs", "config"), [(["toxic"], {}), (["a", "b", "c"], {"problem_type": "multi_label_classification"})]
)
def test_one_output_and_several_labels_are_independent(
    outputs: list[str], config: dict[str, Any], tmp_path: Path, labels: Labels
) -> None:
    folder = save(tmp_path, labels, outputs, **config)
    scores, _ = score_hub.probabilities(*score_hub.load(str(folder)), TEXTS[1:2])
    np.testing.assert_allclose(scores[0], alone(folder, TEXTS[1]).double().sigmoid().numpy(), atol=1e-6)


def test_the_highest_of_a_labels_outputs_counts(labels: Labels) -> None:
    """One output may stand for two labels; a name may hold an equals sign; what is not mapped is not scored."""
    mapping = score_hub.parse_map(["a=b=racism", "c=racism", "c=sexism"], ["a=b", "c"], labels)
    assert mapping == {"racism": [0, 1], "sexism": [1]}
    found = score_hub.mapped(np.array([[0.2, 0.7], [0.9, 0.1]]), mapping, labels)
    assert found[:, labels.ids.index("racism")].tolist() == [0.7, 0.9]
    assert found[:, labels.ids.index("sexism")].tolist() == [0.7, 0.1]
    assert np.isnan(found).sum() == 2 * (len(labels.ids) - 2)


def test_what_is_written_can_be_evaluated(
    two: Path, labels: Labels, run: Score, tmp_path: Path, write_jsonl: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The scores of validation and test for the mapped label, in their places; nothing of a text."""
    data, output = write_jsonl(tmp_path / "rows.jsonl", varied_rows()), tmp_path / "other.csv"
    assert run(two, "--output", output, "--data", data, "--map", "toxic=cyberbullying") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("scored 120 texts of validation, test for cyberbullying") and captured.err == ""
    assert CANARY not in captured.out + output.read_text(encoding="utf-8")
    corpus = load_corpus([str(data)], labels, load_config().data, trainable=False)
    found = read_predictions(output, corpus, labels, split="test")
    assert len(found) == 120
    for example in (corpus.examples[0], corpus.examples[-1]):
        expected = alone(two, example.text).double().softmax(-1)[1].item()
        assert found[example.id][labels.ids.index("cyberbullying")] == pytest.approx(expected, abs=1e-6)


def test_an_encoder_without_classifier_is_refused(tmp_path: Path, labels: Labels) -> None:
    """Its scores would be drawn at random."""
    from transformers import AutoModel, AutoTokenizer

    save(tmp_path / "whole", labels, ["a", "b"])
    AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "encoder")
    AutoTokenizer.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match="holds no trained classifier"):
        score_hub.load(str(tmp_path / "encoder"))


def test_users_mistakes_are_one_line(
    two: Path, run: Score, tmp_path: Path, write_jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = write_jsonl(tmp_path / "rows.jsonl", varied_rows()), tmp_path / "other.csv"
    mistakes = {
        "--map 'rude=racism': must be OUTPUT=LABEL; the model's outputs: ordinary, toxic": [two, "rude=racism"],
        "--map 'toxic': must be OUTPUT=LABEL": [two, "toxic"],
        "unknown label 'hate'; allowed: grooming": [two, "toxic=hate"],
        "no such classifier here or on the hub": [tmp_path / "nothing", "toxic=racism"],
        "has no train split": [two, "toxic=racism", "--split", "train"],
        "there is no folder": [two, "toxic=racism", "--output", tmp_path / "nothing" / "x.csv"],
        "cannot write this format": [two, "toxic=racism", "--output", tmp_path / "x.txt"],
    }
    for expected, (model, mapping, *others) in mistakes.items():
        assert run(model, "--output", output, "--data", data, "--map", mapping, *others) == 2
        message = capsys.readouterr().err
        assert expected in message and len(message.splitlines()) == 1
    assert not output.exists()
