"""Mistral's own clients, in Python and JavaScript, against a live server."""

from __future__ import annotations

import asyncio
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from tests import node
from tests.test_mistral import says
from tests.test_openai_clients import address, classifier, served
from tests.wire import KEY

__all__ = ["address", "classifier", "served"]

ASKED = {"model": "mistral-moderation-latest", "retries": None}
TOLD = "elle raconte qu'il menace"


@pytest.fixture(scope="module")
def mistral() -> Any:
    with warnings.catch_warnings():
        # What the library warns of while it is loaded is its own matter.
        warnings.simplefilter("ignore")
        library = pytest.importorskip("mistralai.client")
        from mistralai.client import errors
    return SimpleNamespace(Mistral=library.Mistral, errors=errors)


@pytest.mark.parametrize("base", ["/mistral", ""])
def test_texts_are_moderated(mistral: Any, address: str, base: str) -> None:
    """At the root too, where the answer is OpenAI's."""
    with mistral.Mistral(api_key=KEY, server_url=f"http://{address}{base}") as client:
        direct, told = client.classifiers.moderate(inputs=["il menace", TOLD], **ASKED).results
    assert direct.categories["sexual_extortion"] is True and direct.category_scores["sexual_extortion"] == 0.8
    assert not any(told.categories.values())
    assert ("hate_and_discrimination" in direct.categories) == (base == "/mistral")


@pytest.mark.parametrize("base", ["/mistral", ""])
def test_conversations_are_moderated(mistral: Any, address: str, base: str) -> None:
    chats = [[says("il menace"), says("oui", "assistant")], [says(TOLD)]]
    with mistral.Mistral(api_key=KEY, server_url=f"http://{address}{base}") as client:
        first, second = client.classifiers.moderate_chat(inputs=chats, **ASKED).results
        (alone,) = client.classifiers.moderate_chat(inputs=chats[0], **ASKED).results
    assert first.categories["sexual_extortion"] and not any(second.categories.values())
    assert alone.category_scores == first.category_scores


def test_texts_and_conversations_are_classified(mistral: Any, address: str) -> None:
    with mistral.Mistral(api_key=KEY, server_url=f"http://{address}/mistral") as client:
        (text,) = client.classifiers.classify(inputs=TOLD, **ASKED).results
        (chat,) = client.classifiers.classify_chat(input={"messages": [says("il menace")]}, **ASKED).results
    assert text["categories_raw"].scores["sexual_extortion"] == 0.8
    assert text["voices"].scores["testimony"] == 0.3
    assert chat["categories"].scores["sexual_extortion"] == 0.8


def test_texts_are_moderated_asynchronously(mistral: Any, address: str) -> None:
    async def ask() -> Any:
        async with mistral.Mistral(api_key=KEY, server_url=f"http://{address}/mistral") as client:
            return await client.classifiers.moderate_async(inputs="il menace", **ASKED)

    assert asyncio.run(ask()).results[0].categories["sexual_extortion"]


def test_the_errors_are_read(mistral: Any, address: str) -> None:
    with mistral.Mistral(api_key=KEY, server_url=f"http://{address}/mistral") as client:
        with pytest.raises(mistral.errors.HTTPValidationError) as wrong:
            client.classifiers.moderate_chat(inputs=[[says("bonjour"), says("a" * 101)]], **ASKED)
        with pytest.raises(mistral.errors.SDKError) as stranger:
            client.classifiers.moderate(inputs="bonjour", http_headers={"Authorization": "Bearer x"}, **ASKED)
    (fault,) = wrong.value.data.detail
    assert fault.loc == ["body", "input", 0, 1, "content"] and fault.msg.endswith("at most 100 are allowed")
    assert stranger.value.status_code == 401 and "Unauthorized" in stranger.value.body


def test_mistrals_javascript_client_works_unmodified(address: str) -> None:
    script = """
    const { Mistral } = require("@mistralai/mistralai");
    const model = "mistral-moderation-latest";
    const at = (apiKey) => new Mistral({ serverURL: `http://${address}/mistral`, apiKey }).classifiers;
    const told = "elle raconte qu'il menace";
    const texts = await at(key).moderate({ model, inputs: ["il menace", told] });
    const inputs = [[{ role: "user", content: "il menace" }, { role: "assistant", content: "oui" }]];
    const chats = await at(key).moderateChat({ model, inputs });
    const classes = await at(key).classify({ model, inputs: told });
    const failed = await at(key).moderate({ model, inputs: "" }).catch((error) => error);
    const refused = await at("x").moderate({ model, inputs: "oui" }).catch((error) => error);
    say({
      texts: texts.results.map((one) => one.categories.sexual_extortion),
      chats: chats.results.map((one) => one.categoryScores.sexual_extortion),
      classes: classes.results.map((one) => one.categories_raw.scores.sexual_extortion),
      failed: [failed.constructor.name, failed.detail?.[0].loc],
      refused: refused.statusCode,
    });
    """
    assert node.run(script, package="@mistralai/mistralai", address=address, key=KEY) == {
        "texts": [True, False],
        "chats": [0.8],
        "classes": [0.8],
        "failed": ["HTTPValidationError", ["body", "input"]],
        "refused": 401,
    }
