"""`python -m serving`: check artifact and settings, turn telemetry off, start the service, say how to try it."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from serving.artifact import PRECISIONS, ArtifactError
from serving.auth import Access, is_loopback
from serving.classifier import Classifier
from serving.limits import Limits, positive
from serving.logs import check_logging
from serving.middleware import origins_from_environment
from serving.observe_tracing import exporter_class
from serving.protocols.perspective import Settings

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_ARTIFACT = ROOT / "artifacts" / "vigie-compact"
_START_LIMIT_S = 120


def main() -> int:
    """Serve until interrupted. Exit code 2 for what the user can mend, told in one line."""
    arguments = _parse()
    environment = _environment(arguments)
    try:
        _check(arguments, Access.from_environment(environment))
    except (ArtifactError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="vigie-metrics-") as folder:
        return _serve(arguments, {**environment, "VIGIE_METRICS_DIR": folder})


def _serve(arguments: argparse.Namespace, environment: dict[str, str]) -> int:
    server = subprocess.Popen(_command(arguments), env=environment)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: server.terminate())
    threading.Thread(target=_announce, args=(server, arguments), daemon=True).start()
    code = server.wait()
    return 0 if code in (0, -signal.SIGTERM, -signal.SIGINT) else code


def _parse() -> argparse.Namespace:
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


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """What the service's processes read."""
    environment = {
        **os.environ,
        "BENTOML_DO_NOT_TRACK": "True",
        "VIGIE_ARTIFACT": str(arguments.artifact.resolve()),
    }
    if arguments.precision:
        environment["VIGIE_PRECISION"] = arguments.precision
    if arguments.workers:
        environment["VIGIE_WORKERS"] = str(arguments.workers)
    if keys := os.environ.get("VIGIE_API_KEYS_FILE"):
        # The service's processes stand in another folder.
        environment["VIGIE_API_KEYS_FILE"] = str(Path(keys).resolve())
    if arguments.no_auth:
        environment["VIGIE_NO_AUTH"] = "1"
    return environment


def _command(arguments: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Vigie", "--working-dir", str(ROOT)]
    command += ["--host", arguments.host, "--port", str(arguments.port)]
    if arguments.ssl_certfile:
        command += ["--ssl-certfile", str(arguments.ssl_certfile.resolve())]
        command += ["--ssl-keyfile", str(arguments.ssl_keyfile.resolve())]
    return command


def _check(arguments: argparse.Namespace, access: Access) -> None:
    """Raises ArtifactError or ValueError for what would keep the service from starting, before any process does."""
    Limits.from_environment()
    origins_from_environment()
    check_logging()
    exporter_class()
    Settings.from_environment()
    if arguments.workers is None:
        positive("VIGIE_WORKERS", 1)
    elif arguments.workers < 1:
        raise ValueError("--workers must be 1 or more")
    try:
        ipaddress.ip_address(arguments.host)
    except ValueError:
        raise ValueError(f"--host {arguments.host}: an IP address is needed, as 127.0.0.1 or 0.0.0.0") from None
    if not is_loopback(arguments.host) and access.keys is None and not access.anyone:
        raise ValueError(
            f"--host {arguments.host} lets others ask, and there are no API keys: make one with `python -m "
            "serving.auth NAME` and set VIGIE_API_KEYS_FILE, or add --no-auth behind a proxy that checks who asks"
        )
    _check_certificate(arguments.ssl_certfile, arguments.ssl_keyfile)
    Classifier.from_dir(arguments.artifact, precision=arguments.precision)
    _check_port(arguments.host, arguments.port)


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise ValueError("--ssl-certfile and --ssl-keyfile belong together")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"--ssl-certfile {certificate}, --ssl-keyfile {key}: {reason}") from None


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            message = f"cannot listen on {host}:{port} ({error.strerror}); choose another --port"
            raise ValueError(message) from None


def _announce(server: subprocess.Popen[bytes], arguments: argparse.Namespace) -> None:
    """Say how to try the service, as soon as it answers."""
    address = _address(arguments)
    # It only asks itself whether it is there, so any certificate will do; and never through a proxy.
    trusting = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trusting)
    deadline = time.monotonic() + _START_LIMIT_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(f"{address}/readyz", timeout=2).close()
            print(_how_to_try(address, arguments), flush=True)
            return
        time.sleep(0.3)


def _address(arguments: argparse.Namespace) -> str:
    """Where this machine reaches the service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(arguments.host, arguments.host)
    scheme = "https" if arguments.ssl_certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{arguments.port}"


def _how_to_try(address: str, arguments: argparse.Namespace) -> str:
    access = Access.from_environment(_environment(arguments))
    options = "-H 'Content-Type: application/json'"
    if access.keys is not None:
        who, options = "who has an API key", options + ' -H "Authorization: Bearer $KEY"'
    else:
        who = "anyone, for a proxy in front is to check who asks" if access.anyone else "this machine only: no API keys"
    if arguments.ssl_certfile:
        options += f" --cacert {arguments.ssl_certfile}"
    return (
        f"\nVigie answers on {address} ({who}). Try it:\n\n"
        f"  curl -s {address}/predict {options} \\\n"
        """    -d '{"texts": ["Il menace de publier mes photos si je ne paie pas, j ai 15 ans."]}'\n"""
    )


if __name__ == "__main__":
    raise SystemExit(main())
