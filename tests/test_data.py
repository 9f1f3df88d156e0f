"""training.data, training.rows and training.cards: everything is checked, everything is told, nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import corpus_rows
from training.cards import open_source
from training.config import DataConfig
from training.data import UNKNOWN, label_matrix, load_corpus, to_dataset
from training.errors import UserError
from training.labels import Labels

Write = Callable[[Path, list[Any]], Path]
CANARY = "perroquet-bleu-7413"


def problems_of(path: Path, labels: Labels, **settings: Any) -> list[str]:
    config = DataConfig(**{"min_positives": 1, "max_characters": 500, **settings})
    with pytest.raises(UserError) as caught:
        load_corpus([str(path)], labels, config)
    return str(caught.value).splitlines()[1:]


def row(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "labels": [], "minor_involved": False, "voice": None, **more}


def planted(canary: str) -> list[tuple[str | dict[str, Any], str]]:
    """Twenty faults, one a line, each with what the report must say of it."""
    return [
        ('{"text": "coupé', "broken JSON"),
        ('["pas un objet"]', "must be a JSON object"),
        ({"labels": []}, "text: missing"),
        (row(canary) | {"text": None}, "text: null"),
        (row(canary) | {"text": 12}, "text: must be a string, not a number"),
        (row("   "), "text: empty"),
        (row(canary * 100), "characters, more than the 500"),
        ('{"text": "' + canary + ' \\ud83d", "labels": []}', "half of a surrogate pair"),
        (row(canary + " dÃ©jÃ "), "read as another encoding"),
        (row(canary + " \x00"), "control characters"),
        ({"text": canary + " sans labels"}, "labels: missing"),
        (row(canary + " a", labels=["extortion"]), "unknown label 'extortion'; did you mean"),
        (row(canary + " b", labels={"racism": 1}), "labels: must be a list of ids, not an object"),
        (row(canary + " c", labels=["racism", "racism"], voice="direct"), "stands twice"),
        (row(canary + " d", minor_involved="peut-être"), "minor_involved: must be true or false"),
        (row(canary + " e", voice="victim"), "unknown voice 'victim'; allowed: direct"),
        (row(canary + " f", minor_involved=True), "minor_involved: true although no category holds"),
        (row(canary + " g", voice="direct"), "voice: direct although no category holds"),
        (row(canary + " h", split="dev"), "unknown split 'dev'; allowed: train"),
        (row(canary + " i", id=["x"]), "id: must be a string, not a list"),
    ]


def test_twenty_planted_faults_are_all_reported_by_line(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    faults = planted("texte inventé")
    reported = problems_of(write_jsonl(tmp_path / "bad.jsonl", [fault for fault, _ in faults]), labels)
    for number, (_, expected) in enumerate(faults, 1):
        assert any(f"bad.jsonl:{number}" in line and expected in line for line in reported), (number, expected)


def test_no_report_quotes_a_text(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    """A text that slipped into another column, after a stray separator, is a text all the same."""
    slipped = [row("ok", labels=[f"{CANARY} dans les labels"]), row("ok aussi", voice=f"{CANARY} dans la voix")]
    rows = [fault for fault, _ in planted(CANARY)] + slipped + [row("x", split=f"un {CANARY}"), {f"un {CANARY}": 1}]
    reported = "\n".join(problems_of(write_jsonl(tmp_path / "bad.jsonl", rows), labels))
    assert CANARY not in reported


def test_faults_between_rows_are_reported(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    """Repeated id, the same and a near-identical text across splits, a group on both sides, contradicting labels."""
    long = "Samedi nous allons tous ensemble voir la grande parade des géants dans les rues de la vieille ville"
    rows = [
        row("Un premier texte tout à fait ordinaire", id="a", split="train"),
        row("Un deuxième, sans aucun rapport avec lui", id="a", split="train"),
        row("Le même texte des deux côtés", id="c", split="train"),
        row("le MÊME  texte des deux cotés", id="d", split="test"),
        row(long, id="e", split="train"),
        row(long + " !", id="f", split="validation"),
        row("Le groupe est ici", id="g", split="train", group="w1"),
        row("et il se trouve encore là-bas", id="h", split="test", group="w1"),
        row("Deux avis sur une phrase", id="i", split="train"),
        row("Deux avis sur une phrase", id="j", split="train", labels=["racism"], voice="direct"),
    ]
    reported = problems_of(write_jsonl(tmp_path / "bad.jsonl", rows), labels)
    expected_at = {
        2: "id: stands already at",
        4: "the same text is in test here and in train",
        6: "near-identical text",
        8: "group: 'w1' is in test here",
        10: "labels: differ",
    }
    for line, expected in expected_at.items():
        assert any(f"bad.jsonl:{line} " in text and expected in text for text in reported), expected


def test_a_category_with_too_few_positives_is_told(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", corpus_rows())
    reported = problems_of(path, labels, min_positives=8, near_duplicate=0.99)
    assert any(
        "homophobia: 0 positive texts, too few to learn from (data.min_positives is 8)" in line for line in reported
    )
    assert not any("racism" in line for line in reported)


def test_an_unknown_column_is_told_once_not_for_every_row(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [row(f"texte {i}", label="racism") for i in range(5)])
    reported = [line for line in problems_of(path, labels) if "unknown column" in line]
    assert len(reported) == 1
    assert "'label'" in reported[0] and "labels" in reported[0]


def test_one_number_among_the_texts_does_not_touch_the_others(
    tmp_path: Path, labels: Labels, write_jsonl: Write
) -> None:
    """`datasets`' JSON loader would turn every text of the column into a quoted string, without an error."""
    rows = corpus_rows(20)
    reported = problems_of(write_jsonl(tmp_path / "a.jsonl", [*rows, {**rows[0], "id": "n", "text": 5}]), labels)
    assert [line for line in reported if "text:" in line] == [line for line in reported if ":21" in line]
    good = load_corpus(
        [str(write_jsonl(tmp_path / "b.jsonl", rows))], labels, DataConfig(near_duplicate=0.99), trainable=False
    )
    texts = [text for split in to_dataset(good, labels).values() for text in split["text"]]
    assert sorted(texts) == sorted(item["text"] for item in rows)


def test_formats_give_the_same_examples(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    import csv

    import pyarrow
    import pyarrow.parquet

    rows = corpus_rows(20)
    paths = [write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.csv", tmp_path / "rows.parquet"]
    with paths[1].open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows({**item, "labels": "|".join(item["labels"]), "voice": item["voice"] or ""} for item in rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), paths[2])
    config = DataConfig(near_duplicate=0.99)
    loaded = [load_corpus([str(path)], labels, config, trainable=False).examples for path in paths]
    keys = [[(e.id, e.text, e.positive, e.known, e.split) for e in examples] for examples in loaded]
    assert keys[0] == keys[1] == keys[2]


def test_a_missing_column_is_unlabelled_not_negative(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    """Without a voice column nobody said that a text has no voice."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "sans voix", "labels": ["racism"]}])
    (example,) = load_corpus([str(path)], labels, DataConfig(), trainable=False).examples
    (targets,) = label_matrix([example], labels)
    by_name = dict(zip(labels.ids, targets.tolist(), strict=True))
    assert by_name["racism"] == 1 and by_name["sexism"] == 0
    assert {by_name[name] for name in ("minor_involved", "direct", "testimony", "commentary")} == {UNKNOWN}


def test_rows_without_split_are_dealt_by_group_and_always_alike(
    tmp_path: Path, labels: Labels, write_jsonl: Write
) -> None:
    rows = [{key: value for key, value in item.items() if key != "split"} for item in corpus_rows(400)]
    for index, item in enumerate(rows):
        item["group"] = f"g{index // 4}"
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    config = DataConfig(near_duplicate=0.99)
    first, second = (load_corpus([str(path)], labels, config, trainable=False) for _ in range(2))
    assert first.examples == second.examples
    splits: dict[str, set[str]] = {}
    for example in first.examples:
        splits.setdefault(str(example.group), set()).add(str(example.split))
    assert all(len(held) == 1 for held in splits.values())
    shares = {name: len(first.split(name)) / len(rows) for name in ("train", "validation", "test")}
    assert shares["train"] == pytest.approx(0.8, abs=0.05)
    assert shares["test"] == pytest.approx(0.1, abs=0.05)
    for split in ("validation", "test"):
        assert sum("racism" in example.positive for example in first.split(split)) >= 4


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - {split: train, path: tweets.csv}
vigie:
  columns: {text: tweet, id: number}
  multi_value: {tone: _}
  annotates: [racism, sexism]
  rules:
  - {label: racism, when: {target: [origin], tone: [hateful, abusive]}, unless: {group: [left_wing]}}
  - {label: sexism, when: {target: [gender]}}
  skip: {tone: [unclear]}
---
A corpus with labels of its own.
"""
TWEETS = """number,tweet,tone,target,group
1,un texte,hateful_offensive,origin,
2,un autre,hateful,origin,left_wing
3,encore un,normal,gender,
4,celui-là non,unclear,origin,
"""


def test_a_card_maps_another_corpus_without_code(tmp_path: Path, labels: Labels) -> None:
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
    (tmp_path / "tweets.csv").write_text(TWEETS, encoding="utf-8")
    examples = load_corpus([str(tmp_path)], labels, DataConfig(), trainable=False).examples
    assert [(e.id, sorted(e.positive)) for e in examples] == [("1", ["racism"]), ("2", []), ("3", ["sexism"])]
    assert all(e.known == {"racism", "sexism"} and e.split == "train" for e in examples)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("label: racism", "label: rascism", "unknown label 'rascism'"),
        ("annotates: [racism, sexism]", "annotates: [sexism]", "lacks 'racism'"),
        ("columns: {text: tweet", "columns: {texte: tweet", "'texte' is not ours"),
        ("skip:", "skipp:", "vigie.skipp"),
        ("split: train", "split: dev", "split 'dev'"),
        ("tweets.csv", "elsewhere.csv", "elsewhere.csv not in place"),
        ("---\nlicense", "license", "must begin with a YAML header"),
    ],
)
def test_a_wrong_card_is_told_by_key(tmp_path: Path, labels: Labels, old: str, new: str, expected: str) -> None:
    (tmp_path / "README.md").write_text(CARD.replace(old, new, 1), encoding="utf-8")
    (tmp_path / "tweets.csv").write_text(TWEETS, encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        open_source(tmp_path, labels)


def test_a_folder_without_card_and_a_missing_file_are_told(tmp_path: Path, labels: Labels) -> None:
    with pytest.raises(UserError, match=r"no README\.md"):
        open_source(tmp_path, labels)
    with pytest.raises(UserError, match="no such card or file"):
        open_source(tmp_path / "nothing", labels)


def test_the_dataset_holds_one_float_a_label(corpus_file: Path, labels: Labels) -> None:
    config = DataConfig(near_duplicate=0.99)
    dataset = to_dataset(load_corpus([str(corpus_file)], labels, config, trainable=False), labels)
    assert set(dataset) == {"train", "validation", "test"}
    assert np.array(dataset["train"]["targets"]).shape == (len(dataset["train"]), len(labels.ids))
    assert json.loads(json.dumps(dataset["train"][0]))["text"]
