"""The messages of the Perspective protocol as they arrive, checked, and the errors that say what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from serving.gateway import Refusal
from serving.protocols.messages import MOST_ENTRIES, read_json, without_nulls

ScoreType = Literal["SCORE_TYPE_UNSPECIFIED", "PROBABILITY", "STD_DEV_SCORE", "PERCENTILE", "RAW"]
TextType = Literal["TEXT_TYPE_UNSPECIFIED", "PLAIN_TEXT", "HTML"]
Few = Field(max_length=MOST_ENTRIES)
"""Of what is right: an empty object will do for an entry of the context, and a body has room for a million."""
Language = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$")]


@dataclass(eq=False)
class Fault(Refusal):
    """A request that is wrong: `error_type` is what clients of the protocol read, `more` stands beside it."""

    error_type: str = "INVALID_REQUEST"
    more: dict[str, Any] = field(default_factory=dict)


class Message(BaseModel):
    """Names are accepted in both spellings, `clientToken` and `client_token`; null is as good as left out."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _before(cls, values: Any) -> Any:
        return without_nulls(values)


class TextEntry(Message):
    text: str = ""
    type: TextType = "PLAIN_TEXT"


class ArticleAndParentComment(Message):
    article: TextEntry | None = None
    parent_comment: TextEntry | None = None


class Context(Message):
    entries: Annotated[list[TextEntry], FailFast(), Few] = []
    article_and_parent_comment: ArticleAndParentComment | None = None


class AttributeParameters(Message):
    score_type: ScoreType = "PROBABILITY"
    score_threshold: float | None = None


class Score(Message):
    value: Annotated[float, Field(ge=0, le=1)]
    type: ScoreType = "PROBABILITY"


class SpanScore(Message):
    begin: Annotated[int, Field(ge=0)]
    end: int
    score: Score


class AttributeScores(Message):
    summary_score: Score | None = None
    span_scores: Annotated[list[SpanScore], FailFast(), Few] = []


class Request(Message):
    """What both methods ask. Context is checked and not used: each text is scored by itself."""

    comment: TextEntry = TextEntry()
    context: Context | None = None
    # One fault is enough: a body has room for millions of them.
    languages: Annotated[list[Language], FailFast(), Few] = []
    client_token: str = ""
    session_id: str = ""
    community_id: str = ""


class AnalyzeRequest(Request):
    requested_attributes: dict[str, AttributeParameters] = {}
    span_annotations: bool = False
    do_not_store: bool = False
    drop_unsupported_attributes: bool = False


class SuggestRequest(Request):
    attribute_scores: dict[str, AttributeScores] = {}


Asked = TypeVar("Asked", bound=Request)


def parse(message: type[Asked], body: bytes) -> Asked:
    """The message, or a Fault that names the field at fault and repeats nothing of the body."""
    try:
        asked = message.model_validate(read_json(body))
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        raise _fault(fault["loc"], fault["type"], fault["msg"]) from None
    if asked.context is not None and asked.context.entries and asked.context.article_and_parent_comment is not None:
        raise Fault("invalid", "context: either entries or articleAndParentComment, not both", "context")
    return asked


def _fault(location: tuple[int | str, ...], kind: str, message: str) -> Fault:
    if kind == "extra_forbidden":
        parent = _where(location[:-1]) or "the body"
        return Fault("invalid", f"Invalid JSON payload received: unknown name in {parent}", _where(location[:-1]))
    where = _where(location)
    wrong = "a language code is needed, as fr or fr-CA" if kind == "string_pattern_mismatch" else message.lower()
    return Fault("invalid", f"{where or 'the body'}: {wrong}", where)


_MESSAGES: tuple[type[Message], ...] = (
    *(AnalyzeRequest, SuggestRequest, TextEntry, Context, ArticleAndParentComment),
    *(AttributeParameters, AttributeScores, SpanScore, Score),
)
_KNOWN = frozenset(name for message in _MESSAGES for field in message.model_fields for name in (field, to_camel(field)))


def _where(location: tuple[int | str, ...]) -> str | None:
    """A path as `context.entries[0].text`; the names of attributes are whatever somebody wrote, so `*` stands there."""
    where = ""
    for part in location:
        where += f"[{part}]" if isinstance(part, int) else f".{part if part in _KNOWN else '*'}"
    return where.lstrip(".") or None
