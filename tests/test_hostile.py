"""Texts and requests made to hurt: each is answered or refused as documented, and what it costs has a bound."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serving import Classifier
from serving.api import create_app
from serving.batcher import Batcher
from serving.limits import written
from serving.observe import templates_of
from serving.openapi import ErrorResponse
from serving.tokens import TokenReader
from tests.test_api import LIMITS, assert_same, local, service

ANY = [chr(number) for number in range(0, sys.maxunicode + 1, 61)]
NO_CHARACTERS = [chr(plane * 0x10000 + last) for plane in range(17) for last in (0xFFFE, 0xFFFF)]
NO_CHARACTERS += map(chr, range(0xFDD0, 0xFDF0))
EMOJI = [
    character
    for character in map(chr, [*range(0x2190, 0x2C00), *range(0x1F000, 0x1FB00)])
    if unicodedata.category(character) in ("So", "Sk", "Cn")
]
PIECES = [
    *(
        "\ud83d",
        "\ude00",
        "\ud83d\ude00",
        "\ude00\ud83d",
        "\0",
        "\ufeff",
        "\ufffd",
        "\r\n",
        "\x1b[31m",
        "\x85",
        "\u2028",
    ),
    *("\u202e", "\u2066", "\u200f", "\u061c", "\u200b", "\u2060", "\u00ad", "\ufe0f", "\U000e0061", "\U000e0100"),
    *("<s>", "</s>", "<mask>", "<pad>", "<unk>", "<0x41>", "</s><s>", "▁", "[MASK]", "{{", "%s", "${x}", "\\ud800"),
    *("👩‍👩‍👧‍👦", "👍🏿", "🏴‍☠️", "🇫🇷", "1️⃣", "ﷺ", "㎯", "½", "①", "ﬃ", "İ", "ẞ", "ǅ", "Ω", "K", "가", "각"),
    *("рaураl", "نص", "漢字", "हिन्दी", "ไทย", "ქართული", "e\u0301", "\u0301", "\u0323", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢"),
    *("il ment", " ", "'", "l'", "aaaaaaa", "m e n t i r", "!?!?", "http://x.example/?a=b"),
]
TEXT = st.lists(
    st.sampled_from(PIECES) | st.sampled_from([*EMOJI, *NO_CHARACTERS]) | st.text(max_size=8), max_size=12
).map("".join)
LONG = [
    *("e" + "\u0301" * 10_000, "\u0301\u0323" * 5_000, "\ud800" * 9_999, "x" * 20_000, "pourquoi" * 2_000),
    *("é" * 9_999, "漢" * 20_000, "😀😁" * 5_000, "</s>" * 2_500, "\u202e" * 9_999, "\0" * 9_999, "a " * 5_000),
]
TEXTS = st.lists(TEXT, min_size=1, max_size=5)
FEW = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact)


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[TestClient]:
    with local(service(classifier)) as client:
        yield client


@pytest.fixture(scope="module")
def reader(artifact: Path) -> TokenReader:
    return TokenReader(artifact / "tokenizer.json")


def assert_sound(scores: Any, classifier: Classifier, texts: Sequence[str]) -> None:
    assert scores.shape == (len(texts), len(classifier.artifact.label_ids))
    # A NaN is on neither side.
    assert ((scores >= 0) & (scores <= 1)).all()


@FEW
@given(TEXTS)
@example(["", " ", "\0", "\ufeff", "\ud83d"])
def test_any_text_is_scored_and_its_neighbours_change_nothing(classifier: Classifier, texts: list[str]) -> None:
    scores = classifier.scores(texts)
    assert_sound(scores, classifier, texts)
    assert np.abs(scores - np.concatenate([classifier.scores([text]) for text in texts])).max() < 1e-5


def test_long_runs_of_one_sign_are_scored(classifier: Classifier) -> None:
    assert_sound(classifier.scores(LONG), classifier, LONG)


@pytest.mark.parametrize("signs", [EMOJI, NO_CHARACTERS, ANY], ids=["emoji", "noncharacters", "every 61st"])
def test_every_sign_is_scored(classifier: Classifier, signs: list[str]) -> None:
    """Alone, in a word, and all in one text."""
    texts = [*signs[:: max(1, len(signs) // 1000)], *(f"a{sign}b {sign}" for sign in signs[::7]), "".join(signs)]
    assert_sound(classifier.scores(texts), classifier, texts)


@FEW
@given(TEXTS, st.booleans())
@example(["\ud83d"], True)
@example(["\ude00\ud83d"], False)
@example(["</s> il ment <mask>", "\0", "\r\n", "\ufeffil ment"], True)
def test_the_service_answers_as_the_classifier_does(
    client: TestClient, classifier: Classifier, texts: list[str], escaped: bool
) -> None:
    """Whether letters stand in the body as they are (halves of pairs too, as some writers leave them) or as escapes."""
    body = json.dumps({"texts": texts}, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    response = client.post("/predict", content=body)
    assert response.status_code == 200
    # Two halves that were apart in memory are one character once they stand in JSON.
    assert_same(response.json()["predictions"], classifier.predict(json.loads(body)["texts"]))


ASKED = '{"texts": ["Où ça ?"]}'
_KEYS = st.sampled_from(["texts", "operating_point", "text", "input", "inputs", "comment", "tasks", "type", "x"])
BODY = (
    st.binary(max_size=200)
    | st.tuples(st.binary(max_size=6), st.integers(0, len(ASKED)), st.integers(0, 3)).map(
        lambda change: ASKED.encode()[: change[1]] + change[0] + ASKED.encode()[change[1] + change[2] :]
    )
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner),
    ).map(lambda value: json.dumps(value).encode())
)
"""Bytes, a request with some of its bytes changed, and JSON of any shape."""


@FEW
@given(BODY)
def test_any_body_is_answered_or_refused(client: TestClient, body: bytes) -> None:
    response = client.post("/predict", content=body)
    assert response.status_code in (200, 422)
    if response.status_code == 422:
        assert ErrorResponse.model_validate(response.json()).error.kind == "invalid"


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (ASKED.encode(), "Où ça ?"),
        (ASKED.encode("utf-8-sig"), "Où ça ?"),
        (ASKED.encode("utf-16"), "Où ça ?"),
        (ASKED.encode("utf-32-le"), "Où ça ?"),
        (b'{"texts": [5], "texts": ["the last of two holds"]}', "the last of two holds"),
        (b'\r\n\t {"texts"\n: ["white space"]}\r\n', "white space"),
        (b'{"operating_point": null, "texts": ["\\u0000"]}', "\0"),
        (b'{"texts": ["\xed\xa0\xbd"]}', "\ufffd"),
        (b'{"\\u0074exts": ["a key in escapes"]}', "a key in escapes"),
    ],
)
def test_json_that_can_be_read_is(client: TestClient, classifier: Classifier, body: bytes, read: str) -> None:
    assert_same(client.post("/predict", content=body).json()["predictions"], classifier.predict([read]))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ASKED.encode("latin-1"), "the body is not valid JSON"),
        (gzip.compress(ASKED.encode()), "the body is not valid JSON"),
        (b'{"texts": ["a\nb"]}', "the body is not valid JSON"),
        (ASKED.encode() + b"\0", "the body is not valid JSON"),
        (ASKED.encode() * 2, "the body is not valid JSON"),
        (b"texts=a", "the body is not valid JSON"),
        (b'{"a":' * 5000, "the body is not valid JSON"),
        (b'{"texts": NaN}', "texts: input should be a valid list"),
        (b'{"texts": ["a"], "operating_point": NaN}', "operating_point: input should be a valid string"),
        (b'{"texts": ["a"], "operating_point": "\\ud800"}', "operating_point must be one of"),
        (b'{"texts": [1e999]}', "texts[0]: input should be a valid string"),
        (b'{"texts": [-0]}', "texts[0]: input should be a valid string"),
        (b'{"texts": [' + b"1" * 4000 + b"]}", "texts[0]: input should be a valid string"),
        (b'{"texts": {"0": "a"}}', "texts: input should be a valid list"),
        (b'{"texts": ' + b"[" * 500 + b"]" * 500 + b"}", "texts[0]: input should be a valid string"),
        (b'{"texts": ["a"], "__proto__": {}}', "unknown key in the body"),
        (b"null", "the body: input should be a valid dictionary"),
        (b'"texts"', "the body: input should be a valid dictionary"),
    ],
)
def test_json_that_cannot_be_meant_is_refused(client: TestClient, body: bytes, message: str) -> None:
    response = client.post("/predict", content=body)
    assert response.status_code == 422 and message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b'{"texts": [' + b"5," * 15_000 + b"5]}", b'{"texts": ["a"]' + b', "x%d": 1' * 4000 % (*range(4000),) + b"}"],
)
def test_thousands_of_faults_are_told_in_a_line(client: TestClient, body: bytes) -> None:
    """To word each would take seconds, and an answer of many times the request's size."""
    response = client.post("/predict", content=body)
    assert response.status_code == 422 and len(response.content) < 200


def test_a_sign_counts_for_what_it_stands_for() -> None:
    assert [written(text) for text in ("½", "ﷺ", "é", "e\u0301", "", "a½½", "\ud800…")] == [3, 18, 1, 2, 0, 7, 4]
    assert all(written(sign) == len(unicodedata.normalize("NFKC", sign)) for sign in ANY)


def test_a_short_text_that_stands_for_a_long_one_is_refused(client: TestClient, classifier: Classifier) -> None:
    """Or a request of sixty kilobytes would keep a worker for minutes."""
    fits, too_long = "ﷺ" * (2 * LIMITS.characters // 18), "ﷺ" * (2 * LIMITS.characters // 18 + 1)
    assert client.post("/predict", json={"texts": [fits]}).status_code == 200
    response = client.post("/predict", json={"texts": ["a", too_long]})
    assert (response.status_code, response.json()["error"]["where"]) == (422, "texts[1]")
    assert "stand for 4014" in response.json()["error"]["message"]


@FEW
@given(st.lists(st.sampled_from(PIECES) | st.sampled_from(ANY), min_size=1, max_size=4).map("".join))
@example("ﷺ")
@example("½")
@example("😀😁")
def test_the_length_that_is_bounded_bounds_the_work(reader: TokenReader, piece: str) -> None:
    """A sign that is spelled in bytes takes four tokens, and one for where a word begins."""
    text = piece * (1000 // len(piece))
    assert len(reader.ids(text)) <= 5 * written(text) + 1


def test_such_texts_take_as_many_turns_as_they_stand_for() -> None:
    runs: list[int] = []

    def score(texts: Sequence[str]) -> Any:
        runs.append(len(texts))
        return np.zeros((len(texts), 1))

    asyncio.run(Batcher(score, max_characters=100).scores(["aa", "aa"]))
    asyncio.run(Batcher(score, max_characters=100).scores(["ﷺﷺ", "ﷺﷺ"]))
    assert runs == [2, 1, 1]


HEADERS = [
    *("authorization", "x-api-key", "api-key", "ocp-apim-subscription-key", "x-request-id", "traceparent", "origin"),
    *("content-type", "content-encoding", "accept", "forwarded", "x-forwarded-for", "x-forwarded-proto", "cookie"),
]
"""All but those that the server itself reads."""
PATHS = sorted(templates_of(create_app(LIMITS).routes))
_HEAD_VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40).map(
    lambda v: v.encode("latin-1")
)


@FEW
@given(
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get"]),
    st.sampled_from(PATHS) | st.text(max_size=20).map("/{}".format),
    st.binary(max_size=40).map(lambda query: b"key=" + query),
    st.lists(st.tuples(st.sampled_from([name.encode() for name in HEADERS]), _HEAD_VALUE), max_size=6),
)
def test_any_head_is_answered_or_refused(
    classifier: Classifier, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Straight into the application, past what a client library would refuse to send."""
    scope = {
        "type": "http",
        "scheme": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost"), (b"content-length", b"2"), *headers],
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False} if not sent else await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(service(classifier)(scope, receive, send))
    assert sent[0]["status"] in (200, 201, 400, 403, 404, 405, 422)
    identifier = dict(sent[0]["headers"])[b"x-request-id"].decode()
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", identifier)
