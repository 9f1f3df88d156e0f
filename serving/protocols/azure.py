"""Text analysis of Azure AI Content Safety, for tools that speak it: give them this host as their endpoint.

`Hate` and `Sexual` are the protocol's own categories that labels here can stand for, and what is analysed by default:

- `Hate` is contempt for sex or gender, origin or religion, orientation. Other grounds, as disability, are no label.
- `Sexual` is sexual harm: grooming, soliciting or spreading images, extortion, harassment and violence. It says nothing
  of how explicit a text is, so it is narrower than the name.
- `SelfHarm` and `Violence` are refused where they are asked for: no label stands for them.

Our categories can be asked by their ids. A severity says how sure the model is, not how grave the text: 2 from the
threshold of the operating point recall_first on, 4 from balanced, 6 from precision_first, and with eight levels the odd
ones halfway between. A category without any threshold is not analysed.

Tools act on severities and know no voices, so nothing reaches 2 where somebody tells what was done to them
(`serving.gateway.actionable`). Beside the analysis stand `voice` and `route` as `/predict` gives them, and
`<category>_raw` is the severity that nothing lowered. `api-version` and `haltOnBlocklistHit` change nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import FailFast, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.artifact import Artifact
from serving.classifier import Prediction
from serving.gateway import Gateway, Kind, Refusal, actionable
from serving.limits import protects_testimony
from serving.protocols import GetGateway
from serving.protocols.messages import Message, parse

PREFIXES: tuple[str, ...] = ("/contentsafety/",)
MAX_CHARACTERS = 10_000
"""Of a text in code points, as in the protocol's first service; VIGIE_MAX_CHARACTERS holds too."""
RAW = "_raw"
STEPS = ("recall_first", "balanced", "precision_first")
"""The operating points from whose thresholds on a severity is 2, 4 and 6."""
MEANINGS: Mapping[str, tuple[str, ...]] = {
    "Hate": ("sexism", "racism", "homophobia"),
    "Sexual": ("grooming", "image_solicitation", "sexual_extortion", "image_abuse", "sexual_violence"),
}
_NOT_MODELLED = ("SelfHarm", "Violence")
_ERRORS: Mapping[Kind, tuple[int, str]] = {
    "invalid": (400, "InvalidRequestBody"),
    "too_large": (413, "InvalidRequestBody"),
    "unauthorized": (401, "Unauthorized"),
    "forbidden": (403, "Forbidden"),
    "rate_limited": (429, "TooManyRequests"),
    "overloaded": (503, "ServerBusy"),
    "failed": (500, "InternalError"),
    "unsupported": (501, "NotSupported"),
}


class AnalyzeRequest(Message):
    """One text, and which categories to analyse."""

    text: str
    categories: Annotated[list[str], FailFast(), Field(default_factory=list)]
    blocklistNames: Annotated[list[str], FailFast(), Field(default_factory=list)]
    haltOnBlocklistHit: bool = False
    outputType: Literal["FourSeverityLevels", "EightSeverityLevels"] = "FourSeverityLevels"


Cuts = Mapping[str, Sequence[float]]
"""Label → where its severities 1 to 7 begin, for the labels that have a threshold."""


def routes(gateway: GetGateway) -> Sequence[BaseRoute]:
    """The one method: images and blocklists are not analysed."""
    protect = protects_testimony()

    async def analyze(request: Request) -> Response:
        asked = parse(AnalyzeRequest, await request.body())
        return _answer(await _analyze(gateway(), asked, protect=protect))

    return [Route("/contentsafety/text:analyze", analyze, methods=["POST"])]


async def _analyze(gateway: Gateway, asked: AnalyzeRequest, *, protect: bool) -> dict[str, Any]:
    _check(asked, gateway)
    cuts = cuts_of(gateway.classifier.artifact)
    wanted = _wanted(asked.categories, cuts)
    (prediction,) = await gateway.predict([asked.text], field="text")
    levels = severities(prediction, cuts, protect=protect)
    step = 1 if asked.outputType == "EightSeverityLevels" else 2
    return {
        "blocklistsMatch": [],
        "categoriesAnalysis": [{"category": name, "severity": levels[name] // step * step} for name in wanted],
        "voice": prediction["voice"]["label"],
        "route": prediction["route"],
    }


def cuts_of(artifact: Artifact) -> Cuts:
    """The scores from which on a label's severity is 1 to 7; a point without threshold is never reached."""
    found = {}
    for label in artifact.category_ids:
        chosen = [artifact.thresholds.get(point, {}).get(label) for point in STEPS]
        if any(value is not None for value in chosen):
            low, middle, high = sorted(math.inf if value is None else value for value in chosen)
            found[label] = (low / 2, low, (low + middle) / 2, middle, (middle + high) / 2, high, (high + 1) / 2)
    return found


def severities(prediction: Prediction, cuts: Cuts, *, protect: bool) -> dict[str, int]:
    """Every category that can be asked for → its severity, from 0 to 7."""
    lowered = actionable(prediction, protect=protect)
    raw, own = {}, {}
    for label, bounds in cuts.items():
        score = prediction["categories"][label]["score"]
        raw[label] = bisect_right(bounds, score)
        # What was lowered is nothing to act upon, however far: thresholds may be lower still.
        own[label] = min(raw[label], 1) if lowered[label] < score else raw[label]
    levels = own | {label + RAW: level for label, level in raw.items()}
    for suffix in ("", RAW):
        for name, labels in _derived(cuts).items():
            levels[name + suffix] = max(levels[label + suffix] for label in labels)
    return levels


def _derived(cuts: Cuts) -> dict[str, list[str]]:
    """The protocol's own categories → their labels, as far as these have a threshold."""
    found = {name: [label for label in labels if label in cuts] for name, labels in MEANINGS.items()}
    return {name: labels for name, labels in found.items() if labels}


def _wanted(categories: Sequence[str], cuts: Cuts) -> Sequence[str]:
    """The categories to answer, in the order they were asked.

    Raises:
        Refusal: one of them is not analysed. It is not repeated, for somebody wrote it.
    """
    default = tuple(_derived(cuts))
    names = (*default, *cuts)
    known = {*names, *(name + RAW for name in names)}
    for index, name in enumerate(categories):
        if name not in known:
            where = f"categories[{index}]"
            why = f"no label stands for {name}" if name in _NOT_MODELLED else "is not analysed here"
            message = f"{where}: {why}; allowed: {', '.join(names)}, and each with {RAW} behind it"
            raise Refusal("invalid", message, where)
    return tuple(dict.fromkeys(categories)) or default


def _check(asked: AnalyzeRequest, gateway: Gateway) -> None:
    """Raises Refusal for a text that is too long or says nothing, and for lists of words that nobody here has."""
    if len(asked.text) > MAX_CHARACTERS:
        fault: str | None = f"{len(asked.text)} characters; at most {MAX_CHARACTERS} are allowed"
    else:
        fault = gateway.limits.too_long(asked.text)
    if fault or not asked.text.strip():
        raise Refusal("invalid", f"text: {fault or 'holds no text'}", "text")
    if asked.blocklistNames:
        message = "blocklistNames: there are no blocklists here; leave it out, for none would be looked at"
        raise Refusal("invalid", message, "blocklistNames")


def refuse(refusal: Refusal) -> Response:
    """A refusal as Azure's services word it."""
    status, code = _ERRORS[refusal.kind]
    body = {"code": code, "message": refusal.message, "target": refusal.where, "details": ()}
    return _answer({"error": body}, status)


def _answer(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")
