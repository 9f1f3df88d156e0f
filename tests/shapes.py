"""Requests in the shapes of all wire protocols, right and wrong, around words that somebody wrote."""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from xml.sax.saxutils import quoteattr

SECRET = "e8" * 32
"""What Coral signs with."""
LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Asked:
    """The body of a request, and what its headers say of it."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """What stands in the requests. `chosen` is for what a protocol has to give back, `text` for all the rest."""

    text: str
    chosen: str


def requests(words: Words, path: str) -> list[Asked]:
    """Those of the protocol that owns a path template; the first is right, and its answer is the one asked for."""
    make = _MAKERS.get(path)
    return [asked if isinstance(asked, Asked) else as_json(asked) for asked in make(words)] if make else []


def as_json(value: Any) -> Asked:
    return Asked(json.dumps(value).encode())


def signed(body: bytes) -> dict[str, str]:
    """The header with which Coral shows that a body is its own."""
    return {"X-Coral-Signature": "sha256=" + hmac.new(SECRET.encode(), body, sha256).hexdigest()}


def _native(words: Words) -> list[Any]:
    text = words.text
    return [
        {"texts": [text]},
        {"texts": text},
        {"texts": [text, 5]},
        {"texts": [{text: text}]},
        {"texts": [text], "operating_point": text},
        {"texts": [text], "operating_point": [text]},
        {"texts": [text] * 65},
        {"texts": [text * 200]},
        {"texts": [text], text: text},
    ]


def _analyze(words: Words) -> list[Any]:
    text, comment = words.text, {"text": words.text, "type": "PLAIN_TEXT"}
    wanted = {"requestedAttributes": {"TOXICITY": {}}}
    return [
        {
            "comment": comment,
            "clientToken": words.chosen,
            "requestedAttributes": {"TOXICITY": {}, "SEXUAL_EXTORTION": {}},
        },
        {"comment": comment, "requestedAttributes": {text: {text: text}}},
        {"comment": comment, "requestedAttributes": {"TOXICITY": {"scoreType": text}}},
        {"comment": comment, "languages": [text], "sessionId": text, "communityId": text, **wanted},
        {"comment": {"text": text, "type": text}, "context": {"entries": [comment, {text: text}]}},
        {"comment": {"text": f"<p {text}>{text}", "type": "HTML"}, "spanAnnotations": True, **wanted},
        {"comment": {"text": text * 200}, **wanted},
        {"comment": {"text": text * 2000}, **wanted},
        {"comment": comment, text: text, **wanted},
    ]


def _suggest(words: Words) -> list[Any]:
    text, comment = words.text, {"text": words.text}
    return [
        {"comment": comment, "attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.5}}}},
        {"comment": comment, "attributeScores": {text: {"summaryScore": {"value": text}}}},
        {"comment": comment, "attributeScores": {text: {"summaryScore": {"value": 1}}}, "clientToken": words.chosen},
        {"comment": comment, "attributeScores": {"TOXICITY": {"spanScores": [{"begin": text, "end": text}]}}},
    ]


def _texts(words: Words) -> list[Any]:
    """OpenAI's, and Mistral's of texts."""
    text, part = words.text, {"type": "text", "text": words.text}
    image = {"type": "image_url", "image_url": {"url": f"https://{text}/{text}", text: text}}
    return [
        {"input": text, "model": text},
        {"input": [text, text], "model": text, "metadata": {text: text}, text: text},
        {"input": [part, image], "model": text},
        {"input": [image]},
        {"input": [{"type": text, text: text}]},
        {"input": [text, part]},
        {"input": {text: text}},
        {"input": text, "model": [text]},
        {"input": [text, " "]},
        {"input": text * 200},
        {"input": [text] * 65},
        {text: text},
    ]


def _conversations(words: Words) -> list[list[Any]]:
    """Right and wrong, each as the list of messages that it is."""
    text = words.text
    said = {"role": "user", "content": text}
    return [
        [{"role": "system", "content": text}, said, {"role": "assistant", "content": text, "prefix": False}],
        [{"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": text}]}],
        [{"role": text, "content": text}],
        [said, {"role": "user", "content": {text: text}}],
        [said, text],
        [{"role": "tool", "content": text, "name": text, "tool_call_id": text}],
        [{"role": "user", "content": text * 200}],
        [said] * 65,
        [{"role": "user", "content": [{"type": "text", text: text}]}],
    ]


def _chat(words: Words) -> list[Any]:
    all_of_them = _conversations(words)
    several = [{"input": [one, all_of_them[0]], "model": words.text} for one in all_of_them]
    return [*({"input": one, "model": words.text} for one in all_of_them), *several, {"input": words.text}]


def _instruct(words: Words) -> list[Any]:
    all_of_them = [{"messages": one, words.text: words.text} for one in _conversations(words)]
    several = [{"input": [one, all_of_them[0]], "model": words.text} for one in all_of_them]
    wrong = {"input": {words.text: words.text}}
    return [*({"input": one, "model": words.text} for one in all_of_them), *several, wrong]


def _azure(words: Words) -> list[Any]:
    text = words.text
    return [
        {"text": text, "outputType": "EightSeverityLevels"},
        {"text": text, "categories": ["Hate", "Sexual"]},
        {"text": text, "categories": [text]},
        {"text": text, "categories": ["Hate", text, text]},
        {"text": text, "blocklistNames": [text], "haltOnBlocklistHit": True},
        {"text": text, "outputType": text},
        {"text": text, "haltOnBlocklistHit": text},
        {"text": [text], "categories": text},
        {"text": text * 200},
        {"text": text * 1000},
        {text: text},
    ]


def _hugging_face(words: Words) -> list[Any]:
    text = words.text
    return [
        {"inputs": text, "parameters": {"top_k": 5, "function_to_apply": "sigmoid", text: text}},
        {"inputs": [text, text], "parameters": {text: text}, "options": {text: text}},
        {"inputs": text, "parameters": {"function_to_apply": text}},
        {"inputs": text, "parameters": {"function_to_apply": "softmax", "top_k": text}},
        {"inputs": text, "parameters": text},
        {"inputs": [text, {text: text}]},
        {"inputs": {text: text}},
        {"inputs": [text, ""]},
        {"inputs": text * 200},
        {"inputs": [text] * 65},
        {text: text},
    ]


def _tei(words: Words) -> list[Any]:
    text = words.text
    return [
        {"inputs": text, "truncate": True, "truncation_direction": "Left", text: text},
        {"inputs": [[text], [text]]},
        {"inputs": [text, text]},
        {"inputs": [[text, text]]},
        {"inputs": [[text], text, {text: text}]},
        {"inputs": [[text], [""]]},
        {"inputs": text, "raw_scores": True},
        {"inputs": text, "raw_scores": text},
        {"inputs": text, "truncation_direction": text},
        {"inputs": {text: text}},
        {"inputs": text * 200},
        {"inputs": [[text]] * 65},
    ]


def _infer(words: Words) -> list[Any]:
    text = words.text
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    return [
        {"id": words.chosen, "inputs": [tensor], "parameters": {text: text}, text: text},
        {"inputs": [{**tensor, "shape": [1, 1], "data": [[text]]}], "outputs": [{"name": "scores", text: text}]},
        {"id": words.chosen, "inputs": [{**tensor, "name": text}]},
        {"inputs": [{**tensor, "datatype": text}]},
        {"inputs": [{**tensor, "shape": [text]}]},
        {"inputs": [{**tensor, "shape": [2]}]},
        {"inputs": [{**tensor, "data": [[text, text]]}]},
        {"inputs": [{**tensor, "data": {text: text}}]},
        {"inputs": [{**tensor, "data": [text * 200]}]},
        {"inputs": [{**tensor, "shape": [65], "data": [text] * 65}]},
        {"inputs": [{**tensor, "parameters": {"binary_data_size": text, text: text}}]},
        {"inputs": [tensor], "outputs": [{"name": text, "parameters": {text: text}}]},
        {"inputs": [tensor], "outputs": [{"name": "scores", "parameters": {"classification": text}}]},
        {"inputs": [tensor, text]},
        {"id": {text: text}, "inputs": [tensor]},
        *_binary(words),
    ]


def _binary(words: Words) -> list[Asked]:
    """With the text as bytes behind the JSON, as Triton's clients send it."""
    text = words.text.encode("utf-8", "replace")
    element = struct.pack("<I", len(text)) + text
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(element)}}
    parameters = {"binary_data_output": True, words.text: words.text}
    head = json.dumps({"id": words.chosen, "inputs": [tensor], "parameters": parameters}).encode()
    other = json.dumps({"inputs": [{**tensor, "name": words.text}]}).encode()
    return [
        Asked(head + element, {LENGTH: str(len(head))}),
        Asked(head + element * 2, {LENGTH: str(len(head))}),
        Asked(head + struct.pack("<I", 2**31) + text, {LENGTH: str(len(head))}),
        Asked(head + b"\x01\x00\x00\x00\xff" + text, {LENGTH: str(len(head))}),
        Asked(other + element, {LENGTH: str(len(other))}),
        Asked(head + element, {LENGTH: str(len(head) - 5)}),
        Asked(head + element, {LENGTH: "9" * 12}),
        Asked(head + element),
    ]


def _coral(words: Words) -> list[Asked]:
    """Events as Coral sends them, each signed; and the first of them as if somebody else had sent it."""
    text = words.text
    event = {
        "action": "NEW",
        "comment": {"body": f"<p {text}>{text}</p>", "parentID": text},
        "author": {"id": text, "role": text},
        "story": {"id": text, "url": f"https://{text}/{text}"},
        "tenantDomain": text,
    }
    events = [
        event,
        {**event, "action": text, text: text},
        {**event, "comment": {"body": [text]}},
        {**event, "comment": text},
        {**event, "comment": {"body": text * 200}},
        {text: text},
    ]
    bodies = [json.dumps(one).encode() for one in events]
    wrong = [{}, {"X-Coral-Signature": "sha256=" + "0" * 64}, signed(b"")]
    return [*(Asked(body, signed(body)) for body in bodies), *(Asked(bodies[0], headers) for headers in wrong)]


def _interface(name: str, choice: str) -> str:
    """A labelling interface that offers one of our labels and another choice."""
    named, other = quoteattr(name), quoteattr(choice)
    offered = f'<Choice value="grooming"/><Choice value="testimony"/><Choice value={other} alias={other}/>'
    return (
        f'<View><Text name={named} value="$text"/><Header value={other}/>'
        f'<Choices name={named} toName={named} choice="multiple">{offered}</Choices></View>'
    )


def _interfaces(words: Words) -> list[Any]:
    text, right = words.text, _interface(words.chosen, words.text)
    return [
        right,
        f'<View><Text name="a" value="${text}"/><Choices name="{text}" toName="a"><Choice value="{text}"/></Choices>'
        "</View>",
        right.replace("$text", f"${text}"),
        f"<View><{text}",
        f'<!DOCTYPE {text} [<!ENTITY e "{text}">]>{right}',
        f"<View>&{text};</View>",
        f"<{text}>" * 100,
        text,
        [text],
        {text: text},
    ]


def _setup(words: Words) -> list[Any]:
    text = words.text
    beside = {"project": f"3.{text}", "hostname": f"https://{text}", "access_token": text, "extra_params": {text: text}}
    return [*({"schema": one, **beside} for one in _interfaces(words)), {"schema": None, **beside}]


def _validate(words: Words) -> list[Any]:
    return [*({"config": one} for one in _interfaces(words)), {words.text: words.text}]


def _label_studio(words: Words) -> list[Any]:
    text, right = words.text, _interface(words.chosen, words.text)
    task = {"id": 1, "data": {"text": text, text: text}, "meta": {text: text}, "annotations": [{text: text}]}
    beside = {"project": text, "params": {"login": text, "password": text, "context": {text: text}}}
    tasks: list[Any] = [
        [task, {"id": 2, "data": {"text": {text: text}}}, {"id": 3, "data": {"text": text * 200}}],
        [{"id": text, "data": {text: text}}],
        [{"id": 1, "data": text}],
        [task, text],
        {text: text},
        text,
    ]
    return [
        {"tasks": [task], "label_config": right, **beside},
        *({"tasks": one, "label_config": right, **beside} for one in tasks),
        *({"tasks": [task], "label_config": one, **beside} for one in _interfaces(words)[1:]),
    ]


def _webhook(words: Words) -> list[Any]:
    text = words.text
    return [
        {"action": "ANNOTATION_CREATED", "annotation": {"result": [{"value": {"choices": [text]}}]}, text: text},
        {"action": text, "project": {"title": text, "label_config": f"<{text}"}},
    ]


_CHAT, _CLASSIFIED = "/v1/chat/moderations", "/v1/chat/classifications"
_INFER = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
_MAKERS: Mapping[str, Any] = {
    "/predict": _native,
    "/v1alpha1/comments:analyze": _analyze,
    "/v1alpha1/comments:suggestscore": _suggest,
    **dict.fromkeys(("/v1/moderations", "/mistral/v1/moderations"), _texts),
    **dict.fromkeys(("/v1/classifications", "/mistral/v1/classifications"), _texts),
    **dict.fromkeys((_CHAT, "/mistral" + _CHAT), _chat),
    **dict.fromkeys((_CLASSIFIED, "/mistral" + _CLASSIFIED), _instruct),
    "/contentsafety/text:analyze": _azure,
    "/hf/text-classification": _hugging_face,
    "/tei/predict": _tei,
    **dict.fromkeys(_INFER, _infer),
    "/coral/moderate": _coral,
    "/labelstudio/setup": _setup,
    "/labelstudio/validate": _validate,
    "/labelstudio/predict": _label_studio,
    "/labelstudio/webhook": _webhook,
}
