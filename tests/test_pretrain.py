"""Pretraining: a closed configuration, a run that can be interrupted, an encoder that anybody can load."""

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForMaskedLM

from training import pretrain as p
from training.errors import UserError
from training.pretrain_config import PretrainConfig, Source, load_config, read_arguments
from training.pretrain_model import cooccurrence_embeddings, sinusoids, start_from_counts
from training.pretrain_text import (
    heldout_texts,
    mask_batch,
    read_texts,
    sample_for_tokenizer,
    tokenize_source,
    training_texts,
)

SENTENCES = [
    "le chat dort sur le canapé",
    "tu viens manger une crêpe à la maison",
    "il pleut encore sur la ville ce matin",
    "les élèves lisent un livre à la cantine",
    "mon parapluie est resté dans le train",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """The same sums in the same order on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of a few harmless sentences and the tokenizer trained on it."""
    root: Path = tmp_path_factory.mktemp("corpus")
    (root / "plain.txt").write_text("\n".join(SENTENCES * 20) + "\n", encoding="utf-8")
    with lzma.open(root / "packed.txt.xz", "wt", encoding="utf-8") as out:
        out.write("\n".join(reversed(SENTENCES * 10)) + "\n")
    return root


def settings(corpus: Path, output: Path, **changes: Any) -> PretrainConfig:
    """A model of a few thousand weights and a run of eight steps."""
    tree: dict[str, Any] = {
        "output": str(output), "data_root": str(corpus), "vocab_size": 340, "batch_tokens": 64, "max_steps": 8,
        "data": [{"name": "plain", "path": "plain.txt"}, {"name": "packed", "path": "packed.txt.xz", "weight": 0.5}],
        "heldout": [{"name": "kept", "path": "plain.txt"}], "warmup_steps": 2, "log_steps": 4, "precision": "fp32",
        "shape": {"layers": 1, "hidden_size": 16, "heads": 2, "intermediate_size": 32, "max_tokens": 32},
        "phases": [{"until": 0.5, "tokens": 16}, {"until": 1.0, "tokens": 32}], "dropout": 0.1,
    }  # fmt: skip
    return PretrainConfig.model_validate(tree | changes)


def silent(_: str) -> None:
    """A log that goes nowhere."""


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and summary of a whole run."""
    output: Path = tmp_path_factory.mktemp("run")
    return output, p.pretrain(settings(corpus, output), resume=False, log=silent)


def test_an_interrupted_run_ends_with_the_same_weights(
    corpus: Path, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    """Stopped after step 3 and resumed, it is bit for bit the uninterrupted run."""
    config = settings(corpus, tmp_path)
    run, _ = p.prepare(config, folder=tmp_path)
    start_from_counts(run.model, run.sampler, embeddings=True)
    p.train(run, folder=tmp_path, log=silent, stop_at=3)
    summary = p.pretrain(config, resume=True, log=silent)
    whole, pieces = (torch.load(folder / "checkpoint.pt") for folder in (finished[0], tmp_path))
    assert [whole["step"], whole["tokens"]] == [pieces["step"], pieces["tokens"]] == [8, 512]
    assert all(torch.equal(whole["model"][name], pieces["model"][name]) for name in whole["model"])
    assert summary["heldout"] == finished[1]["heldout"]


def test_an_exception_leaves_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    """Whatever stops a run, the steps that were done are kept."""
    run, _ = p.prepare(settings(corpus, tmp_path, log_steps=2), folder=tmp_path)

    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        p.train(run, folder=tmp_path, log=stop)
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 2


def test_the_encoder_loads_as_any_camembert(finished: tuple[Path, dict[str, Any]]) -> None:
    """In half precision, with the special ids of its own tokenizer and room for the longest window."""
    folder = finished[0] / "encoder"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForMaskedLM.from_pretrained(str(folder), dtype=torch.float32)
    encoder = AutoModel.from_pretrained(str(folder), dtype=torch.float32)
    assert type(encoder).__name__ == "CamembertModel"
    assert model.config.pad_token_id == tokenizer.token_to_id("<pad>")
    assert model.config.hidden_dropout_prob == 0.1
    ids = torch.full((1, 32), tokenizer.token_to_id("▁le") or 300)
    assert model(input_ids=ids).logits.shape == (1, 32, tokenizer.get_vocab_size())
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert stored["dtype"] == "float16"


def test_a_run_goes_on_from_an_encoder(corpus: Path, tmp_path: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    """Its weights to begin with are the encoder's, layers and all, and so is its tokenizer."""
    encoder = finished[0] / "encoder"
    other = {"layers": 3, "hidden_size": 32, "heads": 2, "intermediate_size": 64, "max_tokens": 32}
    config = settings(corpus, tmp_path, encoder=str(encoder), vocab_size=400, shape=other)
    run, tokenizer = p.prepare(config, folder=tmp_path)
    ours = AutoModelForMaskedLM.from_pretrained(encoder).float().state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in run.model.state_dict().items())
    assert tokenizer.to_str() == Tokenizer.from_file(str(encoder / "tokenizer.json")).to_str()
    p.pretrain(settings(corpus, tmp_path / "more", encoder=str(encoder)), resume=False, log=silent)
    moved = AutoModelForMaskedLM.from_pretrained(tmp_path / "more" / "encoder").float().state_dict()
    assert moved.keys() == ours.keys() and any(not torch.equal(moved[name], ours[name]) for name in ours)


def test_the_head_alone(corpus: Path, tmp_path: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    encoder = finished[0] / "encoder"
    before = AutoModelForMaskedLM.from_pretrained(encoder).state_dict()
    p.pretrain(settings(corpus, tmp_path, encoder=str(encoder), train="head"), resume=False, log=silent)
    after = AutoModelForMaskedLM.from_pretrained(tmp_path / "encoder").state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("lm_head.") and "decoder.weight" not in name for name in moved)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"encoder": "nowhere"}, "key encoder"),
        (
            {"shape": {"layers": 1, "hidden_size": 16, "heads": 2, "intermediate_size": 32, "max_tokens": 64}},
            "positions",
        ),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(
    corpus: Path, tmp_path: Path, finished: tuple[Path, dict[str, Any]], more: dict[str, Any], said: str
) -> None:
    config = settings(corpus, tmp_path, **({"encoder": str(finished[0] / "encoder")} | more))
    with pytest.raises(UserError, match=said):
        p.prepare(config, folder=tmp_path)


def test_the_summary_reports_perplexity_per_source(finished: tuple[Path, dict[str, Any]]) -> None:
    """What was held out is named, with how many pieces the figure rests on; the file says the same."""
    output, summary = finished
    assert json.loads((output / "summary.json").read_text(encoding="utf-8")) == summary
    assert summary["tokens_seen"] == 512
    assert summary["heldout"]["kept"]["pieces"] > 50
    assert 1 < summary["heldout"]["kept"]["perplexity"] < 400


def test_training_lowers_the_loss(corpus: Path, tmp_path: Path) -> None:
    """Five sentences can be learnt."""
    run, _ = p.prepare(settings(corpus, tmp_path, max_steps=60, learning_rate=0.01, dropout=0.0), folder=tmp_path)
    losses = p.train(run, folder=tmp_path, log=silent)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_the_rate_reaches_zero_with_the_time(corpus: Path, tmp_path: Path) -> None:
    """Minutes count as steps do, whichever is further."""
    run, _ = p.prepare(settings(corpus, tmp_path, max_minutes=2.0), folder=tmp_path)
    run.step, run.seconds = 2, 90.0
    assert run.progress() == 0.75
    run.step = 7
    assert run.progress() == 7 / 8
    run.train_step()
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 8)


def test_muon_trains_the_matrices_only(corpus: Path, tmp_path: Path) -> None:
    """Embeddings, biases and normalisations stay with AdamW, and every weight has one optimizer."""
    run, _ = p.prepare(settings(corpus, tmp_path, optimizer="muon"), folder=tmp_path)
    counts = [sum(len(group["params"]) for group in optimizer.param_groups) for optimizer in run.optimizers]
    assert counts == [6, len(list(run.model.parameters())) - 6]
    run.train_step()


def test_masking_hides_the_asked_share() -> None:
    """Of 100 ordinary positions, 20 are predicted; special tokens never are."""
    ids = np.arange(10, 110).reshape(10, 10)
    framed = np.pad(ids, ((0, 0), (1, 1)), constant_values=0)
    batch = mask_batch(framed, random=np.random.default_rng(0), mask=4, special=(0, 2), rate=0.2, keep_share=0.0)
    assert len(batch.positions) == 20
    assert (batch.input_ids.reshape(-1)[batch.positions] == 4).all()
    assert (framed.reshape(-1)[batch.positions] == batch.targets).all()
    assert (batch.input_ids == 4).sum() == 20


def test_far_positions_are_trained_with_short_windows(corpus: Path, tmp_path: Path) -> None:
    """Some windows begin further on, never past the last position; a window that does not is read as in use."""
    run, _ = p.prepare(settings(corpus, tmp_path, shifted_share=0.5), folder=tmp_path)
    offsets = np.concatenate([run.sampler.batch(step, windows=8, tokens=16).offsets for step in range(50)])
    assert 0.3 < (offsets > 0).mean() < 0.6
    assert offsets.max() == 16
    ids = torch.full((1, 16), 300)
    places = torch.arange(16)[None] + run.model.config.pad_token_id + 1
    run.model.eval()
    as_used, as_trained = (run.model(input_ids=ids, **extra).logits for extra in ({}, {"position_ids": places}))
    assert torch.equal(as_used, as_trained)


def test_neighbours_get_similar_vectors() -> None:
    """Pieces that stand in the same places start close; an unseen piece gets a vector of its own."""
    ids = np.tile([1, 2, 5, 1, 3, 5, 4, 6, 4, 6], 50)
    vectors = cooccurrence_embeddings(ids, vocab_size=8, size=4, window=1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[2] @ unit[3] > 0.9 > unit[2] @ unit[6]
    assert vectors.std() == pytest.approx(0.05)
    assert not np.allclose(vectors[0], vectors[7])


def test_positions_start_out_ordered() -> None:
    """The nearer two positions, the more alike their vectors: attention finds neighbours without learning where."""
    table = sinusoids(64, 32)
    likeness = table @ table[20]
    assert likeness[20] > likeness[21] > likeness[22]
    assert likeness[18] == pytest.approx(likeness[22])
    assert table.std() == pytest.approx(0.05, rel=0.3)


def test_a_tokenizer_of_another_kind_is_refused(corpus: Path, tmp_path: Path) -> None:
    """One without the special tokens cannot frame or mask a window."""
    Tokenizer.from_str('{"model": {"type": "BPE", "vocab": {"</s>": 0}, "merges": []}}').save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(UserError, match="the tokenizer has no <s>"):
        p.prepare(settings(corpus, tmp_path, tokenizer=str(tmp_path)), folder=tmp_path)


def test_documents_of_chosen_origins_are_read(tmp_path: Path) -> None:
    """Line i of the origins' file names document i; blank lines part documents."""
    (tmp_path / "texts.txt").write_text("un\ndeux\n\ntrois\n\n\nquatre\n", encoding="utf-8")
    (tmp_path / "origins.txt").write_text("novel\nspeech\nnovel\n", encoding="utf-8")
    source = Source(name="s", path="texts.txt", documents="origins.txt", only=["novel"])
    assert list(read_texts(source, tmp_path)) == [("novel", "un"), ("novel", "deux"), ("novel", "quatre")]


def test_without_heldout_files_every_hundredth_text_is_kept_out(tmp_path: Path) -> None:
    """What perplexity is measured on is never trained on."""
    (tmp_path / "n.txt").write_text("\n".join(str(n) for n in range(1, 251)), encoding="utf-8")
    config = settings(tmp_path, tmp_path, data=[{"name": "n", "path": "n.txt"}], heldout=[])
    assert list(heldout_texts(config)) == [("n", "100"), ("n", "200")]
    seen = list(training_texts(config, config.data[0]))
    assert len(seen) == 248
    assert "100" not in seen


def test_the_tokenizer_sees_sources_by_weight(tmp_path: Path) -> None:
    """A source too small for its share comes back three times, a large one is sampled."""
    (tmp_path / "small.txt").write_text("petit\n" * 10, encoding="utf-8")
    (tmp_path / "large.txt").write_text("grand\n" * 4000, encoding="utf-8")
    sources = [{"name": "s", "path": "small.txt"}, {"name": "l", "path": "large.txt"}]
    config = settings(tmp_path, tmp_path, data=sources, tokenizer_megabytes=0.01)
    texts = list(sample_for_tokenizer(config))
    assert texts.count("petit") == 30
    assert 900 < texts.count("grand") < 1100


def test_a_missing_heldout_file_is_said_at_the_start(corpus: Path, tmp_path: Path) -> None:
    """Not after the training."""
    with pytest.raises(UserError, match=r"absent.txt: no such file \(source 'h'"):
        p.prepare(settings(corpus, tmp_path, heldout=[{"name": "h", "path": "absent.txt"}]), folder=tmp_path)


def test_a_column_of_a_table_is_read(tmp_path: Path) -> None:
    """A message over two lines is one text; an unknown column names those there are."""
    (tmp_path / "t.csv").write_text('id,tweet\n1,"un\ndeux"\n2,trois\n', encoding="utf-8")
    assert [text for _, text in read_texts(Source(name="s", path="t.csv", column="tweet"), tmp_path)] == [
        "un deux", "trois",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"no column 'text'; it has id, tweet"):
        list(read_texts(Source(name="s", path="t.csv", column="text"), tmp_path))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("max_minuts=3", r"unknown key 'max_minuts'; allowed here: .*max_minutes"),
        ("shape.depth=3", r"unknown key 'shape.depth'; allowed here: layers"),
        ("mask_rate=2", r"mask_rate: .*\(got 2\)"),
        ("shape.heads=3", r"256 is not a multiple of heads 3"),
        ("phases=[{until: 0.5, tokens: 64}]", r"must rise to 1.0"),
        ("seed", r"write it as key=value"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str) -> None:
    """The key, what was given and what is allowed, in one line."""
    with pytest.raises(UserError, match=message) as caught:
        load_config(None, ["max_steps=1", setting])
    assert "\n" not in str(caught.value)


def test_an_end_must_be_given() -> None:
    """Without minutes or steps there is nothing to decay towards."""
    with pytest.raises(UserError, match="give max_minutes, max_steps or both"):
        load_config(None)


def test_the_command_ends_with_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown key is one line on stderr, no traceback."""
    monkeypatch.setattr("sys.argv", ["pretrain", "--set", "max_steps=1", "--set", "speed=9"])
    assert p.main() == 2
    assert capsys.readouterr().err.startswith("error: unknown key 'speed'; allowed here: output, seed")


def test_own_files_replace_the_configured_sources(corpus: Path, tmp_path: Path) -> None:
    """`--data` needs no configuration file."""
    config, resume = read_arguments(
        ["--data", str(corpus / "plain.txt"), "--output", str(tmp_path), "--set", "max_steps=1"]
    )
    assert [source.path for source in config.data] == [str(corpus / "plain.txt")]
    assert config.heldout == []
    assert (config.output, resume) == (str(tmp_path), False)


def test_the_projects_configuration_is_valid() -> None:
    """configs/pretrain.yaml can be read."""
    config = load_config(Path(__file__).parents[1] / "configs" / "pretrain.yaml")
    assert config.max_minutes
    assert config.data


def test_missing_text_and_existing_runs_are_said(corpus: Path, tmp_path: Path) -> None:
    """A missing file, an empty one, a checkpoint that would be overwritten or is not there."""
    (tmp_path / "empty.txt").touch()
    tokenizer = Tokenizer.from_str('{"model": {"type": "BPE", "vocab": {"</s>": 0}, "merges": []}}')
    for name, message in (("absent.txt", "no such file"), ("empty.txt", "holds no text")):
        with pytest.raises(UserError, match=message):
            source = Source(name="s", path=name)
            config = settings(tmp_path, tmp_path)
            tokenize_source(config, source, tokenizer=tokenizer, folder=tmp_path / "tokens")
    with pytest.raises(UserError, match="--resume: there is no"):
        p.pretrain(settings(corpus, tmp_path), resume=True, log=silent)
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(UserError, match="exists: go on from it with --resume"):
        p.pretrain(settings(corpus, tmp_path), resume=False, log=silent)
