"""Runs clients in Python that would weigh on our environment: VIGIE_TEST_CLIENTS_PYTHON names their interpreter.

Such an environment has, as far as the tests use them: litellm, any-guardrail, langchain-classic, langchain-openai.
"""

from __future__ import annotations

import json
import os
import subprocess
from textwrap import dedent
from typing import Any

import pytest

# Read now: tests take the variables of the service away.
_PYTHON = os.environ.get("VIGIE_TEST_CLIENTS_PYTHON", "")
_PRELUDE = """
import importlib.util, json, sys
package, address, key = sys.argv[1:]
if importlib.util.find_spec(package) is None:
    sys.exit(77)
def say(value):
    print("said: " + json.dumps(value))
"""
_LACKS_PACKAGE = 77


def run(script: str, *, package: str, address: str, key: str) -> Any:
    """What a script `say`s, once; it knows `address` and `key`."""
    if not _PYTHON:
        pytest.skip(f"VIGIE_TEST_CLIENTS_PYTHON=an interpreter with {package} is needed")
    command = [_PYTHON, "-c", _PRELUDE + dedent(script), package, address, key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == _LACKS_PACKAGE:
        pytest.skip(f"the interpreter of VIGIE_TEST_CLIENTS_PYTHON lacks {package}")
    assert done.returncode == 0, done.stderr
    # The libraries print too.
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("said: ")]
    return json.loads(said.removeprefix("said: "))
