"""Coral's external moderation phase: Coral sends each new or edited comment, signed, and reads what to do with it.

A harmful message itself gets Coral's flag "detected as toxic", for its moderators to look at. Whatever else, testimony
above all, gets 204, which leaves the comment as it is: of tags Coral takes only FEATURED and STAFF, neither of which
means "offer help", and it drops the whole answer for any other. The comment is read as HTML, as Coral sends it unless
told otherwise; in plain text, what stands between `<` and `>` would go unread.

Coral waits for 200 ms unless told otherwise (100 ms to 10 s), and lets the comment through when there is no answer or
an error. It then logs the status and nothing else.
"""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.auth import Followed
from serving.gateway import Gateway, Refusal, acted_upon
from serving.limits import protects_testimony
from serving.protocols import GetGateway
from serving.protocols.comment import Comment
from serving.protocols.messages import Message, parse

PREFIXES: tuple[str, ...] = ("/coral/",)
_FLAG = {"actionType": "FLAG", "reason": "COMMENT_DETECTED_TOXIC"}
_STATUSES = ("SYSTEM_WITHHELD",)
"""Of Coral's, those that leave the decision to a person: the comment waits for one."""
_SECRET = re.compile(r"[\x21-\x7e]{32,}")


class CoralComment(Message):
    """`body` is what was written, in HTML."""

    body: str


class Asked(Message):
    """What Coral sends. Author, story, site and tenant stay unread."""

    comment: CoralComment


class Secrets:
    """The secrets that Coral may sign with: several while it rolls from one to the next."""

    def __init__(
        self, *, text: str = "", file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            text: secrets separated by commas.
            file: one a line; `#` starts a comment. It is followed without a restart.

        Raises:
            ValueError: something that is no secret of Coral's, or none at all.
        """
        self._text, self._file = text, file
        self._secrets = Followed(file, self._read, what="the secrets of Coral", clock=clock)

    @classmethod
    def from_environment(cls) -> Secrets | None:
        """VIGIE_CORAL_SECRETS and VIGIE_CORAL_SECRETS_FILE together; None where neither is set.

        Raises:
            ValueError: as the constructor.
        """
        text, file = (os.environ.get(f"VIGIE_CORAL_SECRETS{suffix}", "") for suffix in ("", "_FILE"))
        return cls(text=text, file=Path(file) if file else None) if text or file else None

    def signed(self, body: bytes, header: str) -> bool:
        """Whether one of the header's signatures, `sha256=…` separated by commas, is of one of these secrets."""
        given = [part.strip().encode("latin-1") for part in header.split(",")]
        good = False
        for secret in self._secrets.current():
            expected = b"sha256=" + hmac.new(secret, body, sha256).hexdigest().encode()
            for signature in given:
                good |= hmac.compare_digest(signature, expected)
        return good

    def _read(self) -> tuple[bytes, ...]:
        secrets = list(_parse(self._text.split(","), "VIGIE_CORAL_SECRETS"))
        if self._file is not None:
            try:
                lines = self._file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = type(error).__name__
                raise ValueError(f"VIGIE_CORAL_SECRETS_FILE: {self._file} cannot be read ({reason})") from None
            secrets += _parse([line.partition("#")[0] for line in lines], str(self._file))
        if not secrets:
            raise ValueError("no signing secret of Coral given; its page of the moderation phase shows one")
        return tuple(secrets)


def _parse(entries: Sequence[str], source: str) -> list[bytes]:
    secrets = []
    for number, entry in enumerate(entries, 1):
        if secret := entry.strip():
            if not _SECRET.fullmatch(secret):
                raise ValueError(f"{source}: entry {number} is no signing secret: 32 signs or more, without spaces")
            secrets.append(secret.encode())
    return secrets


@dataclass(frozen=True)
class Settings:
    """How the phase answers; the environment variable of each stands beside it."""

    secrets: Secrets | None = None  # VIGIE_CORAL_SECRETS, VIGIE_CORAL_SECRETS_FILE
    status: str | None = None  # VIGIE_CORAL_STATUS: what becomes of a flagged comment until somebody looked at it
    protect: bool = True  # VIGIE_PROTECT_TESTIMONY: flag nothing where somebody tells what was done to them

    @classmethod
    def from_environment(cls) -> Settings:
        """The defaults, or what the environment says.

        Raises:
            ValueError: a variable of another form.
        """
        status = os.environ.get("VIGIE_CORAL_STATUS") or None
        if status not in (None, *_STATUSES):
            allowed = ", ".join(_STATUSES)
            raise ValueError(f"VIGIE_CORAL_STATUS must be {allowed} or left out, not {status!r}: a person decides")
        return cls(Secrets.from_environment(), status, protects_testimony())


def routes(gateway: GetGateway) -> Sequence[BaseRoute]:
    """The one address that Coral knows."""
    settings = Settings.from_environment()

    async def moderate(request: Request) -> Response:
        body, signatures = await request.body(), request.headers.get("x-coral-signature", "")
        if settings.secrets is not None and not settings.secrets.signed(body, signatures):
            needed = "a signature of the body with a secret of VIGIE_CORAL_SECRETS or VIGIE_CORAL_SECRETS_FILE"
            raise Refusal("unauthorized", f"X-Coral-Signature: needs {needed}", "X-Coral-Signature")
        answer = await _moderate(gateway(), parse(Asked, body).comment.body, settings)
        return _json(answer) if answer else Response(status_code=204)

    return [Route("/coral/moderate", moderate, methods=["POST"])]


async def _moderate(gateway: Gateway, body: str, settings: Settings) -> dict[str, Any] | None:
    """What Coral should do; None where that is nothing, as for a comment that holds only an image."""
    if fault := gateway.limits.too_long(body):
        raise Refusal("too_large", f"comment.body: {fault}", "comment.body")
    text = Comment(body, is_html=True).text
    if not text.strip():
        return None
    (prediction,) = await gateway.predict([text], field="comment.body")
    if not any(acted_upon(prediction, protect=settings.protect).values()):
        return None
    return {"actions": [_FLAG], **({"status": settings.status} if settings.status else {})}


def refuse(refusal: Refusal) -> Response:
    """Coral reads the status alone; the words are for whoever sets it up."""
    return _json({"error": {"message": refusal.message, "kind": refusal.kind}}, refusal.status)


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")
