"""What a run found: tables for people, figures for programs, and the machine it was found on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Cell = str | float | int | None
_LIBRARIES = ("vigie", "torch", "transformers", "tokenizers", "onnxruntime", "bentoml", "fastapi", "uvicorn", "numpy")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm")


@dataclass(frozen=True)
class Table:
    """A table of the report; None in a cell means that there is nothing to say there."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """What one section found: `figures` for JSON, and tables."""

    figures: dict[str, Any]
    tables: Sequence[Table] = field(default_factory=tuple)


def markdown(tables: Iterable[Table]) -> str:
    """The tables as Markdown."""
    return "\n".join(_table(table) for table in tables)


def _table(table: Table) -> str:
    rule = ["---"] + ["---:"] * (len(table.columns) - 1)
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(row)} |" for row in [list(table.columns), rule, *rows]]
    return "\n".join([f"### {table.title}", "", *lines, "", *(f"- {note}" for note in table.notes), ""])


def _cell(value: Cell) -> str:
    """Three digits that count; whole numbers whole."""
    if value is None:
        return "–"
    if isinstance(value, str | int):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Processor, cores, instruction sets that matter here, system, library versions, and the date."""
    found = _cpuinfo()
    flags = set(found.get("flags", found.get("Features", "")).split())
    return {
        "cpu": found.get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine_lines(found: dict[str, Any]) -> str:
    """The machine in two lines."""
    libraries = ", ".join(f"{name} {version}" for name, version in found["libraries"].items() if version)
    return (
        f"{found['cpu']}, {found['cores']} cores ({', '.join(found['flags'])}), load {found['load_average'][0]} at the "
        f"start; {found['date']}\nPython {found['python']}, {libraries}\n"
    )


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def log(line: str) -> None:
    """Progress, beside the tables on standard output."""
    print(line, file=sys.stderr, flush=True)
