"""Google's Perspective protocol (Comment Analyzer v1alpha1), for tools that speak it: give them this host.

What it answers is in `serving.protocols.attributes`, how it reads HTML and where spans lie in
`serving.protocols.comment`. Context is checked and not used, since each text is scored by itself; nothing is stored,
whatever `doNotStore` says; no language is detected, so `detectedLanguages` says `und`. The parameters `alt`, `fields`
and `prettyPrint` change nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.classifier import Prediction
from serving.gateway import Gateway, Kind, Refusal
from serving.limits import protects_testimony, switch
from serving.protocols import GetGateway, attributes, discovery
from serving.protocols.attributes import MEANINGS
from serving.protocols.comment import Comment, Span
from serving.protocols.perspective_messages import AnalyzeRequest, AttributeParameters, Fault, SuggestRequest, parse
from serving.protocols.perspective_messages import Request as Asked

PREFIXES: tuple[str, ...] = ("/v1alpha1/", "/$discovery/", "/discovery/")
MAX_BYTES = 20_480
"""Of a comment in UTF-8, as in the protocol's first service; VIGIE_MAX_CHARACTERS holds too."""
_UNDETERMINED = ["und"]
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}")
_ERROR = "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
_RPC = "type.googleapis.com/google.rpc"
_CODES: Mapping[Kind, tuple[int, str]] = {
    "invalid": (400, "INVALID_ARGUMENT"),
    "too_large": (413, "INVALID_ARGUMENT"),
    "unauthorized": (400, "INVALID_ARGUMENT"),
    "forbidden": (403, "PERMISSION_DENIED"),
    "rate_limited": (429, "RESOURCE_EXHAUSTED"),
    "overloaded": (503, "UNAVAILABLE"),
    "failed": (500, "INTERNAL"),
    "unsupported": (501, "UNIMPLEMENTED"),
}


@dataclass(frozen=True)
class Settings:
    """How the protocol is spoken; the environment variable of each stands beside it."""

    protect: bool = True  # VIGIE_PROTECT_TESTIMONY: lower the scores of testimony and commentary
    languages: frozenset[str] | None = frozenset({"fr"})  # VIGIE_PERSPECTIVE_LANGUAGES: accepted ones; None for any
    drop_unsupported: bool = False  # VIGIE_PERSPECTIVE_DROP_UNSUPPORTED: leave attributes out that are not answered
    public_url: str | None = None  # VIGIE_PUBLIC_URL: where clients reach the service, for the discovery document

    @classmethod
    def from_environment(cls) -> Settings:
        """The defaults, or what the environment says.

        Raises:
            ValueError: a variable of another form.
        """
        url = os.environ.get("VIGIE_PUBLIC_URL", "")
        return cls(
            protect=protects_testimony(),
            languages=_languages(os.environ.get("VIGIE_PERSPECTIVE_LANGUAGES", "fr")),
            drop_unsupported=switch("VIGIE_PERSPECTIVE_DROP_UNSUPPORTED", default=False),
            public_url=discovery.check_public_url(url) if url else None,
        )


def _languages(value: str) -> frozenset[str] | None:
    codes = [code.strip().lower() for code in value.split(",")]
    if codes == ["any"]:
        return None
    for code in codes:
        if not _LANGUAGE.fullmatch(code):
            raise ValueError(f"VIGIE_PERSPECTIVE_LANGUAGES: {code!r} is no language; write fr, or fr,en, or any")
    return frozenset(codes)


def routes(gateway: GetGateway) -> Sequence[BaseRoute]:
    """The two methods, and the discovery document where clients look for it."""
    settings = Settings.from_environment()

    async def analyze(request: Request) -> Response:
        asked = parse(AnalyzeRequest, await request.body())
        return _answer(await _analyze(gateway(), asked, settings))

    async def suggest(request: Request) -> Response:
        _check_suggestion(parse(SuggestRequest, await request.body()), gateway())
        raise Refusal("unsupported", "suggested scores are not kept: this service has no store for them")

    async def describe(request: Request) -> Response:
        if request.query_params.get("version", discovery.VERSION) != discovery.VERSION:
            return _error(404, "NOT_FOUND", f"only version {discovery.VERSION} is described here")
        root = settings.public_url or discovery.root_url(request.scope)
        return _answer(discovery.document(root, attributes.names(gateway().classifier.artifact)))

    return [
        Route("/v1alpha1/comments:analyze", analyze, methods=["POST"]),
        Route("/v1alpha1/comments:suggestscore", suggest, methods=["POST"]),
        Route("/$discovery/rest", describe),
        Route(f"/discovery/v1/apis/{discovery.NAME}/{discovery.VERSION}/rest", describe),
    ]


async def _analyze(gateway: Gateway, asked: AnalyzeRequest, settings: Settings) -> dict[str, Any]:
    comment = _comment(asked, gateway)
    wanted = _wanted(asked, attributes.names(gateway.classifier.artifact), settings)
    # The whole comment takes one of the texts that a request may hold.
    sentences = comment.sentences(gateway.limits.texts - 1) if asked.span_annotations else []
    parts = sentences if len(sentences) > 1 else []
    predictions = await gateway.predict([comment.text, *(part.text for part in parts)], field="comment.text")
    whole, *scored = _scored(predictions, protect=settings.protect)
    spans = list(zip(parts or [comment.whole], scored or [whole], strict=True))
    body: dict[str, Any] = {
        "attributeScores": _attribute_scores(wanted, whole, spans),
        "languages": asked.languages or ["fr"],
        "detectedLanguages": _UNDETERMINED,
    }
    return {**body, "clientToken": asked.client_token} if asked.client_token else body


Values = Mapping[str, float]


def _scored(predictions: Sequence[Prediction], *, protect: bool) -> list[Values]:
    """Attribute → score, of the whole comment and of each sentence, which all have the whole comment's speaker."""
    speaker = predictions[0]["voice"]
    return [attributes.scores(prediction, protect=protect, speaker=speaker) for prediction in predictions]


def _attribute_scores(
    wanted: Mapping[str, AttributeParameters], whole: Values, spans: Sequence[tuple[Span, Values]]
) -> dict[str, Any]:
    """What passes its threshold: no attribute whose summary is below it, and no span that is."""
    found = {}
    for name, parameters in wanted.items():
        least = 0.0 if parameters.score_threshold is None else parameters.score_threshold
        if whole[name] >= least:
            passing = [_span_score(span, values[name]) for span, values in spans if values[name] >= least]
            found[name] = {"spanScores": passing, "summaryScore": _score(whole[name])}
    return found


def _span_score(span: Span, value: float) -> dict[str, Any]:
    return {"begin": span.begin, "end": span.end, "score": _score(value)}


def _score(value: float) -> dict[str, Any]:
    return {"value": value, "type": "PROBABILITY"}


def _comment(asked: Asked, gateway: Gateway) -> Comment:
    """The comment as it is read; a Fault where it says nothing or too much."""
    text = asked.comment.text
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES or len(text) > gateway.limits.characters:
        allowed = f"at most {MAX_BYTES} bytes and {gateway.limits.characters} characters are allowed"
        message = f"comment.text: {size} bytes, {len(text)} characters; {allowed}"
        raise Fault("invalid", message, "comment.text", error_type="COMMENT_TOO_LONG")
    comment = Comment(text, is_html=asked.comment.type == "HTML")
    if not comment.text.strip():
        raise Fault("invalid", "comment.text: holds no text", "comment.text", error_type="COMMENT_EMPTY")
    return comment


def _wanted(asked: AnalyzeRequest, known: Sequence[str], settings: Settings) -> Mapping[str, AttributeParameters]:
    """The attributes to answer, in the order they were asked."""
    wanted = asked.requested_attributes
    if not wanted:
        message = f"requestedAttributes: is missing; allowed: {', '.join(known)}"
        raise Fault("invalid", message, "requestedAttributes", error_type="NO_REQUESTED_ATTRIBUTES")
    missing = _missing(wanted, known)
    drop = asked.drop_unsupported_attributes or settings.drop_unsupported
    if missing and (not drop or len(missing) == len(wanted)):
        raise _no_such_language(missing[0], asked.languages, _reason(missing[0]))
    wanted = {name: parameters for name, parameters in wanted.items() if name in known}
    if settings.languages is not None and not {_primary(code) for code in asked.languages} <= settings.languages:
        accepted = ", ".join(sorted(settings.languages))
        raise _no_such_language(next(iter(wanted)), asked.languages, f"accepted here: {accepted}")
    for name, parameters in wanted.items():
        if parameters.score_type not in ("PROBABILITY", "SCORE_TYPE_UNSPECIFIED"):
            message = f"score type {parameters.score_type} is not supported by attribute {name}; allowed: PROBABILITY"
            raise Fault("invalid", message, f"requestedAttributes.{name}.scoreType")
    return wanted


def _missing(names: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Those of the protocol's attributes that are not answered here; a Fault for what is not even one of them."""
    for number, name in enumerate(names, 1):
        if name not in known and name not in MEANINGS:
            # It is not repeated: somebody wrote it.
            raise Fault("invalid", f"unknown attribute, number {number} of {len(names)}; allowed: {', '.join(known)}")
    return [name for name in names if name not in known]


def _reason(name: str) -> str:
    lacking = "the artifact lacks a label for it"
    return f"not answered here: {lacking if MEANINGS[name].labels else MEANINGS[name].reason}"


def _no_such_language(name: str, languages: Sequence[str], why: str) -> Fault:
    """How the protocol says that an attribute is not to be had."""
    message = f"Attribute {name} does not support request languages: {', '.join(languages or _UNDETERMINED)} ({why})"
    field = "requestedLanguages" if languages else "detectedLanguages"
    more = {"languageNotSupportedByAttributeError": {"attribute": name, field: languages or _UNDETERMINED}}
    return Fault("invalid", message, error_type="LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE", more=more)


def _primary(code: str) -> str:
    return code.partition("-")[0].lower()


def _check_suggestion(asked: SuggestRequest, gateway: Gateway) -> None:
    """Raises Fault for a suggestion that could not be kept whatever became of it."""
    end = _comment(asked, gateway).whole.end
    if not asked.attribute_scores:
        raise Fault("invalid", "attributeScores: is missing; at least one attribute is needed", "attributeScores")
    if missing := _missing(asked.attribute_scores, attributes.names(gateway.classifier.artifact)):
        raise _no_such_language(missing[0], asked.languages, _reason(missing[0]))
    for given in asked.attribute_scores.values():
        if given.summary_score is None and not given.span_scores:
            raise Fault("invalid", "attributeScores.*: needs a summaryScore or spanScores", "attributeScores.*")
        if any(not span.begin < span.end <= end for span in given.span_scores):
            message = "attributeScores.*.spanScores: begin must be less than end, and end inside the comment"
            raise Fault("invalid", message, "attributeScores.*.spanScores")


def refuse(refusal: Refusal) -> Response:
    """A refusal as Google's services word it."""
    code, status = _CODES[refusal.kind]
    message = f"API key not valid: {refusal.message}" if refusal.kind == "unauthorized" else refusal.message
    return _error(code, status, message, details=_details(refusal))


def _details(refusal: Refusal) -> list[dict[str, Any]]:
    if refusal.kind == "unauthorized":
        return [{"@type": f"{_RPC}.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]
    if refusal.retry_after_s is not None:
        return [{"@type": f"{_RPC}.RetryInfo", "retryDelay": f"{refusal.retry_after_s}s"}]
    if refusal.kind != "invalid":
        return []
    fault = refusal if isinstance(refusal, Fault) else Fault("invalid", refusal.message, refusal.where)
    details = [{"@type": _ERROR, "errorType": fault.error_type, **fault.more}]
    if fault.where is not None:
        violation = {"field": fault.where, "description": fault.message}
        details.append({"@type": f"{_RPC}.BadRequest", "fieldViolations": [violation]})
    return details


def _error(code: int, status: str, message: str, *, details: Sequence[dict[str, Any]] = ()) -> Response:
    error = {"code": code, "message": message, "status": status}
    return _answer({"error": {**error, "details": details} if details else error}, code)


def _answer(body: Mapping[str, Any], code: int = 200) -> Response:
    """JSON in ASCII: a clientToken may hold half of a surrogate pair, which goes back as it came."""
    return Response(json.dumps(body), status_code=code, media_type="application/json")
