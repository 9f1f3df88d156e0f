"""training.summarize: the second pretraining stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tests.conftest import corpus_rows
from training.errors import UserError
from training.summarize import Summarizer, add_pooling_layer, load_config, rarity, read_all, summarize
from training.tokenizer import save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of the smallest shape, with its tokenizer."""
    from transformers import CamembertConfig, CamembertForMaskedLM

    folder = tmp_path_factory.mktemp("encoder")
    save_tokenizer(train_tokenizer([row["text"] for row in corpus_rows()], vocab_size=400), folder, max_length=64)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    shape = CamembertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
        eos_token_id=2,
    )  # fmt: skip
    CamembertForMaskedLM(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    texts = [row["text"] for row in corpus_rows()]
    (folder / "a.txt").write_text("\n".join(texts), encoding="utf-8")
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    path = folder / "run.yaml"
    path.write_text(
        f"data_root: {folder}\nminutes: 0.02\nbatch_texts: 12\nmax_tokens: 60\ndata:\n"
        "- {name: plain, path: a.txt, weight: 1}\n- {name: rows, path: b.jsonl, weight: 2}\n",
        encoding="utf-8",
    )
    return path


def test_rare_pieces_count_more() -> None:
    """Piece 1 is in both texts, piece 2 in one, piece 3 in none: weights log(2/3) and log 1, kept at 0.3, and log 2."""
    assert rarity([[[1, 2], [1]]], 4, sample=10)[1:].tolist() == pytest.approx([0.3, 0.3, 0.6931], abs=1e-3)


def test_the_first_token_learns_what_a_text_holds(encoder: Path, config_file: Path) -> None:
    from transformers import CamembertForMaskedLM

    config = load_config(config_file)
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    sources = read_all(config, tokenizer)
    assert [len(source) for source in sources] == [160, 160]
    torch.manual_seed(0)
    model = CamembertForMaskedLM.from_pretrained(encoder).train()
    run = Summarizer(model, tokenizer, rarity(sources, tokenizer.get_vocab_size(), 100), config)
    losses = [run.step(sources[0][:12], 3e-3)[1] for _ in range(25)]
    assert losses[-1] < losses[0] - 0.5


def test_the_added_layer_starts_as_a_mean(encoder: Path) -> None:
    """LayerNorm(state + 3 · mean), worked out from the states of the encoder without it."""
    from transformers import CamembertForMaskedLM

    model = CamembertForMaskedLM.from_pretrained(encoder).eval()
    deeper = add_pooling_layer(model, 3.0).eval()
    ids = torch.tensor([[0, 300, 301, 302, 2]])
    with torch.no_grad():
        before = model.roberta(ids).last_hidden_state
        after = deeper.roberta(ids).last_hidden_state
    expected = torch.nn.functional.layer_norm(before + 3 * before.mean(1, keepdim=True), (32,))
    torch.testing.assert_close(after, torch.nn.functional.layer_norm(expected, (32,)), atol=1e-3, rtol=1e-3)


def test_it_writes_an_encoder_that_fine_tuning_can_start_from(encoder: Path, config_file: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    output = tmp_path / "out"
    summarize(load_config(config_file), encoder, output)
    model = AutoModelForMaskedLM.from_pretrained(output)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert AutoTokenizer.from_pretrained(output)("la chorale")["input_ids"]
    with pytest.raises(UserError, match="stands already"):
        summarize(load_config(config_file), encoder, output)


def test_an_encoder_that_has_been_through_it_goes_on_without_a_new_layer(
    encoder: Path, config_file: Path, tmp_path: Path
) -> None:
    config = load_config(config_file, ["minutes=0.02", "add_layer=false"])
    summarize(config, encoder, tmp_path / "out")
    shapes = [
        json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (encoder, tmp_path / "out")
    ]
    assert shapes[0]["num_hidden_layers"] == shapes[1]["num_hidden_layers"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("minute=3", r"unknown key 'minute'; allowed here: .*minutes"), ("minutes=-1", "minutes: ")],
)
def test_a_wrong_key_is_told_by_name(config_file: Path, setting: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load_config(config_file, [setting])


def test_a_folder_without_encoder_is_told(config_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no encoder here"):
        summarize(load_config(config_file), tmp_path, tmp_path / "out")
    shutil.rmtree(tmp_path)
