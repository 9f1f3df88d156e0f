"""What the OpenAI and Mistral protocols share beside their messages: how they ask, and keys drawn from our labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from serving.classifier import Prediction
from serving.gateway import Gateway, Refusal

HATE = ("sexism", "racism", "homophobia")
"""Contempt for sex or gender, origin or religion, orientation; other grounds, as disability, are no label."""

Value = TypeVar("Value", bool, float)
"""A flag or a score. The highest of several flags is whether any is set, the lowest whether all are."""


def derived(meanings: Mapping[str, tuple[str, ...]], values: Mapping[str, Value]) -> dict[str, Value]:
    """Foreign key → the highest value among its labels, for the keys whose labels the artifact has all of."""
    return {
        key: max(values[label] for label in labels) for key, labels in meanings.items() if values.keys() >= set(labels)
    }


async def predict(gateway: Gateway, texts: Mapping[str, str]) -> list[Prediction]:
    """Answers, in order, for texts by their places in the request.

    Raises:
        Refusal: one holds nothing or too much, or whatever `Gateway.predict` refuses.
    """
    # Where there are more than are allowed, the gateway refuses their number.
    for where, text in list(texts.items())[: gateway.limits.texts]:
        fault = gateway.limits.too_long(text) if text.strip() else "holds no text, and only text is judged here"
        if fault:
            raise Refusal("invalid", f"{where}: {fault}", where)
    return await gateway.predict(list(texts.values()), field="input")


def model_name(gateway: Gateway) -> str:
    """The artifact and its version in the one string that the protocols have for a model."""
    return "-".join(gateway.model[part] for part in ("name", "version"))
