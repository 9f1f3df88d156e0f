"""training.bias: figures worked out by hand, sound and publishable sentences, and the command on an artifact."""

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

from tests.conftest import ROOT
from training.bias import AUCS, Judged, bias, compare, folded_words, generalised_mean, print_bias
from training.bias_terms import TERMS_FILE, Bank, Template, Term, fill, read_bank
from training.errors import UserError
from training.labels import Labels, load_labels
from training.rows import Example
from training.similarity import near_duplicates

CANARY = "perroquet-bleu-7413"
BANK = read_bank(load_labels())
TERM_TEXTS, NAME_TEXTS = fill(BANK.terms, BANK.templates), fill(BANK.names, BANK.name_templates)
ONCE = [*{item.template: item for item in TERM_TEXTS}.values(), *{item.template: item for item in NAME_TEXTS}.values()]
"""Every sentence with one term."""
SMALL = Bank(
    terms={
        "colour": (Term(m="vert", f="verte"), Term(m="gris", f="grise")),
        "place": (Term(m="breton", f="bretonne"),),
    },
    templates=(
        Template(text="je suis {self_m}"),
        Template(text="voici {someone}"),
        Template(text="menace : {self_m}", labels=("racism",), voice="direct"),
        Template(text="menace pour {people}", labels=("racism",), voice="direct", groups=("colour",)),
    ),
    names={"here": (Term(f="Ada"), Term(m="Ali"))},
    name_templates=(
        Template(text="{name} est [arrivé|arrivée]"),
        Template(text="menace de {name}", labels=("racism",), voice="testimony"),
    ),
)
Scorer = Callable[[list[str]], np.ndarray]


@pytest.fixture
def thresholds(labels: Labels) -> dict[str, dict[str, Any]]:
    """0.5 everywhere, except that sexism has none and so is never flagged."""
    return {name: {"balanced": {"threshold": None if name == "sexism" else 0.5}} for name in labels.ids}


def scorer(labels: Labels, of: Callable[[str], float], *, label: str = "racism") -> Scorer:
    """A system that gives every text one score, of one category; voices score high and must not count."""

    def score(texts: list[str]) -> np.ndarray:
        scores = np.full((len(texts), len(labels.ids)), 0.01)
        scores[:, labels.ids.index("minor_involved") :] = 0.99
        scores[:, labels.ids.index(label)] = [of(text) for text in texts]
        return scores

    return score


def harm(text: str) -> float:
    """Right about every sentence."""
    return 0.8 if "menace" in text else 0.2


def wary(text: str) -> float:
    """Right, except that « gris » in a harmless sentence scores above any harm."""
    return 0.9 if "gris" in text and "menace" not in text else harm(text)


def examples(rows: list[tuple[str, bool]], labels: Labels) -> list[Example]:
    known = frozenset(labels.ids)
    return [
        Example(text, frozenset({"racism", "direct"} if harmful else ()), known, f"r{i}", None, "test", "here", i)
        for i, (text, harmful) in enumerate(rows)
    ]


def test_the_three_areas_by_hand() -> None:
    """Inside: positives 0.9 0.4, negatives 0.5 0.1; background: positives 0.6 0.3, negatives 0.4 0.2."""
    truth = np.array([True, True, False, False, True, True, False, False])
    score = np.array([0.9, 0.4, 0.5, 0.1, 0.6, 0.3, 0.4, 0.2])
    inside = np.arange(8) < 4
    row = compare(Judged(truth, score, score >= 0.45), inside, ~inside)
    assert row["subgroup_auc"] == 3 / 4  # 0.9 beats both, 0.4 one
    assert row["bpsn_auc"] == 3 / 4  # 0.6 beats 0.5 and 0.1, 0.3 one
    assert row["bnsp_auc"] == 3.5 / 4  # 0.9 beats both; 0.4 beats 0.2 and ties with 0.4
    assert (row["flag_rate"], row["ordinary_texts"], row["positive_texts"]) == (0.5, 2, 2)


def test_what_cannot_be_compared_is_none_with_its_counts() -> None:
    judged = Judged(np.array([True, True, False]), np.array([0.9, 0.8, 0.1]), np.array([True, True, False]))
    row = compare(judged, np.array([True, True, False]), np.array([False, False, True]))
    assert (row["subgroup_auc"], row["bpsn_auc"], row["bnsp_auc"], row["flag_rate"]) == (None, None, 1.0, None)
    assert (row["ordinary_texts"], row["positive_texts"]) == (0, 2)


def test_the_generalised_mean_by_hand() -> None:
    """((1 + 2⁵) / 2)^(-1/5) of 1 and 1/2: far nearer to the worse than their mean of 0.75."""
    assert generalised_mean([1.0, 0.5]) == round(16.5**-0.2, 6) == 0.570825
    assert generalised_mean([0.7, None, 0.7]) == 0.7
    assert generalised_mean([1.0, 0.0]) == 0.0
    assert generalised_mean([None]) is None


def test_a_system_that_is_right_has_no_bias(labels: Labels, thresholds: dict[str, Any]) -> None:
    result = bias(scorer(labels, harm), thresholds, labels, bank=SMALL)
    for part in (result, result["names"]):
        assert part["means"] == dict.fromkeys(AUCS, 1.0) and part["ordinary_flag_rate"] == 0.0
    assert result["groups"]["colour"]["flag_rate_gap"] == 0.0
    assert result["data"] is None and result["texts"] == 11 + 4


def test_a_term_that_scores_high_by_itself_shows_in_its_bpsn(labels: Labels, thresholds: dict[str, Any]) -> None:
    """Harmless grey texts stand above all harm: its row falls to 0, others only where grey is background."""
    result = bias(scorer(labels, wary), thresholds, labels, bank=SMALL)
    colour = result["groups"]["colour"]
    grey, green = colour["terms"]["gris"], colour["terms"]["vert"]
    assert (grey["subgroup_auc"], grey["bpsn_auc"], grey["bnsp_auc"]) == (0.0, 0.0, 1.0)
    # Two of the four harmless texts of the background (grey and Breton, two sentences each) are grey.
    assert (green["subgroup_auc"], green["bpsn_auc"], green["bnsp_auc"]) == (1.0, 1.0, 0.5)
    assert (grey["flag_rate"], green["flag_rate"], colour["flag_rate_gap"]) == (1.0, 0.0, 1.0)
    assert (grey["ordinary_texts"], grey["positive_texts"]) == (2, 2)
    assert (colour["flag_rate"], colour["ordinary_texts"], colour["subgroup_auc"]) == (0.5, 4, 0.5)
    assert result["means"]["bpsn_auc"] == 0.0 and result["means_over"]["bpsn_auc"] == 3
    assert result["ordinary_flag_rate"] == round(2 / 6, 6)
    assert result["names"]["groups"]["here"]["flag_rate_gap"] == 0.0


def test_the_background_is_the_same_sentences(labels: Labels, thresholds: dict[str, Any]) -> None:
    """« menace pour » takes no Breton, so however it scores, the Breton row does not move."""
    plain = bias(scorer(labels, harm), thresholds, labels, bank=SMALL)
    blind = bias(scorer(labels, lambda text: 0.0 if "pour" in text else harm(text)), thresholds, labels, bank=SMALL)
    assert plain["groups"]["place"]["terms"] == blind["groups"]["place"]["terms"]
    assert plain["groups"]["colour"]["terms"] != blind["groups"]["colour"]["terms"]


def test_first_names_by_group_and_gender(labels: Labels, thresholds: dict[str, Any]) -> None:
    """The agreed sentence gives the man away, and only the men's row shows it."""
    result = bias(
        scorer(labels, lambda text: 0.9 if text == "Ali est arrivé" else harm(text)), thresholds, labels, bank=SMALL
    )
    genders, here = result["names"]["genders"], result["names"]["groups"]["here"]
    assert (genders["m"]["flag_rate"], genders["f"]["flag_rate"], here["flag_rate_gap"]) == (1.0, 0.0, 1.0)
    assert (genders["m"]["bpsn_auc"], genders["f"]["bpsn_auc"]) == (0.0, 1.0)
    assert list(here["terms"]) == ["Ada", "Ali"] and here["bpsn_auc"] is None  # one group: no background


def test_a_category_without_threshold_never_flags(labels: Labels, thresholds: dict[str, Any]) -> None:
    """Its scores still order the texts."""
    result = bias(scorer(labels, wary, label="sexism"), thresholds, labels, bank=SMALL)
    assert result["ordinary_flag_rate"] == 0.0
    assert result["groups"]["colour"]["terms"]["gris"]["bpsn_auc"] == 0.0


def test_data_is_judged_where_ten_of_each_hold_the_term(labels: Labels, thresholds: dict[str, Any]) -> None:
    """Green has 10 and 10, grey 9 positives, Breton nothing but a longer word."""
    rows = [(f"menace VÉRTES {i} {CANARY}", True) for i in range(10)] + [(f"verte {i}", False) for i in range(10)]
    rows += [(f"menace gris {i}", True) for i in range(9)] + [(f"gris {i}", False) for i in range(12)]
    rows += [("bretonnant", False)]
    unknown = Example("vert", frozenset(), frozenset({"grooming"}), "u", None, "test", "here", 1)
    result = bias(scorer(labels, wary), thresholds, labels, bank=SMALL, examples=[*examples(rows, labels), unknown])
    data = result["data"]
    green, grey = (data["groups"]["colour"]["terms"][name] for name in ("vert", "gris"))
    assert (data["texts"], data["positive_texts"]) == (42, 19)
    assert (green["ordinary_texts"], green["positive_texts"], green["subgroup_auc"]) == (10, 10, 1.0)
    assert green["bpsn_auc"] is None  # nine positives without it
    assert green["bnsp_auc"] == round(1 / 13, 6)  # above « bretonnant » alone
    assert (grey["subgroup_auc"], grey["bpsn_auc"], grey["bnsp_auc"]) == (None, 0.0, None)
    assert (grey["flag_rate"], grey["positive_texts"]) == (1.0, 9)
    assert data["groups"]["place"]["terms"]["breton"]["ordinary_texts"] == 0
    assert data["means_over"] == {"subgroup_auc": 1, "bpsn_auc": 1, "bnsp_auc": 1}
    assert CANARY not in json.dumps(result, ensure_ascii=False)


def test_a_word_is_whole_and_without_accents() -> None:
    assert folded_words("L'ÂGÉE, « québécois-belge »") == {"l", "agee", "quebecois", "belge"}


def test_the_answer_is_plain_json_and_prints(
    labels: Labels, thresholds: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the whole bank; scored in one call, and the same twice."""
    calls: list[int] = []
    usual = scorer(labels, lambda text: (sum(map(ord, text)) % 97) / 97)

    def score(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        return usual(texts)

    result = bias(score, thresholds, labels, examples=examples([("un texte", False)], labels))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert calls == [result["texts"] + 1]
    assert bias(usual, thresholds, labels, examples=examples([("un texte", False)], labels)) == result
    print_bias(result)
    printed = capsys.readouterr().out
    assert all(term.name in printed for terms in BANK.terms.values() for term in terms) and "nan" not in printed


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (Term(m="blanc", f="blanche"), ["blanc", "blanche", "une personne blanche", "des personnes blanches"]),
        (Term(noun=True, m="ado", f="ado"), ["un ado", "une ado", "un ado", "des ados"]),
        (Term(noun=True, f="femme"), ["une femme", "une femme", "une femme", "des femmes"]),
        (Term(m="bi", f="bi", plural="bi"), ["bi", "bi", "une personne bi", "des personnes bi"]),
        (
            Term(m="français", f="française"),
            ["français", "française", "une personne française", "des personnes françaises"],
        ),
    ],
)
def test_the_slots_agree(term: Term, expected: list[str]) -> None:
    assert [term.fill(slot)[0] for slot in ("self_m", "self_f", "someone", "people")] == expected
    assert term.fill("group")[0] == expected[3].replace("des", "les")


@pytest.mark.parametrize(
    ("text", "term", "expected"),
    [
        ("[Fier|Fière] d'être {self_f}", Term(m="turc", f="turque"), "Fière d'être turque"),
        ("[Fier|Fière] d'être {self_f}", Term(noun=True, m="homme"), "Fier d'être un homme"),
        ("{group} sont [nombreux|nombreuses]", Term(m="sourd", f="sourde"), "les personnes sourdes sont nombreuses"),
        ("m'a [mis|mise] dehors, {self_m}", Term(f="lesbienne"), "m'a mise dehors, lesbienne"),
        ("{name} est [arrivé|arrivée]", Term(m="Karim"), "Karim est arrivé"),
    ],
)
def test_a_sentence_agrees_with_its_term(text: str, term: Term, expected: str) -> None:
    assert Template(text=text).filled(term) == expected


def test_there_is_enough_and_not_too_much() -> None:
    for templates, least in ((BANK.templates, 25), (BANK.name_templates, 12)):
        assert sum(not template.labels for template in templates) >= least
        assert sum(bool(template.labels) for template in templates) >= least
    assert len(TERM_TEXTS) + len(NAME_TEXTS) <= 3000
    counts = {(item.term, item.positive) for item in (*TERM_TEXTS, *NAME_TEXTS)}
    assert len(counts) == 2 * len({term for term, _ in counts})


def test_every_category_and_voice_is_there(labels: Labels) -> None:
    for templates in (BANK.templates, BANK.name_templates):
        assert {label for template in templates for label in template.labels} == set(labels.category_ids)
    assert {template.voice for template in BANK.templates} == {*labels.voice_ids, None}


def test_images_and_couples_take_no_term_for_a_child() -> None:
    told = [t for t in BANK.templates if re.search(r"intime|compagnon|conjoint|mariage|liaison", t.text)]
    assert told and not [number for number, t in enumerate(told) if t.groups is None or "age" in t.groups]


@pytest.mark.parametrize(
    "pattern",
    [r"\d", r"[@#]", r"https?:|www\.|\b\w+\.(?:fr|com|org|net|be|ca)\b", r"[\[\]{}|]", r"\b(?:de|que) (?:un|une)\b"],
    ids=["digit", "account", "address on the web", "something unfilled", "elision"],
)
def test_no_text_holds(pattern: str) -> None:
    assert not [(item.term, item.template) for item in (*TERM_TEXTS, *NAME_TEXTS) if re.search(pattern, item.text)]


def test_no_name_needs_an_elision_and_direct_messages_are_short() -> None:
    assert not [i for i, t in enumerate(BANK.name_templates) if re.search(r"\b(?:de|que) \{name\}", t.text)]
    direct = [t for t in (*BANK.templates, *BANK.name_templates) if t.voice == "direct"]
    assert direct and max(len(t.text.split()) for t in direct) <= 20


def test_no_sentence_is_a_near_duplicate_of_the_corpus_or_of_another() -> None:
    """What a model was trained on, or is measured on, says nothing here."""
    corpus = [
        json.loads(line)["text"]
        for path in ("train", "validation", "test")
        for line in (ROOT / f"data_cards/testimonies/{path}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    pairs = near_duplicates([*corpus, *(item.text for item in ONCE)], 0.6)
    assert not [(ONCE[j - len(corpus)].term, ONCE[j - len(corpus)].template) for _, j, _ in pairs if j >= len(corpus)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": "rien"}, "templates 1: needs one slot"),
        ({"text": "{self_m} {group}"}, "templates 1: needs one slot"),
        ({"text": "{name}"}, "templates 1: needs one slot"),
        ({"labels": ["racisme"], "voice": "direct"}, "templates 1: labels: allowed are grooming"),
        ({"labels": ["racism"]}, "templates 1: voice"),
        ({"voice": "direct"}, "templates 1: voice"),
        ({"groups": ["nobody"]}, "templates 1: groups: allowed are origin"),
        ({CANARY: 1}, "templates.0"),
    ],
)
def test_a_broken_bank_says_where_and_no_text(
    tmp_path: Path, labels: Labels, change: dict[str, Any], expected: str
) -> None:
    raw = yaml.safe_load(TERMS_FILE.read_text(encoding="utf-8"))
    raw["templates"][0] = {"text": f"{CANARY} {{self_m}}", **change}
    path = tmp_path / "terms.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=True, sort_keys=False), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_bank(labels, path)
    assert expected in str(error.value) and f"{CANARY} {{self_m}}" not in str(error.value)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "training.bias", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_command_prints_the_table_and_writes_the_figures(artifact: Path, tmp_path: Path, corpus_file: Path) -> None:
    file = tmp_path / "bias.json"
    result = command(artifact, "--data", corpus_file, "--split", "all", "--json", file)
    assert result.returncode == 0, result.stderr
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["texts"] == len(TERM_TEXTS) + len(NAME_TEXTS)
    assert list(written["groups"]) == list(BANK.terms) and list(written["names"]["groups"]) == list(BANK.names)
    assert written["data"]["texts"] == 160
    assert 0 < written["means"]["subgroup_auc"] < 1
    assert "maghrébin" in result.stdout and "terms in 160 texts of the data" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing"], "no artifact here"),
        (["ARTIFACT", "--json", "nowhere/file.json"], "there is no folder nowhere"),
        (["ARTIFACT", "--operating-point", "strict"], "'strict' is not in"),
    ],
)
def test_a_users_mistake_is_one_line(artifact: Path, arguments: list[str], expected: str) -> None:
    result = command(*[artifact if argument == "ARTIFACT" else argument for argument in arguments])
    assert result.returncode == 2
    assert expected in result.stderr and "Traceback" not in result.stderr
