"""The labels of the codebook, read from configs/labels.yaml: the only list there is."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from training.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
LABELS_FILE = ROOT / "configs" / "labels.yaml"


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HelpLine(_Closed):
    """Where somebody concerned can turn; shown as it stands."""

    name: str
    contact: str
    about: str


class Label(_Closed):
    """One output of the model: a stable English id, and what people are shown, in French."""

    id: str
    name: str
    definition: str
    law: str | None = None
    help: tuple[str, ...] = ()


class Labels(_Closed):
    """All labels by kind. The order of `ids` is the order of the model's outputs."""

    version: int
    notice: str
    help_lines: dict[str, HelpLine]
    categories: tuple[Label, ...]
    context: tuple[Label, ...]
    voices: tuple[Label, ...]

    @model_validator(mode="after")
    def _check(self) -> Labels:
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("a label id stands twice")
        for label in (*self.categories, *self.context, *self.voices):
            unknown = set(label.help) - set(self.help_lines)
            if unknown:
                raise ValueError(f"{label.id}: help line {sorted(unknown)[0]!r} is not in help_lines")
        return self

    @cached_property
    def category_ids(self) -> list[str]:
        return [label.id for label in self.categories]

    @cached_property
    def context_ids(self) -> list[str]:
        return [label.id for label in self.context]

    @cached_property
    def voice_ids(self) -> list[str]:
        return [label.id for label in self.voices]

    @cached_property
    def ids(self) -> list[str]:
        """Every output, in order: categories, context, voices."""
        return [*self.category_ids, *self.context_ids, *self.voice_ids]

    def describe(self) -> dict[str, Any]:
        """Plain data for artifact.json: what serving shows and in which order the outputs come."""
        return self.model_dump(mode="json")


def load_labels(path: Path = LABELS_FILE) -> Labels:
    """Read the label list.

    Raises:
        UserError: the file is missing, is not YAML, or has a key that is not allowed.
    """
    try:
        return Labels.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such label list") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({error})") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the list"
        raise UserError(f"{path}: {where}: {first['msg']}") from None
