"""Tensors of the Open Inference Protocol: texts in, scores out, in JSON or as bytes behind it.

As bytes, an element of BYTES is its length in four bytes, little-endian, and then itself; FP32 is four bytes an
element and BOOL one. JSON with bytes behind it is as long as the header Inference-Header-Content-Length says.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import FailFast, Field

from serving.gateway import Refusal
from serving.protocols.messages import Message

INPUT = "text"
_SHAPES = "[n] or [n, 1]"


class InputParameters(Message):
    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class InputTensor(Message):
    """The texts: `data` holds them, or else the bytes behind the JSON do."""

    name: str
    shape: Annotated[list[int], FailFast(), Field(min_length=1, max_length=2)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(Message):
    binary_data: bool | None = None
    classification: Any = None
    shared_memory_region: Any = None


class RequestedOutput(Message):
    name: str
    parameters: OutputParameters = OutputParameters()


@dataclass(frozen=True)
class Output:
    """Values row by row, of the type that `datatype` says: floats, truths or strings."""

    name: str
    datatype: Literal["FP32", "BOOL", "BYTES"]
    shape: Sequence[int]
    values: Sequence[float] | Sequence[bool] | Sequence[str]

    def header(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": self.shape}

    def as_bytes(self) -> bytes:
        if self.datatype == "BYTES":
            encoded = [str(value).encode() for value in self.values]
            return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
        return np.array(self.values, dtype="<f4" if self.datatype == "FP32" else np.bool_).tobytes()


def split(body: bytes, header: str | None) -> tuple[bytes, bytes | None]:
    """The JSON of a body and the bytes behind it; None where all of it is JSON.

    Args:
        header: Inference-Header-Content-Length as it was sent.

    Raises:
        Refusal: it is no number, or the body is shorter.
    """
    if header is None:
        return body, None
    if not (header.isascii() and header.isdigit() and len(header) < 20 and int(header) <= len(body)):
        raise Refusal("invalid", f"Inference-Header-Content-Length: a number up to the body's {len(body)} is needed")
    return body[: int(header)], body[int(header) :]


def join(answer: dict[str, Any], outputs: Sequence[tuple[Output, bool]]) -> tuple[bytes, int | None]:
    """A body, and the length of its JSON where bytes stand behind it.

    Args:
        answer: what stands before the outputs.
        outputs: each with whether it goes as bytes.
    """
    described, behind = [], []
    for output, as_bytes in outputs:
        if as_bytes:
            behind.append(output.as_bytes())
            described.append({**output.header(), "parameters": {"binary_data_size": len(behind[-1])}})
        else:
            described.append({**output.header(), "data": list(output.values)})
    # ASCII: an id may hold half of a surrogate pair, which goes back as it came.
    head = json.dumps({**answer, "outputs": described}).encode("ascii")
    return head + b"".join(behind), len(head) if behind else None


def texts_of(tensor: InputTensor, behind: bytes | None, *, most: int) -> list[str]:
    """The texts of a tensor.

    Args:
        behind: what stood behind the JSON.
        most: texts that are allowed.

    Raises:
        Refusal: another name, type or shape, or data that do not fit them.
    """
    count = _count(tensor, most)
    if tensor.parameters.binary_data_size is None:
        if behind:
            raise Refusal("invalid", "inputs[0].parameters.binary_data_size: is needed for bytes behind the JSON")
        given = tensor.data if tensor.data is not None else []
        return [_string(value, index) for index, value in enumerate(_filled(given, count))]
    if behind is None or tensor.parameters.binary_data_size != len(behind):
        message = f"is {tensor.parameters.binary_data_size}, and {len(behind or b'')} bytes stand behind the JSON"
        raise Refusal("invalid", f"inputs[0].parameters.binary_data_size: {message}", "inputs[0]")
    return [_decoded(value, index) for index, value in enumerate(_filled(list(_elements(behind, count)), count))]


def _count(tensor: InputTensor, most: int) -> int:
    if tensor.name != INPUT:
        raise Refusal("invalid", f"inputs[0].name: no such input; allowed: {INPUT}", "inputs[0].name")
    if tensor.datatype != "BYTES":
        raise Refusal("invalid", "inputs[0].datatype: only BYTES is allowed, a string for each text", "inputs[0]")
    count, *columns = tensor.shape
    if columns not in ([], [1]) or not 1 <= count <= most:
        raise Refusal("invalid", f"inputs[0].shape: {_SHAPES} is needed, with n from 1 to {most}", "inputs[0].shape")
    return count


def _filled(data: list[Any], count: int) -> list[Any]:
    if len(data) != count:
        message = f"inputs[0].data: holds {len(data)} elements, and the shape says {count}"
        raise Refusal("invalid", message, "inputs[0].data")
    return data


def _string(value: Any, index: int) -> str:
    """An element in JSON; of [n, 1], each may stand in a list of its own."""
    inner = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(inner, str):
        raise _at(index, "a string is needed")
    return _said(inner, index)


def _elements(behind: bytes, count: int) -> Iterator[bytes]:
    """The elements of BYTES; one more than `count` at most, for then there are too many anyway."""
    start = 0
    for index in range(count + 1):
        if start == len(behind):
            return
        end = start + 4
        if end <= len(behind):
            end += struct.unpack_from("<I", behind, start)[0]
        if end > len(behind):
            raise _at(index, "the bytes end before it does")
        yield behind[start + 4 : end]
        start = end


def _decoded(value: bytes, index: int) -> str:
    try:
        return _said(value.decode(), index)
    except UnicodeDecodeError:
        raise _at(index, "is not UTF-8") from None


def _said(text: str, index: int) -> str:
    if not text.strip():
        raise _at(index, "holds no text")
    return text


def _at(index: int, fault: str) -> Refusal:
    where = f"inputs[0].data[{index}]"
    return Refusal("invalid", f"{where}: {fault}", where)
