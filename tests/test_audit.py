"""training.audit and training.agreement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, corpus_rows
from training.agreement import krippendorff_alpha
from training.audit import agreement, audit, findings
from training.labels import Labels

Write = Callable[[Path, list[Any]], Path]

HEADER = """---
configs:
- config_name: default
  data_files: rows.jsonl
vigie:
  metadata: [register, obfuscated]
  quotas:
    texts: 10
    positives: 1
    words: [3, 60]
    near_duplicate: 0.999
---
"""


def card(folder: Path, write: Write, rows: list[Any], header: str = HEADER) -> Path:
    (folder / "README.md").write_text(header, encoding="utf-8")
    write(folder / "rows.jsonl", rows)
    return folder


def rows_for_all(labels: Labels) -> list[dict[str, Any]]:
    """Enough positives of every category for the loader, so that only the audit has something to say."""
    rows = []
    for index, row in enumerate(corpus_rows(600)):
        category = labels.category_ids[index % 10]
        held = index % 3 == 0
        rows.append({**row, "labels": [category] if held else [], "voice": "testimony" if held else None,
                     "minor_involved": False, "register": "sms" if held else "prose", "obfuscated": False})  # fmt: skip
    return rows


def test_alpha_by_hand() -> None:
    """Krippendorff's own example of two observers and nominal data, articles or not: 0.095."""
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha(first, second) == pytest.approx(0.095, abs=5e-4)


def test_alpha_is_one_in_full_agreement_and_undefined_without_variation() -> None:
    assert krippendorff_alpha([0, 1, 1], [0, 1, 1]) == 1.0
    assert krippendorff_alpha([1, 1], [1, 1]) is None


def test_agreement_reads_both_labellings(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    none: dict[str, Any] = {"labels": [], "minor_involved": False, "voice": None}
    some = {"labels": ["racism"], "minor_involved": False, "voice": "direct"}
    lines = [
        {"id": str(i), "first": one, "second": two}
        for i, (one, two) in enumerate([(none, none), (some, some), (some, none)])
    ]
    write_jsonl(tmp_path / "labelling.jsonl", lines)
    found = agreement(tmp_path, labels)
    assert found is not None
    assert (found["texts"], found["differing"]) == (3, 1)
    assert found["alpha"]["racism"] == krippendorff_alpha([0, 1, 1], [0, 1, 0])
    assert found["alpha"]["sexism"] is None


def test_what_is_planted_is_found(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    """A link, a number, a foreign text, a text that is too short, and too few positives."""
    rows = rows_for_all(labels)
    plain = {
        "labels": [],
        "minor_involved": False,
        "voice": None,
        "register": "sms",
        "obfuscated": False,
        "split": "train",
    }
    rows += [
        {**plain, "id": "link", "text": "regarde ça sur www.exemple.fr quand tu peux"},
        {**plain, "id": "number", "text": "mon nouveau numéro est le 01 23 45 67 89 merci"},
        {**plain, "id": "foreign", "text": "this text has been written without any word of the other language here"},
        {**plain, "id": "short", "text": "deux mots"},
    ]
    header = HEADER.replace("positives: 1", "positives: 25")
    checks = audit(card(tmp_path, write_jsonl, rows, header), labels)
    missed = {check.what: check.found for check in checks if not check.met}
    assert missed["personal data: link"] == "link"
    assert missed["personal data: long number"] == "number"
    assert missed["texts that do not look French"] == "foreign"
    assert missed["words a text"].startswith("2 to")
    assert missed["racism: positive"] == "20"
    assert "personal data: handle" not in missed


def test_a_register_that_gives_a_label_away_shows(tmp_path: Path, labels: Labels, write_jsonl: Write) -> None:
    """Here every testimony is an SMS, so the register alone tells it."""
    row = findings(card(tmp_path, write_jsonl, rows_for_all(labels)), labels)["give_away"]["testimony"]
    assert row["register"] == pytest.approx(1.0)
    assert row["length"] < 0.6


def test_the_projects_corpus_keeps_its_promises(labels: Labels) -> None:
    checks = audit(ROOT / "data_cards" / "testimonies", labels)
    assert len(checks) > 40
    assert [check for check in checks if not check.met] == []


def test_every_disagreement_was_settled_with_a_reason() -> None:
    """And where the two labellings agree, the corpus holds what they say."""
    folder = ROOT / "data_cards" / "testimonies"
    final = {}
    for split in ("train", "validation", "test"):
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            final[row["id"]] = {key: row[key] for key in ("labels", "minor_involved", "voice")}
    records = [json.loads(line) for line in (folder / "labelling.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {record["id"] for record in records} == final.keys()
    for record in records:
        if record["first"] == record["second"]:
            assert final[record["id"]] == record["first"], record["id"]
        else:
            assert record["reason"], record["id"]
