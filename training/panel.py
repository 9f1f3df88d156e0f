"""Classifiers that teach another one: artifacts of `training.train`, of any encoder, asked for their scores of texts.

Several runs that differ in their seed alone err in different places, and a large encoder knows more than a compact one.
Their averaged scores, with those of the linear teacher, are what the recombined texts are told by
(`optim.teachers`; Hinton, Vinyals and Dean 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import UserError
from training.labels import Labels

Scorer = Callable[[Sequence[str]], NDArray[np.float64]]


def artifact_teacher(folder: Path, labels: Labels) -> Scorer:
    """Texts → an artifact's raw scores (logits), of shape (texts, labels), by the graph that is served.

    Raises:
        UserError: the folder is no artifact, or its labels are not the project's.
    """
    from transformers import AutoTokenizer

    from training.evaluate import artifact_windows, read_json
    from training.model import encode
    from training.onnx_graph import GRAPHS
    from training.onnx_run import open_graph, packed_scores

    windows = artifact_windows(folder, labels)
    precision = read_json(folder / "artifact.json")["precision"]["served"]
    graph = folder / GRAPHS[precision]
    if not graph.is_file():
        raise UserError(f"{graph}: missing from the artifact")
    tokenizer, session = AutoTokenizer.from_pretrained(folder), open_graph(graph)

    def score(texts: Sequence[str]) -> NDArray[np.float64]:
        pieces = encode(texts, tokenizer, windows)
        (scores,), _ = packed_scores([session], pieces, windows.pad_id, len(labels.voice_ids))
        return np.asarray(scores, dtype=np.float64)

    return score
