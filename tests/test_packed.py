"""training.packed: a step without padding is the step with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CamembertConfig, CamembertForSequenceClassification

from training.packed import MULTIPLE, pack, packed_forward

PAD = 1
WINDOWS = [[5, 20, 21, 6], [5, 30, 6], [5, *range(40, 70), 6]]


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    shape = CamembertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=PAD, num_labels=3, type_vocab_size=1, initializer_range=0.2,
        problem_type="multi_label_classification", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return CamembertForSequenceClassification(shape)


def padded(windows: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, windows))
    rows = [window + [PAD] * (width - len(window)) for window in windows]
    return {"input_ids": torch.tensor(rows), "attention_mask": (torch.tensor(rows) != PAD).long()}


def gradients(model: Any, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logits.pow(2).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("training", [False, True])
def test_logits_and_gradients_are_those_of_the_padded_batch(model: Any, training: bool) -> None:
    model.train(training)
    plain = model(**padded(WINDOWS)).logits
    expected = gradients(model, plain)
    with packed_forward(model):
        packed = model(**pack(WINDOWS, PAD)).logits
        actual = gradients(model, packed)
    assert torch.allclose(plain, packed, atol=1e-5)
    # What fills the row up reads the padding's embedding, which padded batches do not learn from either.
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(gradient, actual[name], atol=1e-4), name


def test_padded_batches_still_pass_and_the_model_is_left_as_it_was(model: Any) -> None:
    before = model(**padded(WINDOWS)).logits
    with packed_forward(model):
        model(**pack(WINDOWS, PAD))
        assert torch.equal(model(**padded(WINDOWS)).logits, before)
    assert "forward" not in vars(model)
    assert torch.equal(model(**padded(WINDOWS)).logits, before)


def test_a_row_by_hand() -> None:
    """Positions begin after the padding's; the row is filled up as a part of its own."""
    batch = pack([[5, 20, 6], [5, 6]], PAD)
    assert batch["lengths"] == [3, 2, MULTIPLE - 5] and batch["texts"] == 2
    assert batch["input_ids"][0, :6].tolist() == [5, 20, 6, 5, 6, PAD]
    assert batch["position_ids"][0, :6].tolist() == [2, 3, 4, 2, 3, PAD]
    assert pack([[5] * MULTIPLE], PAD)["lengths"] == [MULTIPLE]
