"""From texts to logits: tokenise, cut into windows, run packed batches, join the windows again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serving.artifact import Artifact, Windows

TOKEN_BUDGET = 512
"""Tokens of one run at most (a longer window runs alone): small batches stay in the cache, and beat large ones."""

Floats = NDArray[np.float32]


class Engine:
    """Runs the packed ONNX graph of an artifact on the CPU, or on a GPU where onnxruntime has one.

    Not for several threads at once on one core: each call uses the threads it was given.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        import onnxruntime

        self._windows = artifact.windows
        self._voices = len(artifact.voice_ids)
        self._outputs = len(artifact.label_ids)
        self._tokenizer = Tokenizer.from_file(str(artifact.tokenizer_file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Waiting threads that spin steal the cores from the other workers.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = _session(onnxruntime, artifact.graph, options)

    def logits(self, texts: Sequence[str]) -> Floats:
        """Raw scores of texts, in order, float32 of shape (texts, labels).

        A text longer than the window is read in overlapping windows: categories and context take the highest window,
        voices the mean.
        """
        if not texts:
            return np.empty((0, self._outputs), dtype=np.float32)
        pieces = [self._cut(text) for text in texts]
        flat = [window for windows in pieces for window in windows]
        owner = np.repeat(np.arange(len(texts)), [len(windows) for windows in pieces])
        rows = np.empty((len(flat), self._outputs), dtype=np.float32)
        for batch in _batches([len(window) for window in flat]):
            inputs = pack([flat[index] for index in batch], self._windows.pad_id)
            rows[batch] = self._session.run(["logits"], inputs)[0]
        return self._join(rows, owner, len(texts))

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that reading these texts takes, control tokens included."""
        return sum(len(window) for text in texts for window in self._cut(text))

    def _cut(self, text: str) -> list[list[int]]:
        ids = self._tokenizer.encode(clean(text), add_special_tokens=False).ids
        return cut(ids, self._windows)

    def _join(self, rows: Floats, owner: NDArray[np.int_], texts: int) -> Floats:
        if len(rows) == texts:
            return rows
        joined = np.full((texts, rows.shape[1]), -np.inf, dtype=np.float32)
        np.maximum.at(joined, owner, rows)
        voices = np.zeros((texts, self._voices), dtype=np.float32)
        np.add.at(voices, owner, rows[:, -self._voices :])
        joined[:, -self._voices :] = voices / np.bincount(owner, minlength=texts)[:, None]
        return joined


def clean(text: str) -> str:
    """Halves of surrogate pairs, which JSON can carry and no tokenizer takes, become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def cut(ids: Sequence[int], windows: Windows) -> list[list[int]]:
    """Overlapping windows `<s> … </s>` of at most `max_tokens`; control tokens that a user typed become unknown."""
    body = [windows.unk_id if token in windows.special_ids else token for token in ids]
    size = windows.max_tokens - 2
    starts = range(0, max(1, len(body) - windows.overlap), size - windows.overlap)
    return [[windows.bos_id, *body[start : start + size], windows.eos_id] for start in starts]


def pack(windows: Sequence[Sequence[int]], pad_id: int) -> dict[str, NDArray[Any]]:
    """Inputs of the packed graph: all tokens in one row, and where each stands when padded for attention.

    Positions count from `pad_id` + 1, as RoBERTa's do.
    """
    lengths = np.array([len(window) for window in windows])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    place = np.arange(lengths.max())
    inside = place[None, :] < lengths[:, None]
    return {
        "input_ids": np.fromiter((token for window in windows for token in window), np.int64, int(lengths.sum())),
        "position_ids": np.broadcast_to(place + pad_id + 1, inside.shape)[inside].astype(np.int64),
        "pad_index": np.where(inside, starts[:, None] + place, 0).astype(np.int64),
        "lengths": lengths.astype(np.int32),
        "unpad_index": np.flatnonzero(inside).astype(np.int64),
        "first_index": starts.astype(np.int64),
    }


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in runs of similar length, within the token budget."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and tokens + lengths[index] > TOKEN_BUDGET:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch


def _session(onnxruntime: Any, graph: Path, options: Any) -> Any:
    wanted = [
        name
        for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
        if name in onnxruntime.get_available_providers()
    ]
    return onnxruntime.InferenceSession(graph, options, providers=wanted)
