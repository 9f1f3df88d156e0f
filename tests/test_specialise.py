"""training.specialise: the third stage of the encoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, CamembertConfig, CamembertForMaskedLM

from tests.conftest import TINY, corpus_rows
from training import specialise as stage
from training.config import load_config
from training.tokenizer import save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of the smallest shape, with its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    save_tokenizer(train_tokenizer([row["text"] for row in corpus_rows()], vocab_size=400), folder, max_length=64)
    torch.manual_seed(0)
    shape = CamembertConfig(
        vocab_size=Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(), hidden_size=32,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=66, type_vocab_size=1,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    CamembertForMaskedLM(shape).half().save_pretrained(folder)
    return folder


def command(monkeypatch: pytest.MonkeyPatch, corpus_file: Path, *arguments: str) -> Any:
    settings = [part for one in TINY if not one.startswith("model.base") for part in ("--set", one)]
    more = ["--set", "data.near_duplicate=0.99", "--set", "optim.epochs=1", "--set", "optim.recombine=1"]
    monkeypatch.setattr(sys, "argv", ["specialise", "--data", str(corpus_file), *settings, *more, *arguments])
    return stage.main()


def test_the_encoder_learns_and_is_written_without_a_head(
    encoder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the head of masked-language modelling moves; files and shape are those of the encoder before."""
    target = tmp_path / "specialised"
    assert command(monkeypatch, corpus_file, "--set", f"model.base={encoder}", "--output", str(target)) == 0
    assert {path.name for path in target.iterdir()} == {path.name for path in encoder.iterdir()}
    before, after = (AutoModelForMaskedLM.from_pretrained(folder).float() for folder in (encoder, target))
    assert after.config.hidden_dropout_prob == before.config.hidden_dropout_prob
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys() and not any("classifier" in name for name in new)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert {name for name in moved if name.startswith("lm_head.")} <= {"lm_head.decoder.weight"}
    assert any("word_embeddings" in name for name in moved) and any("query" in name for name in moved)


def test_mistakes_are_one_line_and_exit_code_2(
    encoder: Path,
    corpus_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for base, output, said in (
        (str(encoder), str(encoder), "stands already"),
        (str(tmp_path), str(tmp_path / "new"), "config.json is missing"),
        ("random", str(tmp_path / "new"), "no encoder of training.pretrain"),
    ):
        assert command(monkeypatch, corpus_file, "--set", f"model.base={base}", "--output", output) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_projects_configuration_is_valid() -> None:
    config = load_config(stage.CONFIG)
    assert config.optim.recombine and not config.optim.probe
