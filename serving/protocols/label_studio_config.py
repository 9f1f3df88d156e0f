"""A project's labelling interface, as Label Studio describes it in XML: which of its choices are labels here.

Read with expat, which builds nothing and fetches nothing; a document type is refused, and with it every entity that
somebody could declare.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from xml.parsers import expat

from serving.artifact import Artifact
from serving.gateway import Refusal

MOST_CHARACTERS = 100_000
"""Of a description; some two thousand choices, more than anybody ticks."""
MOST_BLOCKS = 12
"""With labels of ours. Each is answered for every task, so a few kilobytes could ask for gigabytes."""


@dataclass(frozen=True)
class Control:
    """A block of choices about a text.

    `field` is where in a task's data the text stands. `choices` is label → what a result calls it, in the order of the
    artifact's labels, and holds those alone that are labels.
    """

    name: str
    to_name: str
    field: str
    multiple: bool
    choices: Mapping[str, str]


def read_config(config: str, artifact: Artifact, where: str) -> tuple[Control, ...]:
    """The blocks that can be filled in; choices are known by a label's id or its French name, in any case.

    Args:
        where: what the caller's request calls the description, for the errors.

    Raises:
        Refusal: it is too long or no XML, declares a document type, or has no block with a label for a text, or too
            many.
    """
    tags = _Tags(where)
    tags.read(config)
    ids = _ids(artifact)
    controls = tuple(
        Control(name, to_name, tags.fields[to_name], multiple, known)
        for name, to_name, multiple, offered in tags.blocks
        if to_name in tags.fields and (known := _known(offered, ids, artifact))
    )
    if not controls:
        allowed = ", ".join(artifact.label_ids)
        message = (
            f"{where}: has no Choices for a Text (value='$…') with a label among its values or aliases; labels, by id "
            f"or French name: {allowed}"
        )
        raise Refusal("invalid", message, where)
    if len(controls) > MOST_BLOCKS:
        message = f"{where}: {len(controls)} Choices with labels; at most {MOST_BLOCKS} are allowed"
        raise Refusal("invalid", message, where)
    return controls


def _ids(artifact: Artifact) -> Mapping[str, str]:
    """Whatever names a label → its id."""
    named = {
        _fold(label["name"]): label["id"]
        for kind in ("categories", "context", "voices")
        for label in artifact.labels[kind]
        if "name" in label
    }
    return {**named, **{_fold(label): label for label in artifact.label_ids}}


def _known(offered: list[Mapping[str, str]], ids: Mapping[str, str], artifact: Artifact) -> dict[str, str]:
    """Label → what a result calls the choice: its alias, or else its value."""
    found: dict[str, str] = {}
    for choice in offered:
        names = [choice[key] for key in ("alias", "value") if choice.get(key)]
        label = next((ids[_fold(name)] for name in names if _fold(name) in ids), None)
        if label is not None:
            found.setdefault(label, names[0])
    return {label: found[label] for label in artifact.label_ids if label in found}


def _fold(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


@dataclass
class _Tags:
    """What is met on the way through a description: texts and blocks of choices."""

    where: str
    fields: dict[str, str] = field(default_factory=dict)
    """Name of a Text → where its text stands in a task's data."""
    blocks: list[tuple[str, str, bool, list[Mapping[str, str]]]] = field(default_factory=list)
    """Name, name of what it is about, whether several may be ticked, attributes of each choice."""
    inside: bool = False

    def read(self, config: str) -> None:
        if len(config) > MOST_CHARACTERS:
            fault = f"{len(config)} characters; at most {MOST_CHARACTERS} are allowed"
            raise Refusal("invalid", f"{self.where}: {fault}", self.where)
        parser = expat.ParserCreate("utf-8")
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        try:
            parser.Parse(config.encode("utf-8", "replace"), True)
        except expat.ExpatError as error:
            message = f"{self.where}: is not well-formed XML (line {error.lineno}, column {error.offset})"
            raise Refusal("invalid", message, self.where) from None

    def _refuse_doctype(self, *_: Any) -> NoReturn:
        raise Refusal("invalid", f"{self.where}: a document type (DOCTYPE) is not allowed; leave it out", self.where)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "Text":
            self._text(attributes)
        elif tag == "Choices":
            self.inside = _is_about_the_whole(attributes)
            if self.inside:
                several = attributes.get("choice") == "multiple"
                self.blocks.append((attributes.get("name", ""), attributes.get("toName", ""), several, []))
        elif tag == "Choice" and self.inside:
            self.blocks[-1][-1].append(attributes)

    def _end(self, tag: str) -> None:
        if tag == "Choices":
            self.inside = False

    def _text(self, attributes: Mapping[str, str]) -> None:
        """A Text that shows a field of the task; one that shows what an address leads to stays out."""
        name, value = attributes.get("name", ""), attributes.get("value", "")
        if value[1:] and value.startswith("$") and attributes.get("valueType", "text") == "text":
            self.fields[name] = value[1:]


def _is_about_the_whole(attributes: Mapping[str, str]) -> bool:
    """Not about each region that an annotator marks in it."""
    return "true" not in (attributes.get("perRegion"), attributes.get("perItem"))
