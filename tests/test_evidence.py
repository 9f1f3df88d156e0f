"""training.evidence: what each token adds, as a target at every position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import CamembertConfig, CamembertForSequenceClassification

from tests.conftest import ROOT
from training.config import load_config
from training.errors import UserError
from training.evidence import HEAD, evidence_forward, evidence_of, spared, standardised, with_evidence
from training.packed import pack, packed_forward
from training.teacher import Ngrams, Teacher, Words

PAD, BOS, EOS = 1, 5, 6
WINDOWS = [[BOS, 20, 21, EOS], [BOS, 30, EOS]]


def shares(ids: Any) -> np.ndarray:
    """Each token adds its own number, and half of it to the second label."""
    return np.stack([np.array(ids), np.array(ids) / 2], axis=1)


def test_the_shares_of_a_text_sum_up_to_what_the_teacher_says_of_it() -> None:
    """Every n-gram comes once, so the sum is the log-odds without bias, times the length of the TF-IDF vector."""
    pieces = [[1, 2, 9], [3, 4, 9], [1, 4, 9], [3, 2, 9]]
    view = Ngrams()
    features = view.fit_transform(pieces)
    weights = np.random.default_rng(0).normal(size=(features.shape[1], 2))
    text = [1, 2, 4, 9, 3]
    vector = view.transform([text])
    rarity = view._vectorizer.idf_[vector.indices]
    norm = rarity[0] / vector.data[0]
    assert view.shares(text, weights).sum(axis=0) == pytest.approx((vector @ weights)[0] * norm)


def test_pieces_that_the_teacher_has_not_met_add_nothing() -> None:
    targets = np.array([[1], [0], [1], [0]], dtype=np.float32)
    teacher = Teacher([[1, 2], [3, 4], [1, 5], [3, 6]], targets, ["a", "a", "b", "b"])
    told = teacher.shares([99, 1, 98])
    assert told.shape == (3, 1)
    assert told[0, 0] == 0 and told[2, 0] == 0 and told[1, 0] > 0


def test_a_teacher_of_words_alone_is_refused() -> None:
    targets = np.array([[1], [0]], dtype=np.float32)
    words = Words(lambda texts: ["oui" * (1 + sum(ids)) for ids in texts])
    words._union.transformer_list.pop()
    with pytest.raises(ValueError, match="n-grams"):
        Teacher([[1], [2]], targets, ["a", "b"], [words]).shares([1])


def test_control_tokens_are_spared_and_the_rest_is_brought_to_one_scale() -> None:
    told = standardised(spared(shares, [BOS, EOS]), WINDOWS)(WINDOWS[0])
    assert np.isnan(told[[0, 3]]).all()
    scale = np.sqrt(np.mean(np.square([20, 21, 30])))
    assert told[1:3, 0] == pytest.approx(np.array([20, 21]) / scale, rel=1e-4)
    assert told[:, 1] == pytest.approx(told[:, 0], rel=1e-4, nan_ok=True)


def test_targets_of_a_batch_stand_where_its_tokens_stand() -> None:
    packed = evidence_of(shares, WINDOWS, pack(WINDOWS, PAD)["input_ids"])
    padded = evidence_of(shares, WINDOWS, torch.tensor([WINDOWS[0], [*WINDOWS[1], PAD]]))
    assert packed[0, :7, 0].tolist() == [*WINDOWS[0], *WINDOWS[1]]
    assert packed[0, 7:].isnan().all()
    assert padded[0, :, 0].tolist() == WINDOWS[0] and padded[1, :3, 0].tolist() == WINDOWS[1]
    assert padded[1, 3].isnan().all()


@pytest.fixture(params=[1, 2])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    shape = CamembertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=request.param, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=PAD, num_labels=2, type_vocab_size=1, initializer_range=0.2,
        problem_type="multi_label_classification", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return CamembertForSequenceClassification(shape)


def batches() -> tuple[dict[str, Any], dict[str, Any]]:
    told = standardised(spared(shares, [BOS, EOS, PAD]), WINDOWS)
    packed = pack(WINDOWS, PAD)
    rows = torch.tensor([WINDOWS[0], [*WINDOWS[1], PAD]])
    padded = {"input_ids": rows, "attention_mask": (rows != PAD).long()}
    return (
        {**packed, "evidence": evidence_of(told, WINDOWS, packed["input_ids"])},
        {**padded, "evidence": evidence_of(told, WINDOWS, rows)},
    )


def test_the_loss_is_the_same_packed_and_padded_and_reaches_the_embeddings(model: Any) -> None:
    packed, padded = batches()
    with packed_forward(model), evidence_forward(model, 2):
        losses = [model(**batch)["evidence_loss"] for batch in (packed, padded)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
        losses[0].backward()
    gradient = model.base_model.embeddings.word_embeddings.weight.grad
    assert gradient[[20, 21, 30]].abs().sum() > 0


def test_it_can_be_learnt_and_the_model_is_left_as_it_was(model: Any) -> None:
    names, (packed, padded) = set(dict(model.named_parameters())), batches()
    with packed_forward(model), evidence_forward(model, 2):
        assert set(dict(model.named_parameters())) == names | {f"{HEAD}.weight", f"{HEAD}.bias"}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(60):
            losses.append(model(**packed)["evidence_loss"])
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        assert losses[-1].item() < 0.1 * losses[0].item()
        assert "evidence_loss" not in model(input_ids=padded["input_ids"])
    assert set(dict(model.named_parameters())) == names
    assert "forward" not in vars(model)


def test_the_second_loss_is_added_with_its_weight() -> None:
    loss = with_evidence(lambda outputs, labels, items: outputs["logits"].sum(), 4.0)
    outputs = {"logits": torch.tensor([1.0, 2.0])}
    assert loss(outputs, torch.zeros(2)) == 3.0
    assert loss({**outputs, "evidence_loss": torch.tensor(0.5)}, torch.zeros(2)) == 5.0


def test_evidence_without_a_linear_teacher_is_refused_by_name() -> None:
    settings = ["optim.teacher=0", "optim.recombine=0", "optim.probe=false", "optim.evidence=1"]
    with pytest.raises(UserError, match=r"optim\.evidence needs a linear teacher"):
        load_config(ROOT / "configs" / "default.yaml", settings)
