"""Requests of the wire protocols as they arrive, checked, and the refusals that say what is wrong with them."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from serving.gateway import Refusal

MOST_ENTRIES = 1024
"""Of a JSON object whose names are the client's choice. Far more than any client sends; each wrong one costs words."""


class Message(BaseModel):
    """A message of somebody else's protocol. Keys that it does not name are ignored, null is as good as left out.

    Give lists of checked items `pydantic.FailFast`: a body has room for millions of faults, and one is enough.
    """

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _before(cls, values: Any) -> Any:
        return without_nulls(values)


def without_nulls(values: Any) -> Any:
    """An object without its nulls; anything else as it is.

    Raises:
        ValueError: it, or an object in it, has so many names that wording each fault would take seconds.
    """
    if not isinstance(values, dict):
        return values
    if any(isinstance(value, dict) and len(value) > MOST_ENTRIES for value in (values, *values.values())):
        raise ValueError(f"an object has more than {MOST_ENTRIES} names")
    return {name: value for name, value in values.items() if value is not None}


Asked = TypeVar("Asked", bound=BaseModel)


def parse(message: type[Asked], body: bytes) -> Asked:
    """The message, or a Refusal that names the first field at fault and repeats nothing of the body.

    Raises:
        Refusal: of kind `invalid`; its `where` is a path as `input[3].text`, where `*` stands for a name that is not
            the protocol's own.
    """
    try:
        return message.model_validate(read_json(body))
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        where = path_of(fault["loc"], _names(message.model_json_schema(by_alias=True)))
        raise Refusal("invalid", f"{where or 'the body'}: {fault['msg'].lower()}", where) from None


def read_json(body: bytes) -> Any:
    """The value of a JSON body, or a Refusal.

    Raises:
        Refusal: of kind `invalid`, where it is not valid JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        # The slower parser takes halves of surrogate pairs, which messages cut in the middle of an emoji contain.
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal("invalid", "the body is not valid JSON") from None


def path_of(location: tuple[int | str, ...], known: frozenset[str]) -> str | None:
    """A place in a body as `input[3].text`, without the names that somebody else chose: `*` stands for them.

    pydantic also writes into it which member of a union it tried; those are no places and are left out.
    """
    where = ""
    for part in location:
        if isinstance(part, int):
            where += f"[{part}]"
        elif part in known:
            where += f".{part}"
        elif not _TRIED.intersection((part.partition("[")[0],)):
            where += ".*"
    return where.lstrip(".") or None


_TRIED = frozenset(
    {"str", "int", "float", "bool", "list", "dict", "tuple", "literal", "constrained-str", "function-before"}
)


def _names(schema: Any) -> frozenset[str]:
    """Every property that a JSON schema names, at any depth."""
    if isinstance(schema, list):
        return frozenset().union(*map(_names, schema)) if schema else frozenset()
    if not isinstance(schema, dict):
        return frozenset()
    properties = schema.get("properties")
    own = frozenset(properties) if isinstance(properties, dict) else frozenset()
    return own.union(*map(_names, schema.values()))
