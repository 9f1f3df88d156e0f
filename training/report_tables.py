"""What tables of the report and the model card are made of: figures as text, cells, rows, heat.

Functions that return HTML take plain text and escape it, unless an argument is called `html` or is made of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

UNDEFINED = "–"
Interval = Sequence[float] | None


def number(value: float | None, digits: int = 3) -> str:
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.1%}"


def span(interval: Interval, *, digits: int = 3) -> str:
    """The two ends of an interval, as in "0.615–0.783"; nothing without one."""
    return "" if not interval else f"{interval[0]:.{digits}f}–{interval[1]:.{digits}f}"


def percent_span(interval: Interval) -> str:
    return "" if not interval else f"{interval[0]:.1%}–{interval[1]:.1%}"


def signed(value: float) -> str:
    """One decimal with a sign as print has it; what rounds to zero has none."""
    rounded = round(value, 1)
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded):.1f}"


def code(text: object) -> str:
    return f"<code>{escape(str(text))}</code>"


def french(text: str) -> str:
    """A name in French, so that a screen reader says it in French."""
    return f'<span lang="fr">{escape(text)}</span>'


def cell(html: str, *classes: str) -> str:
    return f"<td{_named(*classes)}>{html}</td>"


def figure(value: str, interval: str = "") -> str:
    """A cell with a figure and, under it, its interval."""
    return cell(escape(value) + (f"<small>{escape(interval)}</small>" if interval else ""))


def measured(value: float | None, interval: Interval = None, *, digits: int = 3) -> str:
    return figure(number(value, digits), span(interval, digits=digits))


def heat(html: str, strength: float, *classes: str) -> str:
    """A cell shaded by a strength from 0 to 1; its text says the same, so that colour carries nothing alone."""
    return f'<td{_named("heat", *classes)} style="--v:{round(100 * min(max(strength, 0.0), 1.0))}%">{html}</td>'


def row(head_html: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{head_html}</th>{"".join(cells)}</tr>'


def columns(names: Sequence[str], *, left: Sequence[str] = (), upright: bool = False) -> str:
    """The last row of a head; `left` are the columns of words, and upright names stand on end to be narrow."""
    kinds = [_named("upright" if upright else "left" if name in left else "") for name in names]
    heads = [f'<th scope="col"{kind}><span>{escape(name)}</span></th>' for name, kind in zip(names, kinds, strict=True)]
    return f"<tr>{''.join(heads)}</tr>"


def spanning(names: Sequence[tuple[str, int]]) -> str:
    """A row of heads over several columns each: name and width; an empty name heads nothing."""
    cells = (
        f'<th scope="colgroup" colspan="{width}" class="over">{escape(name)}</th>'
        if name
        else f'<td colspan="{width}"></td>'
        for name, width in names
    )
    return f"<tr>{''.join(cells)}</tr>"


def body(rows: Sequence[str], *, title: str = "", width: int = 1) -> str:
    """A group of rows, under a title that spans the table's width where it has one."""
    named = f'<th scope="rowgroup" colspan="{width}" class="group"><span>{escape(title)}</span></th>'
    return f"<tbody>{f'<tr>{named}</tr>' if title else ''}{''.join(rows)}</tbody>"


def table(caption: str, head: str, *bodies: str, fit: bool = False) -> str:
    """A table that scrolls sideways by itself; one to `fit` is as narrow as its content."""
    told = f"<caption><span>{escape(caption)}</span></caption>"
    inner = f"<table{_named('fit' if fit else '')}>{told}<thead>{head}</thead>{''.join(bodies)}</table>"
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">{inner}</div>'


def paragraph(html: str, *classes: str) -> str:
    return f"<p{_named(*classes)}>{html}</p>"


def unmeasured(command: str = "") -> str:
    """What stands in the place of a section without figures, and the command that would measure it."""
    return paragraph("Not measured." + (f" {code(command)} does." if command else ""), "absent")


def _named(*classes: str) -> str:
    """The class attribute, or nothing without a class."""
    held = " ".join(filter(None, classes))
    return f' class="{held}"' if held else ""
