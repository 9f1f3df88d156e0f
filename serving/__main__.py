"""`python -m serving`: check artifact and settings, turn telemetry off, start the service, say how to try it.

This process stays as long as the service does, so it loads no library.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from serving.options import ROOT, address, environment, parse

_START_LIMIT_S = 120


def main() -> int:
    """Serve until interrupted. Exit code 2 for what the user can mend, told in one line."""
    arguments = parse()
    settings = environment(arguments)
    # In a process of its own, for what replaying the golden sentences takes would stay in this one.
    command = [sys.executable, "-m", "serving.preflight", *sys.argv[1:]]
    checked = subprocess.run(command, env=settings, stdout=subprocess.PIPE, text=True, check=False)
    if checked.returncode:
        return checked.returncode
    with tempfile.TemporaryDirectory(prefix="vigie-metrics-") as folder:
        return _serve(arguments, {**settings, "VIGIE_METRICS_DIR": folder}, how_to_try=checked.stdout)


def _serve(arguments: argparse.Namespace, settings: dict[str, str], *, how_to_try: str) -> int:
    server = subprocess.Popen(_command(arguments), env=settings)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: server.terminate())
    threading.Thread(target=_announce, args=(server, address(arguments), how_to_try), daemon=True).start()
    code = server.wait()
    return 0 if code in (0, -signal.SIGTERM, -signal.SIGINT) else code


def _command(arguments: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Vigie", "--working-dir", str(ROOT)]
    command += ["--host", arguments.host, "--port", str(arguments.port)]
    if arguments.ssl_certfile:
        command += ["--ssl-certfile", str(arguments.ssl_certfile.resolve())]
        command += ["--ssl-keyfile", str(arguments.ssl_keyfile.resolve())]
    return command


def _announce(server: subprocess.Popen[bytes], url: str, how_to_try: str) -> None:
    """Say how to try the service, as soon as it answers."""
    # It only asks itself whether it is there, so any certificate will do; and never through a proxy.
    trusting = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trusting)
    deadline = time.monotonic() + _START_LIMIT_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(f"{url}/readyz", timeout=2).close()
            print(how_to_try, end="", flush=True)
            return
        time.sleep(0.3)


if __name__ == "__main__":
    raise SystemExit(main())
