"""`python -m serving`: check the artifact, turn telemetry off, start the service, print a line to try it with."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from serving.artifact import ArtifactError
from serving.classifier import Classifier
from serving.limits import Limits

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_ARTIFACT = ROOT / "artifacts" / "vigie-compact"
_START_LIMIT_S = 120


def main() -> int:
    """Serve until interrupted. Exit code 2 for what the user can mend, told in one line."""
    arguments = _parse()
    fault = _fault(arguments)
    if fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    environment = {
        **os.environ,
        "BENTOML_DO_NOT_TRACK": "True",
        "VIGIE_ARTIFACT": str(arguments.artifact.resolve()),
    }
    if arguments.precision:
        environment["VIGIE_PRECISION"] = arguments.precision
    if arguments.workers:
        environment["VIGIE_WORKERS"] = str(arguments.workers)
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Vigie", "--working-dir", str(ROOT)]
    command += ["--host", arguments.host, "--port", str(arguments.port)]
    server = subprocess.Popen(command, env=environment)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: server.terminate())
    threading.Thread(target=_announce, args=(server, arguments.host, arguments.port), daemon=True).start()
    code = server.wait()
    return 0 if code in (0, -signal.SIGTERM, -signal.SIGINT) else code


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve an artifact over HTTP.")
    parser.add_argument("--artifact", type=Path, default=Path(os.environ.get("VIGIE_ARTIFACT", DEFAULT_ARTIFACT)))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--precision", choices=["fp32", "int8"], help="default: the artifact's own choice")
    parser.add_argument("--workers", type=int, help="processes; default: one a core")
    return parser.parse_args()


def _fault(arguments: argparse.Namespace) -> str | None:
    """What would keep the service from starting, found before any process is started."""
    try:
        Limits.from_environment()
        Classifier.from_dir(arguments.artifact, precision=arguments.precision)
    except (ArtifactError, ValueError) as error:
        return str(error)
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((arguments.host, arguments.port))
        except OSError as error:
            return f"cannot listen on {arguments.host}:{arguments.port} ({error.strerror}); choose another --port"
    return None


def _announce(server: subprocess.Popen[bytes], host: str, port: int) -> None:
    """Say how to try the service, as soon as it answers."""
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
    deadline = time.monotonic() + _START_LIMIT_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{address}/readyz", timeout=2).close()
            print(
                f"\nVigie answers on {address}. Try it:\n\n"
                f"  curl -s {address}/predict -H 'Content-Type: application/json' \\\n"
                """    -d '{"texts": ["Il menace de publier mes photos si je ne paie pas, j ai 15 ans."]}'\n""",
                flush=True,
            )
            return
        time.sleep(0.3)


if __name__ == "__main__":
    raise SystemExit(main())
