"""Clients of OpenAI's moderation that nobody here wrote, against a live server: OpenAI's own, and tools built on it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from serving import Classifier
from tests import node, wire
from tests.elsewhere import run
from tests.test_openai import classifier, served, text_part
from tests.wire import KEY, service

__all__ = ["classifier", "served"]

TOLD = "elle raconte qu'il menace"


@pytest.fixture(scope="module")
def openai() -> Any:
    with warnings.catch_warnings():
        # What the library warns of while it is loaded is its own matter.
        warnings.simplefilter("ignore")
        return pytest.importorskip("openai")


@pytest.fixture
def address(classifier: Classifier) -> Iterator[str]:
    """A server on this machine that wants a key."""
    with wire.live(service(classifier, keys=f"client:{sha256(KEY.encode()).hexdigest()}", characters=100)) as address:
        yield address


def test_openais_client_works_unmodified(openai: Any, address: str) -> None:
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key=KEY, max_retries=0) as client:
        direct, told = client.moderations.create(input=["il menace", TOLD]).results
        parts = client.moderations.create(input=[text_part("il"), text_part("menace")], model="omni-moderation-latest")
    assert direct.flagged and direct.categories.sexual_minors and direct.category_scores.harassment == 0.8
    # Its types name thirteen keys; ours are kept beside them.
    assert direct.categories.sexual_extortion and direct.vigie["route"] == "moderate"
    assert direct.category_applied_input_types.violence == []
    assert not told.flagged and told.vigie["route"] == "support"
    assert len(parts.results) == 1 and parts.results[0].category_scores.sexual_extortion == 0.8


def test_openais_client_works_asynchronously(openai: Any, address: str) -> None:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key=KEY, max_retries=0) as client:
            return await client.moderations.create(input="il menace")

    assert asyncio.run(ask()).results[0].flagged


def test_openais_client_reads_the_errors(openai: Any, address: str) -> None:
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key=KEY, max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as long:
            client.moderations.create(input=["bonjour", "a" * 101])
        with pytest.raises(openai.AuthenticationError) as stranger:
            client.with_options(api_key="x").moderations.create(input="bonjour")
    assert long.value.body["message"] == "input[1]: 101 characters; at most 100 are allowed"
    assert (long.value.type, long.value.param) == ("invalid_request_error", "input[1]")
    assert stranger.value.code == "invalid_api_key"


@pytest.mark.parametrize(("limits", "error"), [({"held_bytes": 1}, "InternalServerError"), ({}, "RateLimitError")])
def test_openais_client_hears_when_to_come_back(
    openai: Any, classifier: Classifier, limits: dict[str, int], error: str
) -> None:
    """A server that is full, and a key that has used up its rate."""
    app = service(classifier, keys=f"client:{sha256(KEY.encode()).hexdigest()}:1", **limits)
    with (
        wire.live(app) as address,
        openai.OpenAI(base_url=f"http://{address}/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(getattr(openai, error)) as refused,
    ):
        for _ in range(2):
            client.moderations.create(input="bonjour")
    assert int(refused.value.response.headers["retry-after"]) > 0


def test_openais_javascript_client_works_unmodified(address: str) -> None:
    script = """
    const { OpenAI } = require("openai");
    const client = new OpenAI({ baseURL: `http://${address}/v1`, apiKey: key, maxRetries: 0 });
    const { results } = await client.moderations.create({ input: ["il menace", "elle raconte qu'il menace"] });
    const failed = await client.moderations.create({ input: "" }).catch((error) => error);
    const stranger = new OpenAI({ baseURL: client.baseURL, apiKey: "x", maxRetries: 0 });
    const refused = await stranger.moderations.create({ input: "oui" }).catch((error) => error);
    say({
      flagged: results.map((one) => one.flagged),
      ours: results[0].categories.sexual_extortion,
      standard: results[0].category_scores["sexual/minors"],
      failed: [failed.constructor.name, failed.param],
      refused: [refused.constructor.name, refused.code],
    });
    """
    assert node.run(script, package="openai", address=address, key=KEY) == {
        "flagged": [True, False],
        "ours": True,
        "standard": 0.7,
        "failed": ["BadRequestError", "input"],
        "refused": ["AuthenticationError", "invalid_api_key"],
    }


def test_litellm_works_unmodified(address: str) -> None:
    """It sends the model's name with its own prefix."""
    script = """
    import os
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm
    target = {"model": "openai/omni-moderation-latest", "api_base": f"http://{address}/v1"}
    answer = litellm.moderation(input=["il menace", "elle raconte qu'il menace"], api_key=key, **target)
    try:
        litellm.moderation(input="", api_key=key, **target)
    except Exception as error:
        failed = error.status_code
    flagged = [one.flagged for one in answer.results]
    say([flagged, answer.results[0].category_scores["sexual_extortion"], failed])
    """
    assert run(script, package="litellm", address=address, key=KEY) == [[True, False], 0.8, 400]


def test_any_guardrail_works_unmodified(address: str) -> None:
    """It goes by the highest of all scores, ours included."""
    script = """
    from any_guardrail import AnyGuardrail, GuardrailName
    guardrail = AnyGuardrail.create(GuardrailName.OPENAI_MODERATION, api_key=key, base_url=f"http://{address}/v1")
    answers = [guardrail.validate(text) for text in ("il menace", "elle raconte qu'il menace", "bonjour")]
    found = sorted(category.name for category in answers[0].categories if category.triggered)
    say([[(answer.valid, round(answer.score, 6)) for answer in answers], found])
    """
    answers, found = run(script, package="any_guardrail", address=address, key=KEY)
    assert answers == [[False, 0.8], [True, 0.2], [True, 0.3]]
    assert {"sexual_extortion", "harassment"} <= {*found} and "sexism" not in found


def test_langchain_works_unmodified(address: str) -> None:
    """The chain replaces what is flagged by a refusal; the middleware says in it for what."""
    script = """
    import os
    os.environ["OPENAI_BASE_URL"] = f"http://{address}/v1"
    from langchain_classic.chains import OpenAIModerationChain
    from langchain_core.messages import HumanMessage
    from langchain_openai.middleware import OpenAIModerationMiddleware
    from openai import OpenAI
    texts = ("il menace", "elle raconte qu'il menace")
    chain = OpenAIModerationChain(openai_api_key=key)
    passed = [chain.invoke(text)["output"] == text for text in texts]
    middleware = OpenAIModerationMiddleware(client=OpenAI(api_key=key))
    states = [middleware.before_model({"messages": [HumanMessage(text)]}, None) for text in texts]
    say([passed, "sexual extortion" in states[0]["messages"][-1].content, states[1]])
    """
    assert run(script, package="langchain_openai", address=address, key=KEY) == [[False, True], True, None]
