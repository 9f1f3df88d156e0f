"""training.measure: what takes minutes, added to an artifact that serving still accepts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from serving import Classifier
from tests.conftest import ROOT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.measure", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_figures_reach_report_and_card(artifact: Path, tmp_path: Path) -> None:
    """And the artifact's hashes follow, or serving would refuse it."""
    folder = tmp_path / "measured"
    shutil.copytree(artifact, folder)
    before = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    result = run(folder, "--only", "behaviour", "robustness")
    assert result.returncode == 0, result.stderr
    after = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert {key: after[key] for key in before} == before
    assert set(after) - set(before) == {"behaviour", "robustness"}
    assert after["behaviour"]["kinds"]["MFT"]["cases"] > 400
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "leet" not in (artifact / "report.html").read_text(encoding="utf-8")
    assert str(after["robustness"]["examples"]) in page and "Robustness" in page
    Classifier.from_dir(folder)


def test_an_unknown_folder_is_told(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
