"""Engines that score a list of texts in this process on one thread, tokenising included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.models import Shape

Floats = NDArray[np.floating[Any]]
REFERENCE = "transformers.pipeline, batch 1"


@dataclass(frozen=True)
class OfflineEngine:
    """`run` is timed; `logits` reads its answer as (texts, labels), where it gives logits.

    `peak`: the matrix product, of `peak.measure_peaks`, that its own are held against.
    """

    name: str
    run: Callable[[list[str]], Any]
    logits: Callable[[Any], Floats] | None = np.asarray
    peak: str = "fp32"


def all_engines(shape: Shape) -> list[OfflineEngine]:
    """The reference, its usual alternatives, and ours in each precision of the artifact."""
    return [*_pipelines(shape.rival), *_stock(shape.rival), *_ours(shape)]


def _pipelines(folder: Path) -> list[OfflineEngine]:
    import torch
    from transformers import pipeline
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe = pipeline("text-classification", model=str(folder), device="cpu", top_k=None, function_to_apply="none")
    order = [name for _, name in sorted(pipe.model.config.id2label.items())]

    def logits(answers: Any) -> Floats:
        named = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        return np.array([[entry[label] for label in order] for entry in named])

    return [
        OfflineEngine(REFERENCE, lambda texts: pipe(texts, truncation=True), logits),
        OfflineEngine(
            "transformers.pipeline, batch_size=32", lambda t: pipe(t, truncation=True, batch_size=32), logits
        ),
    ]


def _stock(folder: Path) -> list[OfflineEngine]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain, fused, quantised = (
        _padded(tokenizer, folder / graph) for graph in ("stock.onnx", "onnx/model.onnx", "onnx/model_quantized.onnx")
    )
    return [
        OfflineEngine("stock ONNX export, one text a run", lambda texts: plain(texts, 1)),
        OfflineEngine("stock ONNX export, sorted batches of 32", lambda texts: plain(texts, 32)),
        OfflineEngine("… fused by ONNX Runtime's optimiser, one text", lambda texts: fused(texts, 1)),
        OfflineEngine("… and dynamic int8, one text a run", lambda texts: quantised(texts, 1), peak="int8"),
    ]


def _padded(tokenizer: Any, graph: Path) -> Callable[[list[str], int], Floats]:
    """Runs an ordinary graph on batches of texts of similar length."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(texts: list[str], size: int) -> Floats:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index])) if size > 1 else range(len(texts))
        rows: Floats | None = None
        for start in range(0, len(texts), size):
            batch = [order[place] for place in range(start, min(start + size, len(texts)))]
            inputs = tokenizer([texts[index] for index in batch], padding=True, truncation=True, return_tensors="np")
            found = session.run(["logits"], {name: inputs[name] for name in ("input_ids", "attention_mask")})[0]
            rows = np.empty((len(texts), found.shape[1]), dtype=np.float32) if rows is None else rows
            rows[batch] = found
        assert rows is not None
        return rows

    return run


def _ours(shape: Shape) -> list[OfflineEngine]:
    from serving import Classifier
    from serving.artifact import read_artifact
    from serving.engine import Engine

    engines = []
    for precision in shape.precisions:
        engine = Engine(read_artifact(shape.artifact, precision=precision))
        peak = "fp32" if precision == "fp32" else "int8"
        engines.append(OfflineEngine(f"Vigie engine, {precision}", engine.logits, peak=peak))
    fastest = "int8" if "int8" in shape.precisions else shape.served
    classifier = Classifier.from_dir(shape.artifact, precision=fastest)
    return [*engines, OfflineEngine(f"Vigie Classifier.predict, {fastest}", classifier.predict, None, peak="int8")]
