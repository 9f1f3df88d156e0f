"""The messages of the OpenAI and Mistral protocols as they arrive, checked, with the place of each text in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from serving.protocols.messages import Message

MOST_VALUES = 8192
"""Values in the lists and objects of a request, at all depths. Millions fit a body, and checking them takes seconds."""


class Asked(Message):
    """What every request has. Clients cannot leave the model out, and it may be anything: there is only one here."""

    model: str = ""

    @model_validator(mode="before")
    @classmethod
    def _few_values(cls, values: Any) -> Any:
        waiting, count = [values], 0
        while waiting:
            one = waiting.pop()
            inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            count += len(inner)
            if count > MOST_VALUES:
                raise ValueError(f"a request holds at most {MOST_VALUES} values in its lists and objects")
            waiting += inner
        return values


def _form(value: Any) -> str:
    """The kind of a value, as `str`, and of a list's first item, as `list[dict]`: the other items are held to that."""
    if not isinstance(value, list):
        return type(value).__name__
    return f"list[{type(value[0]).__name__ if value else ''}]"


def _one_of(expected: str) -> Discriminator:
    """Which member of a union a value is meant to be, so that a fault is told of that member and of no other.

    Each member has what `_form` says of it for a tag; `expected` says in words what they are.
    """
    return Discriminator(_form, custom_error_type="input", custom_error_message=f"Input should be {expected}")


class Part(Message):
    """A piece of a message. Only pieces of type `text` are judged: what an image shows is not seen."""

    type: str
    text: str | None = None

    @model_validator(mode="after")
    def _has_text(self) -> Part:
        if self.type == "text" and self.text is None:
            raise ValueError("a part of type text needs the key text")
        return self


def _joined(parts: Iterable[Part]) -> str:
    """The texts of one message as a reader sees them: in order, each on a line of its own."""
    return "\n".join(part.text for part in parts if part.type == "text" and part.text is not None)


def _placed(texts: str | list[str]) -> dict[str, str]:
    return {"input": texts} if isinstance(texts, str) else {f"input[{n}]": text for n, text in enumerate(texts)}


class InputPart(Part):
    type: Literal["text", "image_url"]


# `fail_fast` is set in a Field: the marker of that name cannot be a member of a union.
String = Annotated[str, Tag("str")]
Strings = Annotated[list[str], Field(fail_fast=True), Tag("list[str]")]
Parts = Annotated[list[Part], Field(fail_fast=True), Tag("list[dict]")]
InputParts = Annotated[list[InputPart], Field(fail_fast=True), Tag("list[dict]")]


class TextsRequest(Asked):
    """Mistral's, of a text or several."""

    input: Annotated[String | Strings, _one_of("a string or a list of strings, and not empty")]

    @property
    def texts(self) -> dict[str, str]:
        """By their places in the request."""
        return _placed(self.input)


class InputRequest(Asked):
    """OpenAI's, of a text, several, or one in parts."""

    input: Annotated[
        String | Strings | InputParts, _one_of("a string, a list of strings or a list of parts, and not empty")
    ]

    @property
    def texts(self) -> dict[str, str]:
        """By their places in the request; parts are one text together."""
        if isinstance(self.input, str):
            return _placed(self.input)
        strings = [item for item in self.input if isinstance(item, str)]
        return _placed(strings or _joined(item for item in self.input if isinstance(item, Part)))


class ChatMessage(Message):
    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[String | Parts, _one_of("a string or a list of parts, and not empty")] = ""

    @property
    def said(self) -> str:
        """What is judged of it: nothing of instructions and of what tools return."""
        if self.role not in ("user", "assistant"):
            return ""
        return self.content if isinstance(self.content, str) else _joined(self.content)


Messages = Annotated[list[ChatMessage], Field(fail_fast=True), Tag("list[dict]")]
Conversations = Annotated[
    list[Annotated[list[ChatMessage], Field(fail_fast=True)]], Field(fail_fast=True), Tag("list[list]")
]


class ChatRequest(Asked):
    """Mistral's, of a conversation or several, for moderation."""

    input: Annotated[Messages | Conversations, _one_of("a list of messages or of conversations, and not empty")]

    @property
    def conversations(self) -> dict[str, list[ChatMessage]]:
        """By their places in the request."""
        several = {f"input[{n}]": item for n, item in enumerate(self.input) if isinstance(item, list)}
        return several or {"input": [item for item in self.input if isinstance(item, ChatMessage)]}


class Conversation(Message):
    messages: Annotated[list[ChatMessage], Field(fail_fast=True)]


One = Annotated[Conversation, Tag("dict")]
Several = Annotated[list[Conversation], Field(fail_fast=True), Tag("list[dict]")]


class InstructRequest(Asked):
    """Mistral's, of a conversation or several, for classification."""

    input: Annotated[One | Several, _one_of("an object with messages or a list of such, and not empty")]

    @property
    def conversations(self) -> dict[str, list[ChatMessage]]:
        """By their places in the request."""
        if isinstance(self.input, Conversation):
            return {"input.messages": self.input.messages}
        return {f"input[{n}].messages": item.messages for n, item in enumerate(self.input)}
