"""The artifact's README.md: a model card in Hugging Face's format, every figure taken from metrics.json."""

from __future__ import annotations

from typing import Any

import yaml

WRITTEN = (
    "Measured on texts written for the project, not on messages that people sent: read these figures as a comparison "
    "between models, not as accuracy on real traffic."
)


def model_card(described: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The card as Markdown with a YAML header (`model-index` included)."""
    header = yaml.safe_dump(_header(described, metrics), sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n" + "\n\n".join(_body(described, metrics)) + "\n"


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
    results = _results(described, metrics)
    if results:
        header["model-index"] = [{"name": described["name"], "results": results}]
    return header


def _results(described: dict[str, Any], metrics: dict[str, Any]) -> list[dict[str, Any]]:
    test = metrics.get("test")
    if not test or not test["macro"]["over"]:
        return []
    cards = ", ".join(data["card"] for data in described["data"])
    values = [("average_precision", "Macro average precision"), ("f1", "Macro F1")]
    return [
        {
            "task": {"type": "text-classification"},
            "dataset": {"name": f"{cards} (written for the project)", "type": cards, "split": "test"},
            "metrics": [{"type": key, "name": name, "value": round(test["macro"][key], 4)} for key, name in values],
        }
    ]


def _body(described: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    base = described["base_model"]
    origin = (
        f"fine-tuned from `{base['name']}`" + (f" at `{base['revision']}`" if base["revision"] else "")
        if base["pretrained"]
        else "trained from random weights, without any pretraining"
    )
    data = "\n".join(f"- `{item['card']}` (sha256 `{item['sha256'][:16]}…`)" for item in described["data"])
    return [
        f"# {described['name']} {described['version']}",
        "**Not for** deciding about a person without a person, for ranking or profiling people, for languages other "
        "than French, or as evidence. A score is a reason to look, nothing more: victims, witnesses and offenders use "
        "the same words, and this model errs on all of them.",
        f"A CamemBERT sequence classifier with independent sigmoids, {origin}. It marks ten categories of sexual and "
        "online violence, whether a minor is concerned, and in whose voice a text speaks, and proposes what kind of "
        "attention it needs. A person decides.",
        "## Data\n\n" + data,
        "## Results on the test split\n\n" + WRITTEN + "\n\n" + _table(metrics),
        "## Use\n\n```python\nfrom serving import Classifier\n\n"
        'classifier = Classifier.from_dir("path/to/this/folder")\n'
        'print(classifier.predict(["Salut, la répétition est à 18 h."]))\n```\n\n'
        "`model.onnx` is a packed graph with inputs of its own, which `serving` feeds; other tools load "
        "`model.safetensors` with `AutoModelForSequenceClassification`. Probabilities are "
        "`1 / (1 + exp(-(a · logit + b)))` with a and b from `calibration.json`; thresholds are in `thresholds.json`, "
        "the one file that may be edited.",
    ]


def _table(metrics: dict[str, Any]) -> str:
    test = metrics.get("test")
    if not test:
        return "The data has no test split."
    lines = [
        "| label | support | precision | recall | F1 | average precision |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in test["labels"].items():
        cells = [row["precision"], row["recall"], row["f1"], row["average_precision"]]
        shown = " | ".join("–" if value is None else f"{value:.3f}" for value in cells)
        lines.append(f"| `{name}` | {row['support']} | {shown} |")
    means = test["macro"]
    if means["over"]:
        lines.append(
            f"\nMacro over {means['over']} of {means['of']} categories: F1 {means['f1']:.3f}, average precision "
            f"{means['average_precision']:.3f}, at the `{test['operating_point']}` operating point."
        )
    protection = test["testimony_protection"]
    if protection["wrongly_acted_upon"] is not None and protection["direct_recall"] is not None:
        wrong, reached = protection["wrongly_acted_upon"], protection["direct_recall"]
        lines.append(
            f"\nA tool acting on the route `moderate` would wrongly act upon {wrong:.1%} of "
            f"{protection['protected_texts']} testimonies and commentaries, and reach {reached:.1%} of "
            f"{protection['direct_texts']} direct texts."
        )
    return "\n".join(lines)
