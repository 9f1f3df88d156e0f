"""report.html: one self-contained page about a run. No script, nothing from elsewhere, and no text of anyone.

`python -m training.report ARTIFACT` writes it and the model card again from an artifact's own files, without training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from training import report_checks as checks
from training import report_scores as scores
from training import report_sections as sections
from training.errors import UserError, command
from training.evaluate import read_json
from training.model_card import EVALUATE, TRAIN, model_card, written
from training.report_sections import Run
from training.report_tables import code

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2230; --soft: #545e72; --line: #d6dce6; --page: #fafbfd; --card: #fff;
  --blue: #2459a9; --orange: #b34a00; --heat: #5b8fd6; --hot: #e2873f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf2; --soft: #a4aec1; --line: #353d4c; --page: #12161d; --card: #1a202a;
    --blue: #86b3f5; --orange: #ffab6b; --heat: #4478c4; --hot: #b85f24; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0; }
.page { max-width: 88rem; margin: auto; padding: 1.5rem 1rem 4rem; display: grid; gap: 1rem 2.5rem;
  grid-template-columns: minmax(0, 1fr); }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 .5rem; } h3 { font-size: .95rem; margin: 0 0 .6rem; }
p { max-width: 70ch; margin: .5rem 0; } a { color: var(--blue); } code { font-size: .86em; }
small { color: var(--soft); font-size: .8rem; } .absent, .again, caption { color: var(--soft); }
section { margin: 0 0 2.75rem; scroll-margin-top: 1rem; }
.honest { border-left: .3rem solid var(--orange); padding-left: .9rem; }
.again { font-size: .85rem; max-width: none; }
nav ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem .9rem; }
nav a { display: inline-block; padding: .25rem 0; text-decoration: none; } nav a:hover { text-decoration: underline; }
@media (min-width: 70rem) {
  .page { grid-template-columns: 11rem minmax(0, 1fr); } header { grid-column: 1 / -1; }
  nav { position: sticky; top: 1.5rem; align-self: start; } nav ul { display: block; } }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.card { border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1.1rem; background: var(--card); }
.card p { color: var(--soft); font-size: .88rem; margin-bottom: 0; }
.card div { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .6rem; margin-bottom: .4rem; }
.card span { width: 6rem; color: var(--soft); font-size: .9rem; }
.card b { width: 5.2rem; font-size: 1.5rem; line-height: 1.2; } .card small { width: 7.2rem; }
.scroll { overflow-x: auto; margin: .8rem 0 1.2rem; } .scroll:focus-visible { outline: 2px solid var(--blue); }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; } table.fit { width: auto; }
caption { text-align: left; font-size: .88rem; padding-bottom: .35rem; }
caption span, .group span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 3rem); }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td { white-space: nowrap; } td small { display: block; } td b { font-weight: 650; }
td.left, td.why { text-align: left; white-space: normal; } td.why { color: var(--soft); }
td.break { overflow-wrap: anywhere; } td.centre, td.heat { text-align: center; }
td.heat { background: color-mix(in srgb, var(--heat) calc(var(--v) * .6), transparent); }
td.loss { background: color-mix(in srgb, var(--hot) calc(var(--v) * .65), transparent); }
td.loss, td.centre { padding: .3rem .15rem; font-size: .84rem; } td.heat small { color: inherit; }
th { font-weight: 500; text-align: left; } th.group { color: var(--soft); font-size: .82rem; padding-top: .9rem; }
thead th { vertical-align: bottom; font-size: .82rem; color: var(--soft); }
thead th:not(:first-child):not(.left) { text-align: right; }
thead th.over:not(.left) { text-align: center; border-left: 1px solid var(--line); }
thead th.upright:not(:first-child) { text-align: center; padding: .3rem .2rem; }
th.upright:not(:first-child) span { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
tbody th[scope=row] { position: sticky; left: 0; background: var(--page); min-width: 10rem; max-width: 19rem;
  z-index: 1; }
@media (max-width: 40rem) { th, td { padding: .3rem .35rem; }
  tbody th[scope=row] { min-width: 6.5rem; max-width: 9rem; } }
tbody th code, figcaption code { color: var(--soft); }
.unseen { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
.multiples { display: grid; gap: 1.1rem .9rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(45%, 11.5rem), 1fr)); }
figure { margin: 0; display: flex; flex-direction: column; justify-content: space-between; }
figcaption { font-size: .85rem; line-height: 1.3; overflow-wrap: anywhere; } figcaption small { display: block; }
svg { display: block; width: 100%; height: auto; overflow: visible; } svg path { fill: none; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.end { text-anchor: end; } .mid { text-anchor: middle; }
.grid { stroke: var(--line); } .dashed { stroke-dasharray: 4 3; } .share, .grid.dashed { stroke: var(--soft); }
.curve { stroke: var(--blue); stroke-width: 2; }
svg .mark { stroke: var(--orange); stroke-width: 2; fill: var(--page); } svg .filled { fill: var(--orange); }
.reach { stroke: var(--blue); stroke-width: 4; opacity: .45; } .dot { fill: var(--blue); }
.without .reach { stroke: var(--orange); } .without .dot { fill: var(--orange); }
.after .line { stroke: var(--blue); stroke-width: 1.3; } .before .line { stroke: var(--orange); stroke-dasharray: 3 3; }
svg .hollow { stroke: var(--orange); fill: none; stroke-width: 1.4; }
.whisker { width: 6.5rem; } td .whisker { margin-top: .25rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .88rem; max-width: none; }
.key { display: inline-block; width: .95rem; vertical-align: -.1rem; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--blue); }
@media print { .page { display: block; } nav { display: none; } }
"""

_AGAIN = "python -m training.{} ARTIFACT"
_SECTIONS: tuple[tuple[str, str, Callable[[Run], str], str], ...] = (
    ("headline", "Headline", sections.headline, EVALUATE),
    ("protection", "Testimony protection", sections.protection, EVALUATE),
    ("categories", "Labels", sections.categories, EVALUATE),
    ("curves", "Precision and recall", scores.curves, EVALUATE),
    ("calibration", "Calibration", scores.calibration, TRAIN),
    ("voices", "Voices", sections.voices, EVALUATE),
    ("points", "Operating points", scores.points, TRAIN),
    ("robustness", "Robustness", checks.robustness, _AGAIN.format("robustness")),
    ("behaviour", "Behaviour", checks.behaviour, _AGAIN.format("behaviour")),
    ("bias", "Bias", checks.bias, _AGAIN.format("bias")),
    ("hardest", "Hardest errors", sections.hardest, EVALUATE),
    ("data", "Data", sections.data, TRAIN),
    ("provenance", "Provenance", sections.provenance, TRAIN),
)
"""Anchor, title, what writes it, and the command that gives its figures again."""


def report(described: dict[str, Any], metrics: dict[str, Any], thresholds: dict[str, dict[str, Any]]) -> str:
    """The page as HTML; every figure comes from metrics.json and thresholds.json.

    Args:
        described: artifact.json. thresholds: label → operating point → …, as thresholds.json has it under `labels`.
    """
    run = Run(described, metrics, thresholds)
    title = f"{described['name']} {described['version']}"
    links = "".join(f'<li><a href="#{anchor}">{escape(name)}</a></li>' for anchor, name, _, _ in _SECTIONS)
    shown = "\n".join(_section(run, *section) for section in _SECTIONS)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><style>{_STYLE}</style></head><body><div class="page">\n'
        f'<header><h1>{escape(title)}</h1><p class="honest">{escape(written(described))}</p></header>\n'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{shown}\n</main>\n</div></body></html>\n'
    )


def rewrite(folder: Path, metrics: dict[str, Any] | None = None) -> None:
    """Write an artifact's report.html and README.md again, and their hashes in artifact.json, each file at once.

    Args:
        metrics: in the place of metrics.json, which is then written too.

    Raises:
        UserError: a file is missing, broken, or of another form.
    """
    described, thresholds = read_json(folder / "artifact.json"), read_json(folder / "thresholds.json")
    texts = {} if metrics is None else {"metrics.json": _json(metrics)}
    shown = read_json(folder / "metrics.json") if metrics is None else metrics
    try:
        texts["report.html"] = report(described, shown, thresholds["labels"])
        texts["README.md"] = model_card(described, shown)
        described["files"] |= {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: holds its figures in another form ({error}); train it again") from None
    texts["artifact.json"] = _json(described)
    for name, text in texts.items():
        _replace(folder / name, text)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _section(run: Run, anchor: str, name: str, write: Callable[[Run], str], again: str) -> str:
    inner = write(run)
    note = "" if 'class="absent"' in inner else f'<p class="again">These figures again: {code(again)}</p>'
    title = f'<h2 id="{anchor}-title">{escape(name)}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}-title">{title}{inner}{note}</section>'


def _replace(path: Path, text: str) -> None:
    """A reader sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        part.write_bytes(text.encode())
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); it is as it was") from None
    finally:
        part.unlink(missing_ok=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.report", description="Write an artifact's report.html and README.md again."
    )
    parser.add_argument("artifact", type=Path, help="artifact directory")
    return parser.parse_args()


@command
def main() -> int:
    folder = _parse().artifact
    rewrite(folder)
    print(f"{folder / 'report.html'} and {folder / 'README.md'} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
