"""The report's sections on a split's figures: what was answered, for whom, how surely, and out of which data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

from training.report_charts import whisker
from training.report_tables import (
    UNDEFINED,
    body,
    cell,
    code,
    columns,
    figure,
    french,
    heat,
    measured,
    number,
    paragraph,
    percent,
    percent_span,
    row,
    span,
    table,
    unmeasured,
)

KINDS = {"categories": "Categories", "context": "Context", "voices": "Voices"}
WAYS = {
    "likeliest_voice": "where the likeliest voice is direct",
    "without_voices": "without voices, on whatever is flagged",
    "by_voice_share": "by score times the share of direct among voices",
}
"""How a text may come to be acted upon: `training.figures.decision_scores` in words."""
_REACHES = {
    "at_direct_recall": "Where {} of this split's direct texts are reached",
    "at_validation_threshold": "From the threshold that reaches {} of validation's direct texts",
}
FEW_GROUPS = 20
"""Redrawn groups say little about other groups where there are fewer."""
NO_TEST = "The data has no test split, so nothing was measured."


@dataclass(frozen=True)
class Run:
    """What all sections read: artifact.json, metrics.json, the labels of thresholds.json."""

    described: Mapping[str, Any]
    metrics: Mapping[str, Any]
    thresholds: Mapping[str, Mapping[str, Any]]

    @property
    def test(self) -> dict[str, Any] | None:
        return self.metrics.get("test")

    @property
    def points(self) -> list[str]:
        return list(next(iter(self.thresholds.values()), {}))

    @cached_property
    def names(self) -> dict[str, str]:
        """Label → its French name, in the order of outputs."""
        return {label["id"]: label["name"] for kind in KINDS for label in self.described["labels"][kind]}

    def head(self, label: str) -> str:
        return f"{french(self.names[label])} {code(label)}"


def headline(run: Run) -> str:
    """The four figures to read first, each with its interval."""
    if not (test := run.test):
        return paragraph(NO_TEST, "absent")
    means, with_voices = test["macro"], test["testimony_protection"]
    over = f"mean over {means['over']} of {means['of']} categories"
    ways = {"with voices": with_voices, "without": with_voices.get("without_voices") or {}}
    cards = [
        _card(
            "Testimonies and commentaries wrongly acted upon",
            [_share_line(name, way, "wrongly_acted_upon") for name, way in ways.items()],
            f"of {with_voices['protected_texts']}, by a tool that acts on the route “moderate”; without voices the "
            "same classifier acts on whatever is flagged",
        ),
        _card(
            "Direct texts reached",
            [_share_line(name, way, "direct_recall") for name, way in ways.items()],
            f"of {with_voices['direct_texts']}, by the same tool",
        ),
        _card("Average precision", [_mean_line(means, "average_precision")], over),
        _card("F1", [_mean_line(means, "f1")], f"{over}, at the {test['operating_point']} operating point"),
    ]
    return f'<div class="cards">{"".join(cards)}</div>{paragraph(escape(sample(test)))}'


def sample(test: Mapping[str, Any]) -> str:
    """How much was measured, and what the intervals are."""
    told = f"Test split: {test['examples']} texts"
    if "groups" not in test:
        return told + "."
    if test["groups"] == test["examples"]:
        told += ", each a group of its own."
    else:
        told += f" in {test['groups']} groups; a group is a writer or a conversation, and training saw none of them."
    if not test["macro"].get("intervals"):
        return told
    rough = "; with so few groups they are rough" if test["groups"] < FEW_GROUPS else ""
    return f"{told} Intervals are 95 %, over {test['resamples']} redraws of whole groups{rough}."


def protection(run: Run) -> str:
    if not run.test:
        return unmeasured()
    shares = run.test["testimony_protection"]
    without = _way(WAYS["without_voices"], shares.get("without_voices") or {})
    point = f"At the {run.test['operating_point']} operating point"
    bodies = [body([_way("where the route is “moderate”", shares), without], title=point, width=4)]
    bodies += [_ways(shares, key, title) for key, title in _REACHES.items() if shares.get(key)]
    told = (
        "Victims repeat the words of those who harm them. Acting upon a testimony silences who it should protect, so a "
        "way of deciding is judged by both columns: as few as possible of the first, as many as possible of the second."
    )
    caption = "Whom a tool acts upon: testimonies and commentaries (wrongly) and direct texts"
    head = columns(["acts …", "threshold", "wrongly acted upon", "direct texts reached"])
    return paragraph(told) + table(caption, head, *bodies)


def categories(run: Run) -> str:
    if not run.test:
        return unmeasured()
    head = ["label", "positives", "precision", "recall", "F1", "average precision", "average precision, 0 to 1", "F2",
            "ROC AUC", "recall at precision 0.9", "precision at recall 0.9"]  # fmt: skip
    bodies = []
    for kind, title in KINDS.items():
        ids = [label["id"] for label in run.described["labels"][kind]]
        rows = [_label(run.head(label), run.test["labels"][label]) for label in ids]
        bodies.append(body(rows, title=title, width=len(head)))
    averages = {"macro": "unweighted mean", "weighted": "weighted by positives", "micro": "all decisions together"}
    rows = [_label(f"{key}: {told}", run.test[key]) for key, told in averages.items() if key in run.test]
    bodies.append(body(rows, title="Over the categories that have positives", width=len(head)))
    caption = f"Every label on {run.test['examples']} test texts, at the {run.test['operating_point']} operating point"
    return table(caption, columns(head), *bodies) + _left_out(run.test)


def voices(run: Run) -> str:
    if not run.test:
        return unmeasured()
    confusion = run.test["voice_confusion"]
    names = [run.head(name) if name in run.names else escape(name) for name in confusion["labels"]]
    rows = [
        row(name, [_counted(count, sum(counts)) for count in counts] + [cell(str(sum(counts)))])
        for name, counts in zip(names, confusion["rows_truth_columns_answer"], strict=True)
    ]
    head = columns(["truth \\ answer", *confusion["labels"], "texts"])
    return table("True voice in rows, answered voice in columns: texts, and share of the row", head, body(rows))


def hardest(run: Run) -> str:
    if not run.test or "hardest" not in run.test:
        return unmeasured()
    rows = [
        row(code(error["id"]), [*(cell(words, "left") for words in _judged(error)), cell(number(error["margin"], 2))])
        for error in run.test["hardest"]
    ]
    told = (
        "The test texts that were misjudged most surely, by id, never by text. In bold, what stands on one side only. "
        "The margin is how far the worst error lies beyond its threshold, in log-odds."
    )
    names = ["id", "true labels", "flagged", "true voice", "answered voice", "margin"]
    head = columns(names, left=names[:-1])
    return paragraph(told) + table("Hardest errors, the surest first", head, body(rows))


def data(run: Run) -> str:
    counts = run.metrics["counts"]
    first: Mapping[str, Any] = next(iter(counts.values()))
    plain = {"texts": "anything", "no_category": "no category"}
    rows = [
        row(plain.get(name) or run.head(name), [cell(str(counts[split][name])) for split in counts])
        for name in first
        if name in plain or name in run.names
    ]
    return table("Texts, and positives of each label, by split", columns(["texts with", *counts]), body(rows))


def provenance(run: Run) -> str:
    described = run.described
    base, windows = described["base_model"], described.get("windows") or {}
    facts = [
        ("artifact", f"{described['name']} {described['version']}"),
        ("created", described["created"]),
        ("base model", base["name"]),
        ("revision of the base model", base["revision"] or UNDEFINED),
        ("pretrained", "yes" if base["pretrained"] else "no: random weights"),
        ("seed", described["seed"]),
        ("window", f"{windows['max_tokens']} tokens, {windows['overlap']} of overlap" if windows else UNDEFINED),
        ("version of the label list", described["labels"].get("version", UNDEFINED)),
    ]
    rows = [row(escape(name), [cell(escape(str(value)), "left", "break")]) for name, value in facts]
    bodies = [body(rows), body([_source(item) for item in described["data"]], title="Data", width=2)]
    versions = [row(escape(name), [cell(escape(value), "left")]) for name, value in described["libraries"].items()]
    return table(
        "Where this model comes from",
        columns(["fact", "value"], left=["value"]),
        *bodies,
        body(versions, title="Libraries", width=2),
    )


def _card(title: str, lines: Sequence[str], told: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3>{"".join(lines)}<p>{escape(told)}</p></div>'


def _share_line(name: str, figures: Mapping[str, Any], key: str) -> str:
    interval = (figures.get("intervals") or {}).get(key)
    told = f"<span>{escape(name)}</span><b>{percent(figures.get(key))}</b><small>{percent_span(interval)}</small>"
    return f"<div>{told}{whisker(figures.get(key), interval, name.split()[0])}</div>"


def _mean_line(means: Mapping[str, Any], key: str) -> str:
    interval = (means.get("intervals") or {}).get(key)
    told = f"<span>macro</span><b>{number(means[key])}</b><small>{span(interval)}</small>"
    return f"<div>{told}{whisker(means[key], interval)}</div>"


def _ways(shares: Mapping[str, Any], key: str, title: str) -> str:
    target = f"{shares['at_direct_recall']['target']:.0%}"
    rows = [_way(name, shares[key][way]) for way, name in WAYS.items() if way in shares[key]]
    return body(rows, title=title.format(target), width=4)


def _way(name: str, figures: Mapping[str, Any]) -> str:
    within = figures.get("intervals") or {}
    keys = ("wrongly_acted_upon", "direct_recall")
    shares = [figure(percent(figures.get(key)), percent_span(within.get(key))) for key in keys]
    return row(escape(name), [figure(number(figures.get("threshold"))), *shares])


def _label(head_html: str, figures: Mapping[str, Any]) -> str:
    within = figures.get("intervals") or {}
    chief = [measured(figures[key], within.get(key)) for key in ("precision", "recall", "f1")]
    ap, ends = figures.get("average_precision"), within.get("average_precision")
    rest = ("f2", "roc_auc", "recall_at_precision_90", "precision_at_recall_90")
    support = figures.get("support")
    cells = [cell(UNDEFINED if support is None else str(support)), *chief, measured(ap, ends), cell(whisker(ap, ends))]
    return row(head_html, [*cells, *(measured(figures.get(key)) for key in rest)])


def _left_out(test: Mapping[str, Any]) -> str:
    """Which labels a mean leaves out, because its figure is undefined for them."""
    left_out: Mapping[str, list[str]] = test["macro"].get("left_out") or {}
    told = [f"{escape(key)} without {', '.join(map(code, names))}" for key, names in left_out.items()]
    return paragraph(f"Undefined, and so no part of a mean: {'; '.join(told)}.") if told else ""


def _counted(count: int, total: int) -> str:
    share = count / total if total else 0.0
    return heat(f"{count}<small>{percent(share) if total else UNDEFINED}</small>", share)


def _judged(error: Mapping[str, Any]) -> list[str]:
    """True and answered labels, true and answered voice; in bold what stands on one side only."""
    voices_of = [error[key] for key in ("voice_truth", "voice_answered")]
    marked = [_names([name], [other]) for name, other in zip(voices_of, reversed(voices_of), strict=True)]
    truth, answered = error["truth"], error["answered"]
    return [_names(truth, answered), _names(answered, truth), *marked]


def _names(labels: Sequence[str], others: Sequence[str]) -> str:
    shown = [code(label) if label in others else f"<b>{code(label)}</b>" for label in labels]
    return " ".join(shown) or UNDEFINED


def _source(item: Mapping[str, Any]) -> str:
    left_out: Mapping[str, Any] = item.get("left_out") or {}
    facts = [f"version {item['version']}" if item.get("version") else "", item.get("license") or ""]
    facts += [f"sha256 {item['sha256']}", *(f"left out: {count} {why}" for why, count in left_out.items())]
    return row(code(item["card"]), [cell(escape(", ".join(filter(None, facts))), "left", "break")])
