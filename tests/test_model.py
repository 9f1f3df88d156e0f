"""training.model and training.sampler: windows, the masked loss, scoring, and where a base model comes from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.config import ModelConfig, load_config
from training.errors import UserError
from training.labels import Labels
from training.model import (
    BaseModel,
    MaskedLoss,
    Windows,
    encode,
    join_windows,
    load_base,
    positive_weights,
    score,
    windows_of,
)
from training.sampler import Collator, PackingCollator, StepSampler

WINDOWS = Windows(max_tokens=10, overlap=3, bos_id=0, eos_id=2, pad_id=1, unk_id=3, special_ids=(0, 1, 2, 4))
TEXTS = ["un texte ordinaire", "la chorale chante jeudi au stade", "court"]


@pytest.fixture(scope="module")
def base(labels: Labels) -> BaseModel:
    config = load_config(None, [
        "model.base=random", "model.max_tokens=32", "model.overlap=8",
        "model.compact={hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, vocabulary: 500}",
    ]).model  # fmt: skip
    torch.manual_seed(0)
    return load_base(config, labels, [f"{text} {index}" for index in range(30) for text in TEXTS])


@given(st.lists(st.integers(0, 50), max_size=60))
def test_windows_cut_nothing_off(ids: list[int]) -> None:
    """Every token is in some window, in order, neighbours share the overlap, and none is too long."""
    windows = WINDOWS.split(ids)
    assert all(window[0] == 0 and window[-1] == 2 and len(window) <= 10 for window in windows)
    bodies = [window[1:-1] for window in windows]
    joined = bodies[0] + [token for body in bodies[1:] for token in body[3:]]
    assert joined == [3 if token in (0, 1, 2, 4) else token for token in ids]


def test_what_a_user_types_is_never_a_control_token(base: BaseModel) -> None:
    windows = windows_of(ModelConfig(max_tokens=32, overlap=8), base.tokenizer)
    (pieces,) = encode(["<s> a </s> <mask> <pad> <unk> <MASK> <ma\u200bsk>"], base.tokenizer, windows)
    typed = [token for window in pieces for token in window[1:-1]]
    assert not set(typed) & set(windows.special_ids)


def test_joined_windows_take_the_highest_and_for_voices_the_mean() -> None:
    rows = np.array([[1.0, 5.0, 2.0], [3.0, -1.0, 4.0], [0.0, 0.0, 7.0]], dtype=np.float32)
    joined = join_windows(rows, np.array([0, 0, 1]), 2, voices=1)
    assert joined.tolist() == [[3.0, 5.0, 3.0], [0.0, 0.0, 7.0]]


def test_scores_do_not_depend_on_order_or_company(base: BaseModel, labels: Labels) -> None:
    windows = windows_of(ModelConfig(max_tokens=32, overlap=8), base.tokenizer)
    texts = [*TEXTS, " ".join(TEXTS * 10), "\ud83d moitié d'un caractère", ""]
    together = score(base.model, base.tokenizer, texts, windows, labels, token_budget=64)
    alone = np.concatenate([score(base.model, base.tokenizer, [text], windows, labels) for text in texts])
    assert together.shape == (len(texts), len(labels.ids))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_an_undecided_label_does_not_enter_the_loss() -> None:
    loss = MaskedLoss(torch.ones(2))
    logits = torch.tensor([[0.3, 9.0], [-0.2, 0.1]])
    masked = loss({"logits": logits}, torch.tensor([[1.0, -100.0], [0.0, 1.0]]))
    by_hand = (np.log1p(np.exp(-0.3)) + np.log1p(np.exp(-0.2)) + np.log1p(np.exp(-0.1))) / 3
    assert masked.item() == pytest.approx(by_hand, abs=1e-6)


def test_temperature_by_hand() -> None:
    """T = 2, a score of 3 and a target of 0.8: 4 · BCE(1.5, σ(log 4 / 2) = 2/3) = 4 · (log(1 + e^1.5) - 2/3 · 1.5).

    A target of 1 stands for log-odds of 7, and -100 for none.
    """
    loss = MaskedLoss(torch.ones(3), temperature=2.0)
    outputs = {"logits": torch.tensor([[3.0, -1.0, 9.0]])}
    sure = 1 / (1 + math.exp(-3.5))
    expected = 4 * (math.log1p(math.exp(1.5)) - 2 / 3 * 1.5), 4 * (math.log1p(math.exp(-0.5)) + sure * 0.5)
    assert loss(outputs, torch.tensor([[0.8, -100, -100]])).item() == pytest.approx(expected[0])
    assert loss(outputs, torch.tensor([[0.8, 1.0, -100]])).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_accumulated_parts_add_up_to_the_whole_step() -> None:
    """The trap: averaging each part by itself multiplies the loss by their number."""
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 3), torch.randint(0, 2, (8, 3)).float()
    targets[0, 0] = -100
    loss, decided = MaskedLoss(torch.tensor([1.0, 2.0, 3.0])), targets.ne(-100).sum()
    parts = sum(loss({"logits": logits[i : i + 2]}, targets[i : i + 2], decided) for i in range(0, 8, 2))
    assert torch.as_tensor(parts).item() == pytest.approx(loss({"logits": logits}, targets).item(), rel=1e-6)


@pytest.mark.parametrize(("scheme", "expected"), [("none", [1, 1]), ("inverse", [3, 5]), ("sqrt_inverse", [3**0.5, 1])])
def test_rare_labels_weigh_more(scheme: str, expected: list[float]) -> None:
    """One positive in four, and none in four (its weight stays finite)."""
    targets = np.array([[1, 1], [0, 0], [0, 1], [0, -100]], dtype=np.float32)
    if scheme == "inverse":
        targets[:, 1] = [0, 0, 0, 0]
        targets = np.concatenate([targets, [[-100, 0]]]).astype(np.float32)
    weights = positive_weights(targets, scheme, 10.0)
    assert weights.tolist() == pytest.approx(expected)


def test_an_epoch_holds_every_text_once_sorted_inside_each_step() -> None:
    lengths = [int(value) for value in np.random.default_rng(0).integers(1, 100, 50)]
    sampler = StepSampler(lengths, step=8, seed=1)
    sampler.set_epoch(0)
    first = list(sampler)
    assert sorted(first) == list(range(50))
    for start in range(0, 50, 8):
        held = [lengths[index] for index in first[start : start + 8]]
        assert held == sorted(held)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_a_hub_that_does_not_answer_is_told_at_once(
    labels: Labels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line that says what to do, without a retry."""
    import huggingface_hub

    def silent(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", silent)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"does not answer; point at a local copy with --set model\.base=FOLDER"
    ) as caught:
        load_base(ModelConfig(base="almanach/camembert-base", revision="main"), labels)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_told(labels: Labels) -> None:
    with pytest.raises(UserError, match="no such model folder"):
        load_base(ModelConfig(base="./nothing/here"), labels)


def test_windows_longer_than_the_encoder_are_refused(base: BaseModel, labels: Labels, tmp_path: Path) -> None:
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"model\.max_tokens is 64, but this encoder reads at most 32 tokens"):
        load_base(ModelConfig(base=str(tmp_path), max_tokens=64, overlap=8), labels)


@pytest.mark.parametrize("kind", [Collator, PackingCollator])
def test_a_share_of_the_pieces_is_hidden(base: BaseModel, kind: Any) -> None:
    """Control tokens and padding never are."""
    features = [{"input_ids": [0, *range(300, 320), 2], "labels": [0.0]}, {"input_ids": [0, 300, 2], "labels": [0.0]}]
    whole = kind(base.tokenizer, 0.0)(features)["input_ids"]
    hidden = kind(base.tokenizer, 0.5)(features)["input_ids"] == base.tokenizer.mask_token_id
    assert 0 < hidden[0].sum() < 21
    assert not hidden[torch.isin(whole, torch.tensor([0, 1, 2]))].any()
    assert whole[0][:22].tolist() == features[0]["input_ids"]
