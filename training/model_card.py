"""The artifact's README.md: a model card in Hugging Face's format, every figure taken from metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from training.report_checks import MEASURE, TESTS
from training.report_sections import sample
from training.report_tables import UNDEFINED, number, percent, percent_span, signed, span

WRITTEN = (
    "Measured on texts written for the project, not on messages that people sent: read these figures as a comparison "
    "between models, not as accuracy on real traffic."
)
EVALUATE = "python -m training.evaluate ARTIFACT"
TRAIN = "python -m training.train --config ARTIFACT/run.yaml --output ANOTHER"
"""Commands that give figures again, as the report and the card name them."""
_OWN_CARD = "testimonies"
_MEANS = {
    "average_precision": "Macro average precision",
    "f1": "Macro F1",
    "f2": "Macro F2",
    "precision": "Macro precision",
    "recall": "Macro recall",
    "roc_auc": "Macro ROC AUC",
}
_SHARES = {
    "wrongly_acted_upon": "Testimonies and commentaries wrongly acted upon",
    "direct_recall": "Direct texts reached",
}


def written(described: Mapping[str, Any]) -> str:
    """What the figures are worth: `WRITTEN`, unless the data is not (only) the project's own."""
    cards = _cards(described)
    if cards == [_OWN_CARD]:
        return WRITTEN
    return (
        f"Measured on the test split of {', '.join(cards)}, which is not (only) texts written for the project: read "
        "these figures as a comparison between models on such texts, not as accuracy on any others."
    )


def model_card(described: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The card as Markdown with a YAML header (`model-index` included).

    Args:
        described: artifact.json. metrics: metrics.json, of which every part but `counts` may be absent.
    """
    header = yaml.safe_dump(_header(described, metrics), sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n" + "\n\n".join(_body(described, metrics)) + "\n"


def _cards(described: Mapping[str, Any]) -> list[str]:
    return [item["card"] for item in described["data"]]


def _header(described: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    base = described["base_model"]
    header: dict[str, Any] = {
        "language": ["fr"],
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["child-safety", "content-moderation", "multi-label"],
    }
    if base["pretrained"] and base["revision"]:
        header["base_model"] = base["name"]
    if values := _values(metrics.get("test")):
        cards = ", ".join(_cards(described))
        own = " (written for the project)" if written(described) == WRITTEN else ""
        result = {
            "task": {"type": "text-classification"},
            "dataset": {"name": f"{cards}{own}", "type": cards, "split": "test"},
            "metrics": values,
        }
        header["model-index"] = [{"name": described["name"], "results": [result]}]
    return header


def _values(test: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The metrics of the model index, as metrics.json has them; what is undefined is left out."""
    if not test or not test["macro"]["over"]:
        return []
    means, shares = test["macro"], test["testimony_protection"]
    without = shares.get("without_voices") or {}
    rows = [(key, name, means.get(key)) for key, name in _MEANS.items()]
    rows += [(key, name, shares[key]) for key, name in _SHARES.items()]
    rows += [(f"{key}_without_voices", f"{name}, without voices", without.get(key)) for key, name in _SHARES.items()]
    return [{"type": key, "name": name, "value": value} for key, name, value in rows if value is not None]


def _body(described: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    return [
        f"# {described['name']} {described['version']}",
        "**Not for** deciding about a person without a person, for ranking or profiling people, for languages other "
        "than French, or as evidence. A score is a reason to look, nothing more: victims, witnesses and offenders use "
        "the same words, and this model errs on all of them.",
        f"A CamemBERT sequence classifier with independent sigmoids, {_origin(described['base_model'])}. It marks ten "
        "categories of sexual and online violence, whether a minor is concerned, and in whose voice a text speaks, and "
        "proposes what kind of attention it needs. A person decides.",
        "## Data\n\n" + _data(described, metrics),
        "## Results on the test split\n\n" + written(described) + "\n\n" + _results(metrics.get("test")),
        "## Calibration\n\n" + _calibration(metrics.get("calibration") or {}),
        "## Robustness\n\n" + _robustness(metrics.get("robustness")),
        "## Behaviour\n\n" + _behaviour(metrics.get("behaviour")),
        "## Bias\n\n" + _bias(metrics.get("bias")),
        "## Use\n\n```python\nfrom serving import Classifier\n\n"
        'classifier = Classifier.from_dir("path/to/this/folder")\n'
        'print(classifier.predict(["Salut, la répétition est à 18 h."]))\n```\n\n'
        "`model.onnx` is a packed graph with inputs of its own, which `serving` feeds; other tools load "
        "`model.safetensors` with `AutoModelForSequenceClassification`. Probabilities come from `calibration.json`, "
        "per label: the sigmoid of `a · logit + b` (identity, temperature, platt), or a curve of points joined by "
        "lines (isotonic). Thresholds are in `thresholds.json`, the one file that may be edited.",
        "## Limits\n\n" + _limits(described, metrics),
        "## Provenance\n\n" + _provenance(described),
    ]


def _origin(base: Mapping[str, Any]) -> str:
    if not base["pretrained"]:
        return "trained from random weights, without any pretraining"
    return f"fine-tuned from `{base['name']}`" + (f" at `{base['revision']}`" if base["revision"] else "")


def _data(described: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    lines = []
    for item in described["data"]:
        facts = [f"version {item['version']}" if item.get("version") else None, item.get("license")]
        digest = f"sha256 `{item['sha256'][:16]}…`"
        lines.append(f"- `{item['card']}` ({', '.join([*filter(None, facts), digest])})")
    texts = [f"{row['texts']} {split}" for split, row in metrics["counts"].items()]
    return "\n".join(lines) + f"\n\nTexts: {', '.join(texts)}."


def _results(test: Mapping[str, Any] | None) -> str:
    if not test:
        return "The data has no test split."
    keys = ("precision", "recall", "f1", "average_precision")
    rows = [
        [f"`{name}`", str(row["support"]), *(_within(row, key) for key in keys)] for name, row in test["labels"].items()
    ]
    head = ["label", "support", "precision", "recall", "F1", "average precision"]
    return "\n\n".join(
        [sample(test), _table(head, rows), *_macro(test), _protection(test["testimony_protection"]), _again(EVALUATE)]
    )


def _macro(test: Mapping[str, Any]) -> list[str]:
    means = test["macro"]
    if not means["over"]:
        return []
    return [
        f"Macro over {means['over']} of {means['of']} categories: F1 {_within(means, 'f1')}, average precision "
        f"{_within(means, 'average_precision')}, at the `{test['operating_point']}` operating point."
    ]


def _protection(shares: Mapping[str, Any]) -> str:
    without = shares.get("without_voices") or {}
    rows = [
        [name, *(_share_within(of, key) for key in _SHARES)]
        for name, of in (("on the route `moderate`", shares), ("on whatever is flagged, without voices", without))
    ]
    told = (
        f"Whom a tool acts upon, of {shares['protected_texts']} testimonies and commentaries (wrongly) and of "
        f"{shares['direct_texts']} direct texts:"
    )
    return told + "\n\n" + _table(["a tool that acts", *_SHARES.values()], rows)


def _calibration(found: Mapping[str, Any]) -> str:
    validation, test = found.get("validation") or {}, found.get("test") or {}
    if not (test or validation):
        return _unmeasured()
    rows = []
    for label, sides in (test or validation).items():
        pairs = [[(sides[side] or {}).get(key) for side in ("before", "after")] for key in ("log_loss", "ece", "brier")]
        method = (validation.get(label) or {}).get("method", UNDEFINED)
        rows.append([f"`{label}`", method, *(f"{number(before)} → {number(after)}" for before, after in pairs)])
    told = f"Before and after, on the {'test' if test else 'validation'} split; lower is better."
    return "\n\n".join([told, _table(["label", "method", "log loss", "ECE", "Brier"], rows, words=2), _again(TRAIN)])


def _robustness(found: Mapping[str, Any] | None) -> str:
    if not found:
        return _unmeasured(MEASURE.format("robustness"))
    rows = []
    for name, way in found["perturbations"].items():
        worst, lost = way["worst_category"], way["macro_recall_points_lost"]
        fell = f"`{worst}` {signed(-way['categories'][worst]['points_lost'])}" if worst else UNDEFINED
        acted = percent(way["testimony_protection"]["wrongly_acted_upon"])
        mean = UNDEFINED if lost is None else signed(-lost)
        rows.append([f"{way['english']} (`{name}`)", number(way["macro_average_precision"]), mean, fell, acted])
    clean = found["clean"]
    acted = percent(clean["testimony_protection"]["wrongly_acted_upon"])
    rows.insert(0, ["as written", number(clean["macro_average_precision"]), "", "", acted])
    head = ["way of writing", "macro average precision", "recall, points", "most lost", "wrongly acted upon"]
    return "\n\n".join([_goal(found), _table(head, rows), _again("python -m training.robustness ARTIFACT")])


def _goal(found: Mapping[str, Any]) -> str:
    goal = found["goal"]
    verdict = {None: "not judged", True: "met"}.get(goal["met"])
    missed = len({item["perturbation"] for item in goal["missed"]})
    verdict = verdict or f"missed under {missed} of {len(found['perturbations'])} ways of writing"
    return (
        f"All {found['examples']} texts written another way. Goal, no category loses more than {goal['points']:g} "
        f"points of recall: **{verdict}**."
    )


def _behaviour(found: Mapping[str, Any] | None) -> str:
    if not found:
        return _unmeasured(MEASURE.format("behaviour"))
    rows = [
        [f"`{kind}`", TESTS.get(kind, ""), f"{of['passed']} of {of['cases']}", f"{of['pass_rate']:.0%}"]
        for kind, of in found["kinds"].items()
    ]
    weakest = sorted(found["functionalities"], key=lambda row: row["pass_rate"])[:5]
    told = ", ".join(f"`{row['id']}` ({row['passed']} of {row['cases']})" for row in weakest)
    table = _table(["kind", "what it is", "cases passed", "rate"], rows, words=2)
    return "\n\n".join([table, f"Weakest functionalities: {told}.", _again("python -m training.behaviour ARTIFACT")])


def _bias(found: Mapping[str, Any] | None) -> str:
    if not found:
        return _unmeasured(MEASURE.format("bias"))
    keys = ("flag_rate", "subgroup_auc", "bpsn_auc", "bnsp_auc")
    parts = [("terms", found["groups"]), ("first names", found["names"]["groups"])]
    rows = [
        [kind, group, str(of["ordinary_texts"] + of["positive_texts"]), *(number(of[key]) for key in keys)]
        for kind, groups in parts
        for group, of in groups.items()
    ]
    head = ["", "group", "texts", "harmless texts flagged", "subgroup AUC", "BPSN AUC", "BNSP AUC"]
    told = (
        "Whether naming a group of people moves the scores by itself, on invented sentences; an AUC of 1 is best, 0.5 "
        "is chance."
    )
    return "\n\n".join([told, _table(head, rows, words=2), _again("python -m training.bias ARTIFACT")])


def _limits(described: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    test = metrics.get("test")
    lines = [
        "It reads French text, one text at a time: no conversation, no image, no other language.",
        "Categories, voices and thresholds are those of this project's codebook; other platforms draw other lines.",
    ]
    if test:
        scored = {name: row for name, row in test["labels"].items() if row["average_precision"] is not None}
        without = [f"`{name}`" for name, row in test["labels"].items() if row["threshold"] is None]
        weakest = min(scored, key=lambda name: scored[name]["average_precision"], default=None)
        if weakest:
            worst = _within(scored[weakest], "average_precision")
            lines.append(f"It is weakest on `{weakest}`, with an average precision of {worst}.")
        if without:
            lines.append(f"Scored and never flagged, for want of examples: {', '.join(without)}.")
    if windows := described.get("windows"):
        lines.append(
            f"Texts beyond {windows['max_tokens']} tokens are read in windows that overlap by {windows['overlap']}, so "
            "what only the whole tells is missed."
        )
    return "\n".join(f"- {line}" for line in lines) + "\n\n`report.html` lists the hardest errors, by id."


def _provenance(described: Mapping[str, Any]) -> str:
    base = described["base_model"]
    rows = [
        ["base model", f"`{base['name']}`" + ("" if base["pretrained"] else " (random weights)")],
        ["revision", f"`{base['revision']}`" if base["revision"] else UNDEFINED],
        ["seed", str(described["seed"])],
        ["created", described["created"]],
        *([name, version] for name, version in described["libraries"].items()),
    ]
    return _table(["", ""], rows, words=2) + f"\n\nThe same run again: `{TRAIN}`"


def _within(row: Mapping[str, Any], key: str) -> str:
    """A figure and, in brackets, its 95 % interval where there is one."""
    interval = span((row.get("intervals") or {}).get(key))
    return number(row[key]) + (f" ({interval})" if interval else "")


def _share_within(figures: Mapping[str, Any], key: str) -> str:
    interval = percent_span((figures.get("intervals") or {}).get(key))
    return percent(figures.get(key)) + (f" ({interval})" if interval else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """The first columns, of words, to the left; figures to the right."""
    lines = [head, [*["---"] * words, *["---:"] * (len(head) - words)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _again(command: str) -> str:
    return f"These figures again: `{command}`"


def _unmeasured(command: str = TRAIN) -> str:
    return f"Not measured. `{command}` does."
