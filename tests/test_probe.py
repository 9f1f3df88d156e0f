"""training.probe: what the encoder's states say, and a head that starts from it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CamembertConfig, CamembertForSequenceClassification

from training.calibration import sigmoid
from training.probe import TOKENS, States, encoder_states, start_head
from training.teacher import Ngrams, Teacher

PAD = 1


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    shape = CamembertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=PAD, num_labels=2, type_vocab_size=1, initializer_range=0.2,
        problem_type="multi_label_classification",
    )  # fmt: skip
    return CamembertForSequenceClassification(shape)


def texts(count: int) -> list[list[int]]:
    """Piece 7 stands in every second text, among other pieces."""
    chance = random.Random(0)
    drawn = [[chance.randrange(10, 100) for _ in range(chance.randrange(3, 20))] for _ in range(count)]
    return [[0, *ids, *([7] * 3 if index % 2 else []), 2] for index, ids in enumerate(drawn)]


def rows(count: int) -> list[dict[str, Any]]:
    told = [[0.95 if 7 in ids else 0.05, 0.3] for ids in texts(count)]
    return [{"input_ids": ids, "labels": labels} for ids, labels in zip(texts(count), told, strict=True)]


def test_states_are_those_of_the_model_one_text_at_a_time(model: Any) -> None:
    windows = texts(40)
    assert sum(map(len, windows)) < TOKENS
    model.eval()
    with torch.inference_mode():
        alone = [model.base_model(torch.tensor([ids])).last_hidden_state[0, 0].numpy() for ids in windows]
    assert np.allclose(encoder_states(model.base_model, windows, PAD), np.stack(alone), atol=1e-5)


def test_more_texts_than_one_pass_takes(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.eval()
    whole = encoder_states(model.base_model, texts(40), PAD)
    monkeypatch.setattr("training.probe.TOKENS", 30)
    assert np.allclose(encoder_states(model.base_model, texts(40), PAD), whole, atol=1e-5)


def test_the_head_starts_from_what_it_is_told(model: Any) -> None:
    """Nothing but the output layer changes, and texts that it was not told about are answered already."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    start_head(model, rows(400), pad_id=PAD)
    assert model.training
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    model.eval()
    others = texts(500)[400:]
    with torch.inference_mode():
        chances = np.stack([torch.sigmoid(model(torch.tensor([ids])).logits[0]).numpy() for ids in others])
    assert chances[1::2, 0].mean() > 0.7 > 0.3 > chances[::2, 0].mean()
    assert np.abs(chances[:, 1] - 0.3).max() < 0.05


def test_states_as_a_view_of_the_teacher(model: Any) -> None:
    """The teacher hears the encoder as it was: fine-tuning it afterwards changes no answer."""
    pieces = texts(120)
    targets = np.array([[7 in ids, 0] for ids in pieces], dtype=np.float32)
    groups = [f"g{index // 10}" for index in range(120)]
    states = States(model, pad_id=PAD, max_tokens=20)
    teacher = Teacher(pieces, targets, groups, [states])
    told = teacher(pieces)
    assert sigmoid(told)[1::2, 0].mean() > sigmoid(told)[::2, 0].mean() + 0.3
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert np.array_equal(teacher(pieces), told)


def test_views_are_averaged_and_none_is_louder_than_the_first(model: Any) -> None:
    """The labels are none of the pieces' doing, so n-grams have little to say, and the other view knows them."""
    pieces = texts(120)
    targets = np.array([[sum(ids) % 2, 0] for ids in pieces], dtype=np.float32)
    groups = [f"g{index // 10}" for index in range(120)]
    one, other = Teacher(pieces, targets, groups), Teacher(pieces, targets, groups, [Loud()])
    both = Teacher(pieces, targets, groups, [Ngrams(), Loud()])
    assert np.std(other(pieces)) > 1.1 * np.std(one(pieces))
    rest = 2 * both(pieces) - one(pieces)
    for label in (0, 1):
        assert np.std(rest[:, label]) == pytest.approx(np.std(one(pieces)[:, label]), rel=1e-6, abs=1e-9)
        assert np.mean(rest[:, label]) == pytest.approx(np.mean(one(pieces)[:, label]))
    assert np.corrcoef(rest[:, 0], other(pieces)[:, 0])[0, 1] == pytest.approx(1)
    assert np.array_equal(both.unseen, one.unseen)


class Loud:
    """A view that says nothing but the label, and is as good as sure."""

    c = 1e6
    most: int | None = None

    def fit_transform(self, pieces: Any) -> Any:
        return np.array([[50.0 if sum(ids) % 2 else -50.0] for ids in pieces])

    transform = fit_transform


def test_a_view_of_few_features_is_fitted_on_a_part() -> None:
    pieces = texts(120)
    targets = np.array([[sum(ids) % 2, 0] for ids in pieces], dtype=np.float32)
    view = Part()
    told = Teacher(pieces, targets, [f"g{index // 10}" for index in range(120)], [Ngrams(), view])(pieces)
    assert len(view.read) == 40 and all(ids in pieces for ids in view.read) and view.read != pieces[:40]
    assert told[targets[:, 0] == 1, 0].min() > told[targets[:, 0] == 0, 0].max()


class Part(Loud):
    most: int | None = 40

    def fit_transform(self, pieces: Any) -> Any:
        self.read = list(pieces)
        return self.transform(pieces)
