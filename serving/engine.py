"""From texts to logits: tokenise, cut into windows, run packed batches, join the windows again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.artifact import Artifact, Windows
from serving.tokens import TokenReader
from serving.tokens import clean as clean

TOKEN_BUDGET = 512
"""Tokens of one run at most (a longer window runs alone): small batches stay in the cache, and beat large ones."""

Floats = NDArray[np.float32]


class Engine:
    """Runs the packed ONNX graph of an artifact on the CPU, or on a GPU where onnxruntime has one.

    Not for several threads at once on one core: each call uses the threads it was given.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        self._windows = artifact.windows
        self._voices = len(artifact.voice_ids)
        self._outputs = len(artifact.label_ids)
        self._budget = 0 if artifact.runs_alone else TOKEN_BUDGET
        self._tokens = TokenReader(artifact.tokenizer_file)
        self._session = _session(artifact.graph, artifact.precision, threads)

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
        for batch in _batches([len(window) for window in flat], self._budget):
            inputs = pack([flat[index] for index in batch], self._windows.pad_id)
            rows[batch] = self._session.run(["logits"], inputs)[0]
        return self._join(rows, owner, len(texts))

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that reading these texts takes, control tokens included."""
        return sum(len(window) for text in texts for window in self._cut(text))

    def _cut(self, text: str) -> list[list[int]]:
        return cut(self._tokens.ids(text), self._windows)

    def _join(self, rows: Floats, owner: NDArray[np.int_], texts: int) -> Floats:
        if len(rows) == texts:
            return rows
        joined = np.full((texts, rows.shape[1]), -np.inf, dtype=np.float32)
        np.maximum.at(joined, owner, rows)
        voices = np.zeros((texts, self._voices), dtype=np.float32)
        np.add.at(voices, owner, rows[:, -self._voices :])
        joined[:, -self._voices :] = voices / np.bincount(owner, minlength=texts)[:, None]
        return joined


def cut(ids: Sequence[int], windows: Windows) -> list[list[int]]:
    """Overlapping windows `<s> … </s>` of at most `max_tokens`; control tokens that a user typed become unknown."""
    body = ids
    if not windows.special_ids.isdisjoint(ids):
        body = [windows.unk_id if token in windows.special_ids else token for token in ids]
    size = windows.max_tokens - 2
    starts = range(0, max(1, len(body) - windows.overlap), size - windows.overlap)
    return [[windows.bos_id, *body[start : start + size], windows.eos_id] for start in starts]


def pack(windows: Sequence[Sequence[int]], pad_id: int) -> dict[str, NDArray[Any]]:
    """Inputs of the packed graph: all tokens in one row, and where each stands when padded for attention.

    Positions count from `pad_id` + 1, as RoBERTa's do.
    """
    lengths = np.fromiter(map(len, windows), np.int64, len(windows))
    starts = np.cumsum(lengths) - lengths
    place = np.arange(lengths.max())
    inside = place < lengths[:, None]
    unpad = np.flatnonzero(inside)
    return {
        "input_ids": np.array(list(chain.from_iterable(windows)), dtype=np.int64),
        "position_ids": unpad % len(place) + (pad_id + 1),
        "pad_index": np.where(inside, starts[:, None] + place, 0),
        "lengths": lengths.astype(np.int32),
        "unpad_index": unpad,
        "first_index": starts,
    }


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in runs of similar length, within the budget of tokens; 0 gives every window a run of its own."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and tokens + lengths[index] > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch


def _session(graph: Path, precision: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its memory grows by doubling and is never given back; the system's own is as fast.
    options.enable_cpu_mem_arena = False
    # The graph is written as it should run: more than the basic optimisation would put slower fused norms into it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # Waiting threads that spin steal the cores from the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Products of 8-bit integers run on the CPU only.
    wanted = ["CUDAExecutionProvider"] if precision == "fp32" else []
    found = [name for name in wanted if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(graph, options, providers=[*found, "CPUExecutionProvider"])
