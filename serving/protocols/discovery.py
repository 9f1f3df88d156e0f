"""The discovery document of the Perspective protocol, from which Google's clients build themselves, for this host."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import Scope

NAME, VERSION = "commentanalyzer", "v1alpha1"
_HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PUBLIC_URL = re.compile(rf"https?://{_HOST.pattern}(?:/[A-Za-z0-9._~/-]*)?")


def check_public_url(url: str) -> str:
    """The address, with a slash at its end.

    Raises:
        ValueError: it is not of the form https://example.org or https://example.org/path.
    """
    if not _PUBLIC_URL.fullmatch(url):
        raise ValueError(f"VIGIE_PUBLIC_URL: {url!r} is no address; write it as https://vigie.example.org")
    return url.rstrip("/") + "/"


def root_url(scope: Scope) -> str:
    """The address a request came to, with a slash at its end.

    A Host header is what somebody wrote: one that is no plain host gives way to the address the connection came in on.
    A proxy that ended TLS may say so, which only ever makes an address safer.
    """
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1")
    scheme = "https" if headers.get(b"x-forwarded-proto") == b"https" else scope["scheme"]
    return f"{scheme}://{host if _HOST.fullmatch(host) else _bound_to(scope)}/"


def _bound_to(scope: Scope) -> str:
    host, port = scope.get("server") or ("127.0.0.1", None)
    bracketed = f"[{host}]" if ":" in host else host
    address = bracketed if port is None else f"{bracketed}:{port}"
    return address if _HOST.fullmatch(address) else "127.0.0.1"


def document(root: str, attributes: Sequence[str]) -> dict[str, Any]:
    """The document for a service at `root` that answers these attributes. It asks for no Google account."""
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": f"{NAME}:{VERSION}",
        "name": NAME,
        "version": VERSION,
        "canonicalName": "Comment Analyzer",
        "title": "Vigie, in the Perspective protocol",
        "description": "Scores of a French text by category. It proposes; a person decides.",
        "protocol": "rest",
        "rootUrl": root,
        "servicePath": "",
        "baseUrl": root,
        "basePath": "",
        "parameters": _PARAMETERS,
        "resources": {"comments": {"methods": {name: _method(name, *rest) for name, *rest in _METHODS}}},
        "schemas": _schemas(attributes),
    }


def _query(description: str, kind: str = "string", **more: Any) -> dict[str, Any]:
    return {"description": description, "location": "query", "type": kind, **more}


_PARAMETERS = {
    "key": _query("API key of this service."),
    "alt": _query("Format of the answer.", default="json", enum=["json"], enumDescriptions=["JSON"]),
    "fields": _query("Accepted; the whole answer comes."),
    "prettyPrint": _query("Accepted; the answer is compact.", "boolean", default="true"),
    "quotaUser": _query("Accepted and not used."),
}
_METHODS = (
    ("analyze", "Score a comment.", "AnalyzeComment"),
    ("suggestscore", "Say which scores a comment should have had; not kept so far.", "SuggestCommentScore"),
)


def _method(name: str, description: str, message: str) -> dict[str, Any]:
    path = f"{VERSION}/comments:{name}"
    return {
        "id": f"{NAME}.comments.{name}",
        "description": description,
        "httpMethod": "POST",
        "path": path,
        "flatPath": path,
        "parameters": {},
        "parameterOrder": [],
        "request": {"$ref": f"{message}Request"},
        "response": {"$ref": f"{message}Response"},
    }


_STRING, _FLAG = {"type": "string"}, {"type": "boolean"}
_NUMBER, _PLACE = {"type": "number", "format": "float"}, {"type": "integer", "format": "int32"}


def _list_of(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def _map_to(name: str, description: str) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": {"$ref": name}, "description": description}


def _schemas(attributes: Sequence[str]) -> dict[str, Any]:
    asked = {
        "comment": {"$ref": "TextEntry"},
        "context": {"$ref": "Context"},
        "languages": _list_of(_STRING),
        "clientToken": _STRING,
        "sessionId": _STRING,
        "communityId": _STRING,
    }
    scored = _map_to("AttributeScores", "Attribute → its scores.")
    known = f"Attribute → what is asked of it. There are: {', '.join(attributes)}."
    properties: dict[str, dict[str, Any]] = {
        "AnalyzeCommentRequest": {
            **asked,
            "requestedAttributes": _map_to("AttributeParameters", known),
            "spanAnnotations": _FLAG,
            "doNotStore": _FLAG,
            "dropUnsupportedAttributes": _FLAG,
        },
        "AnalyzeCommentResponse": {
            "attributeScores": scored,
            "languages": _list_of(_STRING),
            "detectedLanguages": _list_of(_STRING),
            "clientToken": _STRING,
        },
        "SuggestCommentScoreRequest": {**asked, "attributeScores": scored},
        "SuggestCommentScoreResponse": {
            "clientToken": _STRING,
            "requestedLanguages": _list_of(_STRING),
            "detectedLanguages": _list_of(_STRING),
        },
        "TextEntry": {"text": _STRING, "type": _STRING},
        "Context": {
            "entries": _list_of({"$ref": "TextEntry"}),
            "articleAndParentComment": {"$ref": "ArticleAndParentComment"},
        },
        "ArticleAndParentComment": {"article": {"$ref": "TextEntry"}, "parentComment": {"$ref": "TextEntry"}},
        "AttributeParameters": {"scoreType": _STRING, "scoreThreshold": _NUMBER},
        "AttributeScores": {"summaryScore": {"$ref": "Score"}, "spanScores": _list_of({"$ref": "SpanScore"})},
        "SpanScore": {"begin": _PLACE, "end": _PLACE, "score": {"$ref": "Score"}},
        "Score": {"value": _NUMBER, "type": _STRING},
    }
    return {name: {"id": name, "type": "object", "properties": fields} for name, fields in properties.items()}
