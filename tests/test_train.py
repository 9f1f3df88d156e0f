"""training.train as its user runs it: the command, its options, interruption, several processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, TINY
from training.config import RunConfig, dump_config
from training.data import load_corpus
from training.errors import UserError
from training.labels import Labels
from training.train import train

SETTINGS = [argument for setting in [*TINY, "data.near_duplicate=0.99"] for argument in ("--set", setting)]


def run(
    *arguments: str | Path, module: list[str] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(module or ["-m", "training.train"]), *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )


def figures(folder: Path) -> dict[str, float]:
    """Brier score of every label that has positives in the test split: unlike a rank, it moves with every score."""
    test = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    rows = {label: row for label, row in test["labels"].items() if row["support"]}
    return {label: row["brier"] for label, row in rows.items()}


def again(config: RunConfig, output: Path, **changes: Any) -> RunConfig:
    copy = config.model_copy(deep=True)
    copy.output = str(output)
    for key, value in changes.items():
        setattr(copy.optim, key, value)
    return copy


def test_the_same_seed_gives_the_same_weights(
    artifact: Path, tiny_config: RunConfig, labels: Labels, tmp_path: Path
) -> None:
    corpus = load_corpus(tiny_config.data.sources, labels, tiny_config.data)
    second = train(again(tiny_config, tmp_path / "second"), corpus, labels)
    assert (second / "model.safetensors").read_bytes() == (artifact / "model.safetensors").read_bytes()


def test_accumulation_changes_nothing(artifact: Path, tiny_config: RunConfig, labels: Labels, tmp_path: Path) -> None:
    """The trap: the Trainer multiplies a classifier's own loss by the number of accumulated parts.

    Without dropout the two runs take the same steps, so they must end at the same scores.
    """
    corpus = load_corpus(tiny_config.data.sources, labels, tiny_config.data)
    results = []
    for parts in (1, 4):
        config = again(tiny_config, tmp_path / f"parts{parts}", accumulation=parts, packed=False)
        config.model.dropout = 0.0
        results.append(figures(train(config, corpus, labels)))
    assert results[0] == pytest.approx(results[1], abs=1e-4)


def test_an_interrupted_run_resumes_to_the_same_weights(
    artifact: Path, tiny_config: RunConfig, labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first epoch, as a power cut would, and gone on with."""
    import training.fit as module

    corpus = load_corpus(tiny_config.data.sources, labels, tiny_config.data)
    config = again(tiny_config, tmp_path / "cut")

    class PowerCut(Exception):
        pass

    original = module._epoch_printer

    def printer() -> Any:
        callback = original()

        def cut(*_: Any, **__: Any) -> None:
            raise PowerCut

        callback.on_save = cut
        return callback

    monkeypatch.setattr(module, "_epoch_printer", printer)
    with pytest.raises(PowerCut):
        train(config, corpus, labels)
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(module, "_epoch_printer", original)
    changed = again(config, tmp_path / "cut", learning_rate=0.5)
    with pytest.raises(UserError, match="another configuration"):
        train(changed, corpus, labels, resume=True)
    resumed = train(config, corpus, labels, resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (artifact / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_nothing_to_resume_is_told(tiny_config: RunConfig, labels: Labels, tmp_path: Path) -> None:
    corpus = load_corpus(tiny_config.data.sources, labels, tiny_config.data)
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        train(again(tiny_config, tmp_path / "none"), corpus, labels, resume=True)


def test_check_prints_the_counts_and_trains_nothing(corpus_file: Path, tmp_path: Path) -> None:
    result = run("--data", corpus_file, "--output", tmp_path / "out", "--check", *SETTINGS)
    assert result.returncode == 0, result.stderr
    assert "configuration and data are sound" in result.stdout
    counts = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if len(line.split()) == 4}
    assert counts["texts"] == ["120", "20", "20"]
    assert int(counts["racism"][0]) == 24 and counts["homophobia"] == ["0", "0", "0"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "optim.epoch=3"], "unknown key 'optim.epoch'"),
        (["--data", "nothing.jsonl"], "nothing.jsonl: no such card or file"),
        (["--config", "nothing.yaml"], "no such configuration"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], expected: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_a_taken_place_is_told_before_training(artifact: Path, corpus_file: Path) -> None:
    result = run("--data", corpus_file, "--output", artifact, *SETTINGS)
    assert result.returncode == 2
    assert "--overwrite" in result.stderr and "epoch" not in result.stdout


def test_two_processes_give_the_metrics_of_one(
    tiny_config: RunConfig, corpus_file: Path, labels: Labels, tmp_path: Path
) -> None:
    """`torchrun --nproc_per_node 2`, gloo on the CPU: the same steps, dealt to two processes."""
    config = again(tiny_config, tmp_path / "one", epochs=1, learning_rate=1e-3)
    # Windows so long that no text needs two: 120 texts are 15 full steps, where several processes would otherwise fill
    # the last one up with texts of the first.
    config.model.dropout, config.model.max_tokens = 0.0, 64
    one = train(config, load_corpus(config.data.sources, labels, config.data), labels)
    module = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "training.train"]
    (tmp_path / "run.yaml").write_text(dump_config(config), encoding="utf-8")
    arguments = ["--config", tmp_path / "run.yaml", "--output", tmp_path / "two"]
    result = run(*arguments, module=module)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "training on 2 processes" in result.stdout
    assert result.stdout.count("artifact written") == 1
    assert figures(tmp_path / "two") == pytest.approx(figures(one), abs=1e-3)


def test_camembert_base_runs_from_a_local_masked_lm_of_its_tokenizer_class(
    corpus_file: Path, labels: Labels, tmp_path: Path, write_jsonl: Callable[[Path, list[Any]], Path]
) -> None:
    """The production path: CamembertTokenizer from sentencepiece, CamembertForMaskedLM weights, a fresh head.

    The hub's own checkpoint cannot be had in a test, so this one has random weights and few of them.
    """
    import sentencepiece
    from transformers import CamembertConfig, CamembertForMaskedLM, CamembertTokenizer

    text = tmp_path / "text.txt"
    rows = [json.loads(line)["text"] for line in corpus_file.read_text(encoding="utf-8").splitlines()]
    text.write_text("\n".join(rows), encoding="utf-8")
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(pieces / "sentencepiece.bpe"), vocab_size=400, model_type="unigram",
        hard_vocab_limit=False, minloglevel=2, pad_id=-1, user_defined_symbols=["<mask>"],
    )  # fmt: skip
    tokenizer = CamembertTokenizer.from_pretrained(pieces, model_max_length=64)
    checkpoint = tmp_path / "camembert"
    tokenizer.save_pretrained(checkpoint)
    shape = CamembertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=66, type_vocab_size=1, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    CamembertForMaskedLM(shape).save_pretrained(checkpoint)
    result = run(
        "--config", "configs/camembert_base.yaml", "--data", corpus_file, "--output", tmp_path / "out",
        "--set", f"model.base={checkpoint}", "--set", "model.max_tokens=32", "--set", "model.overlap=8",
        "--set", "optim.epochs=1", "--set", "data.min_positives=0", "--set", "data.near_duplicate=0.99",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    described = json.loads((tmp_path / "out" / "artifact.json").read_text(encoding="utf-8"))
    assert described["base_model"] == {"name": str(checkpoint), "revision": None, "pretrained": True}
    from serving import Classifier

    (answer,) = Classifier.from_dir(tmp_path / "out").predict(["cafe\u0301 au club"])
    (composed,) = Classifier.from_dir(tmp_path / "out").predict(["café au club"])
    # The charsmap of sentencepiece composes accents; a tokenizer that lost it would see two different words.
    assert answer == composed
    shutil.rmtree(tmp_path / "out")
