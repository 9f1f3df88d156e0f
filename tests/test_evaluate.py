"""python -m training.evaluate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.evaluate", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_it_gives_the_figures_of_training_twice(artifact: Path, tmp_path: Path) -> None:
    """On the test split of its own data, what metrics.json says; and byte-identical from run to run."""
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        result = run(artifact, "--json", file)
        assert result.returncode == 0, result.stderr
    assert files[0].read_bytes() == files[1].read_bytes()
    expected = json.loads((artifact / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert json.loads(files[0].read_text(encoding="utf-8")) == expected


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_without_artifact_is_told(tmp_path: Path, name: str) -> None:
    result = run(tmp_path / name)
    assert result.returncode == 2
    assert "no artifact here" in result.stderr and "Traceback" not in result.stderr
