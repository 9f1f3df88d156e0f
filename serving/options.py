"""The options of `python -m serving`, and what they mean to the service's processes. Loads no library."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from serving.artifact import PRECISIONS

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_ARTIFACT = ROOT / "artifacts" / "vigie-compact"


def parse() -> argparse.Namespace:
    """The command line; it ends the process where that is none."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve an artifact over HTTP.")
    parser.add_argument("--artifact", type=Path, default=Path(os.environ.get("VIGIE_ARTIFACT", DEFAULT_ARTIFACT)))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; API keys let others ask")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--precision", choices=PRECISIONS, help="default: the artifact's own choice")
    parser.add_argument("--workers", type=int, help="processes; default: one a core")
    parser.add_argument("--no-auth", action="store_true", help="answer anyone: a proxy in front checks who asks")
    parser.add_argument("--ssl-certfile", type=Path, help="serve HTTPS with this certificate (PEM) …")
    parser.add_argument("--ssl-keyfile", type=Path, help="… and its private key")
    return parser.parse_args()


def environment(arguments: argparse.Namespace) -> dict[str, str]:
    """What the service's processes read."""
    found = {
        **os.environ,
        "BENTOML_DO_NOT_TRACK": "True",
        "VIGIE_ARTIFACT": str(arguments.artifact.resolve()),
    }
    if arguments.precision:
        found["VIGIE_PRECISION"] = arguments.precision
    if arguments.workers:
        found["VIGIE_WORKERS"] = str(arguments.workers)
    for name in ("VIGIE_API_KEYS_FILE", "VIGIE_CORAL_SECRETS_FILE"):
        if file := os.environ.get(name):
            # The service's processes stand in another folder.
            found[name] = str(Path(file).resolve())
    if arguments.no_auth:
        found["VIGIE_NO_AUTH"] = "1"
    return found


def address(arguments: argparse.Namespace) -> str:
    """Where this machine reaches the service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(arguments.host, arguments.host)
    scheme = "https" if arguments.ssl_certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{arguments.port}"
