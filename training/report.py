"""report.html: one self-contained page about a run. No script or font from elsewhere, and no text of anyone."""

from __future__ import annotations

from html import escape
from typing import Any

from training.model_card import WRITTEN

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #5b6579; --line: #d9dee8; --fill: #3b6fb5; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7ebf3; --soft: #a3adc0; --line: #39414f; --fill: #7aa7e6; --page: #151a22; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, caption { color: var(--soft); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem 1rem; flex: 1 1 12rem; }
.card b { display: block; font-size: 1.6rem; } .card span { color: var(--soft); font-size: .9rem; }
.bar { display: inline-block; height: .55rem; background: var(--fill); border-radius: .2rem; vertical-align: middle; }
"""


def report(described: dict[str, Any], metrics: dict[str, Any], thresholds: dict[str, dict[str, Any]]) -> str:
    """The page as HTML; every figure comes from metrics.json and thresholds.json."""
    title = f"{described['name']} {described['version']}"
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(WRITTEN)}</p>"]
    test = metrics.get("test")
    if test:
        parts += [_headline(test), _labels(test, described), _voices(test)]
    else:
        parts.append("<p>The data has no test split, so nothing was measured.</p>")
    parts += [_thresholds(thresholds), _data(described, metrics), _provenance(described)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _headline(test: dict[str, Any]) -> str:
    means, protection = test["macro"], test["testimony_protection"]
    wrong, reached = protection["wrongly_acted_upon"], protection["direct_recall"]
    cards = [
        (
            _percent(wrong),
            f"of {protection['protected_texts']} testimonies and commentaries would wrongly be acted upon",
        ),
        (_percent(reached), f"of {protection['direct_texts']} direct texts are routed to “moderate”"),
        (
            _number(means["average_precision"]),
            f"average precision, macro over {means['over']} of {means['of']} categories",
        ),
        (_number(means["f1"]), f"macro F1 at the {test['operating_point']} operating point"),
    ]
    inner = "".join(f'<div class="card"><b>{value}</b><span>{escape(text)}</span></div>' for value, text in cards)
    return f'<div class="cards">{inner}</div>'


def _labels(test: dict[str, Any], described: dict[str, Any]) -> str:
    names = {
        label["id"]: label["name"]
        for kind in ("categories", "context", "voices")
        for label in described["labels"][kind]
    }
    keys = ("precision", "recall", "f1", "f2", "average_precision", "roc_auc", "ece")
    head = ["label", "support", "precision", "recall", "F1", "F2", "AP", "ROC AUC", "ECE", ""]
    rows = [
        [f"{escape(names[name])}<br><code>{name}</code>", str(row["support"]), *(_number(row[key]) for key in keys),
         f'<span class="bar" style="width:{(row["average_precision"] or 0) * 6:.2f}rem"></span>']
        for name, row in test["labels"].items()
    ]  # fmt: skip
    return f"<h2>Test split, {test['examples']} texts</h2>" + _table(head, rows)


def _voices(test: dict[str, Any]) -> str:
    confusion = test["voice_confusion"]
    rows = [
        [name, *map(str, counts)]
        for name, counts in zip(confusion["labels"], confusion["rows_truth_columns_answer"], strict=True)
    ]
    return "<h2>Voice: truth in rows, answer in columns</h2>" + _table(["", *confusion["labels"]], rows)


def _thresholds(thresholds: dict[str, dict[str, Any]]) -> str:
    points = list(next(iter(thresholds.values())))
    head = ["label", *(f"{point}: threshold (precision / recall)" for point in points)]
    rows = []
    for name, chosen in thresholds.items():
        cells = [
            "too few positives"
            if row["threshold"] is None
            else f"{row['threshold']:.3f} ({row['precision']:.2f} / {row['recall']:.2f})"
            for row in chosen.values()
        ]
        rows.append([f"<code>{name}</code>", *cells])
    return "<h2>Operating points, as chosen on validation</h2>" + _table(head, rows)


def _data(described: dict[str, Any], metrics: dict[str, Any]) -> str:
    counts = metrics["counts"]
    rows = [[f"<code>{row}</code>", *(str(counts[split][row]) for split in counts)] for row in counts["train"]]
    return "<h2>Data: texts and positives</h2>" + _table(["", *counts], rows)


def _provenance(described: dict[str, Any]) -> str:
    base = described["base_model"]
    rows = [
        ["base model", escape(str(base["name"]))],
        ["revision", escape(str(base["revision"] or "–"))],
        ["pretrained", "yes" if base["pretrained"] else "no: random weights"],
        ["seed", str(described["seed"])],
        ["created", described["created"]],
        *([f"data: {escape(item['card'])}", f"<code>{item['sha256'][:16]}…</code>"] for item in described["data"]),
        *([escape(name), escape(version)] for name, version in described["libraries"].items()),
    ]
    return "<h2>Provenance</h2>" + _table(["", ""], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
