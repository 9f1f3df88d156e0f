"""Training texts that change from epoch to epoch: rows that stay in number, labels that follow, runs that resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from training.augment import KINDS, VariedTexts, joined_targets, training_texts
from training.config import OptimConfig, RunConfig
from training.data import Corpus, label_matrix, load_corpus
from training.errors import UserError
from training.labels import Labels
from training.model import BaseModel, MaskedLoss, Windows, encode, windows_of
from training.sampler import StepSampler
from training.train import train

Make = Callable[..., VariedTexts]


@pytest.fixture(scope="module")
def corpus(tiny_config: RunConfig, labels: Labels) -> Corpus:
    return load_corpus(tiny_config.data.sources, labels, tiny_config.data)


@pytest.fixture(scope="module")
def tokenizer(artifact: Path) -> Any:
    return AutoTokenizer.from_pretrained(artifact)


@pytest.fixture(scope="module")
def windows(tiny_config: RunConfig, tokenizer: Any) -> Windows:
    return windows_of(tiny_config.model, tokenizer)


@pytest.fixture
def make(corpus: Corpus, labels: Labels, tokenizer: Any, windows: Windows) -> Make:
    """`VariedTexts` of the tiny corpus with some settings."""
    examples = corpus.split("train")

    def varied(seed: int = 1, texts: list[str] | None = None, **settings: Any) -> VariedTexts:
        texts = texts or [example.text for example in examples]
        return VariedTexts(
            texts, encode(texts, tokenizer, windows), label_matrix(examples, labels)[: len(texts)],
            tokenizer=tokenizer, windows=windows, optim=OptimConfig(**settings), voices=3, seed=seed,
        )  # fmt: skip

    return varied


def rows(varied: VariedTexts) -> list[dict[str, Any]]:
    return [varied[index] for index in range(len(varied))]


def test_without_shares_the_rows_are_the_plain_ones(
    make: Make, corpus: Corpus, labels: Labels, tokenizer: Any, windows: Windows
) -> None:
    examples = corpus.split("train")
    pieces = encode([example.text for example in examples], tokenizer, windows)
    targets = label_matrix(examples, labels).tolist()
    plain = [{"input_ids": ids, "labels": target} for of, target in zip(pieces, targets, strict=True) for ids in of]
    assert rows(make()) == plain


def test_an_epoch_depends_on_seed_and_number_alone(make: Make) -> None:
    """Epoch 3 is the same whether epochs were drawn before it or not, as when a run is gone on with."""
    whole, resumed = make(augment=0.5, join=0.5), make(augment=0.5, join=0.5)
    drawn = []
    for epoch in range(4):
        whole.draw(epoch)
        drawn.append(rows(whole))
    resumed.draw(3)
    assert rows(resumed) == drawn[3] != drawn[2]
    other = make(seed=2, augment=0.5, join=0.5)
    other.draw(3)
    assert rows(other) != drawn[3]


def test_the_number_of_rows_stays(make: Make) -> None:
    """Steps are counted before the run. Texts here need one window or two, and many a variant would need more."""
    plain = make()
    varied = make(augment=1.0, augment_kinds=["spaced", "sms"], join=0.3)
    for epoch in range(3):
        lengths = varied.draw(epoch)
        assert len(varied) == len(lengths) == len(plain)
        assert lengths == [len(row["input_ids"]) for row in rows(varied)]
    assert lengths != plain.draw(0)


def test_a_variant_that_needs_more_windows_leaves_text_and_labels_alone(make: Make) -> None:
    """Two texts of nearly a window each do not fit into one: the labels must not be united either."""
    texts = ["il menace de publier les images", "on mange une tarte chez mamie au port"] * 2
    plain, varied = make(texts=texts), make(texts=texts, join=1.0, augment=1.0, augment_kinds=["dotted"])
    assert len(plain) == len(texts)
    longest = max(len(row["input_ids"]) for row in rows(plain))
    assert 16 < longest <= 32
    for epoch in range(5):
        varied.draw(epoch)
        for row, own in zip(rows(varied), rows(plain), strict=True):
            assert row["labels"] == own["labels"] or row["input_ids"] != own["input_ids"]


def test_only_the_named_kinds_are_drawn(make: Make) -> None:
    """Capitals are undone by the normaliser, so a run of capitals alone changes no row."""
    assert rows(make(augment=1.0, augment_kinds=["upper_case"])) == rows(make())
    assert rows(make(augment=1.0)) != rows(make())
    assert len(KINDS) >= 12


def test_long_texts_are_not_joined_to_another(make: Make) -> None:
    assert rows(make(join=1.0, join_characters=1)) == rows(make())


def test_a_share_of_the_texts_is_drawn_anew_for_every_epoch(make: Make) -> None:
    plain, part, again = rows(make()), make(own=0.3), make(own=0.3)
    again.draw(1)
    first = rows(part)
    part.draw(1)
    for drawn in (first, rows(part)):
        assert len(drawn) == round(0.3 * len(plain))
        assert not Counter(map(str, drawn)) - Counter(map(str, plain))
    assert rows(part) == rows(again) != first


@pytest.mark.parametrize("epoch", [0, 1])
def test_recombined_rows_join_every_epoch(
    corpus: Corpus, labels: Labels, tokenizer: Any, windows: Windows, tiny_config: RunConfig, epoch: int
) -> None:
    """After the training texts' own rows come as many recombined ones as asked, told by a teacher that learnt them."""
    config = tiny_config.model_copy(update={"optim": OptimConfig(recombine=1.5)})
    examples, base = corpus.split("train"), cast(BaseModel, SimpleNamespace(tokenizer=tokenizer))
    first, again = (training_texts(base, windows, config, examples, labels) for _ in range(2))
    first.draw(epoch), again.draw(epoch)
    drawn, own = rows(first), rows(again)[: -round(1.5 * len(examples))]
    assert drawn == rows(again) and len(drawn) == len(own) + round(1.5 * len(examples))
    assert all(set(row["labels"]) <= {0.0, 1.0} for row in own)
    told = np.array([row["labels"] for row in drawn[len(own) :]])
    assert ((told > 0) & (told < 1)).all()
    # « menace » stands in every text about extortion and in no other.
    threat = [labels.ids.index("sexual_extortion"), labels.ids.index("racism")]
    held = ["menace" in tokenizer.decode(row["input_ids"]) for row in drawn[len(own) :]]
    assert told[held][:, threat[0]].mean() > 3 * told[np.logical_not(held)][:, threat[0]].mean()


def test_joined_targets_by_hand() -> None:
    """Columns: three categories or contexts, three voices."""
    testimony, direct = [0, 1, 0], [1, 0, 0]
    a = np.array([1, 0, -100, *testimony], dtype=np.float32)
    b = np.array([0, 0, 0, *testimony], dtype=np.float32)
    c = np.array([-100, 1, 1, *direct], dtype=np.float32)
    assert joined_targets(a, b, voices=3).tolist() == [1, 0, -100, *testimony]
    assert joined_targets(a, c, voices=3).tolist() == [1, 1, 1, -100, -100, -100]
    assert joined_targets(b, c, voices=3).tolist() == [-100, 1, 1, -100, -100, -100]
    assert joined_targets(a, c, voices=3).dtype == np.float32
    assert a.tolist() == [1, 0, -100, *testimony]


def test_the_sampler_sorts_a_step_by_the_lengths_of_its_epoch(make: Make) -> None:
    varied = make(augment=1.0)
    sampler = StepSampler(varied.draw(0), step=8, seed=1, draw=varied.draw)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        lengths, order = varied.draw(epoch), list(sampler)
        assert sorted(order) == list(range(len(varied)))
        for start in range(0, len(order), 8):
            step = [lengths[index] for index in order[start : start + 8]]
            assert step == sorted(step)


def test_smoothed_targets_by_hand() -> None:
    """With s = 0.2, a target of 1 counts as 0.9 and one of 0 as 0.1; at logit 0 each costs log 2, whatever it is."""
    logits, targets = torch.tensor([[2.0, -1.0, 5.0]]), torch.tensor([[1.0, 0.0, -100.0]])
    smooth = MaskedLoss(torch.ones(3), smoothing=0.2)({"logits": logits}, targets)

    def cost(target: float, logit: float) -> float:
        chance = 1 / (1 + np.exp(-logit))
        return float(-target * np.log(chance) - (1 - target) * np.log(1 - chance))

    assert smooth.item() == pytest.approx((cost(0.9, 2.0) + cost(0.1, -1.0)) / 2, abs=1e-6)
    plain = MaskedLoss(torch.ones(3))({"logits": logits}, targets)
    assert plain.item() == pytest.approx((cost(1.0, 2.0) + cost(0.0, -1.0)) / 2, abs=1e-6)


SETTINGS: dict[str, Any] = {"augment": 0.5, "join": 0.3, "average": 0.9, "epochs": 3.0}


def _again(config: RunConfig, output: Path, **settings: Any) -> RunConfig:
    copy = config.model_copy(deep=True)
    copy.output = str(output)
    for key, value in settings.items():
        setattr(copy.optim, key, value)
    return copy


class PowerCut(Exception):
    pass


def _cut(config: RunConfig, corpus: Corpus, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the first checkpoint is written."""
    import training.fit as module

    original = module._epoch_printer

    def printer() -> Any:
        callback = original()

        def cut(*_: Any, **__: Any) -> None:
            raise PowerCut

        callback.on_save = cut
        return callback

    with monkeypatch.context() as patch:
        patch.setattr(module, "_epoch_printer", printer)
        with pytest.raises(PowerCut):
            train(config, corpus, labels)


def test_an_augmented_averaged_run_resumes_to_the_same_weights(
    tiny_config: RunConfig, corpus: Corpus, labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(_again(tiny_config, tmp_path / "whole", **SETTINGS), corpus, labels)
    config = _again(tiny_config, tmp_path / "cut", **SETTINGS)
    _cut(config, corpus, labels, monkeypatch)
    resumed = train(config, corpus, labels, resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_without_the_unaveraged_weights_a_run_is_not_gone_on_with(
    tiny_config: RunConfig, corpus: Corpus, labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the power went between the two files of a checkpoint."""
    config = _again(tiny_config, tmp_path / "cut", average=0.9)
    _cut(config, corpus, labels, monkeypatch)
    (saved,) = tmp_path.glob(".cut.checkpoints/checkpoint-*/unaveraged.safetensors")
    saved.unlink()
    with pytest.raises(UserError, match="start without --resume"):
        train(config, corpus, labels, resume=True)


def test_averaging_changes_what_is_kept_and_not_the_path(
    tiny_config: RunConfig, corpus: Corpus, labels: Labels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training loss of every epoch is the same with and without, the validation loss is not."""
    losses = []
    for name, decay in (("plain", 0.0), ("averaged", 0.99)):
        train(_again(tiny_config, tmp_path / name, average=decay, epochs=2.0), corpus, labels)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
        losses.append([line.split(", macro")[0].split(", validation loss") for line in lines])
    (plain, averaged) = losses
    assert len(plain) == 2
    assert [line[0] for line in plain] == [line[0] for line in averaged]
    assert all(a[1] != b[1] for a, b in zip(plain, averaged, strict=True))
