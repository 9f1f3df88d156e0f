"""training.report and its charts: every figure from the JSON, nothing from elsewhere, no text of anyone."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.invented import CANARY, Files, invented_run
from tests.page import Page
from training.errors import UserError
from training.model_card import WRITTEN
from training.report import _STYLE, report, rewrite

CHECKS = ("robustness", "behaviour", "bias")


@pytest.fixture(scope="module")
def run() -> Files:
    return invented_run()


@pytest.fixture(scope="module")
def html(run: Files) -> str:
    return report(*run)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_it_says_first_what_the_figures_are_worth(html: str) -> None:
    assert WRITTEN in html.split("<main>")[0]


def test_the_contents_lead_to_every_section(page: Page) -> None:
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{anchor}" for anchor in sections]
    assert {"protection", "curves", "calibration", "voices", "hardest", "provenance", *CHECKS} <= set(sections)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_it_is_one_file_without_script(html: str, page: Page) -> None:
    assert not re.search(r"https?:|<script|<link|<img|<iframe|@import|url\(|\bon\w+=", html)
    assert not [attributes for _, attributes in page.tags if "src" in attributes]


def test_no_text_of_anyone_gets_in(html: str, run: Files) -> None:
    assert CANARY not in html
    assert run[1]["test"]["hardest"], "or there was nothing to hide"


def test_it_can_be_heard(page: Page) -> None:
    """Every table has a caption, every head a scope, every chart a label or a figure beside it."""
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == names.count("caption") == len(page.tables)
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(chart.get("aria-hidden") == "true" or chart.get("aria-label") for chart in charts)
    assert sum(chart.get("role") == "img" for chart in charts) > 20


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_the_page(scheme: int) -> None:
    """WCAG 2.2 AA asks for a contrast of 4.5, also of figures on the darkest cell of a heat table."""
    root = re.findall(r":root \{(.*?)\}", _STYLE, re.DOTALL)[scheme]
    colours = {name: _rgb(value) for name, value in re.findall(r"--(\w+): #(\w+)", root)}
    for ink in ("ink", "soft", "blue", "orange"):
        assert _contrast(colours[ink], colours["page"]) >= 4.5, ink
        assert _contrast(colours[ink], colours["card"]) >= 4.5, ink
    for heat, share in (("heat", 0.6), ("hot", 0.65)):
        assert f"var(--{heat}) calc(var(--v) * {share:g})".replace("0.", ".") in _STYLE
        mixed = share * colours[heat] + (1 - share) * colours["page"]
        assert _contrast(colours["ink"], mixed) >= 4.5, heat


def _rgb(text: str) -> np.ndarray:
    digits = text if len(text) == 6 else "".join(2 * digit for digit in text)
    return np.array([int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)])


def _contrast(one: np.ndarray, other: np.ndarray) -> float:
    """Ratio of relative luminances (WCAG 2.2)."""
    linear = [np.where(each <= 0.04045, each / 12.92, ((each + 0.055) / 1.055) ** 2.4) for each in (one, other)]
    light = sorted(float(each @ [0.2126, 0.7152, 0.0722]) for each in linear)
    return (light[1] + 0.05) / (light[0] + 0.05)


def test_the_same_files_give_the_same_page(html: str, run: Files) -> None:
    assert report(*run) == html
    assert report(*json.loads(json.dumps(run))) == html


def test_figures_of_labels_are_those_of_the_json(page: Page, run: Files) -> None:
    test = run[1]["test"]
    for label in ("grooming", "minor_involved", "testimony"):
        row, cells = test["labels"][label], page.row("Every label on", label)
        assert cells[1] == str(row["support"])
        for place, key in ((2, "precision"), (3, "recall"), (4, "f1"), (5, "average_precision")):
            low, high = row["intervals"][key]
            assert cells[place] == f"{row[key]:.3f}{low:.3f}–{high:.3f}", key
        assert cells[7:9] == [f"{row['f2']:.3f}", f"{row['roc_auc']:.3f}"]
    assert page.row("Every label on", "macro:")[4].startswith(f"{test['macro']['f1']:.3f}")


def test_the_headline_compares_with_and_without_voices(html: str, page: Page, run: Files) -> None:
    shares = run[1]["test"]["testimony_protection"]
    cards = html.split('class="cards"')[1].split("</section>")[0]
    for key in ("wrongly_acted_upon", "direct_recall"):
        low, high = shares["without_voices"]["intervals"][key]
        assert f"<b>{shares[key]:.1%}</b>" in cards
        assert f"<b>{shares['without_voices'][key]:.1%}</b><small>{low:.1%}–{high:.1%}</small>" in cards
    assert f"150 texts in {run[1]['test']['groups']} groups" in cards
    (rows,) = [rows for told, rows in page.tables.items() if told.startswith("Whom a tool acts upon")]
    at = shares["at_validation_threshold"]["by_voice_share"]
    expected = [f"{at['threshold']:.3f}", f"{at['wrongly_acted_upon']:.1%}", f"{at['direct_recall']:.1%}"]
    assert rows[-1][1:] == expected


def test_other_sections_show_the_json_too(page: Page, run: Files) -> None:
    _, metrics, thresholds = run
    point, row = thresholds["grooming"]["recall_first"], page.row("Operating points of", "grooming")
    assert row[2] == f"{point['threshold']:.3f}"
    assert row[3].startswith(f"{point['precision']:.2f}")
    sides = metrics["calibration"]["test"]["grooming"]
    shown = [f"{sides[side][key]:.3f}" for key in ("log_loss", "ece", "brier") for side in ("before", "after")]
    assert page.row("test split; lower is better", "grooming")[3:] == shown
    counts = metrics["test"]["voice_confusion"]["rows_truth_columns_answer"][1]
    told = [f"{count}{count / sum(counts):.1%}" for count in counts]
    assert page.row("True voice in rows", "testimony")[1:] == [*told, str(sum(counts))]
    error = metrics["test"]["hardest"][0]
    assert page.row("Hardest errors", error["id"])[-1] == f"{error['margin']:.2f}"
    assert page.row("Identity terms", "invités")[1:] == ["8", "37.5%", "4", "0.812", "0.600", "–"]
    assert page.row("First names", "nordic")[1:] == ["8", "37.5%", "4", "0.812", "0.600", "–"]
    assert page.row("Cases passed, by kind", "MFT")[2] == "{passed} of {cases}".format(
        **metrics["behaviour"]["kinds"]["MFT"]
    )
    assert page.row("Texts, and positives", "anything")[1:] == ["150", "150"]
    assert page.row("Where this model comes from", "testimonies")[1].endswith("ab" * 32)


def test_a_missed_goal_is_marked_by_more_than_colour(page: Page, run: Files) -> None:
    result = run[1]["robustness"]
    missed = {(item["perturbation"], item["category"]) for item in result["goal"]["missed"]}
    assert missed, "or there was nothing to mark"
    (rows,) = [rows for told, rows in page.tables.items() if told.startswith("Change of recall")]
    names = rows[0][1:]
    for name, cells in zip(result["perturbations"], rows[2:], strict=True):
        for category, text in zip(names, cells[1:], strict=True):
            assert ("▼ goal missed" in text) == ((name, category) in missed)
            if (name, category) in missed:
                lost = result["perturbations"][name]["categories"][category]["points_lost"]
                assert text.startswith(f"−{lost:.1f}")


def test_what_is_undefined_is_a_dash(page: Page) -> None:
    """The last category has no positives: no recall, no curve, no threshold, and a reason."""
    assert page.row("Every label on", "cyberbullying")[1:7] == ["0", "–", "–", "–", "–", ""]
    assert "0 positives, fewer than 10" in page.row("Operating points of", "cyberbullying")[2]
    assert "no positives, no curve" in page.text
    assert not re.search(r"\b(None|nan|null)\b", page.text)


@pytest.mark.parametrize("part", [*CHECKS, "calibration"])
@pytest.mark.parametrize("nothing", [None, {}])
def test_what_was_not_measured_is_said_so(part: str, nothing: Any, html: str) -> None:
    def section(page: str) -> str:
        return page.split(f'<section id="{part}"')[1].split("</section>")[0]

    without = report(*invented_run(**{part: nothing}))
    Page(without)
    assert "Not measured." in section(without) and "<table" not in section(without)
    assert "python -m training." in section(without)
    assert "Not measured." not in section(html) and "<table" in section(html)


def test_an_older_artifact_can_still_be_shown() -> None:
    """metrics.json without intervals, curves and comparison, thresholds without intervals; and no test split at all."""
    described, metrics, thresholds = invented_run(robustness=None)
    for key in ("groups", "resamples", "curves", "hardest", "weighted", "micro"):
        del metrics["test"][key]
    for row in (*metrics["test"]["labels"].values(), metrics["test"]["macro"]):
        del row["intervals"]
    metrics["test"]["testimony_protection"] = {
        key: value for key, value in metrics["test"]["testimony_protection"].items() if isinstance(value, (int, float))
    }
    for points in thresholds.values():
        for point in points.values():
            point.pop("precision_interval", None)
    assert "150 texts" in Page(report(described, metrics, thresholds)).text
    assert "no test split" in Page(report(described, metrics | {"test": None}, thresholds)).text


def test_every_name_is_escaped() -> None:
    described, metrics, thresholds = invented_run()
    hostile = "<b onclick=x>&\"'"
    for item in (described, described["base_model"], described["labels"]["categories"][0]):
        item["name"] = hostile
    described["data"][0]["card"] = described["libraries"]["numpy"] = hostile
    metrics["test"]["hardest"][0]["id"] = metrics["behaviour"]["functionalities"][0]["name"] = hostile
    metrics["robustness"]["perturbations"]["emoji"]["english"] = hostile
    origin = metrics["bias"]["groups"]["origin"]
    metrics["bias"]["groups"] = {hostile: {**origin, "terms": {hostile: origin["terms"]["invités"]}}}
    thresholds = {label: {**points, hostile: points["balanced"]} for label, points in thresholds.items()}
    shown = report(described, metrics, thresholds)
    assert "<b onclick" not in shown
    assert Page(shown).text.count(hostile) > 10


def test_an_operating_point_of_ones_own_is_shown() -> None:
    described, metrics, thresholds = invented_run()
    for points in thresholds.values():
        points["triage95"] = {**points["balanced"], "copied_from": "balanced"}
    shown = report(described, metrics, thresholds)
    assert "as balanced" in Page(shown).row("Operating points of", "grooming")[11]
    assert shown.count("<title>triage95: precision") > 5


def test_other_data_is_not_called_the_projects_own() -> None:
    described, metrics, thresholds = invented_run()
    described["data"].append({**described["data"][0], "card": "mine.csv"})
    shown = report(described, metrics, thresholds)
    assert WRITTEN not in shown and "testimonies, mine.csv" in shown


def test_rewriting_gives_what_export_wrote(artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(artifact, tmp_path / "copy")
    rewrite(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in artifact.iterdir()
    }


def test_the_command_writes_pages_and_their_hashes(artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(artifact, tmp_path / "copy")
    for name in ("report.html", "README.md"):
        (folder / name).write_text("old", encoding="utf-8")
    result = _command(folder)
    assert result.returncode == 0, result.stderr
    for name in ("report.html", "README.md", "artifact.json"):
        assert (folder / name).read_bytes() == (artifact / name).read_bytes()


def test_new_figures_are_written_with_their_hashes(artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(artifact, tmp_path / "copy")
    before = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))["files"]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    metrics["bias"] = invented_run()[1]["bias"]
    rewrite(folder, metrics)
    after = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))["files"]
    written = {"report.html", "README.md", "metrics.json"}
    assert {name for name in before if before[name] != after[name]} == written
    for name in written:
        assert "nordic" in (folder / name).read_text(encoding="utf-8")
        assert after[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == metrics
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.json", None, "is missing"),
        ("metrics.json", "{}", "another form"),
        ("thresholds.json", "[", "broken JSON"),
    ],
)
def test_a_broken_artifact_is_a_message_and_stays_as_it_was(
    artifact: Path, tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "copy")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        rewrite(folder)
    assert (folder / "report.html").read_bytes() == (artifact / "report.html").read_bytes()


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = _command(tmp_path / "nowhere")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_a_failed_write_leaves_the_old_file(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(artifact, tmp_path / "copy")
    (folder / "report.html").write_text("old", encoding="utf-8")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UserError, match="as it was"):
        rewrite(folder)
    assert (folder / "report.html").read_text(encoding="utf-8") == "old"
    assert not list(folder.glob(".*"))


def _command(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.report", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
