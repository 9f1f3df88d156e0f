"""training.behaviour: reads cases strictly and counts them right. No test here says that a model passes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import training.behaviour
from tests.conftest import ROOT
from training.behaviour import (
    CASES,
    Direction,
    Functionality,
    Invariance,
    Minimum,
    behaviour,
    case_texts,
    main,
    read_functionalities,
    read_hatecheck,
)
from training.errors import UserError
from training.labels import Labels, load_labels

CANARY = "perroquet-bleu-7413 chante"
LABELS = load_labels()
FUNCTIONALITIES = read_functionalities(CASES, LABELS)


def thresholds(labels: Labels, value: float | None = 0.5) -> dict[str, Any]:
    return {label: {"balanced": {"threshold": value}} for label in labels.ids}


def row(**scores: float) -> list[float]:
    """Scores of one text: those given, and 0.1 elsewhere."""
    return [scores.get(label, 0.1) for label in LABELS.ids]


def write(folder: Path, *functionalities: dict[str, Any]) -> Path:
    content = yaml.safe_dump({"functionalities": list(functionalities)}, allow_unicode=True)
    (folder / "a.yaml").write_text(content, encoding="utf-8")
    return folder


def functionality(kind: str, *cases: Any, **more: Any) -> dict[str, Any]:
    return {"id": "essai", "name": "Essai", "kind": kind, "checks": "something", "cases": list(cases), **more}


def run(table: dict[str, list[float]], *items: Functionality, limit: float | None = 0.5) -> dict[str, Any]:
    def score(texts: list[str]) -> np.ndarray:
        return np.array([table[text] for text in texts])

    return behaviour(score, thresholds(LABELS, limit), LABELS, items)


def item(kind: Any, *cases: Any, name: str = "essai") -> Functionality:
    return Functionality(id=name, name="Essai", kind=kind, checks="something", cases=cases)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (functionality("XYZ", {"text": CANARY}), "kind: must be one of MFT, INV, DIR"),
        (functionality("MFT", {"text": CANARY}), "case 1: expects nothing"),
        (functionality("MFT", CANARY), "case 1: must hold keys and values"),
        (functionality("MFT", {"text": CANARY, "flagged": False}, {"text": CANARY, "flag": True}), "case 2: flag: "),
        (functionality("MFT", {CANARY: 1, "text": "a", "flagged": True}), "case 1: (a value of 26 characters"),
        (functionality("MFT", {"text": CANARY, "route": CANARY}), "case 1: route: Input should be"),
        (functionality("MFT", {"text": CANARY, "voice": CANARY}), "case 1: voice: unknown; allowed: direct"),
        (functionality("MFT", {"text": CANARY, "labels": {"present": ["racisme"]}}), "'racisme' is no category"),
        (functionality("MFT", {"text": CANARY, "labels": {"present": ["minor_involved"]}}), "codebook, rule 12"),
        (functionality("MFT", {"text": CANARY, "voice": "direct", "flagged": False}), "need a category"),
        (functionality("MFT", {"text": CANARY, "labels": {"present": ["racism"]}, "flagged": False}), "also none"),
        (
            functionality("MFT", {"text": CANARY, "labels": {"present": ["racism"], "absent": ["racism"]}}),
            "the same label stands twice",
        ),
        (
            functionality(
                "MFT", {"text": CANARY}, expect={"labels": {"present": ["racism"]}, "voice": "direct", "route": "none"}
            ),
            "route: none does not follow from the voice direct",
        ),
        (functionality("INV", {"variants": [CANARY]}), "case 1: variants: "),
        (functionality("INV", {"variants": [CANARY, CANARY]}), "the same text stands twice"),
        (functionality("INV", {"variants": ["a", "b"]}, expect={"voice": "none"}), "case 1: voice: Extra inputs"),
        (functionality("DIR", {"before": "a", "after": "b", "label": "âge", "direction": "up"}), "label: 'âge' is un"),
        (functionality("DIR", {"before": "a", "after": "b", "label": "racism", "direction": CANARY}), "direction: "),
        (functionality("MFT") | {"cases": []}, "cases: "),
        (functionality("MFT") | {"cases": CANARY}, "must hold a list of cases"),
    ],
)
def test_the_reader_names_the_place_and_never_the_text(tmp_path: Path, broken: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as error:
        read_functionalities(write(tmp_path, broken), LABELS)
    assert expected in str(error.value) and "a.yaml: functionality 1" in str(error.value)
    assert "perroquet" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"functionalities:\n- [{CANARY}", "not valid YAML (line 2)"),
        (f"- {CANARY}\n", "must hold one key, functionalities"),
        (f"functionalities: []\nautres: {CANARY}\n", "must hold one key, functionalities"),
        ("functionalities: []\n", "no .yaml file with cases"),
    ],
)
def test_a_broken_file_is_told_without_its_content(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "a.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        read_functionalities(tmp_path, LABELS)
    assert "perroquet" not in str(error.value)


def test_an_id_stands_once_in_a_folder(tmp_path: Path) -> None:
    one = functionality("INV", {"variants": ["a", "b"]})
    with pytest.raises(UserError, match="essai stands twice"):
        read_functionalities(write(tmp_path, one, one), LABELS)


def test_what_cases_share_is_written_once_and_a_case_may_say_otherwise(tmp_path: Path) -> None:
    shared = {"labels": {"present": ["racism"]}, "voice": "direct"}
    cases = [{"text": "a"}, {"text": "b", "voice": "testimony"}]
    (read,) = read_functionalities(write(tmp_path, functionality("MFT", *cases, expect=shared)), LABELS)
    assert [(case.labels.present, case.voice) for case in read.cases if isinstance(case, Minimum)] == [
        (("racism",), "direct"),
        (("racism",), "testimony"),
    ]


def test_a_minimum_checks_labels_voice_route_and_flag() -> None:
    """Threshold 0.5. a: racism, direct, so moderate. b: nothing, no voice. c: racism, no voice above, yet likeliest
    testimony, so support."""
    table = {"a": row(racism=0.9, direct=0.8), "b": row(), "c": row(racism=0.9, testimony=0.4)}
    right = [
        {"text": "a", "labels": {"present": ["racism"], "absent": ["sexism"]}, "voice": "direct", "route": "moderate"},
        {"text": "b", "flagged": False, "voice": "none", "route": "none"},
        {"text": "c", "labels": {"any_of": ["sexism", "racism"]}, "voice": "none", "route": "support", "flagged": True},
    ]
    wrong = [
        {"text": "a", "labels": {"present": ["racism", "sexism"]}},
        {"text": "a", "labels": {"absent": ["racism"]}},
        {"text": "a", "labels": {"any_of": ["sexism", "homophobia"]}, "voice": "direct"},
        {"text": "a", "flagged": False, "route": "none"},
        {"text": "c", "voice": "testimony"},
    ]
    cases = [Minimum.model_validate(case) for case in [*right, *wrong]]
    (result,) = run(table, item("MFT", *cases))["functionalities"]
    assert result["failed"] == [4, 5, 6, 7, 8]
    assert (result["cases"], result["passed"], result["pass_rate"]) == (8, 3, 0.375)
    assert result["missed"] == {"labels": 3, "flagged": 1, "route": 1, "voice": 1}


def test_an_invariance_needs_the_same_answer_and_close_scores() -> None:
    table = {
        "a": row(racism=0.9, direct=0.9),
        "b": row(racism=0.75, direct=0.9),  # same answer, 0.15 away: passes
        "c": row(racism=0.6, direct=0.9),  # same answer, 0.3 away
        "d": row(racism=0.52, sexism=0.49),
        "e": row(racism=0.48, sexism=0.49),  # 0.04 away, but no longer flagged
        "f": row(racism=0.9, testimony=0.6, direct=0.55),
        "g": row(racism=0.9, testimony=0.55, direct=0.6),  # close, but voice and route change
    }
    cases = [Invariance(variants=pair) for pair in (("a", "b"), ("a", "b", "c"), ("d", "e"), ("f", "g"))]
    (result,) = run(table, item("INV", *cases))["functionalities"]
    assert result["failed"] == [2, 3, 4] and result["pass_rate"] == 0.25
    assert result["missed"] == {"close_scores": 1, "same_answer": 2}


@pytest.mark.parametrize(
    ("before", "after", "direction", "passes"),
    [
        (0.2, 0.26, "up", True),
        (0.2, 0.24, "up", False),
        (0.26, 0.2, "up", False),
        (0.97, 0.96, "up", True),  # both beyond 0.95: nowhere left to go
        (0.97, 0.9, "up", False),
        (0.8, 0.7, "down", True),
        (0.8, 0.76, "down", False),
        (0.03, 0.04, "down", True),  # both below 0.05
        (0.03, 0.2, "down", False),
    ],
)
def test_a_direction_needs_a_step(before: float, after: float, direction: Any, passes: bool) -> None:
    case = Direction(before="a", after="b", label="grooming", direction=direction)
    (result,) = run({"a": row(grooming=before), "b": row(grooming=after)}, item("DIR", case))["functionalities"]
    assert result["passed"] == int(passes)


def test_kinds_are_counted_apart_and_never_together() -> None:
    table = {"a": row(racism=0.9), "b": row()}
    flagged = Minimum(text="a", flagged=True)
    items = [
        item("MFT", flagged, Minimum(text="b", flagged=True), name="un"),
        item("MFT", flagged, name="deux"),
        item("INV", Invariance(variants=("a", "b")), name="trois"),
    ]
    report = run(table, *items)
    assert report["kinds"] == {
        "MFT": {"cases": 3, "passed": 2, "pass_rate": 2 / 3},
        "INV": {"cases": 1, "passed": 0, "pass_rate": 0.0},
    }
    assert set(report) == {"operating_point", "limits", "functionalities", "kinds"}
    assert json.loads(json.dumps(report)) == report


def test_a_label_without_threshold_is_never_flagged() -> None:
    case = Minimum(text="a", flagged=False, voice="none")
    (result,) = run({"a": row(racism=1.0, direct=1.0)}, item("MFT", case), limit=None)["functionalities"]
    assert result["passed"] == 1


def test_all_texts_are_scored_in_one_call() -> None:
    calls: list[list[str]] = []

    def score(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return np.full((len(texts), len(LABELS.ids)), 0.1)

    report = behaviour(score, thresholds(LABELS), LABELS, FUNCTIONALITIES)
    assert calls == [[text for item in FUNCTIONALITIES for case in item.cases for text in case_texts(case)]]
    assert [row["id"] for row in report["functionalities"]] == [item.id for item in FUNCTIONALITIES]


# Multilingual HateCheck.

COLUMNS = "mhc_case_id,functionality,test_case,label_gold,target_ident,disagreement_in_case"
HATECHECK = f"""{COLUMNS}
fr-1,derog_h,phrase un,hateful,women,False
fr-2,derog_h,phrase deux,hateful,Muslims,False
fr-3,derog_h,phrase trois,hateful,gay people,True
fr-4,ident_neutral_nh,phrase quatre,non-hateful,women,False
fr-5,ident_neutral_nh,phrase cinq,non-hateful,,False
fr-6,counter_quote_nh,phrase six,non-hateful,women,False
fr-7,derog_h,phrase sept,hateful,disabled people,False
"""


@pytest.fixture
def hatecheck(tmp_path: Path) -> Path:
    path = tmp_path / "mhc.csv"
    path.write_text(HATECHECK, encoding="utf-8")
    return path


def test_hatecheck_is_read_as_its_card_says(hatecheck: Path) -> None:
    """Rows with disagreement and quoting counter-speech are out; a group without a label of ours needs none of the
    three, and a hateful row any of them, be it another than its own."""
    table = {
        "phrase un": row(racism=0.9),
        "phrase deux": row(cyberbullying=0.9),
        "phrase sept": row(cyberbullying=0.9),
        "phrase quatre": row(sexism=0.9),
        "phrase cinq": row(cyberbullying=0.9),
    }
    report = run(table, *read_hatecheck(hatecheck, LABELS))
    shown = [(found["id"], found["kind"], found["passed"], found["failed"]) for found in report["functionalities"]]
    assert shown == [("derog_h", "MHC", 2, ["fr-2"]), ("ident_neutral_nh", "MHC", 1, ["fr-4"])]
    assert report["kinds"] == {"MHC": {"cases": 5, "passed": 3, "pass_rate": 0.6}}


def test_a_hatecheck_row_that_the_card_does_not_know_is_told_by_line(hatecheck: Path) -> None:
    hatecheck.write_text(f"{COLUMNS}\nfr-1,derog_h,{CANARY},maybe,women,False\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mhc.csv:2.*'maybe' is not among") as error:
        read_hatecheck(hatecheck, LABELS)
    assert "perroquet" not in str(error.value)


Command = Callable[..., int]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command in this process, where no HateCheck file is in its place."""
    readme = training.behaviour.HATECHECK_FILE.parent / "README.md"
    (tmp_path / "card").mkdir()
    (tmp_path / "card/README.md").write_text(readme.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(training.behaviour, "HATECHECK_FILE", tmp_path / "card/absent.csv")

    def run_main(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["behaviour", *map(str, arguments)])
        return main()

    return run_main


def test_the_command_runs_every_case_on_an_artifact(artifact: Path, tmp_path: Path) -> None:
    """End to end, in a process of its own; what passes is the model's affair."""
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "training.behaviour", str(artifact), "--json", str(file)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text(encoding="utf-8"))
    ours = [found for found in figures["functionalities"] if found["kind"] != "MHC"]
    assert [(found["id"], found["cases"]) for found in ours] == [(item.id, len(item.cases)) for item in FUNCTIONALITIES]
    for found in ours:
        assert found["passed"] + len(found["failed"]) == found["cases"]
        assert f"{found['id']} " in result.stdout


def test_the_command_says_that_hatecheck_is_absent_and_shows_no_text(
    artifact: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = write(tmp_path, functionality("MFT", {"text": CANARY, "flagged": True}, {"text": "b", "flagged": False}))
    file = tmp_path / "figures.json"
    assert command(artifact, "--cases", cases, "--json", file) == 0
    shown = capsys.readouterr()
    assert "Multilingual HateCheck: absent" in shown.out
    written = file.read_text(encoding="utf-8")
    assert json.loads(written)["hatecheck"] == "absent"
    assert "perroquet" not in shown.out + shown.err + written


def test_the_command_runs_hatecheck_where_it_is(
    artifact: Path, tmp_path: Path, hatecheck: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = write(tmp_path, functionality("INV", {"variants": ["a", "b"]}))
    assert command(artifact, "--cases", cases, "--hatecheck", hatecheck) == 0
    shown = capsys.readouterr().out
    assert "MHC derog_h" in shown and "absent" not in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing"], "thresholds.json: cannot be read"),
        (["{artifact}", "--operating-point", "strict"], "'strict' is not in"),
        (["{artifact}", "--hatecheck", "nothing.csv"], "no such file"),
    ],
)
def test_a_mistake_is_one_line(
    artifact: Path, command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert command(*(argument.format(artifact=artifact) for argument in arguments)) == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1
