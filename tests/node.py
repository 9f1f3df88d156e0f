"""Runs clients in JavaScript that whoever runs the tests has installed: VIGIE_TEST_NODE_MODULES names their folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

# Read now: tests take the variables of the service away.
_FOLDER = os.environ.get("VIGIE_TEST_NODE_MODULES", "")
_PRELUDE = """
import { createRequire } from "node:module";
const [, , folder, address, key] = process.argv;
const require = createRequire(folder + "/");
const say = (value) => console.log(JSON.stringify(value));
"""


def run(script: str, *, package: str, address: str, key: str) -> Any:
    """What a script `say`s, once; it `require`s the package, and knows `address` and `key`."""
    folder = Path(_FOLDER) if Path(_FOLDER).name == "node_modules" else Path(_FOLDER, "node_modules")
    if not _FOLDER or not (folder / package).is_dir() or shutil.which("node") is None:
        pytest.skip(f"node and VIGIE_TEST_NODE_MODULES=a node_modules folder with {package} are needed")
    command = ["node", "--input-type=module", "-", str(folder.resolve()), address, key]
    done = subprocess.run(command, input=_PRELUDE + script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
