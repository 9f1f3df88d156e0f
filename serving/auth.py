"""Who may ask: API keys, or without any this machine alone. `python -m serving.auth NAME` makes a key.

Only hashes of keys are stored, and a plain SHA-256 is enough: a slow hash protects passwords, which can be guessed,
while 32 random bytes cannot be, however fast the hash. Keys that are shorter than a random one are refused for that.
"""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import logging
import math
import os
import re
import secrets
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import parse_qsl, urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.gateway import Refusal

HEALTH = frozenset({"/livez", "/readyz", "/healthz"})
"""Paths that need no key: an orchestrator asks them."""
MIN_KEY_LENGTH = 32
_HEADERS = frozenset({b"x-api-key", b"ocp-apim-subscription-key", b"api-key"})
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})
_SIGNED = {"/coral/moderate": ("VIGIE_CORAL_SECRETS", "VIGIE_CORAL_SECRETS_FILE")}
"""Paths whose route checks a signature in place of a key where one of the variables is set."""
_STORED = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<hash>[0-9a-f]{64})(?::(?P<per_minute>[1-9][0-9]{0,8}))?")
_CHECK_FILE_EVERY_S = 1.0
logger = logging.getLogger("vigie")


@dataclass(eq=False)
class Key:
    """A stored key, and how much of its rate is left: a token bucket that holds a minute's worth.

    The bucket is this process's: with several workers, a key may ask up to as many times its rate in all.
    """

    name: str
    digest: bytes
    per_minute: int | None = None
    tokens: float = field(init=False)
    filled_at: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.tokens = float(self.per_minute or 0)

    def spend(self, now: float) -> int | None:
        """Take one request at the time `now`, in seconds; else the whole seconds until the next is allowed."""
        if self.per_minute is None:
            return None
        per_s = self.per_minute / 60
        self.tokens = min(
            self.per_minute, self.tokens + (now - (now if self.filled_at is None else self.filled_at)) * per_s
        )
        self.filled_at = now
        if self.tokens < 1:
            return math.ceil((1 - self.tokens) / per_s)
        self.tokens -= 1
        return None


Read = TypeVar("Read")


class Followed(Generic[Read]):
    """What was read from a file, and read again within a second of its changing. A broken file changes nothing."""

    def __init__(
        self,
        file: Path | None,
        read: Callable[[], Read],
        *,
        what: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            file: None where there is none to follow.
            read: reads it; raises ValueError, whose message goes to the log and so quotes no secret.
            what: how the log calls what is in it.
        """
        self._file, self._read_it, self._what, self._clock = file, read, what, clock
        # Before it is read: what is written in between counts as a change.
        self._stamp, self._checked_at = _stamp(file), clock()
        self._value = read()

    def current(self) -> Read:
        now = self._clock()
        if self._file is None or now - self._checked_at < _CHECK_FILE_EVERY_S:
            return self._value
        self._checked_at = now
        stamp = _stamp(self._file)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._value = self._read_it()
            except ValueError as error:
                logger.error("%s stay as they were: %s", self._what, error)
        return self._value


class Keys:
    """The keys that are accepted; those of a file follow it without a restart."""

    def __init__(
        self, *, text: str = "", file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            text: `name:sha256[:requests_per_minute]`, separated by commas.
            file: the same, one a line; `#` starts a comment.

        Raises:
            ValueError: a line of another form, a name or key that stands twice, or no key at all.
        """
        self._given = tuple(_parse(text.split(","), "VIGIE_API_KEYS")) if text else ()
        self._file = file
        self._last: tuple[Key, ...] = ()
        self._keys = Followed(file, self._read, what="the API keys", clock=clock)

    def find(self, candidate: str) -> Key | None:
        """The stored key that this is, if any; as long for a near miss as for a hit."""
        keys = self._keys.current()
        if len(candidate) < MIN_KEY_LENGTH:
            return None
        digest, found = sha256(candidate.encode()).digest(), None
        for key in keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(key.name for key in self._keys.current())

    def _read(self) -> tuple[Key, ...]:
        keys = self._given
        if self._file is not None:
            try:
                lines = self._file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"VIGIE_API_KEYS_FILE: {self._file} cannot be read ({type(error).__name__})") from None
            keys += tuple(_parse(lines, str(self._file)))
        if not keys:
            raise ValueError("no API key given; `python -m serving.auth NAME` makes one")
        for what in ({key.name for key in keys}, {key.digest for key in keys}):
            if len(what) < len(keys):
                raise ValueError("API keys: a name or a key stands twice")
        self._last = _keep_buckets(self._last, keys)
        return self._last


@dataclass(frozen=True)
class Access:
    """Who may ask, as the environment says.

    Without `keys`, only this machine is answered, unless `anyone` is set. Paths in `signed` need neither: their routes
    check a signature.
    """

    keys: Keys | None = None
    anyone: bool = False
    metrics_open: bool = False
    signed: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Access:
        """VIGIE_API_KEYS, VIGIE_API_KEYS_FILE, VIGIE_NO_AUTH, VIGIE_METRICS_OPEN, and whether signatures are checked.

        Raises:
            ValueError: keys of another form, or keys and VIGIE_NO_AUTH together.
        """
        environment = os.environ if environment is None else environment
        text, file = environment.get("VIGIE_API_KEYS", ""), environment.get("VIGIE_API_KEYS_FILE", "")
        anyone, metrics_open = (_switch(environment, f"VIGIE_{name}") for name in ("NO_AUTH", "METRICS_OPEN"))
        if anyone and (text or file):
            raise ValueError("VIGIE_NO_AUTH (--no-auth) and API keys contradict each other; choose one")
        keys = Keys(text=text, file=Path(file) if file else None) if text or file else None
        signed = frozenset(path for path, variables in _SIGNED.items() if any(map(environment.get, variables)))
        return cls(keys, anyone, metrics_open, signed)


class Auth:
    """ASGI middleware: refuses who may not ask, and leaves the key's name in `scope["state"]["key_name"]`."""

    def __init__(self, app: ASGIApp, *, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self.app, self.access, self._clock = app, access, clock
        self._open = HEALTH | access.signed | ({"/metrics"} if access.metrics_open else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open:
            if self.access.keys is not None:
                key = self._identify(scope, self.access.keys)
                scope.setdefault("state", {})["key_name"] = key.name
                self._check_rate(key)
            elif not self.access.anyone:
                _check_local(scope)
        await self.app(scope, receive, send)

    def _identify(self, scope: Scope, keys: Keys) -> Key:
        for candidate in _candidates(scope):
            key = keys.find(candidate)
            if key is not None:
                return key
        raise Refusal(
            "unauthorized",
            "an API key is needed: Authorization: Bearer …, X-API-Key: …, api-key: …, ?key=… or as the password of "
            "HTTP Basic",
        )

    def _check_rate(self, key: Key) -> None:
        wait = key.spend(self._clock())
        if wait is not None:
            message = f"this key may ask {key.per_minute} times a minute; try again in {wait} s"
            raise Refusal("rate_limited", message, retry_after_s=wait)


def _candidates(scope: Scope) -> Iterator[str]:
    """Whatever might be a key, in all the places where clients of the wire protocols put one."""
    for name, value in scope["headers"]:
        if name in _HEADERS:
            yield value.decode("latin-1")
        elif name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                yield token.strip()
            elif scheme.lower() == "basic":
                yield _password(token.strip())
    if b"key=" in scope["query_string"]:
        yield from (value for name, value in parse_qsl(scope["query_string"].decode("latin-1")) if name == "key")


def _password(token: str) -> str:
    """That of HTTP Basic, whoever the user; empty where there is none."""
    try:
        return b64decode(token, validate=True).decode("latin-1").partition(":")[2]
    except ValueError:
        return ""


def _check_local(scope: Scope) -> None:
    """Without keys only this machine may ask; not through a proxy, nor a web page whose name leads here."""
    headers = dict(scope["headers"])
    host, client = _host_name(headers.get(b"host", b"").decode("latin-1")), (scope.get("client") or ("",))[0]
    if not (is_loopback(client) and (host == "localhost" or is_loopback(host))) or _FORWARDED & headers.keys():
        raise Refusal(
            "forbidden",
            "without API keys only this machine is answered, by the address 127.0.0.1 or the name localhost; set "
            "VIGIE_API_KEYS_FILE, or VIGIE_NO_AUTH=1 behind a proxy that checks who asks",
        )


def _host_name(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether an IP address, as text, is this machine's own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _parse(lines: list[str], source: str) -> Iterator[Key]:
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        stored = _STORED.fullmatch(line)
        if stored is None:
            raise ValueError(f"{source}: entry {number} is not of the form name:sha256[:requests_per_minute]")
        per_minute = stored["per_minute"]
        yield Key(stored["name"], bytes.fromhex(stored["hash"]), int(per_minute) if per_minute else None)


def _keep_buckets(old: tuple[Key, ...], new: tuple[Key, ...]) -> tuple[Key, ...]:
    """Keys that did not change stay the same objects: touching the file refills no rate."""
    known = {(key.name, key.digest, key.per_minute): key for key in old}
    return tuple(known.get((key.name, key.digest, key.per_minute), key) for key in new)


def _stamp(file: Path | None) -> tuple[int, ...] | None:
    try:
        status = file.stat() if file else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None


def _switch(environment: Mapping[str, str], variable: str) -> bool:
    value = environment.get(variable, "0")
    if value not in ("", "0", "1"):
        raise ValueError(f"{variable} must be 1 or 0, not {value!r}")
    return value == "1"


def main() -> int:
    """Print a new key, which is shown only now, and the line to store. Exit code 2 for a name that cannot be one."""
    parser = argparse.ArgumentParser(prog="python -m serving.auth", description="Make an API key.")
    parser.add_argument("name", help="whose key it is: letters, digits, . _ and -; it appears in logs and metrics")
    parser.add_argument("--per-minute", type=int, help="requests a minute that each worker process allows this key")
    arguments = parser.parse_args()
    key = secrets.token_hex(32)
    line = f"{arguments.name}:{sha256(key.encode()).hexdigest()}"
    if arguments.per_minute is not None:
        line += f":{arguments.per_minute}"
    if not _STORED.fullmatch(line):
        message = "NAME is 1 to 64 letters, digits, . _ or -, and --per-minute a positive whole number"
        print(f"error: {message}", file=sys.stderr)
        return 2
    print(f"The key, shown this once; give it to who asks:\n{key}\n\nThe line to store in VIGIE_API_KEYS_FILE:\n{line}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
