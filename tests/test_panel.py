"""training.panel: artifacts that teach another classifier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.augment import training_texts
from training.data import Corpus, load_corpus
from training.errors import UserError
from training.evaluate import artifact_windows
from training.labels import Labels
from training.model import load_base, score, windows_of
from training.panel import artifact_teacher

TEXTS = ["on chante à la chorale puis on mange une tarte", "il insulte les gens à cause de leur origine", "", "a " * 90]


def test_it_says_what_the_artifact_says(artifact: Path, labels: Labels) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(artifact)
    plain = score(model, AutoTokenizer.from_pretrained(artifact), TEXTS, artifact_windows(artifact, labels), labels)
    told = artifact_teacher(artifact, labels)(TEXTS)
    # By the graph that is served, which may be of a coarser precision.
    assert told.shape == plain.shape and np.abs(told - plain).max() < 0.2
    assert np.abs(plain[0] - plain[1]).max() > 0.5


def test_recombined_rows_are_told_by_the_mean_of_all_teachers(artifact: Path, tiny_config: Any, labels: Labels) -> None:
    corpus: Corpus = load_corpus(tiny_config.data.sources, labels, tiny_config.data)
    examples = corpus.split("train")
    base = load_base(tiny_config.model, labels, [example.text for example in examples])
    windows = windows_of(tiny_config.model, base.tokenizer)

    def odds(teachers: list[str]) -> np.ndarray:
        optim = tiny_config.optim.model_copy(update={"recombine": 0.5, "teachers": teachers})
        config = tiny_config.model_copy(update={"optim": optim})
        rows = training_texts(base, windows, config, examples, labels).told(30)
        chances = np.array([row["labels"] for row in rows])
        return np.asarray(np.log(chances / (1 - chances)))

    linear, one, two = odds([]), odds([str(artifact)]), odds([str(artifact)] * 2)
    panel = 2 * one - linear
    assert np.abs(panel - linear).max() > 0.5
    assert np.allclose(two, (linear + 2 * panel) / 3, atol=1e-6)


def test_what_is_no_artifact_or_of_other_labels_is_refused(artifact: Path, labels: Labels, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no artifact here"):
        artifact_teacher(tmp_path, labels)
    other = shutil.copytree(artifact, tmp_path / "other")
    described = json.loads((other / "artifact.json").read_text(encoding="utf-8"))
    described["labels"]["categories"].reverse()
    (other / "artifact.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(UserError, match="other labels"):
        artifact_teacher(other, labels)
