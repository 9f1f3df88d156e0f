"""The dependency rule: two rooms, one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORBIDDEN = {
    "training": {"serving", "bentoml"},
    "serving": {"training", "datasets", "evaluate", "sklearn", "torch", "transformers", "yaml"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_imports_the_other(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & FORBIDDEN[room], path


def test_the_classifier_loads_neither_torch_nor_a_web_server(artifact: Path) -> None:
    """What tools embed stays small: also nothing of it through another library."""
    code = (
        "import sys; from serving import Classifier; Classifier.from_dir(sys.argv[1]).predict(['bonjour'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sklearn', 'bentoml', 'fastapi'} & sys.modules.keys()\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, artifact], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


LIGHT = ("labels", "config", "data", "metrics", "figures", "predictions", "evaluate", "compare", "operate", "score_hub")


@pytest.mark.parametrize("module", [f"training.{name}" for name in LIGHT])
def test_the_light_modules_do_not_load_torch(module: str) -> None:
    """So that `--check` and a wrong option answer at once."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0
