"""Run an exported graph as serving does: windows of similar length side by side, or one a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.model import join_windows

TOKEN_BUDGET = 512
"""Tokens of one packed run; serving packs as many."""

Pieces = Sequence[Sequence[list[int]]]
"""Windows of token ids, text by text."""


def open_graph(path: Path) -> Any:
    """An onnxruntime session on one thread.

    Basic optimisation only: the extended one would put slower fused norms into the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_scores(path: Path, pieces: Pieces, padding_id: int, voices: int) -> np.ndarray:
    """Logits of the packed graph, one text a run, of shape (texts, labels): what the exported file itself answers."""
    session = open_graph(path)
    rows = [session.run(["logits"], packed_inputs(windows, padding_id))[0] for windows in pieces]
    return join_windows(np.concatenate(rows), _owner(pieces), len(pieces), voices)


def packed_scores(
    sessions: Sequence[Any], pieces: Pieces, padding_id: int, voices: int, *, budget: int = TOKEN_BUDGET
) -> tuple[list[np.ndarray], np.ndarray]:
    """Logits of several graphs, run in turn on the same batches so that their times compare on a busy machine.

    Args:
        budget: tokens of a run; 0 runs every window alone.

    Returns:
        logits of shape (texts, labels), one array a session; and CPU seconds of shape (runs, sessions).
    """
    flat = [window for windows in pieces for window in windows]
    rows: list[list[np.ndarray]] = [[] for _ in sessions]
    order: list[int] = []
    seconds: list[list[float]] = []
    for batch in batches([len(window) for window in flat], budget):
        order += batch
        inputs = packed_inputs([flat[index] for index in batch], padding_id)
        seconds.append([])
        for session, answers in zip(sessions, rows, strict=True):
            start = time.thread_time()
            answers.append(session.run(["logits"], inputs)[0])
            seconds[-1].append(time.thread_time() - start)
    back = np.argsort(order)
    joined = [join_windows(np.concatenate(answers)[back], _owner(pieces), len(pieces), voices) for answers in rows]
    return joined, np.array(seconds)


def packed_inputs(windows: Sequence[list[int]], padding_id: int) -> dict[str, np.ndarray]:
    """Inputs of the packed graph (see training.onnx_graph) for one run; positions count from `padding_id` + 1."""
    lengths = np.array([len(window) for window in windows])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    place = np.arange(lengths.max())
    inside = place[None, :] < lengths[:, None]
    return {
        "input_ids": np.concatenate([np.asarray(window, dtype=np.int64) for window in windows]),
        "position_ids": np.broadcast_to(place + padding_id + 1, inside.shape)[inside].astype(np.int64),
        "pad_index": np.where(inside, starts[:, None] + place, 0).astype(np.int64),
        "lengths": lengths.astype(np.int32),
        "unpad_index": np.flatnonzero(inside).astype(np.int64),
        "first_index": starts.astype(np.int64),
    }


def _owner(pieces: Pieces) -> np.ndarray:
    return np.repeat(np.arange(len(pieces)), [len(windows) for windows in pieces])


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in runs of similar length, of at most `budget` tokens together; a longer window is a run of its own."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and tokens + lengths[index] > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch
