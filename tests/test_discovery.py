"""serving.protocols.discovery: the document from which Google's clients build themselves, and the host it names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving import Classifier
from serving.protocols.discovery import check_public_url, root_url
from serving.protocols.perspective_messages import AnalyzeRequest, SuggestRequest
from tests.test_perspective import CANARY, DISCOVERY, classifier, client, error_of, local, served, service

__all__ = ["classifier", "client", "served"]


def test_the_discovery_document_is_whole(client: TestClient) -> None:
    """Every reference leads somewhere, and it names exactly the fields that are read."""
    described = client.get(DISCOVERY, params={"version": "v1alpha1", "key": "x"}).json()
    text = json.dumps(described)
    wanted = {part.split('"')[0] for part in text.split('"$ref": "')[1:]}
    assert wanted and wanted <= described["schemas"].keys()
    for model in (AnalyzeRequest, SuggestRequest):
        name = model.__name__.replace("Request", "CommentRequest").replace("SuggestComment", "SuggestCommentScore")
        read = {field.alias for field in model.model_fields.values()}
        assert described["schemas"][name]["properties"].keys() == read
    assert "googleapis.com" not in text and described["rootUrl"] == described["baseUrl"] == "http://127.0.0.1:3000/"


def test_the_document_stands_where_clients_look_for_it(client: TestClient) -> None:
    other = client.get("/discovery/v1/apis/commentanalyzer/v1alpha1/rest")
    assert other.json() == client.get(DISCOVERY).json()
    missing = client.get(DISCOVERY, params={"version": CANARY})
    assert (missing.status_code, error_of(missing)["status"]) == (404, "NOT_FOUND") and CANARY not in missing.text


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"vigie.example.org", "http://vigie.example.org/"),
        (b"[::1]:3000", "http://[::1]:3000/"),
        (b"evil.example@127.0.0.1", "http://192.0.2.7:3000/"),
        (b"a/b", "http://192.0.2.7:3000/"),
        (b'"><script>', "http://192.0.2.7:3000/"),
        (b"", "http://192.0.2.7:3000/"),
    ],
)
def test_a_host_is_believed_only_if_it_is_one(host: bytes, expected: str) -> None:
    scope = {"scheme": "http", "headers": [(b"host", host)], "server": ("192.0.2.7", 3000)}
    assert root_url(scope) == expected


@pytest.mark.parametrize("server", [("/run/vigie.sock", None), None])
def test_without_an_address_it_is_this_machine(server: Any) -> None:
    assert root_url({"scheme": "https", "headers": [], "server": server}) == "https://127.0.0.1/"


def test_tls_shows_in_the_document(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended here, ended by a proxy that says so, or by one that says nothing, where the operator does."""
    assert local(service(classifier), "https://127.0.0.1").get(DISCOVERY).json()["rootUrl"] == "https://127.0.0.1/"
    behind = local(service(classifier)).get(DISCOVERY, headers={"X-Forwarded-Proto": "https"})
    assert behind.json()["rootUrl"] == "https://127.0.0.1:3000/"
    monkeypatch.setenv("VIGIE_PUBLIC_URL", "https://vigie.example.org/moderation")
    told = local(service(classifier)).get(DISCOVERY).json()
    assert told["rootUrl"] == "https://vigie.example.org/moderation/"


def test_a_public_address_ends_with_a_slash() -> None:
    assert {check_public_url(f"https://example.org/a{end}") for end in ("", "/")} == {"https://example.org/a/"}
