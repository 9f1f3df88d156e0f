"""Shared fixtures: the label list, a small invented corpus, and one tiny artifact trained once for the whole run."""

from __future__ import annotations

import os

# Two threads on contended cores are slower than one; and nothing here may look for a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["BENTOML_DO_NOT_TRACK"] = "True"

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.config import RunConfig, load_config
from training.labels import Labels, load_labels

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "model.base=random",
    "model.max_tokens=32",
    "model.overlap=8",
    "model.compact={hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, vocabulary: 500}",
    "optim.epochs=6",
    "optim.batch_size=8",
    "optim.accumulation=2",
    "optim.learning_rate=5e-3",
    # The same figures on every processor.
    "optim.precision=fp32",
    "data.min_positives=0",
]

_SUBJECTS = {
    "sexual_extortion": "il menace de publier les images si je ne paie pas",
    "grooming": "il dit que je suis mature et que ça reste entre nous",
    "racism": "il insulte les gens à cause de leur origine",
    "cyberbullying": "toute la classe se moque de moi sur le groupe",
}
_ORDINARY = "on chante à la chorale puis on mange une tarte"
_PLACES = [
    "au stade",
    "à la gare",
    "chez mamie",
    "au marché",
    "en colonie",
    "au club",
    "dans le bus",
    "au travail",
    "au port",
    "en cours",
]
_COLOURS = ["rouge", "vert", "bleu", "gris", "noir", "blanc"]
_TIMES = ["lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche", "hier soir", "ce matin", "en avril"]


@pytest.fixture(scope="session")
def labels() -> Labels:
    return load_labels()


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[[Path, list[Any]], Path]:
    """Write rows (or raw lines) as JSONL."""

    def write(path: Path, rows: list[Any]) -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def corpus_rows(count: int = 160, seed: int = 0) -> list[dict[str, Any]]:
    """Labelled rows that differ from each other, with groups and splits; learnable by the tiniest model."""
    chance = random.Random(seed)
    rows = []
    for index in range(count):
        category = [*_SUBJECTS, None][index % 5]
        words = [_SUBJECTS.get(category or "", _ORDINARY), chance.choice(_PLACES), chance.choice(_TIMES)]
        words += ["numéro", str(index), chance.choice(_COLOURS), "".join(chance.choices("bcdfgmnprstaeiou", k=12))]
        rows.append(
            {
                "id": f"r{index}",
                "text": " ".join(words),
                "labels": [category] if category else [],
                "minor_involved": category == "grooming",
                "voice": "testimony" if category else None,
                "group": f"g{index // 10}",
                "split": _split(index // 10, count // 10),
            }
        )
    return rows


def _split(group: int, groups: int) -> str:
    return "test" if group >= groups * 0.85 else "validation" if group >= groups * 0.7 else "train"


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory, write_jsonl: Callable[[Path, list[Any]], Path]) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "rows.jsonl", corpus_rows())


@pytest.fixture(scope="session")
def tiny_config(corpus_file: Path) -> RunConfig:
    config = load_config(None, [*TINY, "data.near_duplicate=0.99"])
    config.data.sources = [str(corpus_file)]
    config.name = "vigie-tiny"
    return config


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_config: RunConfig, labels: Labels) -> Path:
    """A complete artifact of a model far too small to be any good."""
    from training.data import load_corpus
    from training.train import train

    config = tiny_config.model_copy(deep=True)
    config.output = str(tmp_path_factory.mktemp("artifacts") / "tiny")
    folder = train(config, load_corpus(config.data.sources, labels, config.data), labels)
    _check_it_learnt(folder)
    return folder


def _check_it_learnt(folder: Path) -> None:
    """A model that answers the same to every text would let tests of equality pass for nothing."""
    from serving import Classifier

    scores = Classifier.from_dir(folder).scores([_ORDINARY, _SUBJECTS["racism"]])
    assert abs(scores[0] - scores[1]).max() > 0.1
