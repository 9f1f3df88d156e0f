"""serving.client_wire: how texts are cut, how often a server is asked, and errors that hold no text."""

from __future__ import annotations

import json
import logging
import pickle
from typing import Any

import httpx
import pytest

from serving import client
from serving.client import Limits, Retry
from tests.test_client import Stand, body, kind, refusal
from tests.wire import CANARY

__all__ = ["kind"]

TEXT = f"il menace {CANARY}"


def busy(seconds: str = "2") -> httpx.Response:
    return refusal(503, "overloaded", "too many texts are waiting; try again later", **{"Retry-After": seconds})


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(texts=2), [2, 2, 1]),
        (Limits(request_characters=30), [3, 2]),
        # '{"texts":["aaaaaaaaaa","aaaaaaaaaa"]}' has 37 bytes.
        (Limits(body_bytes=37), [2, 2, 1]),
        (Limits(body_bytes=36), [1, 1, 1, 1, 1]),
        (Limits(body_bytes=10), [1, 1, 1, 1, 1]),
        (Limits(), [5]),
    ],
)
def test_requests_are_cut_within_the_limits(kind: str, limits: Limits, expected: list[int]) -> None:
    stand = Stand()
    assert len(stand.ask(kind, ["a" * 10] * 5, limits=limits)) == 5
    assert sorted(len(json.loads(request.content)["texts"]) for request in stand.asked) == sorted(expected)


def test_the_body_counts_as_it_is_sent(kind: str) -> None:
    """An emoji has twelve bytes in it, and the operating point stands there too."""
    stand = Stand()
    stand.ask(kind, ["🦜" * 5] * 6, limits=Limits(body_bytes=200), operating_point="balanced")
    assert 1 < len(stand.asked) < 6 and max(len(request.content) for request in stand.asked) <= 200


@pytest.mark.parametrize(
    "hindrance", [busy(), refusal(429, "rate_limited", **{"Retry-After": "2"}), httpx.ConnectError("refused")]
)
def test_a_busy_or_absent_server_is_asked_again(kind: str, hindrance: Any) -> None:
    stand = Stand([hindrance, hindrance])
    assert len(stand.ask(kind)) == 1
    # Half of 0.5 and of 1, as the jitter says, after what the server asked for.
    least = 0 if isinstance(hindrance, Exception) else 2
    assert stand.slept == [least + 0.25, least + 0.5] and len(stand.asked) == 3


@pytest.mark.parametrize(("share", "expected"), [(0, [0, 0, 0, 0]), (1, [0.5, 1, 2, 3])])
def test_waits_are_drawn_between_nothing_and_a_doubling_bound(share: int, expected: list[float]) -> None:
    stand = Stand([httpx.ReadTimeout("late")] * 4)
    stand.ask("sync", jitter=lambda: share, retry=Retry(most_s=3))
    assert stand.slept == expected


def test_attempts_are_bounded(kind: str) -> None:
    stand = Stand([busy()] * 9)
    with pytest.raises(client.Overloaded, match="too many texts are waiting") as refused:
        stand.ask(kind, retry=Retry(attempts=3))
    assert len(stand.asked) == 3 and (refused.value.status, refused.value.retry_after_s) == (503, 2)


def test_the_time_budget_is_kept(kind: str) -> None:
    """It would be passed in the third wait, so that is not begun."""
    stand = Stand([busy("4")] * 9)
    with pytest.raises(client.Overloaded):
        stand.ask(kind, retry=Retry(attempts=9, budget_s=10))
    assert len(stand.asked) == 3 and sum(stand.slept) < 10


def test_an_attempt_is_not_given_more_time_than_is_left(kind: str) -> None:
    stand = Stand([busy("4")])
    stand.ask(kind, retry=Retry(budget_s=10), timeout_s=8)
    assert [request.extensions["timeout"]["read"] for request in stand.asked] == [8, 10 - 4.25]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:40 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 3.25),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:30 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.25),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:40 GMT"}, 0.25),
        ({"Retry-After": "soon", "Date": "today"}, 0.25),
        ({"Retry-After": "-5"}, 0.25),
        ({"Retry-After": "nan"}, 0.25),
    ],
)
def test_a_proxys_retry_after_is_read_too(headers: dict[str, str], expected: float) -> None:
    stand = Stand([httpx.Response(503, headers=headers)])
    stand.ask("sync")
    assert stand.slept == [expected]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(400, "invalid"), client.BadRequest),
        (refusal(403, "forbidden"), client.Forbidden),
        (refusal(413, "too_large"), client.TooLarge),
        (refusal(500, "failed"), client.ServerError),
        (httpx.Response(502, text="<html>"), client.ServerError),
        (httpx.Response(404, json={"error": {"message": "no such path"}}), client.UnexpectedAnswer),
        (httpx.Response(302, headers={"Location": "https://example.org/"}), client.UnexpectedAnswer),
        (httpx.Response(200, text="<html>"), client.UnexpectedAnswer),
        (httpx.Response(200, json=[1]), client.UnexpectedAnswer),
        (httpx.Response(200, json={"predictions": []}), client.UnexpectedAnswer),
        (httpx.Response(200, json=body("none", "none")), client.UnexpectedAnswer),
        (httpx.Response(200, json=body("delete")), client.UnexpectedAnswer),
    ],
    ids=lambda value: str(getattr(value, "status_code", getattr(value, "__name__", value))),
)
def test_every_other_answer_is_an_error_of_its_kind(kind: str, answer: Any, error: type[client.VigieError]) -> None:
    """And is not asked for again, for it would not change."""
    stand = Stand([answer])
    with pytest.raises(error):
        stand.ask(kind)
    assert len(stand.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(400, text=TEXT),
        httpx.Response(422, json={"error": {"message": TEXT}}),
        httpx.Response(422, json={"error": {"message": TEXT, "kind": TEXT}}),
        httpx.Response(422, json={"error": {"message": TEXT, "kind": ["invalid"]}}),
        httpx.Response(422, json={"error": {"message": "no", "kind": "invalid", "where": f"texts[0]{TEXT}"}}),
        httpx.Response(422, json={"detail": [{"input": TEXT}]}),
        httpx.Response(503, text=TEXT, headers={"Retry-After": CANARY}),
        httpx.Response(200, text=TEXT),
        httpx.Response(200, json={"texts": [TEXT]}),
        httpx.Response(200, json=body(TEXT)),
        httpx.RemoteProtocolError(TEXT),
        httpx.ReadTimeout(TEXT),
        httpx.DecodingError(TEXT),
    ],
)
def test_no_error_and_no_log_holds_a_text(kind: str, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever answers, and repeats what it was sent. Nor does what httpx raised, which holds the request, hang on."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(client.VigieError) as raised:
        Stand([answer]).ask(kind, [TEXT], retry=Retry(attempts=1))
    error = raised.value
    assert CANARY not in f"{error} {error!r} {vars(error)}" and CANARY not in caplog.text
    assert error.__context__ is None and error.__cause__ is None


def test_an_error_survives_pickling() -> None:
    """As between the processes of a pool."""
    error = client.TooLarge("texts[3]: too large", status=413, index=3, retry_after_s=1)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (client.TooLarge, str(error), vars(error))


@pytest.mark.parametrize("bounds", [{"attempts": 0}, {"budget_s": 0}, {"first_s": -1}, {"budget_s": float("nan")}])
def test_a_retry_that_never_tries_is_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Retry"):
        Retry(**bounds)
