"""What would keep the service from starting, told before it does. `python -m serving` runs this first, as a process."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import socket
import ssl
import sys
from pathlib import Path

from serving.artifact import ArtifactError
from serving.auth import Access, is_loopback
from serving.classifier import Classifier
from serving.limits import positive
from serving.logs import check_logging
from serving.observe_tracing import exporter_class
from serving.options import address, parse
from serving.worker import Worker


def main() -> int:
    """Print how to try the service. Exit code 2 for what the user can mend, told in one line."""
    arguments = parse()
    try:
        access = Access.from_environment()
        _check(arguments, access)
    except (ArtifactError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_how_to_try(arguments, access))
    return 0


def _check(arguments: argparse.Namespace, access: Access) -> None:
    """Raises ArtifactError or ValueError for what would keep the service from starting."""
    # It reads every setting, those of the protocols included.
    Worker()
    check_logging()
    exporter_class()
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
    Classifier.from_dir(arguments.artifact, precision=os.environ.get("VIGIE_PRECISION") or None)
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


def _how_to_try(arguments: argparse.Namespace, access: Access) -> str:
    url, options = address(arguments), "-H 'Content-Type: application/json'"
    if access.keys is not None:
        who, options = "who has an API key", options + ' -H "Authorization: Bearer $KEY"'
    else:
        who = "anyone, for a proxy in front is to check who asks" if access.anyone else "this machine only: no API keys"
    if arguments.ssl_certfile:
        options += f" --cacert {arguments.ssl_certfile}"
    return (
        f"\nVigie answers on {url} ({who}). Try it:\n\n"
        f"  curl -s {url}/predict {options} \\\n"
        """    -d '{"texts": ["Il menace de publier mes photos si je ne paie pas, j ai 15 ans."]}'\n"""
    )


if __name__ == "__main__":
    raise SystemExit(main())
