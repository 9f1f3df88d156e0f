"""training.baselines: the table that the encoder must win, on an invented corpus and with the tiniest models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import TINY, corpus_rows
from training import baselines
from training.config import RunConfig, load_config
from training.data import label_matrix, load_corpus
from training.fit import seed_everything
from training.labels import Labels
from training.model import load_base, score, windows_of
from training.predictions import write_predictions

Rows = Callable[[Path, list[Any]], Path]


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory, write_jsonl: Rows) -> Path:
    """Large enough for thresholds: twelve positives a category in validation."""
    return write_jsonl(tmp_path_factory.mktemp("baselines") / "rows.jsonl", corpus_rows(400))


@pytest.fixture(scope="module")
def task(rows_file: Path, artifact: Path, labels: Labels) -> baselines.Task:
    """The tiny artifact stands in for the pretrained encoder."""
    quick = ["data.near_duplicate=0.99", "optim.epochs=1", "optim.batch_size=40"]
    config = load_config(None, [*TINY, *quick, f"model.base={artifact}"])
    return baselines.Task(config, load_corpus([str(rows_file)], labels, config.data), labels)


@pytest.fixture(scope="module")
def result(task: baselines.Task) -> dict[str, Any]:
    return baselines.compare(task, list(baselines.SYSTEMS), seeds=2, split="test")


def mean(result: dict[str, Any], name: str, key: str = "macro_average_precision") -> float:
    value = result["systems"][name]["summary"][key]["mean"]
    assert isinstance(value, float)
    return value


def test_the_table_holds_each_system(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """What depends on a seed with its spread, what does not without; every figure of every run in the result."""
    baselines.print_table(result)
    printed = capsys.readouterr().out
    assert printed.startswith("test: 60 texts in 6 groups, macro over 4 categories")
    lines = {line.split()[0]: line for line in printed.splitlines()[2:] if "−" not in line and line[0] != " "}
    runs = {name: line.split()[1] for name, line in lines.items()}
    assert runs == {"encoder": "2", "random": "2", "tfidf": "1", "frozen": "1", "majority": "1"}
    # No text of this corpus is direct, so its recall is undefined.
    assert lines["random"].count("±") == 6 and "±" not in lines["tfidf"] and all("–" in line for line in lines.values())
    for system in result["systems"].values():
        for run in system["runs"]:
            assert run["macro_average_precision"] is not None and run["fit_seconds"] > 0 and run["ms_per_text"] > 0
    assert [run["seed"] for run in result["systems"]["encoder"]["runs"]] == [1, 2]


def test_tfidf_beats_majority(result: dict[str, Any]) -> None:
    """Every category has words of its own. Majority flags a fifth rightly: AP 1/5, F1 2 · 1/5 / (1 + 1/5) = 1/3."""
    assert mean(result, "tfidf") > 0.99 and mean(result, "tfidf", "macro_f1") > 0.9
    assert mean(result, "majority") == pytest.approx(1 / 5)
    assert mean(result, "majority", "macro_f1") == pytest.approx(1 / 3)


def test_the_respelled_column_is_of_the_same_texts_written_in_another_way(task: baselines.Task) -> None:
    texts = task.texts("test")
    again = baselines.respelled(texts)
    assert again == baselines.respelled(texts) and len(again) == len(texts)
    changed = [ours != theirs for ours, theirs in zip(texts, again, strict=True)]
    assert sum(changed) > len(texts) / 2


def test_respelling_costs_what_it_hides(task: baselines.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that looks for words finds them as written, and none of them once every letter is another."""
    table = baselines.compare(task, ["tfidf"], seeds=1, split="test")
    assert mean(table, "tfidf", "respelled_average_precision") < mean(table, "tfidf")
    monkeypatch.setattr(baselines, "respelled", lambda texts: ["?" * len(text) for text in texts])
    hidden = baselines.compare(task, ["tfidf"], seeds=1, split="test")
    assert mean(hidden, "tfidf", "respelled_average_precision") == pytest.approx(1 / 5)


def test_the_encoder_starts_from_its_base_and_random_does_not(task: baselines.Task) -> None:
    """With a learning rate of next to nothing, fine-tuning gives the base back."""
    config = task.config.model_copy(deep=True)
    config.optim.learning_rate = 1e-12
    still = baselines.Task(config, task.corpus, task.labels)
    seed_everything(config.seed)
    base, texts = load_base(config.model, task.labels), task.texts("test")
    expected = score(base.model, base.tokenizer, texts, windows_of(config.model, base.tokenizer), task.labels)
    assert baselines.SYSTEMS["encoder"](still)[0](texts) == pytest.approx(expected, abs=1e-4)
    assert not np.allclose(baselines.SYSTEMS["random"](still)[0](texts), expected, atol=0.1)


def test_the_difference_is_that_of_the_table(result: dict[str, Any]) -> None:
    values = result["differences"]["mean of the seeds"]
    assert values["difference"] == pytest.approx(mean(result, "encoder") - mean(result, "tfidf"), abs=2e-6)
    assert values["low"] <= values["difference"] <= values["high"]


def test_the_encoder_is_what_train_exports(artifact: Path, tiny_config: RunConfig, labels: Labels) -> None:
    """Same configuration, data and seed: the figures of the artifact's metrics.json."""
    corpus = load_corpus(tiny_config.data.sources, labels, tiny_config.data)
    table = baselines.compare(baselines.Task(tiny_config, corpus, labels), ["encoder"], seeds=1, split="test")
    expected = json.loads((artifact / "metrics.json").read_text(encoding="utf-8"))["test"]["macro"]
    assert mean(table, "encoder") == pytest.approx(expected["average_precision"])
    assert table["differences"] == {}


def test_fresh_weights_keep_the_architecture_and_forget_the_rest(task: baselines.Task) -> None:
    base = load_base(task.config.model, task.labels)
    fresh = baselines.fresh_weights(base, 1)
    assert fresh.model.config is base.model.config and fresh.tokenizer is base.tokenizer and not fresh.pretrained
    ours, theirs = fresh.model.state_dict(), base.model.state_dict()
    assert {name: values.shape for name, values in ours.items()} == {name: v.shape for name, v in theirs.items()}
    assert not any(torch.equal(ours[name], theirs[name]) for name in ours if name.endswith("query.weight"))
    again = baselines.fresh_weights(base, 1).model.state_dict()
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_pooled_states_do_not_depend_on_the_neighbours(task: baselines.Task) -> None:
    """A text of several windows, one of a single word and none at all: padding is not part of the mean."""
    base = load_base(task.config.model, task.labels)
    base.model.eval()
    windows = windows_of(task.config.model, base.tokenizer)
    texts = ["il insulte les gens " * 20, "bus", ""]
    together = baselines.mean_states(base, windows, texts)
    assert together.shape == (3, 32)
    for text, states in zip(texts, together, strict=True):
        assert states == pytest.approx(baselines.mean_states(base, windows, [text])[0], abs=1e-6)
    with torch.inference_mode():
        ids = torch.tensor(
            [[windows.bos_id, *base.tokenizer("bus", add_special_tokens=False).input_ids, windows.eos_id]]
        )
        alone = base.model.base_model(input_ids=ids).last_hidden_state[0].mean(0)
    assert together[1] == pytest.approx(alone.numpy(), abs=1e-6)


def test_undecided_rows_are_left_out() -> None:
    """The -100 row says the opposite of the others; with it the order would turn round."""

    class Classifier:
        def fit(self, features: np.ndarray, target: np.ndarray) -> Classifier:
            assert features.tolist() == [[0.0], [1.0]] and target.tolist() == [0.0, 1.0]
            return self

        def decision_function(self, features: np.ndarray) -> np.ndarray:
            return features[:, 0]

    features = np.array([[0.0], [5.0], [1.0]])
    decide = baselines._fit_label(Classifier(), features, np.array([0.0, -100.0, 1.0]))
    assert decide(features).tolist() == [0.0, 5.0, 1.0]
    never = baselines._fit_label(None, features, np.array([0.0, -100.0, 0.0]))
    assert never(features).tolist() == [-5.0] * 3


def test_the_spread_by_hand() -> None:
    """1, 2 and 3: mean 2, variance (1 + 0 + 1) / 2. A run where the figure is undefined does not count."""
    runs = [{"f": 1.0}, {"f": None}, {"f": 2.0}, {"f": 3.0}]
    assert baselines.summarise(runs, "f") == {"mean": 2.0, "sd": 1.0, "min": 1.0, "max": 3.0}
    assert baselines.summarise(runs[:1], "f") == {"mean": 1.0, "sd": None, "min": None, "max": None}
    assert baselines.summarise(runs[1:2], "f")["mean"] is None


def test_one_group_has_a_difference_and_no_interval(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    alone = {"difference": 0.25, "low": None, "high": None, "groups": 1}
    baselines.print_table(result | {"differences": {"mean of the seeds": alone}})
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "encoder − tfidf, macro AP, mean of the seeds: +0.250, no interval (one group)"


def test_other_systems_join_by_their_scores(
    task: baselines.Task, labels: Labels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One scores everything rightly, one a category alone: what that leaves out is said, and whom it acts upon."""
    examples = [*task.corpus.split("validation"), *task.corpus.split("test")]
    right = 0.8 * (label_matrix(examples, labels) == 1) + 0.1
    files = {name: tmp_path / f"{name}.csv" for name in ("right", "single")}
    write_predictions(files["right"], examples, right, labels)
    write_predictions(files["single"], examples, np.where(np.isin(labels.ids, "racism"), right, np.nan), labels)
    table = baselines.compare(task, ["majority"], seeds=1, split="test", files=files)
    assert mean(table, "right") == mean(table, "right", "macro_f1") == mean(table, "single") == 1.0
    # No text is direct; one in four of the testimonies is about racism.
    assert mean(table, "right", "wrongly_acted_upon") == 0.0
    assert mean(table, "single", "wrongly_acted_upon") == 0.25
    baselines.print_table(table)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[2:5]] == ["majority", "right", "single"]
    assert printed[3].split()[-2:] == ["–", "–"]
    assert printed[5:] == [
        "single scores 1 of 10 categories: its macros run over these alone",
        "single scores no voices: it acts upon whatever it flags",
    ]


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    settings = [argument for setting in [*TINY, "data.near_duplicate=0.99"] for argument in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["baselines", *settings, *map(str, arguments)])
    return baselines.main()


def test_json_round_trip(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file holds the printed table, and nothing that JSON does not know, such as NaN."""
    file = tmp_path / "table.json"
    names = ["tfidf", "majority"]
    assert run_main(monkeypatch, "--data", rows_file, "--split", "validation", "--json", file, "--only", *names) == 0
    captured = capsys.readouterr()
    read = json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    baselines.print_table(read)
    assert capsys.readouterr().out == captured.out
    assert "too good" in captured.out
    assert [line.split(":")[0] for line in captured.err.splitlines()] == names
    assert read["config"]["data"]["sources"] == [str(rows_file)]
    assert read["systems"]["tfidf"]["runs"][0]["C"] in baselines.TFIDF_C


def test_encoder_and_random_coincide_without_a_base(
    rows_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--seeds", "1", "--only", "encoder", "random", "--set", "optim.epochs=1"]
    assert run_main(monkeypatch, "--data", rows_file, *arguments) == 0
    captured = capsys.readouterr()
    assert "encoder and random coincide" in captured.err
    assert "\nencoder" in captured.out and "\nrandom" not in captured.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seeds", "0"], "--seeds 0: at least 1"),
        (["--json", "/nowhere/table.json"], "there is no folder /nowhere"),
        (["--data", "nothing.jsonl"], "nothing.jsonl: no such card or file"),
        (["--predictions", "tfidf=x.csv"], "must be NAME=FILE, each name once and none of encoder, "),
        (["--predictions", "x.csv"], "must be NAME=FILE"),
        (["--predictions", "other=nothing.csv"], "other: nothing.csv: no such file"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, *arguments) == 2
    message = capsys.readouterr().err
    assert expected in message and len(message.splitlines()) == 1


def test_a_missing_split_is_told(
    tmp_path: Path, write_jsonl: Rows, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in corpus_rows(40) if row["split"] != "validation"]
    assert run_main(monkeypatch, "--data", write_jsonl(tmp_path / "rows.jsonl", rows)) == 2
    assert "the data has no validation split" in capsys.readouterr().err
