"""The terms, first names and sentences of training/bias_terms.yaml, checked, and every sentence with every term.

`training.bias` scores them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import UserError
from training.labels import Labels
from training.rows import shown

TERMS_FILE = Path(__file__).with_name("bias_terms.yaml")
SLOTS = ("self_m", "self_f", "someone", "people", "group", "name")
_SLOT = re.compile(r"\{(\w+)\}")
_AGREEMENT = re.compile(r"\[([^|\]]*)\|([^|\]]*)\]")


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Term(_Closed):
    """An adjective, a noun or a first name, with the forms that it has; `plural` where it is not the form with an s."""

    m: str | None = None
    f: str | None = None
    noun: bool = False
    plural: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Term:
        if not (self.m or self.f):
            raise ValueError("needs m or f, one of its forms")
        return self

    @property
    def name(self) -> str:
        """What the figures call it: the masculine form where there is one."""
        return self.m or self.f or ""

    @property
    def forms(self) -> frozenset[str]:
        """All that a text may hold of it, plurals included."""
        own = {form for form in (self.m, self.f) if form}
        return frozenset(own | {plural_of(form) for form in own} | ({self.plural} if self.plural else set()))

    def fill(self, slot: str) -> tuple[str, str]:
        """What stands in the slot, and its gender, m or f."""
        if slot == "name":
            return self.name, "m" if self.m else "f"
        if slot in ("self_m", "self_f"):
            form, gender = self._form(slot[-1])
            return (f"{_article(gender)} {form}" if self.noun else form), gender
        form, gender = self._form("m" if self.noun else "f")
        article = {"someone": _article(gender), "people": "des", "group": "les"}[slot]
        form = form if slot == "someone" else self.plural or plural_of(form)
        person = "" if self.noun else "personne " if slot == "someone" else "personnes "
        return f"{article} {person}{form}", gender

    def _form(self, gender: str) -> tuple[str, str]:
        other = "f" if gender == "m" else "m"
        form = getattr(self, gender)
        return (form, gender) if form else (getattr(self, other), other)


def plural_of(form: str) -> str:
    return form if form[-1] in "sxz" else form + "s"


def _article(gender: str) -> str:
    return "un" if gender == "m" else "une"


class Template(_Closed):
    """A sentence with one slot and its true labels; without `groups` it takes the terms of all."""

    text: str = Field(min_length=1)
    labels: tuple[str, ...] = ()
    voice: str | None = None
    groups: tuple[str, ...] | None = None

    @property
    def slots(self) -> list[str]:
        return _SLOT.findall(self.text)

    def filled(self, term: Term) -> str:
        words, gender = term.fill(self.slots[0])
        text = _AGREEMENT.sub(lambda match: match[1 if gender == "m" else 2], self.text)
        return _SLOT.sub(words, text)


class Bank(_Closed):
    """Terms and first names by group, and the sentences for each."""

    terms: dict[str, tuple[Term, ...]]
    templates: tuple[Template, ...]
    names: dict[str, tuple[Term, ...]]
    name_templates: tuple[Template, ...]


def read_bank(labels: Labels, path: Path = TERMS_FILE) -> Bank:
    """The terms and sentences.

    Raises:
        UserError: what is wrong, by key and number, never with a text.
    """
    try:
        bank = Bank.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path}: not valid YAML") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(shown(str(part)).strip("'") for part in first["loc"]) or "the file"
        raise UserError(f"{path}: {where}: {first['msg']}") from None
    if fault := next(_faults(bank, labels), None):
        raise UserError(f"{path}: {fault}")
    return bank


def _faults(bank: Bank, labels: Labels) -> Iterator[str]:
    for key, groups in (("terms", bank.terms), ("names", bank.names)):
        names = [term.name for terms in groups.values() for term in terms]
        if len(set(names)) < len(names):
            yield f"{key}: a term stands twice"
        if key == "terms" and not all(term.f or term.noun for terms in groups.values() for term in terms):
            yield "terms: an adjective needs its feminine form, f"
    for number, template in enumerate(bank.templates, 1):
        for fault in _template_faults(template, labels, groups=bank.terms, slots=SLOTS[:-1]):
            yield f"templates {number}: {fault}"
    for number, template in enumerate(bank.name_templates, 1):
        for fault in _template_faults(template, labels, groups=bank.names, slots=SLOTS[-1:]):
            yield f"name_templates {number}: {fault}"


def _template_faults(
    template: Template, labels: Labels, *, groups: Mapping[str, object], slots: Sequence[str]
) -> Iterator[str]:
    if len(template.slots) != 1 or template.slots[0] not in slots:
        yield f"needs one slot, of {', '.join(slots)}"
    if set(template.labels) - set(labels.category_ids):
        yield f"labels: allowed are {', '.join(labels.category_ids)}"
    if template.voice not in (labels.voice_ids if template.labels else [None]):
        yield f"voice: one of {', '.join(labels.voice_ids)} where there are labels, none in an ordinary sentence"
    if set(template.groups or ()) - set(groups):
        yield f"groups: allowed are {', '.join(groups)}"


class Filled(NamedTuple):
    """One sentence with one term in it."""

    text: str
    group: str
    term: str
    gender: str
    template: int
    positive: bool


def fill(groups: Mapping[str, Sequence[Term]], templates: Sequence[Template]) -> list[Filled]:
    """Every template with every term that it takes, in the order of the file."""
    return [
        Filled(template.filled(term), group, term.name, "m" if term.m else "f", number, bool(template.labels))
        for number, template in enumerate(templates)
        for group, terms in groups.items()
        if template.groups is None or group in template.groups
        for term in terms
    ]
