"""What the documents say is so: paths exist, commands parse, the snippet runs, nothing names one machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from training.labels import Labels

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("data_cards/**/*.md"), *ROOT.glob("serving/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", text):
        assert (document.parent / target).exists(), target


def test_every_module_of_the_tree_exists_and_is_named() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    rooms = [ROOT / room for room in ("training", "serving", "serving/protocols")]
    for room in rooms:
        for path in room.glob("*.py"):
            if not path.name.startswith("__") and path.name not in ("errors.py",):
                assert path.name in tree, f"{path.name} is not in the README's tree"
    for name in re.findall(r"[a-z_]+\.py", tree):
        assert any((room / name).exists() for room in rooms), name


def test_every_category_is_named(labels: Labels) -> None:
    for label in labels.ids:
        assert f"`{label}`" in README


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ((?:training|serving)[.a-z_]*)", README))))
def test_every_command_of_the_readme_exists(module: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    options = set(re.findall(r"--[a-z-]+", " ".join(re.findall(rf"python -m {module}(?![.a-z_])[^`\n]*", README))))
    for option in options:
        assert option in result.stdout, f"{module} has no {option}"


def test_the_python_snippet_runs(artifact: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = code.replace("artifacts/vigie-compact", str(artifact))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] in ("moderate", "support", "none")


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_nothing_of_one_machine_is_committed() -> None:
    """No absolute path, no address of a package index."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    pattern = re.compile(r"(?<![\w.])/(?:work|tmp|root|home)/(?!bentoml)|--extra-index-url|--index-url|\.\./shared")
    for name in listed:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".txt", ".jsonl") and path != Path(__file__):
            assert not pattern.search(path.read_text(encoding="utf-8")), name
