"""The report's sections on what a model was put through: other spellings, behavioural tests, identity terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from training.report_charts import whisker
from training.report_sections import Run
from training.report_tables import (
    UNDEFINED,
    body,
    cell,
    code,
    columns,
    french,
    heat,
    number,
    paragraph,
    percent,
    row,
    signed,
    table,
    unmeasured,
)

TESTS = {
    "MFT": "minimum: a text and what its answer must be",
    "INV": "invariance: texts that must be answered alike",
    "DIR": "direction: a change that must raise or lower a score",
    "MHC": "Multilingual HateCheck, another suite",
}
"""Kinds of behavioural tests, as `training.behaviour` names them."""
DARKEST_LOSS = 40.0
"""Points of recall from which a cell is as dark as it gets."""
DARKEST_AUC = 0.5
"""An AUC of chance is as dark as a cell gets, one of 1 not at all."""
SHOWN_FAILURES = 10
MEASURE = "python -m training.measure ARTIFACT --only {}"


def robustness(run: Run) -> str:
    found = run.metrics.get("robustness")
    if not found or not found["perturbations"]:
        return unmeasured(MEASURE.format("robustness"))
    ways: Mapping[str, Mapping[str, Any]] = found["perturbations"]
    first = next(iter(ways.values()))["categories"]
    head = columns(["way of writing", *first, "all, mean", "average precision", "wrongly acted upon", "texts changed"],
                   upright=True)  # fmt: skip
    recalls = [cell(number(figures["recall_clean"], 2), "centre") for figures in first.values()]
    written = row("as written: recall", [*recalls, cell(""), *_acted(found["clean"]), cell("")])
    bodies = body([written]) + body([_spelling(way) for way in ways.values()])
    told = (
        f"Recall gained or lost, in points, when all {found['examples']} texts are written another way. ▼ marks a loss "
        f"of more than {found['goal']['points']:g} points, the goal; in brackets, a category too small to judge."
    )
    caption = f"Change of recall by way of writing and category, in points, at {found['operating_point']}"
    return paragraph(_verdict(found["goal"], len(ways)), "verdict") + paragraph(told) + table(caption, head, bodies)


def behaviour(run: Run) -> str:
    found = run.metrics.get("behaviour")
    if not found:
        return unmeasured(MEASURE.format("behaviour"))
    kinds = [
        row(code(kind), [cell(escape(TESTS.get(kind, "")), "left"), *_rate(figures)])
        for kind, figures in found["kinds"].items()
    ]
    head = columns(["functionality", "passed", "rate", "0 to 1", "what failed", "failed cases"],
                   left=["what failed", "failed cases"])  # fmt: skip
    bodies = [
        body([_functionality(each) for each in found["functionalities"] if each["kind"] == kind],
             title=f"{kind}: {TESTS.get(kind, '')}", width=6)
        for kind in found["kinds"]
    ]  # fmt: skip
    told = (
        "Each functionality is one thing that a moderator relies on. A rate says where the model is weak, not how "
        "often it errs on real messages, so nothing is summed over kinds."
    )
    absent = found.get("hatecheck") == "absent"
    note = paragraph("Multilingual HateCheck was not at hand, so it was not run.") if absent else ""
    over_kinds = columns(["kind", "what it is", "passed", "rate", "0 to 1"], left=["what it is"])
    summary = table("Cases passed, by kind of test", over_kinds, body(kinds))
    return paragraph(told) + summary + note + table("Cases passed, by functionality", head, *bodies)


def bias(run: Run) -> str:
    found = run.metrics.get("bias")
    if not found:
        return unmeasured(MEASURE.format("bias"))
    told = (
        "Whether a term that names a group of people moves the scores by itself: the same invented sentences, filled "
        "with each term. Subgroup: texts with the term, harmful against not. BPSN: harmless texts with the term "
        "against harmful ones without; low means false alarms. BNSP: harmful texts with it against harmless ones "
        "without; low means misses. 1 is best, 0.5 is chance."
    )
    flagged = f"Of the harmless sentences, {percent(found['ordinary_flag_rate'])} are flagged."
    return (
        paragraph(told)
        + paragraph(flagged)
        + _terms("Identity terms", found["groups"], singly=True)
        + _terms("First names, by the group they are mostly given in", found["names"]["groups"], singly=False)
    )


def _terms(caption: str, groups: Mapping[str, Any], *, singly: bool) -> str:
    """A row a group, and one for each of its terms where they are shown singly."""
    rows = []
    for group, of in groups.items():
        rows.append(_term(f"<b>{escape(group)}</b>", of))
        rows += [_term(french(term), figures) for term, figures in of["terms"].items() if singly]
    names = ["", "harmless texts", "flagged", "harmful texts", "subgroup AUC", "BPSN AUC", "BNSP AUC"]
    return table(caption, columns(names), body(rows))


def _term(head: str, of: Mapping[str, Any]) -> str:
    rate, texts = percent(of["flag_rate"]), (str(of["ordinary_texts"]), str(of["positive_texts"]))
    aucs = [_auc(of[key]) for key in ("subgroup_auc", "bpsn_auc", "bnsp_auc")]
    return row(head, [cell(texts[0]), cell(rate), cell(texts[1]), *aucs])


def _acted(figures: Mapping[str, Any]) -> list[str]:
    acted = figures["testimony_protection"]["wrongly_acted_upon"]
    return [cell(number(figures["macro_average_precision"])), cell(percent(acted))]


def _spelling(way: Mapping[str, Any]) -> str:
    cells = [_change(figures, name in way["goal_missed_by"]) for name, figures in way["categories"].items()]
    lost = way["macro_recall_points_lost"]
    mean = cell(UNDEFINED if lost is None else signed(-lost))
    head = f"{escape(way['english'])} <small>{french(way['french'])}</small>"
    return row(head, [*cells, mean, *_acted(way), cell(str(way["changed_texts"]))])


def _change(figures: Mapping[str, Any], missed: bool) -> str:
    lost = figures["points_lost"]
    if lost is None:
        return cell(UNDEFINED, "centre")
    shown = signed(-lost)
    if missed:
        shown = f'<b>{shown}</b> <span aria-hidden="true">▼</span><span class="unseen"> goal missed</span>'
    elif not figures["judged"]:
        shown = f"({shown})"
    return heat(shown, lost / DARKEST_LOSS, "loss")


def _verdict(goal: Mapping[str, Any], ways: int) -> str:
    told = f"Goal, no category loses more than {goal['points']:g} points of recall: "
    if goal["met"] is None:
        return told + "not judged."
    missed = {item["perturbation"] for item in goal["missed"]}
    return told + ("met." if goal["met"] else f"<b>missed</b> under {len(missed)} of {ways} ways of writing.")


def _rate(figures: Mapping[str, Any]) -> list[str]:
    passed = f"{figures['passed']} of {figures['cases']}"
    return [cell(passed), cell(f"{figures['pass_rate']:.0%}"), cell(whisker(figures["pass_rate"], None))]


def _functionality(figures: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{part.replace('_', ' ')} {count}" for part, count in sorted(figures["missed"].items()))
    head = f"{french(figures['name'])} {code(figures['id'])}"
    return row(head, [*_rate(figures), cell(escape(parts), "left"), cell(_failed(figures["failed"]), "left")])


def _failed(cases: Sequence[int | str]) -> str:
    shown = ", ".join(map(str, cases[:SHOWN_FAILURES]))
    return escape(shown) + (f" and {len(cases) - SHOWN_FAILURES} more" if len(cases) > SHOWN_FAILURES else "")


def _auc(value: float | None) -> str:
    if value is None:
        return cell(UNDEFINED, "centre")
    return heat(number(value), (1 - value) / (1 - DARKEST_AUC), "loss")
