"""The client: `Client().predict(texts)` against a served Vigie, and `AsyncClient` the same. Needs httpx alone.

Any number of texts is cut into requests within the server's limits, and the answers come in order. What the server is
too busy for is asked again, within bounds. Nothing but `base_url` is contacted: no proxy or password file that the
environment names is used, no redirection followed. Errors hold no text.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Self, TypedDict, Unpack

import httpx

from serving.client_types import (
    BadRequest,
    Forbidden,
    Limits,
    Model,
    Overloaded,
    Prediction,
    RateLimited,
    Retry,
    Route,
    Score,
    ServerError,
    TooLarge,
    Unauthorized,
    UnexpectedAnswer,
    Unreachable,
    VigieError,
    Voice,
)
from serving.client_wire import (
    Attempts,
    Request,
    checked_texts,
    cut,
    read,
    read_limits,
    read_object,
    read_predictions,
    unreached,
)

__all__ = [
    "AsyncClient",
    "BadRequest",
    "Client",
    "Forbidden",
    "Limits",
    "Model",
    "Overloaded",
    "Prediction",
    "RateLimited",
    "Retry",
    "Route",
    "Score",
    "ServerError",
    "TooLarge",
    "Unauthorized",
    "UnexpectedAnswer",
    "Unreachable",
    "VigieError",
    "Voice",
]

LOCAL = "http://127.0.0.1:3000"


class Options(TypedDict, total=False):
    """What both clients take beside the address, all by keyword."""

    api_key: str | None
    """Sent as `Authorization: Bearer …`."""
    timeout_s: float
    """For connecting, and for each part of an answer; by default 35, which is longer than the server itself takes."""
    retry: Retry
    limits: Limits | None
    """How requests are cut; by default as the server's `GET /info` says, which is asked once."""
    clock: Callable[[], float]
    """Seconds, for the time budget."""
    jitter: Callable[[], float]
    """From 0 to 1, the share of the longest wait that is waited."""


class _Common:
    """What both clients share: everything but the sending and the waiting."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 35.0,
        retry: Retry | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._base_url = _checked_url(base_url)
        self._headers = _headers(api_key)
        self._timeout_s, self._retry, self._limits = timeout_s, retry or Retry(), limits
        self._clock, self._jitter = clock, jitter

    def _attempts(self) -> Attempts:
        return Attempts(self._retry, self._clock, self._jitter)

    def _arguments(self, request: Request, timeout_s: float) -> dict[str, Any]:
        """What httpx is called with."""
        return {
            "method": request.method,
            "url": self._base_url + request.path,
            "content": request.body,
            "headers": self._headers,
            "timeout": min(timeout_s, self._timeout_s),
            "follow_redirects": False,
        }


class Client(_Common):
    """Asks a served Vigie. May be shared by threads; close it, or use it in `with`."""

    def __init__(
        self,
        base_url: str = LOCAL,
        *,
        http: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
        **options: Unpack[Options],
    ) -> None:
        """
        Args:
            http: an httpx client of yours, for a proxy or certificates of your own; it stays open.
            options: as `Options` names them.

        Raises:
            ValueError: the address or the key cannot be one.
        """
        super().__init__(base_url, **options)
        self._own = http is None
        self._http = http or httpx.Client(trust_env=False)
        self._sleep = sleep

    def predict(self, texts: Iterable[str], *, operating_point: str | None = None) -> list[Prediction]:
        """Answers for any number of texts, in order.

        Args:
            operating_point: which thresholds flag; the server's default when left out. It changes no score.

        Raises:
            TypeError: something other than strings.
            VigieError: there is no answer; its `index` names the text at fault, where one is.
        """
        asked = checked_texts(texts)
        if not asked:
            return []
        self._limits = limits = self._limits or read_limits(self.info())
        answers: list[Prediction] = []
        for request in cut(asked, limits, operating_point):
            answers += read_predictions(self._send(request), count=request.count)
        return answers

    def labels(self) -> dict[str, Any]:
        """Ids, French names, definitions, law and help lines: `GET /labels`."""
        return read_object(self._send(Request("GET", "/labels")))

    def info(self) -> dict[str, Any]:
        """Model, data, thresholds and limits: `GET /info`."""
        return read_object(self._send(Request("GET", "/info")))

    def close(self) -> None:
        """Close the connections, unless they are the caller's own httpx client's."""
        if self._own:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, request: Request) -> Any:
        attempts = self._attempts()
        while isinstance(outcome := self._try(request, attempts.left_s()), VigieError):
            self._sleep(attempts.wait_s(outcome))
        return outcome

    def _try(self, request: Request, timeout_s: float) -> Any:
        # What httpx raises holds the request and with it the texts, so the error is made after it is gone.
        try:
            response = self._http.request(**self._arguments(request, timeout_s))
        except httpx.RequestError as error:
            reason = unreached(error)
        else:
            return read(response, request)
        return Unreachable(reason)


class AsyncClient(_Common):
    """Asks a served Vigie from asyncio, several requests at a time. Close it, or use it in `async with`."""

    def __init__(
        self,
        base_url: str = LOCAL,
        *,
        concurrency: int = 4,
        http: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        **options: Unpack[Options],
    ) -> None:
        """
        Args:
            concurrency: requests that this client has under way at most, over all calls; the others wait here.
            http: an httpx client of yours, for a proxy or certificates of your own; it stays open.
            options: as `Options` names them.

        Raises:
            ValueError: the address or the key cannot be one, or no request would be allowed.
        """
        super().__init__(base_url, **options)
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._own = http is None
        self._http = http or httpx.AsyncClient(trust_env=False)
        self._sleep, self._concurrency, self._room = sleep, concurrency, asyncio.Semaphore(concurrency)

    async def predict(self, texts: Iterable[str], *, operating_point: str | None = None) -> list[Prediction]:
        """Answers for any number of texts, in order; arguments and errors as in `Client.predict`."""
        asked = checked_texts(texts)
        if not asked:
            return []
        self._limits = limits = self._limits or read_limits(await self.info())
        requests, answers = cut(asked, limits, operating_point), dict[int, list[Prediction]]()

        async def work() -> None:
            for request in requests:
                answers[request.start] = read_predictions(await self._send(request), count=request.count)

        await _all_or_none([asyncio.create_task(work()) for _ in range(self._concurrency)])
        return [answer for start in sorted(answers) for answer in answers[start]]

    async def labels(self) -> dict[str, Any]:
        """Ids, French names, definitions, law and help lines: `GET /labels`."""
        return read_object(await self._send(Request("GET", "/labels")))

    async def info(self) -> dict[str, Any]:
        """Model, data, thresholds and limits: `GET /info`."""
        return read_object(await self._send(Request("GET", "/info")))

    async def aclose(self) -> None:
        """Close the connections, unless they are the caller's own httpx client's."""
        if self._own:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, request: Request) -> Any:
        async with self._room:
            attempts = self._attempts()
            while isinstance(outcome := await self._try(request, attempts.left_s()), VigieError):
                await self._sleep(attempts.wait_s(outcome))
            return outcome

    async def _try(self, request: Request, timeout_s: float) -> Any:
        try:
            response = await self._http.request(**self._arguments(request, timeout_s))
        except httpx.RequestError as error:
            reason = unreached(error)
        else:
            return read(response, request)
        return Unreachable(reason)


async def _all_or_none(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all; after the first failure the others are given up, and none runs on."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _checked_url(base_url: str) -> str:
    # Neither the address nor what httpx says of it is repeated: there may be a password in it.
    try:
        url = httpx.URL(base_url)
        sound = url.scheme in ("http", "https") and url.host and not (url.query or url.fragment)
    except (httpx.InvalidURL, ValueError):
        sound = False
    if not sound:
        raise ValueError("base_url must be http:// or https://, a host, and perhaps a port and a path")
    return base_url.rstrip("/")


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if api_key is not None:
        # httpx would quote the key in its error.
        if not re.fullmatch(r"[!-~]+", api_key):
            raise ValueError("api_key must be printable ASCII without spaces; is there a line's end in it?")
        headers["Authorization"] = f"Bearer {api_key}"
    return headers
