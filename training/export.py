"""Write the artifact directory: built beside its place, checked, then renamed. Half an artifact cannot exist."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from training.calibration import apply_calibration
from training.config import RunConfig, dump_config
from training.data import Corpus, label_matrix
from training.errors import UserError
from training.labels import Labels
from training.model import BaseModel, Windows, encode, score
from training.onnx_graph import GRAPHS, write_onnx
from training.onnx_run import Pieces, onnx_scores
from training.precision import Held, run_gate, thin_out
from training.thresholds import DEFAULT, OPERATING_POINTS

FORMAT = 1
GOLDEN_TEXTS = Path(__file__).with_name("golden.txt")
GOLDEN_TOLERANCE = 1e-3
"""Largest difference of a probability that serving accepts when it replays golden.jsonl."""
ONNX_TOLERANCE = 1e-4
_LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "onnx", "onnxruntime", "numpy")
_EDITABLE = {"artifact.json", "thresholds.json"}


@dataclass(frozen=True)
class Trained:
    """All that a finished run knows: what export writes down."""

    base: BaseModel
    windows: Windows
    labels: Labels
    config: RunConfig
    corpus: Corpus
    calibration: dict[str, dict[str, Any]]
    thresholds: dict[str, dict[str, Any]]
    metrics: dict[str, Any]


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Called before any training, so that nobody learns after an hour that the place is taken.

    Raises:
        UserError: something stands at `target` and is not to be replaced, or is no artifact.
    """
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target}: stands already; choose another --output, or replace it with --overwrite")
    if not (target / "artifact.json").is_file() and (target.is_file() or any(target.iterdir())):
        raise UserError(f"{target}: is no artifact, so --overwrite will not replace it")


def write_artifact(trained: Trained, target: Path, *, overwrite: bool = False) -> None:
    """Write everything that ARCHITECTURE calls an artifact, all or nothing.

    Raises:
        UserError: the place is taken.
        RuntimeError: the ONNX graph does not give torch's scores; nothing is written then.
    """
    refuse_existing(target, overwrite=overwrite)
    with _built_beside(target, overwrite=overwrite) as folder:
        trained.base.model.save_pretrained(folder)
        trained.base.tokenizer.save_pretrained(folder)
        for precision, name in GRAPHS.items():
            write_onnx(trained.base.model, folder / name, precision=precision)
        scores, texts = _check_onnx(trained, folder)
        _write_json(folder / "calibration.json", {"format": FORMAT, "labels": trained.calibration})
        _write_json(folder / "thresholds.json", _thresholds(trained))
        _write_golden(folder / "golden.jsonl", texts, scores)
        (folder / "run.yaml").write_text(dump_config(trained.config), encoding="utf-8")
        described = {**_describe(trained, folder), "precision": _choose_precision(trained, folder, scores)}
        _write_json(
            folder / "metrics.json", {"model": described["name"], "version": described["version"], **trained.metrics}
        )
        _write_documents(folder, described, trained)
        described["files"] = _hashes(folder)
        _write_json(folder / "artifact.json", described)


def golden_texts() -> list[str]:
    """Invented sentences of every kind, and one text longer than any window."""
    sentences = GOLDEN_TEXTS.read_text(encoding="utf-8").splitlines()
    return [*sentences, " ".join(sentences * 6)]


@contextmanager
def _built_beside(target: Path, *, overwrite: bool) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    folder.mkdir()
    try:
        yield folder
        if target.exists() and overwrite:
            old = folder.with_suffix(".old")
            target.rename(old)
            folder.rename(target)
            shutil.rmtree(old)
        else:
            # A folder that appeared in the meantime makes this fail, which is what is wanted.
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_onnx(trained: Trained, folder: Path) -> tuple[np.ndarray, list[str]]:
    """Probabilities of the golden texts from the exported graph, after comparing its logits with torch's."""
    texts = golden_texts()
    pieces = encode(texts, trained.base.tokenizer, trained.windows)
    voices = len(trained.labels.voice_ids)
    exported = onnx_scores(folder / "model.onnx", pieces, trained.base.model.config.pad_token_id, voices)
    own = score(trained.base.model, trained.base.tokenizer, texts, trained.windows, trained.labels)
    difference = float(np.abs(exported - own).max())
    if not difference <= ONNX_TOLERANCE * max(1.0, float(np.abs(own).max())):
        raise RuntimeError(
            f"model.onnx differs from torch by {difference:.2e} in a logit, more than {ONNX_TOLERANCE}; "
            "nothing was written"
        )
    return apply_calibration(exported, trained.calibration, trained.labels.ids), texts


def _choose_precision(trained: Trained, folder: Path, golden: np.ndarray) -> dict[str, Any]:
    """The gate's decision on validation, and how far each precision may be from `golden` on the serving machine."""
    examples = trained.corpus.split("validation")
    examples = [examples[index] for index in thin_out(len(examples))]
    model, ids = trained.base.model, trained.labels.ids
    held = Held(
        pieces=encode([example.text for example in examples], trained.base.tokenizer, trained.windows),
        y_true=label_matrix(examples, trained.labels),
        calibration=trained.calibration,
        thresholds=[trained.thresholds[label][DEFAULT]["threshold"] for label in ids],
        labels=trained.labels,
        padding_id=model.config.pad_token_id,
    )
    pieces = encode(golden_texts(), trained.base.tokenizer, trained.windows)
    tolerances = {name: _tolerance(folder / graph, pieces, held, golden) for name, graph in GRAPHS.items()}
    return {**run_gate(folder, held), "golden_tolerance": tolerances}


def _tolerance(graph: Path, pieces: Pieces, held: Held, golden: np.ndarray) -> float:
    """Twice what a coarser precision differs here: one that differs by more over there computes something else."""
    logits = onnx_scores(graph, pieces, held.padding_id, len(held.labels.voice_ids))
    scores = apply_calibration(logits, held.calibration, held.labels.ids)
    return round(GOLDEN_TOLERANCE + 2 * float(np.abs(scores - golden).max()), 6)


def _thresholds(trained: Trained) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "default": DEFAULT,
        "operating_points": list(OPERATING_POINTS),
        "labels": trained.thresholds,
    }


def _write_golden(path: Path, texts: Sequence[str], scores: np.ndarray) -> None:
    lines = [
        json.dumps({"text": text, "scores": [round(float(value), 6) for value in row]}, ensure_ascii=False)
        for text, row in zip(texts, scores, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _describe(trained: Trained, folder: Path) -> dict[str, Any]:
    now = datetime.now(UTC)
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    windows = trained.windows
    return {
        "format": FORMAT,
        "name": trained.config.name,
        "version": f"{now:%Y.%m.%d}-{weights[:8]}",
        "created": now.isoformat(timespec="seconds"),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "labels": trained.labels.describe(),
        "tokenizer": {
            "bos_id": windows.bos_id,
            "eos_id": windows.eos_id,
            "pad_id": windows.pad_id,
            "unk_id": windows.unk_id,
            "special_ids": list(windows.special_ids),
        },
        "windows": {"max_tokens": windows.max_tokens, "overlap": windows.overlap},
        "golden_tolerance": GOLDEN_TOLERANCE,
        "base_model": {
            "name": trained.base.name,
            "revision": trained.base.revision,
            "pretrained": trained.base.pretrained,
        },
        "data": [
            {
                "card": source.name,
                "version": source.version,
                "license": source.license,
                "sha256": source.sha256(),
                "left_out": source.left_out,
            }
            for source in trained.corpus.sources
        ],
        "seed": trained.config.seed,
    }


def _write_documents(folder: Path, described: dict[str, Any], trained: Trained) -> None:
    from training.model_card import model_card
    from training.report import report

    (folder / "README.md").write_text(model_card(described, trained.metrics), encoding="utf-8")
    (folder / "report.html").write_text(report(described, trained.metrics, trained.thresholds), encoding="utf-8")


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name not in _EDITABLE
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
