"""training.model_card: a card that Hugging Face's parser reads, with metrics.json's figures and no text of anyone."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from tests.invented import CANARY, Files, invented_run
from training.model_card import WRITTEN, model_card


@pytest.fixture(scope="module")
def run() -> Files:
    return invented_run()


@pytest.fixture(scope="module")
def card(run: Files) -> str:
    return model_card(*run[:2])


def rows(card: str, title: str) -> list[list[str]]:
    """Cells of every table row in a section."""
    section = card.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:1] == "|"]


def test_hugging_face_reads_the_figures_of_the_json(card: str, run: Files) -> None:
    test = run[1]["test"]
    shares = test["testimony_protection"]
    expected = {
        **{key: test["macro"][key] for key in ("average_precision", "f1", "f2", "precision", "recall", "roc_auc")},
        "wrongly_acted_upon": shares["wrongly_acted_upon"],
        "direct_recall": shares["direct_recall"],
        "wrongly_acted_upon_without_voices": shares["without_voices"]["wrongly_acted_upon"],
        "direct_recall_without_voices": shares["without_voices"]["direct_recall"],
    }
    data = ModelCard(card).data
    assert data.model_name == "vigie-invented" and data.language == ["fr"]
    assert {result.metric_type: result.metric_value for result in data.eval_results} == expected
    for result in data.eval_results:
        assert (result.dataset_name, result.dataset_type) == ("testimonies (written for the project)", "testimonies")
        assert (result.task_type, result.dataset_split) == ("text-classification", "test")
        assert result.metric_name


def test_it_says_what_it_is_not_for_before_any_figure(card: str) -> None:
    body = card.split("---\n", 2)[2]
    assert body.index("**Not for**") < body.index("## Data") < body.index(WRITTEN) < body.index("| `grooming`")


def test_no_text_of_anyone_gets_in(card: str) -> None:
    assert CANARY not in card


def test_the_same_files_give_the_same_card(card: str, run: Files) -> None:
    assert model_card(*run[:2]) == card


def test_tables_show_the_json(card: str, run: Files) -> None:
    metrics = run[1]
    row = metrics["test"]["labels"]["racism"]
    low, high = row["intervals"]["average_precision"]
    (shown,) = [cells for cells in rows(card, "Results on the test split") if cells[0] == "`racism`"]
    assert shown[1] == str(row["support"])
    assert shown[-1] == f"{row['average_precision']:.3f} ({low:.3f}–{high:.3f})"
    without = metrics["test"]["testimony_protection"]["without_voices"]
    assert rows(card, "Results on the test split")[-1][2].startswith(f"{without['direct_recall']:.1%} (")
    sides = metrics["calibration"]["test"]["racism"]
    (shown,) = [cells for cells in rows(card, "Calibration") if cells[0] == "`racism`"]
    assert shown[1] == metrics["calibration"]["validation"]["racism"]["method"]
    assert shown[2] == f"{sides['before']['log_loss']:.3f} → {sides['after']['log_loss']:.3f}"
    way = metrics["robustness"]["perturbations"]["emoji"]
    assert rows(card, "Robustness")[-1][2] == f"−{way['macro_recall_points_lost']:.1f}"
    kind = metrics["behaviour"]["kinds"]["MFT"]
    assert rows(card, "Behaviour")[-1][2] == f"{kind['passed']} of {kind['cases']}"
    assert rows(card, "Bias")[-1] == ["first names", "nordic", "12", "0.375", "0.812", "0.600", "–"]


def test_what_is_undefined_is_a_dash(card: str) -> None:
    """The last category has no positives, and so no threshold."""
    (shown,) = [cells for cells in rows(card, "Results on the test split") if cells[0] == "`cyberbullying`"]
    assert shown == ["`cyberbullying`", "0", "–", "–", "–", "–"]
    assert "never flagged, for want of examples: `cyberbullying`" in card
    assert not re.search(r"\b(None|nan|null)\b", card)


@pytest.mark.parametrize("part", ["calibration", "robustness", "behaviour", "bias"])
def test_what_was_not_measured_is_said_so(part: str) -> None:
    described, metrics, _ = invented_run(**{part: None})
    section = model_card(described, metrics).split(f"## {part.title()}\n")[1].split("\n## ")[0]
    assert section.strip().startswith("Not measured. `python -m training.") and "|" not in section


@pytest.mark.parametrize("test", [None, "nothing to average"])
def test_without_figures_there_is_no_model_index(test: Any) -> None:
    described, metrics, _ = invented_run()
    metrics["test"]["macro"] |= {"over": 0} | dict.fromkeys(("f1", "average_precision"))
    card = model_card(described, metrics | {"test": metrics["test"] if test else None})
    assert "model-index" not in yaml.safe_load(card.split("---\n")[1])
    assert ModelCard(card).data.eval_results is None
    assert ("The data has no test split." in card) == (test is None)


def test_other_data_is_not_called_the_projects_own() -> None:
    described, metrics, _ = invented_run()
    described["data"].append({**described["data"][0], "card": "mine.csv"})
    card = model_card(described, metrics)
    assert WRITTEN not in card
    assert {result.dataset_name for result in ModelCard(card).data.eval_results} == {"testimonies, mine.csv"}


def test_the_base_model_is_named_only_where_the_hub_has_it() -> None:
    described, metrics, _ = invented_run()
    assert ModelCard(model_card(described, metrics)).data.base_model is None
    described["base_model"] = {"name": "almanach/camembert-base", "revision": "0123abc", "pretrained": True}
    card = model_card(described, metrics)
    assert ModelCard(card).data.base_model == "almanach/camembert-base"
    assert "fine-tuned from `almanach/camembert-base` at `0123abc`" in card


def test_every_calibration_method_is_explained(card: str) -> None:
    said = (
        "the sigmoid of `a · logit + b` (identity, temperature, platt), or a curve of points joined by lines (isotonic)"
    )
    assert said in card
