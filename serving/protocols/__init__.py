"""One file per wire protocol: translation only, from a foreign request to `Gateway.predict` and back.

A protocol module has `PREFIXES` (the paths it owns), `routes(gateway)` (Starlette routes; `gateway` is a function that
gives the process's `Gateway`) and `refuse(refusal)` (a `Refusal` in the protocol's own error shape), which also words
what is refused before a route is reached: a bad key, an oversized body, a full queue. Where several own a path, the
longest prefix decides. A `Refusal` that a route raises is worded the same way, so none needs to catch it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.responses import Response
from starlette.routing import BaseRoute

from serving.gateway import Gateway, Refusal

GetGateway = Callable[[], Gateway]


class WireProtocol(Protocol):
    """What a module in this folder offers."""

    PREFIXES: tuple[str, ...]

    def routes(self, gateway: GetGateway) -> Sequence[BaseRoute]: ...

    def refuse(self, refusal: Refusal) -> Response: ...


"""The modules that are served. They are imported below what they themselves import from here."""

# Below what they build upon, or the import would be circular.
from serving.protocols import (  # noqa: E402
    azure,
    coral,
    huggingface,
    label_studio,
    mistral,
    open_inference,
    openai,
    perspective,
    tei,
)

PROTOCOLS: tuple[WireProtocol, ...] = (
    azure,
    coral,
    huggingface,
    label_studio,
    mistral,
    open_inference,
    openai,
    perspective,
    tei,
)
