"""Attributes of the Perspective protocol: our labels in their own right, and what of its own names they can stand for.

Every category is an attribute, its id in upper case (`SEXUAL_EXTORTION`), and so are `MINOR_INVOLVED` and the voices
(`VOICE_TESTIMONY`). A tool asks for one number and knows no voices, so categories and what is derived from them are
lowered where somebody tells what was done to them (`serving.gateway.actionable`); the same name with `_RAW` behind it
(`SEXUAL_EXTORTION_RAW`, `TOXICITY_RAW`) is the score as `/predict` gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from serving.artifact import Artifact
from serving.classifier import Prediction, Voice
from serving.gateway import actionable

RAW = "_RAW"
ALL = ("*",)


@dataclass(frozen=True)
class Meaning:
    """What an attribute of the protocol is here: the highest score among `labels`, or nothing where there are none."""

    labels: tuple[str, ...]
    reason: str


_HATE = ("sexism", "racism", "homophobia")
_TRIED = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
_BRIDGING = ("AFFINITY", "COMPASSION", "CURIOSITY", "NUANCE", "PERSONAL_STORY", "REASONING", "RESPECT")
_NEWSROOM_NAMES = (
    *("ATTACK_ON_AUTHOR", "ATTACK_ON_COMMENTER", "INCOHERENT", "INFLAMMATORY"),
    *("LIKELY_TO_REJECT", "OBSCENE", "SPAM", "UNSUBSTANTIAL"),
)
_CONSTRUCTIVE = Meaning((), "it says how constructive a text is, and no label here does")
_NEWSROOM = Meaning((), "it follows one newspaper's moderation, which no label here does")
_EXPERIMENTAL = Meaning((), "experimental attributes have no settled meaning that a label could stand for")

MEANINGS: Mapping[str, Meaning] = {
    "TOXICITY": Meaning(
        ALL,
        "the likeliest of all categories, a floor of the probability that any of them holds; rudeness that is aimed at "
        "nobody, and swearing, are in none of them",
    ),
    "IDENTITY_ATTACK": Meaning(
        _HATE, "contempt for sex or gender, origin or religion, orientation; other grounds, as disability, are no label"
    ),
    "INSULT": Meaning(
        ("cyberbullying", *_HATE),
        "contempt aimed at a person or a group; these categories hold threats and humiliation too, so it is wider",
    ),
    "SEVERE_TOXICITY": Meaning((), "severity is not a label: no score says how grave a text is"),
    "THREAT": Meaning(
        (),
        "threats of violence share their categories with insults, so a score would miss them or flag those; "
        "SEXUAL_EXTORTION finds the threats that are a label",
    ),
    "PROFANITY": Meaning((), "a swear word that harms nobody has no label"),
    "SEXUALLY_EXPLICIT": Meaning((), "labels say what harms somebody, not how explicit a text is"),
    "FLIRTATION": Meaning((), "flirting between adults has no label, and grooming is something else"),
    **dict.fromkeys((f"{name}_EXPERIMENTAL" for name in _TRIED), _EXPERIMENTAL),
    **dict.fromkeys((f"{name}_EXPERIMENTAL" for name in _BRIDGING), _CONSTRUCTIVE),
    **dict.fromkeys(_NEWSROOM_NAMES, _NEWSROOM),
}
"""The protocol's own attributes. Those without labels are refused with their reason: no number is made up for them."""


def names(artifact: Artifact) -> tuple[str, ...]:
    """The attributes that this artifact answers."""
    lowered = (*artifact.category_ids, *_derived(artifact.category_ids))
    context = tuple(label.upper() for label in artifact.context_ids)
    voices = tuple(_voice(label) for label in artifact.voice_ids)
    return (*(label.upper() for label in lowered), *context, *voices, *(label.upper() + RAW for label in lowered))


def scores(prediction: Prediction, *, protect: bool, speaker: Voice) -> dict[str, float]:
    """The score of every attribute, from 0 to 1.

    Args:
        protect: lower categories and what is derived from them where `speaker` is not likeliest `direct`.
        speaker: the voice of the whole comment. A sentence that a victim quotes reads as direct when it stands alone.
    """
    plain = {label: score["score"] for label, score in prediction["categories"].items()}
    heard: Prediction = {**prediction, "voice": speaker}
    lowered = _with_derived(actionable(heard, protect=protect))
    raw = {name + RAW: score for name, score in _with_derived(plain).items()}
    voices = {_voice(label): score for label, score in prediction["voice"]["scores"].items()}
    return {**lowered, "MINOR_INVOLVED": prediction["minor_involved"]["score"], **voices, **raw}


def _with_derived(categories: Mapping[str, float]) -> dict[str, float]:
    derived = _derived(tuple(categories))
    return {
        **{label.upper(): score for label, score in categories.items()},
        **{name: max(categories[label] for label in labels) for name, labels in derived.items()},
    }


@cache
def _derived(category_ids: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    """Attribute → its labels, for those whose labels are all there."""
    found = {name: category_ids if meaning.labels == ALL else meaning.labels for name, meaning in MEANINGS.items()}
    return {name: labels for name, labels in found.items() if labels and set(labels) <= set(category_ids)}


def _voice(label: str) -> str:
    return f"VOICE_{label.upper()}"
