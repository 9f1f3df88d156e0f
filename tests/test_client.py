"""serving.client: any number of texts answered in order by a live server, and what both clients do alike."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving import Classifier, client
from serving.client import AsyncClient, Client, Limits, Prediction, Retry
from tests import wire
from tests.conftest import ROOT
from tests.wire import CANARY, KEY, service

BOUNDS = {"texts": 3, "characters": 40, "body_bytes": 400}


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    """What reaches 0.5 is flagged, whatever the tiny model learnt."""
    known = Classifier.from_dir(artifact).artifact
    return Classifier(replace(known, thresholds=dict.fromkeys(known.thresholds, dict.fromkeys(known.label_ids, 0.5))))


@pytest.fixture(scope="module")
def address(classifier: Classifier) -> Iterator[str]:
    """A live server with small limits."""
    with wire.live(service(classifier, **BOUNDS)) as address:
        yield f"http://{address}"


def ask(
    kind: str, texts: Iterable[str], *, url: str = client.LOCAL, operating_point: str | None = None, **more: Any
) -> list[Prediction]:
    """What `predict` of either client gives."""

    async def with_asyncio() -> list[Prediction]:
        async with AsyncClient(url, **more) as vigie:
            return await vigie.predict(texts, operating_point=operating_point)

    if kind == "async":
        return asyncio.run(with_asyncio())
    with Client(url, **more) as vigie:
        return vigie.predict(texts, operating_point=operating_point)


@dataclass
class Stand:
    """A stand-in for the server, in a time that passes only while the client sleeps."""

    answers: list[httpx.Response | Exception] = field(default_factory=list)
    """Given in turn; after the last, every text is answered with `none`."""
    asked: list[httpx.Request] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if self.answers else answered(request)
        if isinstance(answer, Exception):
            raise answer
        # Once more, for httpx binds it to the request.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def ask(self, kind: str, texts: Iterable[str] = ("bonjour",), **more: Any) -> list[Prediction]:
        transport = httpx.MockTransport(self)
        make = httpx.AsyncClient if kind == "async" else httpx.Client

        async def doze(seconds: float) -> None:
            self.slept.append(seconds)

        options: dict[str, Any] = {"limits": Limits(), "jitter": lambda: 0.5, "clock": lambda: sum(self.slept), **more}
        sleep = doze if kind == "async" else self.slept.append
        return ask(kind, texts, http=make(transport=transport), sleep=sleep, **options)


def one(route: str) -> dict[str, Any]:
    score = {"score": 0.1, "flagged": False}
    voice = {"label": None, "scores": {"direct": 0.2, "testimony": 0.1, "commentary": 0.1}}
    scores = {"categories": {"grooming": score}, "minor_involved": score, "voice": voice}
    return {**scores, "flagged": False, "route": route}


def body(*routes: str) -> dict[str, Any]:
    return {"model": {"name": "vigie-tiny", "version": "1"}, "predictions": [one(route) for route in routes]}


def answered(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=body(*["none"] * len(json.loads(request.content)["texts"])))


def refusal(status: int, kind: str, message: str = "no", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "kind": kind}}, headers=headers)


def test_an_answer_is_typed(kind: str, address: str) -> None:
    direct, told, harmless = ask(kind, ["il menace", "je raconte : il menace", "la chorale"], url=address)
    assert (direct.flagged, direct.route, told.route) == (True, "moderate", "support")
    assert direct.categories["sexual_extortion"] == client.Score(0.8, True)
    assert direct.minor_involved.score == 0.7 and direct.voice.label == "direct"
    assert told.voice.label is None and told.voice.scores["testimony"] == 0.3
    assert harmless.categories["sexual_extortion"].score == 0.1
    assert direct.model.name == "vigie-tiny" and direct.raw["categories"]["sexual_extortion"]["score"] == 0.8


def test_an_answer_cannot_be_changed(address: str) -> None:
    (answer,) = ask("sync", ["bonjour"], url=address)
    with pytest.raises(AttributeError):
        answer.flagged = True


def test_any_number_of_texts_is_answered_in_order(kind: str, address: str) -> None:
    """From an iterator, through 34 requests."""
    texts = ["il menace" if index % 7 == 0 else f"chorale {index}" for index in range(100)]
    scores = [answer.categories["sexual_extortion"].score for answer in ask(kind, iter(texts), url=address)]
    assert scores == [0.8 if index % 7 == 0 else 0.1 for index in range(100)]


def test_no_text_asks_nothing(kind: str) -> None:
    stand = Stand()
    assert stand.ask(kind, []) == [] and stand.asked == []


def test_the_limits_are_asked_for_once(address: str) -> None:
    asked: list[str] = []
    http = httpx.Client(event_hooks={"request": [lambda request: asked.append(request.url.path)]}, trust_env=False)
    with http, Client(address, http=http) as vigie:
        vigie.predict(["un"] * 4)
        vigie.predict(["deux"])
    assert asked == ["/info", *["/predict"] * 3]


def test_a_text_too_long_is_named_before_anything_is_sent(kind: str) -> None:
    stand = Stand()
    with pytest.raises(client.BadRequest, match=r"texts\[4\]: 41 characters; at most 40 are allowed") as refused:
        stand.ask(kind, [*["bonjour"] * 4, "b" * 41], limits=Limits(characters=40))
    assert refused.value.index == 4 and stand.asked == []


def test_a_text_that_the_server_refuses_is_counted_in_the_callers_list(kind: str, address: str) -> None:
    """The second of the third request; it is short, and long only once written out."""
    with pytest.raises(client.BadRequest, match=r"^texts\[7\]: its characters stand for") as refused:
        ask(kind, [*["bonjour"] * 7, "½" * 39, "bonjour"], url=address)
    assert (refused.value.index, refused.value.status) == (7, 422)


def test_a_text_larger_than_a_request_is_named(kind: str, address: str) -> None:
    limits = Limits(texts=3, characters=1000, body_bytes=400)
    with pytest.raises(client.TooLarge, match=r"texts\[1\]") as refused:
        ask(kind, ["bonjour", "b" * 500], url=address, limits=limits)
    assert refused.value.index == 1


@pytest.mark.parametrize("text", ["\ud83d", "moitié \udc9c de signe", "\x00", "é\u2028", '"\\'])
def test_any_text_arrives_as_it_is(kind: str, text: str, address: str) -> None:
    """A message cut within an emoji is no valid Unicode; the server takes it."""
    stand = Stand()
    stand.ask(kind, [text])
    assert json.loads(stand.asked[0].content)["texts"] == [text]
    assert ask(kind, [text], url=address)[0].route == "none"


@pytest.mark.parametrize(
    ("texts", "message"),
    [("bonjour", "not one"), (["bonjour", float("nan")], r"texts\[1\] must be a string, not float")],
)
def test_what_is_no_list_of_texts_is_told(kind: str, texts: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Stand().ask(kind, texts)


def test_an_operating_point_is_passed_on(kind: str, address: str) -> None:
    assert ask(kind, ["bonjour"], url=address, operating_point="recall_first")
    with pytest.raises(client.BadRequest, match="operating_point must be one of: recall_first") as refused:
        ask(kind, ["bonjour"], url=address, operating_point=CANARY)
    assert CANARY not in str(refused.value)


def test_labels_and_info_are_those_of_the_server(kind: str, address: str, classifier: Classifier) -> None:
    async def with_asyncio() -> tuple[Any, Any]:
        async with AsyncClient(address) as vigie:
            return await vigie.labels(), await vigie.info()

    with Client(address) as vigie:
        labels, info = asyncio.run(with_asyncio()) if kind == "async" else (vigie.labels(), vigie.info())
    assert labels == classifier.artifact.labels
    assert info["limits"].items() >= BOUNDS.items()


def test_a_key_is_needed_where_the_server_has_keys(kind: str, classifier: Classifier) -> None:
    keys = f"client:{sha256(KEY.encode()).hexdigest()}"
    with wire.live(service(classifier, keys=keys)) as address:
        assert ask(kind, ["bonjour"], url=f"http://{address}", api_key=KEY)
        for key in (None, "e5" * 32):
            with pytest.raises(client.Unauthorized, match="an API key is needed"):
                ask(kind, ["bonjour"], url=f"http://{address}", api_key=key)


def test_a_rate_used_up_is_told(classifier: Classifier) -> None:
    keys = f"client:{sha256(KEY.encode()).hexdigest()}:1"
    options = {"api_key": KEY, "limits": Limits(), "retry": Retry(budget_s=1)}
    with wire.live(service(classifier, keys=keys)) as address:
        assert ask("sync", ["bonjour"], url=f"http://{address}", **options)
        with pytest.raises(client.RateLimited, match="1 times a minute") as refused:
            ask("sync", ["bonjour"], url=f"http://{address}", **options)
    assert refused.value.retry_after_s is not None


def test_live_errors_and_logs_hold_neither_text_nor_key(
    kind: str, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(client.BadRequest) as raised:
        ask(kind, ["½" * 39 + CANARY], url=address, limits=Limits(), api_key=KEY)
    assert CANARY not in f"{raised.value!r} {caplog.text}" and KEY not in f"{raised.value!r} {caplog.text}"


def test_nothing_listens(kind: str, closed_port: int) -> None:
    with pytest.raises(client.Unreachable, match="no answer from base_url"):
        ask(kind, ["bonjour"], url=f"http://127.0.0.1:{closed_port}", retry=Retry(attempts=2, first_s=0))


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_no_proxy_of_the_environment_is_used(
    kind: str, address: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(kind, ["bonjour"], url=address)


def test_a_path_before_the_routes_is_kept(kind: str) -> None:
    stand = Stand()
    stand.ask(kind, url="https://example.org/vigie/")
    assert str(stand.asked[0].url) == "https://example.org/vigie/predict"


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:3000", "ftp://127.0.0.1", "http://", "http://a:b:c", "http://h/?key=1", "file:///x"]
)
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url must be http:// or https://"):
        Client(url)


@pytest.mark.parametrize("key", [f"{CANARY}\n", f"clé {CANARY}", ""])
def test_a_key_that_cannot_be_one_is_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as refused:
        Client(api_key=key)
    assert CANARY not in str(refused.value)


class Crowd:
    """Counts the requests that are under way at once."""

    def __init__(self, *, fail: bool = False) -> None:
        self.now = self.most = self.begun = 0
        self.fail = fail

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.begun += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if self.fail:
                return refusal(500, "failed")
            return answered(request)
        finally:
            self.now -= 1


def crowd(seen: Crowd, calls: int = 1) -> Any:
    async def run() -> Any:
        http = httpx.AsyncClient(transport=httpx.MockTransport(seen))
        async with http, AsyncClient(concurrency=3, limits=Limits(texts=1), http=http) as vigie:
            return await asyncio.gather(*(vigie.predict(["bonjour"] * 20) for _ in range(calls)))

    return asyncio.run(run())


@pytest.mark.parametrize("calls", [1, 4])
def test_concurrency_is_used_and_bounded_over_all_calls(calls: int) -> None:
    seen = Crowd()
    assert [len(answers) for answers in crowd(seen, calls)] == [20] * calls
    assert seen.most == 3


def test_after_a_failure_nothing_more_is_asked() -> None:
    seen = Crowd(fail=True)
    with pytest.raises(client.ServerError):
        crowd(seen)
    assert seen.begun <= 3 and seen.now == 0


def test_the_callers_own_httpx_client_stays_open() -> None:
    with httpx.Client(transport=httpx.MockTransport(Stand())) as http:
        Client(http=http, limits=Limits()).__exit__()
        assert not http.is_closed


def test_httpx_is_all_that_it_needs() -> None:
    """Beside what httpx itself loads there is this package and Python's own library."""
    code = (
        "import sys, httpx; before = set(sys.modules); import serving.client\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "others = loaded - sys.stdlib_module_names - {'serving'}\n"
        "inner = {name for name in sys.modules if name.startswith('serving.') and 'client' not in name}\n"
        "sys.exit(', '.join(others | inner) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_package_offers_what_it_did() -> None:
    import serving
    from serving import Artifact, ArtifactError
    from serving.artifact import Artifact as TheSame

    assert Artifact is TheSame and issubclass(ArtifactError, Exception)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = serving.Nothing
