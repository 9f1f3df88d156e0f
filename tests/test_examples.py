"""The README's examples, run as they stand there against a live server; only its address is put in their place."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serving import Classifier
from serving.protocols.label_studio_config import read_config
from tests import wire
from tests.conftest import ROOT
from tests.test_client import classifier
from tests.wire import CANARY, service
from training.labels import Labels

__all__ = ["classifier"]

TITLE = "### From Python, and inside other tools\n"
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split(TITLE)[1].split("\n## ")[0].split("\n### ")[0]
BLOCKS = re.findall(r"```(?:py|xml)\n(.*?)```", SECTION, re.DOTALL)
CLIENTS_PYTHON = os.environ.get("VIGIE_TEST_CLIENTS_PYTHON")
HARMFUL, TOLD, ORDINARY = f"il menace {CANARY}", f"je raconte : il menace {CANARY}", "La chorale répète à 18 h."


@pytest.fixture(scope="module")
def address(classifier: Classifier) -> Iterator[str]:
    with wire.live(service(classifier)) as address:
        yield address


def example(marker: str, address: str) -> str:
    """The one block that holds the marker."""
    (code,) = [block for block in BLOCKS if marker in block]
    return code.replace("127.0.0.1:3000", address)


def run(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_every_example_is_run_here() -> None:
    markers = ("api_key=None", "import discord", "DISCOURSE", "<View>", 'df["texte"]', "import OpenAI\n", "litellm")
    found = [next(marker for marker in markers if marker in block) for block in BLOCKS]
    assert sorted(found) == sorted(markers)


def test_the_client_in_three_lines(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(example("api_key=None", address))
    assert capsys.readouterr().out == "none False 0.0\n"


class Forbidden(Exception):
    """As discord.py raises it for who takes no private messages."""


class Bot:
    """As much of discord.Client as the example asks for."""

    def __init__(self, *, intents: Any) -> None:
        assert intents.message_content
        self.channels: dict[int, Somebody] = {1: Somebody()}

    def event(self, hook: Any) -> Any:
        setattr(self, hook.__name__, hook)
        return hook

    def get_channel(self, number: int) -> Somebody:
        return self.channels[number]


class Somebody:
    """Who can be written to: a person or a channel."""

    def __init__(self, *, bot: bool = False, closed: bool = False) -> None:
        self.bot, self.closed, self.got = bot, closed, list[str]()

    async def send(self, content: str) -> None:
        if self.closed:
            raise Forbidden
        self.got.append(content)


class Message:
    """A message on which nothing but reading is allowed: another method, as `delete`, would be missed."""

    jump_url = "https://discord.example/1/2/3"

    def __init__(self, content: str, author: Somebody) -> None:
        self.content, self.author = content, author


@pytest.fixture
def discord(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("discord")
    intents = SimpleNamespace(default=lambda: SimpleNamespace(message_content=False))
    vars(library).update(Client=Bot, Intents=intents, Forbidden=Forbidden)
    monkeypatch.setitem(sys.modules, "discord", library)


def told(address: str, content: str, **author: bool) -> tuple[list[str], list[str]]:
    """What the moderators and the author are told of a message."""

    async def hear() -> tuple[list[str], list[str]]:
        names = run(example("import discord", address))
        bot, message = names["bot"], Message(content, Somebody(**author))
        async with names["vigie"]:
            await bot.on_message(message)
        return bot.get_channel(1).got, message.author.got

    return asyncio.run(hear())


@pytest.mark.usefixtures("discord")
def test_discord_harmful_messages_go_to_the_moderators(address: str) -> None:
    """As a link, not as a copy."""
    assert told(address, HARMFUL) == ([f"À relire : {Message.jump_url}"], [])


@pytest.mark.usefixtures("discord")
def test_discord_help_lines_go_privately_to_who_tells(address: str) -> None:
    moderators, (private,) = told(address, TOLD)
    assert moderators == [] and "3018 – e-Enfance (3018)" in private and "17 ou 112" in private
    assert private.count("3018 – e-Enfance") == 1 and CANARY not in private


@pytest.mark.usefixtures("discord")
@pytest.mark.parametrize(
    ("content", "author"), [(ORDINARY, {}), ("", {}), (HARMFUL, {"bot": True}), (TOLD, {"closed": True})]
)
def test_discord_nothing_is_said_otherwise(address: str, content: str, author: dict[str, bool]) -> None:
    assert told(address, content, **author) == ([], [])


class Forum:
    """A Discourse that takes flags."""

    def __init__(self) -> None:
        self.flags: list[tuple[dict[str, Any], str, str]] = []
        self.app = Starlette(routes=[Route("/post_actions.json", self.flag, methods=["POST"])])

    async def flag(self, request: Request) -> JSONResponse:
        headers = request.headers
        self.flags.append((await request.json(), headers["Api-Key"], headers["Api-Username"]))
        return JSONResponse({"id": 7})


def deliver(address: str, body: bytes, monkeypatch: pytest.MonkeyPatch, **headers: str) -> tuple[int, Forum]:
    """Status of the webhook's answer, and the forum with the flags that it has got."""
    forum = Forum()

    async def post(forum_address: str) -> int:
        monkeypatch.setenv("DISCOURSE_URL", f"http://{forum_address}")
        monkeypatch.setenv("DISCOURSE_API_KEY", "a1" * 32)
        monkeypatch.setenv("DISCOURSE_SECRET", "secret")
        names = run(example("DISCOURSE", address))
        here = httpx.AsyncClient(transport=httpx.ASGITransport(names["app"]), base_url="http://hook.example")
        async with here, names["forum"], names["vigie"]:
            sent = {name: value.encode("latin-1") for name, value in headers.items()}
            return (await here.post("/", content=body, headers=sent)).status_code

    with wire.live(forum.app) as forum_address:
        return asyncio.run(post(forum_address)), forum


def event(text: str) -> bytes:
    return json.dumps({"post": {"id": 12, "username": "u", "raw": text, "cooked": f"<p>{text}</p>"}}).encode()


def signed(body: bytes, event: str = "post_created") -> dict[str, str]:
    signature = hmac.new(b"secret", body, "sha256").hexdigest()
    return {"X-Discourse-Event": event, "X-Discourse-Event-Signature": f"sha256={signature}"}


def test_discourse_a_harmful_post_is_flagged_for_review(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = event(HARMFUL)
    status, forum = deliver(address, body, monkeypatch, **signed(body))
    flag = {"id": 12, "post_action_type_id": 7, "message": "Vigie propose de relire ce message."}
    assert (status, forum.flags) == (204, [(flag, "a1" * 32, "vigie")])


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (event(TOLD), "post_created"),
        (event(ORDINARY), "post_created"),
        (event(HARMFUL), "post_destroyed"),
        (b'{"ping": "OK"}', "ping"),
    ],
)
def test_discourse_nothing_else_is_flagged(
    address: str, body: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, forum = deliver(address, body, monkeypatch, **signed(body, kind))
    assert (status, forum.flags) == (204, [])


@pytest.mark.parametrize("signature", ["", "sha256=00", "é", None])
def test_discourse_what_is_not_signed_is_refused(
    address: str, signature: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With none, a wrong one, or the right one of other words."""
    headers = signed(event(ORDINARY))
    if signature is not None:
        headers["X-Discourse-Event-Signature"] = signature
    status, forum = deliver(address, event(HARMFUL), monkeypatch, **headers)
    assert (status, forum.flags) == (403, [])


def test_label_studios_choices_are_the_labels(labels: Labels, classifier: Classifier) -> None:
    """Each once and in their order; and the backend understands them."""
    config = example("<View>", "")
    choices = {
        block.get("name"): [choice.get("value") for choice in block.iter("Choice")]
        for block in ElementTree.fromstring(config).iter("Choices")
    }
    expected = {"categories": labels.category_ids, "context": labels.context_ids, "voice": labels.voice_ids}
    assert choices == {name: list(ids) for name, ids in expected.items()}
    assert [list(control.choices) for control in read_config(config, classifier.artifact, "config")] == [
        *choices.values()
    ]


def test_label_studios_address_is_served(classifier: Classifier) -> None:
    (path,) = re.findall(r"`http://HOST:3000(/[a-z]+)`", SECTION)
    assert wire.local(service(classifier)).get(f"{path}/health").status_code == 200


def test_a_pandas_column(address: str) -> None:
    pandas = pytest.importorskip("pandas")
    df = pandas.DataFrame({"texte": [ORDINARY, None, HARMFUL, TOLD]}, index=[3, 5, 8, 13])
    run(example('df["texte"]', address), df=df)
    assert df["route"].tolist() == ["none", "none", "moderate", "support"]
    assert df["chantage"].tolist() == [0.1, 0.1, 0.8, 0.8]


def test_openais_library(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    with run(example("import OpenAI\n", address))["client"]:
        assert capsys.readouterr().out == "0.0\n"


@pytest.mark.skipif(not CLIENTS_PYTHON, reason="VIGIE_TEST_CLIENTS_PYTHON names no Python with litellm and langchain")
def test_langchain_and_litellm(address: str) -> None:
    """With a word more at the end: that the agents' middleware stops a harmful message."""
    assert CLIENTS_PYTHON
    code = (
        "import importlib.util, sys\n"
        "packages = ('litellm', 'langchain', 'langchain_openai')\n"
        "sys.exit(77) if not all(map(importlib.util.find_spec, packages)) else None\n"
    )
    code += example("import OpenAI\n", address) + example("litellm", address)
    code += (
        "from langchain_core.messages import HumanMessage\n"
        f"state = {{'messages': [HumanMessage({HARMFUL!r})]}}\n"
        "print(middleware.before_model(state, None)['jump_to'])\n"
    )
    # LiteLLM would fetch a list of prices.
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    result = subprocess.run(
        [CLIENTS_PYTHON, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if result.returncode == 77:
        pytest.skip("the interpreter of VIGIE_TEST_CLIENTS_PYTHON lacks litellm, langchain or langchain-openai")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0.0", "False", "end"]
