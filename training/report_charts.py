"""Charts of the report as inline SVG: small multiples and intervals. Colours come from the page's style.

Series differ in shape and dash as well, and every chart says its figures in its label; colour carries nothing alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from training.report_tables import Interval, code, french, number

Scale = Callable[[float], float]
"""From 0–1 to 0–1: where on its axis a figure stands."""
_WIDTH, _HEIGHT = 180, 176
_LEFT, _TOP, _SIDE = 30, 20, 142
_UNIT_TICKS = (0.0, 0.5, 1.0)
_ROOT_TICKS = (0.0, 0.1, 0.4, 1.0)
_LINE, _LINE_HEIGHT = 120, 14
_MARKS = (
    lambda x, y: f"M{x - 5:.1f} {y + 4.2:.1f}h10L{x:.1f} {y - 4.8:.1f}Z",
    lambda x, y: f"M{x - 4.4:.1f} {y:.1f}a4.4 4.4 0 1 0 8.8 0a4.4 4.4 0 1 0 -8.8 0Z",
    lambda x, y: f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8Z",
    lambda x, y: f"M{x - 5.4:.1f} {y:.1f}l5.4 -5.4l5.4 5.4l-5.4 5.4Z",
)
"""Triangle, circle, square for the operating points in their order; a diamond for those of an operator's own."""


def precision_recall(
    figures: Mapping[str, Any], points: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> str:
    """A panel a label: its curve, its share of positives, its operating points.

    Args:
        figures: what `training.figures.evaluation` gives. points: label → operating point → {"threshold": …}.
    """
    panels = []
    for label, curve in figures["curves"].items():
        if curve is None:
            panels.append(_panel(names[label], label, "no positives, no curve", ""))
            continue
        row = figures["labels"][label]
        marks = list(_operating_points(row, curve, points.get(label, {}), figures["operating_point"]))
        share = row["support"] / row["examples"]
        chance = _path("share dashed", [(0.0, share), (1.0, share)])
        drawn = [_axes(_UNIT_TICKS, "recall", "precision"), chance, _steps(curve), *(mark for mark, _ in marks)]
        ap = f"average precision {number(row['average_precision'])}"
        told = "; ".join([f"Precision–recall curve of {label}: {ap}", *(text for _, text in marks)])
        panels.append(_panel(names[label], label, ap, _svg("".join(drawn), told)))
    return _multiples(panels)


def reliability(rows: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """A panel a label: mean score against observed rate of bins, before and after calibration, on square-root axes.

    Args:
        rows: label → before, after, as `training.calibration.calibration_figures` gives them.
    """
    panels = []
    for label, row in rows.items():
        before, after = row["before"], row["after"]
        if before is None or after is None:
            panels.append(_panel(names[label], label, "no positives, no diagram", ""))
            continue
        even = _path("grid dashed", [(0.0, 0.0), (1.0, 1.0)])
        drawn = _axes(_ROOT_TICKS, "score", "observed", math.sqrt) + even
        drawn += _series(before["bins"], "before") + _series(after["bins"], "after")
        gaps = [number(side["ece"]) for side in (before, after)]
        told = f"Reliability of {label}: expected calibration error {gaps[0]} before calibration, {gaps[1]} after"
        panels.append(_panel(names[label], label, f"ECE {gaps[0]} → {gaps[1]}", _svg(drawn, told)))
    return _multiples(panels)


def whisker(value: float | None, interval: Interval, *classes: str) -> str:
    """A share on a line from 0 to 1 with its interval; hidden from screen readers, for its figure stands beside it."""
    if value is None:
        return ""
    middle, reach = _LINE_HEIGHT / 2, _LINE - 8
    drawn = f'<path class="grid" d="M4 {middle:.1f}h{reach}"/>'
    if interval:
        low, high = (4 + reach * end for end in interval)
        drawn += f'<path class="reach" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>'
    drawn += f'<circle class="dot" cx="{4 + reach * value:.1f}" cy="{middle:.1f}" r="3.6"/>'
    named = " ".join(("whisker", *classes))
    return f'<svg class="{named}" viewBox="0 0 {_LINE} {_LINE_HEIGHT}" aria-hidden="true">{drawn}</svg>'


def curve_legend(points: Sequence[str], measured: str) -> str:
    """The operating points' marks; the filled one is where the figures were measured."""
    keys = [_key(_mark(place, 7, 7, filled=name == measured), name) for place, name in enumerate(points)]
    keys.append(_key('<path class="share dashed" d="M0 7h14"/>', "share of positives, what chance gives"))
    return f'<p class="legend">{"".join(keys)}</p>'


def reliability_legend() -> str:
    keys = [_key(f'<g class="{kind}">{_bin(7, 7, kind)}</g>', f"{kind} calibration") for kind in ("before", "after")]
    keys.append(_key('<path class="grid dashed" d="M0 14L14 0"/>', "as often as the score says"))
    return f'<p class="legend">{"".join(keys)}</p>'


def _operating_points(
    row: Mapping[str, Any], curve: Mapping[str, Any], points: Mapping[str, Mapping[str, Any]], measured: str
) -> Iterator[tuple[str, str]]:
    """Marks and what they say. The measured point is exact, the others stand on the curve at their threshold."""
    for place, (name, point) in enumerate(points.items()):
        at = (row["precision"], row["recall"]) if name == measured else _on_curve(curve, point["threshold"])
        if at is not None and None not in at:
            text = f"{name}: precision {number(at[0], 2)}, recall {number(at[1], 2)}"
            yield _mark(place, _x(at[1]), _y(at[0]), filled=name == measured, title=text), text


def _on_curve(curve: Mapping[str, Any], threshold: float | None) -> tuple[float, float] | None:
    """Precision and recall of the curve's lowest point that still passes the threshold."""
    passing = [index for index, value in enumerate(curve["thresholds"]) if threshold is not None and value >= threshold]
    return (curve["precision"][passing[-1]], curve["recall"][passing[-1]]) if passing else None


def _steps(curve: Mapping[str, Any]) -> str:
    """The steps that average precision sums: from each recall to the next at the next one's precision."""
    corners, reached = [], 0.0
    for precision, recall in zip(curve["precision"], curve["recall"], strict=True):
        corners += [(reached, precision), (recall, precision)]
        reached = recall
    return _path("curve", corners)


def _series(bins: Sequence[Mapping[str, float]], kind: str) -> str:
    places = [(math.sqrt(each["score"]), math.sqrt(each["observed"])) for each in bins]
    marks = "".join(_bin(_x(score), _y(rate), kind) for score, rate in places)
    return f'<g class="{kind}">{_path("line", places)}{marks}</g>'


def _bin(x: float, y: float, kind: str) -> str:
    if kind == "before":
        return f'<path class="hollow" d="{_MARKS[2](x, y)}"/>'
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'


def _mark(place: int, x: float, y: float, *, filled: bool, title: str = "") -> str:
    told = f"<title>{escape(title)}</title>" if title else ""
    shape = _MARKS[min(place, len(_MARKS) - 1)](x, y)
    return f'<path class="mark{" filled" if filled else ""}" d="{shape}">{told}</path>'


def _axes(ticks: Sequence[float], across: str, up: str, scale: Scale = float) -> str:
    drawn = [f'<text class="axis" x="{_LEFT}" y="{_TOP - 8}">{up}</text>']
    drawn.append(f'<text class="axis end" x="{_LEFT + _SIDE}" y="{_HEIGHT}">{across}</text>')
    for tick in ticks:
        at = scale(tick)
        drawn.append(_path("grid", [(at, 0.0), (at, 1.0)]) + _path("grid", [(0.0, at), (1.0, at)]))
        if tick < 1:
            drawn.append(f'<text class="tick mid" x="{_x(at):.1f}" y="{_TOP + _SIDE + 13}">{tick:g}</text>')
        drawn.append(f'<text class="tick end" x="{_LEFT - 5}" y="{_y(at) + 4:.1f}">{tick:g}</text>')
    return "".join(drawn)


def _path(kind: str, places: Sequence[tuple[float, float]]) -> str:
    """A line through places of the unit square."""
    points = "L".join(f"{_x(across):.1f} {_y(up):.1f}" for across, up in places)
    return f'<path class="{kind}" d="M{points}"/>'


def _x(share: float) -> float:
    return _LEFT + _SIDE * share


def _y(share: float) -> float:
    return _TOP + _SIDE * (1 - share)


def _svg(drawn: str, told: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(told)}">{drawn}</svg>'


def _panel(name: str, label: str, told: str, svg: str) -> str:
    head = f"{french(name)} {code(label)}<small>{escape(told)}</small>"
    return f"<figure><figcaption>{head}</figcaption>{svg}</figure>"


def _multiples(panels: Sequence[str]) -> str:
    return f'<div class="multiples">{"".join(panels)}</div>'


def _key(drawn: str, name: str) -> str:
    return f'<span><svg viewBox="0 0 14 14" class="key" aria-hidden="true">{drawn}</svg> {escape(name)}</span>'
