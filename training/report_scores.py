"""The report's sections on scores: curves, operating points, and how scores became probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from training.report_charts import curve_legend, precision_recall, reliability, reliability_legend
from training.report_sections import Run
from training.report_tables import (
    UNDEFINED,
    body,
    cell,
    columns,
    figure,
    measured,
    number,
    paragraph,
    row,
    spanning,
    table,
    unmeasured,
)


def curves(run: Run) -> str:
    if not run.test or "curves" not in run.test:
        return unmeasured()
    told = (
        "Recall to the right, precision upwards; the area under the steps is the average precision. The filled mark is "
        "where the table's figures were measured; the other operating points stand on the drawn curve, at their "
        "threshold."
    )
    legend = curve_legend(run.points, run.test["operating_point"])
    return paragraph(told) + legend + precision_recall(run.test, run.thresholds, run.names)


def points(run: Run) -> str:
    """Thresholds as they stand in thresholds.json, with what they gave on validation."""
    head = spanning([("", 2), *((name, 3) for name in run.points)])
    head += columns(["label", "positives", *("threshold", "precision", "recall") * len(run.points)])
    rows = [row(run.head(label), list(_chosen(of))) for label, of in run.thresholds.items()]
    told = (
        "Chosen on validation, whose texts also gave the precision and recall beside them: a little kind to the "
        "choice. A label with too few positives is scored and never flagged."
    )
    return paragraph(told) + table("Operating points of every label, with 95 % intervals", head, body(rows))


def calibration(run: Run) -> str:
    """Diagrams and figures of the test split, and how the method of each label was found on validation."""
    found = run.metrics.get("calibration") or {}
    validation, test = found.get("validation") or {}, found.get("test") or {}
    shown, split = test or validation, "test" if test else "validation"
    if not shown:
        return unmeasured("python -m training.train")
    told = (
        f"On the {split} split, ten bins of as many texts each by rising score: observed rate upwards, mean score to "
        "the right, both on square-root axes so that low probabilities can be told apart."
    )
    caption = f"Before and after calibration, {split} split; lower is better"
    gains = _gains(run, shown, validation, caption)
    rest = _method_choice(run, validation) if test and validation else ""
    return paragraph(told) + reliability_legend() + reliability(shown, run.names) + gains + rest


def _chosen(points_of: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Positives, then three cells an operating point, or one that says why there is none."""
    yield cell(str(next((point["positives"] for point in points_of.values() if "positives" in point), UNDEFINED)))
    for point in points_of.values():
        if point["threshold"] is None:
            yield f'<td colspan="3" class="why">none: {escape(point.get("reason") or "too few positives")}</td>'
            continue
        copied = point.get("copied_from")
        yield figure(number(point["threshold"]), f"as {copied}" if copied else "")
        for key in ("precision", "recall"):
            yield measured(point.get(key), point.get(f"{key}_interval"), digits=2)


def _gains(run: Run, shown: Mapping[str, Any], chosen: Mapping[str, Any], caption: str) -> str:
    head = spanning([("", 3), ("log loss, nats", 2), ("calibration error (ECE)", 2), ("Brier score", 2)])
    head += columns(["label", "method", "positives fitted on", *("before", "after") * 3], left=["method"])
    rows = []
    for label, sides in shown.items():
        fitted = chosen.get(label) or {}
        cells = [cell(escape(fitted.get("method", UNDEFINED)), "left"), cell(str(fitted.get("positives", UNDEFINED)))]
        for key in ("log_loss", "ece", "brier"):
            cells += _better(*((sides[side] or {}).get(key) for side in ("before", "after")))
        rows.append(row(run.head(label), cells))
    return table(caption, head, body(rows))


def _better(*values: float | None) -> list[str]:
    """Cells of which the lowest is bold, unless they are equal as shown."""
    shown = [number(value) for value in values]
    known = [value for value in values if value is not None]
    lowest = min(known) if len(set(shown)) > 1 and known else None
    return [cell(f"<b>{text}</b>" if value == lowest and value is not None else text)
            for value, text in zip(values, shown, strict=True)]  # fmt: skip


def _method_choice(run: Run, validation: Mapping[str, Any]) -> str:
    caption = "The same on validation, each text judged by a fit without its fold"
    inner = _candidates(run, validation) + _gains(run, validation, validation, caption)
    return f"<details><summary>How the methods were chosen</summary>{inner}</details>"


def _candidates(run: Run, validation: Mapping[str, Any]) -> str:
    methods = list(next(iter(validation.values()))["candidates"])
    rows = []
    for label, found in validation.items():
        losses = [number(found["candidates"][method], 4) for method in methods]
        shown = [f"<b>{loss}</b>" if method == found["method"] else loss
                 for method, loss in zip(methods, losses, strict=True)]  # fmt: skip
        folds = found.get("folds")
        told = found.get("reason") or (f"{folds['number']} by {folds['by']}" if folds else UNDEFINED)
        rows.append(row(run.head(label), [*map(cell, shown), cell(escape(told), "left")]))
    caption = "Log loss of each method on held-out folds; in bold the one taken, the simplest among equals"
    return table(caption, columns(["label", *methods, "folds"], left=["folds"]), body(rows))
