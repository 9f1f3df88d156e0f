"""Read and check an artifact directory. Nothing is unpickled, and nothing is served that does not check out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

FORMAT = 1
REQUIRED = ("artifact.json", "calibration.json", "thresholds.json", "golden.jsonl", "tokenizer.json", "model.onnx")
_GRAPHS = {"fp32": "model.onnx", "int8": "model.int8.onnx", "8bit": "model.8bit.onnx"}
PRECISIONS = tuple(_GRAPHS)


class ArtifactError(Exception):
    """The directory cannot be served; the message says which file or key, and what is expected."""


@dataclass(frozen=True)
class Windows:
    """How a text of any length becomes token windows; the figures are training's."""

    max_tokens: int
    overlap: int
    bos_id: int
    eos_id: int
    pad_id: int
    unk_id: int
    special_ids: frozenset[int]


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities, in the order of the labels.

    sigmoid(slope · logit + intercept); where `curves` names a column, its points (logits, probabilities) joined by
    lines instead.
    """

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    curves: dict[int, tuple[tuple[float, ...], tuple[float, ...]]]


@dataclass(frozen=True)
class Artifact:
    """A checked artifact directory.

    `thresholds` is operating point → label → threshold, None where there were too few positives to choose one.
    `runs_alone`: in this precision a window's scores depend on its company, so it gets none.
    """

    folder: Path
    name: str
    version: str
    labels: dict[str, Any]
    category_ids: tuple[str, ...]
    context_ids: tuple[str, ...]
    voice_ids: tuple[str, ...]
    windows: Windows
    calibration: Calibration
    thresholds: dict[str, dict[str, float | None]]
    default_operating_point: str
    precision: str
    runs_alone: bool
    golden: tuple[tuple[str, tuple[float, ...]], ...]
    golden_tolerance: float
    described: dict[str, Any]
    thresholds_file: dict[str, Any]

    @property
    def label_ids(self) -> tuple[str, ...]:
        """Every output, in the model's order: categories, context, voices."""
        return self.category_ids + self.context_ids + self.voice_ids

    @property
    def graph(self) -> Path:
        return self.folder / _GRAPHS[self.precision]

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / "tokenizer.json"


def read_artifact(folder: str | Path, *, precision: str | None = None) -> Artifact:
    """Read an artifact and check everything about it but the model's answers (see `Classifier.from_dir`).

    Args:
        precision: one of `PRECISIONS`; the artifact's own choice when left out.

    Raises:
        ArtifactError: a missing or altered file, another format, labels or thresholds that do not fit.
    """
    folder = Path(folder)
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(
            f"{folder}: no artifact to serve ({', '.join(missing)} missing); `python -m training.train` writes one"
        )
    described = _read_json(folder / "artifact.json")
    if described.get("format") != FORMAT:
        raise ArtifactError(
            f"{folder}/artifact.json: format {described.get('format')!r}; this version of Vigie reads format {FORMAT}"
        )
    try:
        return _assemble(folder, described, precision)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{folder}: lacks {error}, or holds it in another form; export the artifact again"
        ) from None


def _assemble(folder: Path, described: dict[str, Any], precision: str | None) -> Artifact:
    kinds = {
        kind: tuple(label["id"] for label in described["labels"][kind]) for kind in ("categories", "context", "voices")
    }
    order = kinds["categories"] + kinds["context"] + kinds["voices"]
    chosen = _precision(folder, described, precision)
    _check_hashes(folder, described["files"])
    _check_model_labels(folder, order)
    thresholds = _read_json(folder / "thresholds.json")
    return Artifact(
        folder=folder,
        name=described["name"],
        version=described["version"],
        labels=described["labels"],
        category_ids=kinds["categories"],
        context_ids=kinds["context"],
        voice_ids=kinds["voices"],
        windows=Windows(
            **described["windows"],
            **{**described["tokenizer"], "special_ids": frozenset(described["tokenizer"]["special_ids"])},
        ),
        calibration=read_calibration(folder / "calibration.json", order),
        thresholds=_thresholds(folder / "thresholds.json", thresholds, order),
        default_operating_point=thresholds["default"],
        precision=chosen,
        runs_alone=described["precision"].get("runs", {}).get(chosen) == "alone",
        golden=_golden(folder / "golden.jsonl", len(order)),
        golden_tolerance=_golden_tolerance(described, chosen),
        described=described,
        thresholds_file=thresholds,
    )


def _precision(folder: Path, described: dict[str, Any], asked: str | None) -> str:
    available = described["precision"]["available"]
    chosen = asked or described["precision"]["served"]
    if chosen not in available or chosen not in _GRAPHS:
        raise ArtifactError(f"precision {chosen!r} is not in this artifact; it has: {', '.join(available)}")
    if not (folder / _GRAPHS[chosen]).is_file():
        raise ArtifactError(f"{folder}/{_GRAPHS[chosen]}: missing, which precision {chosen} needs")
    return str(chosen)


def _golden_tolerance(described: dict[str, Any], chosen: str) -> float:
    """A coarser precision may differ from golden.jsonl's fp32 scores by what export measured, and little more."""
    if chosen == "fp32":
        return float(described["golden_tolerance"])
    return float(described["precision"]["golden_tolerance"][chosen])


def _check_hashes(folder: Path, files: dict[str, str]) -> None:
    """What is served must be what was written; a file that is not there, such as torch's weights, is not needed."""
    for name, expected in files.items():
        path = folder / name
        if path.name != name:
            raise ArtifactError(f"{folder}/artifact.json: files: {name!r} is not the name of a file in the directory")
        if path.suffix in (".onnx", ".json", ".jsonl") and path.is_file():
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual != expected:
                raise ArtifactError(
                    f"{path}: is not the file that was exported (sha256 {actual[:12]}…, expected {expected[:12]}…); "
                    "thresholds.json is the only one that may be edited"
                )


def _check_model_labels(folder: Path, order: tuple[str, ...]) -> None:
    path = folder / "config.json"
    if not path.is_file():
        return
    named = _read_json(path).get("id2label", {})
    if tuple(named.get(str(index)) for index in range(len(order))) != order or len(named) != len(order):
        raise ArtifactError(f"{path}: id2label has other labels than artifact.json, or in another order")


_PARAMETERS = {"identity": (), "temperature": ("a",), "platt": ("a", "b"), "isotonic": ("x", "y")}


def read_calibration(path: Path, order: tuple[str, ...]) -> Calibration:
    """Read calibration.json: label → {"method"} and the method's numbers, checked one by one.

    Raises:
        ArtifactError: an unknown method, a number that is none, or a curve that would turn the ranking round.
    """
    file = _read_json(path)["labels"]
    if set(file) != set(order):
        raise ArtifactError(f"{path}: must name exactly the labels of artifact.json")
    entries = {label: _checked(f"{path}: {label}", file[label]) for label in order}
    lines = [_line(f"{path}: {label}", entry) for label, entry in entries.items()]
    curves = {
        index: _curve(f"{path}: {label}", entry)
        for index, (label, entry) in enumerate(entries.items())
        if entry["method"] == "isotonic"
    }
    return Calibration(tuple(slope for slope, _ in lines), tuple(intercept for _, intercept in lines), curves)


def _checked(where: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ArtifactError(f"{where} must hold a method and what it needs")
    method = entry.get("method")
    if method not in _PARAMETERS:
        raise ArtifactError(f"{where}.method is {method!r}; allowed: {', '.join(_PARAMETERS)}")
    if missing := [key for key in _PARAMETERS[method] if key not in entry]:
        raise ArtifactError(f"{where}: lacks {', '.join(missing)}, which method {method} needs")
    return entry


def _line(where: str, entry: dict[str, Any]) -> tuple[float, float]:
    used = _PARAMETERS[entry["method"]]
    slope = _finite(f"{where}.a", entry["a"]) if "a" in used else 1.0
    if slope <= 0:
        raise ArtifactError(f"{where}.a is {slope}; a slope must be above 0, or the ranking turns round")
    return slope, _finite(f"{where}.b", entry["b"]) if "b" in used else 0.0


def _curve(where: str, entry: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    x, y = (_numbers(f"{where}.{axis}", entry[axis]) for axis in ("x", "y"))
    if len(x) != len(y) or len(x) < 2:
        raise ArtifactError(f"{where}: x has {len(x)} points and y {len(y)}; as many of both, and at least 2")
    if not all(a < b for a, b in pairwise(x)):
        raise ArtifactError(f"{where}.x must rise from point to point")
    if not all(a <= b for a, b in pairwise(y)):
        raise ArtifactError(f"{where}.y falls; a higher logit cannot be less probable")
    if not (y[0] > 0 and y[-1] < 1):
        raise ArtifactError(f"{where}.y goes from {y[0]} to {y[-1]}; probabilities above 0 and below 1 are allowed")
    return x, y


def _numbers(where: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ArtifactError(f"{where} must be a list of numbers")
    return tuple(_finite(f"{where}[{index}]", value) for index, value in enumerate(values))


def _finite(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ArtifactError(f"{where} is {value!r}; a finite number is needed")
    return float(value)


def _thresholds(path: Path, file: dict[str, Any], order: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    points = file["operating_points"]
    if file["default"] not in points:
        raise ArtifactError(f"{path}: default {file['default']!r} is not one of {', '.join(points)}")
    if set(file["labels"]) != set(order):
        wrong = sorted(set(file["labels"]) ^ set(order))
        raise ArtifactError(f"{path}: labels must be those of artifact.json; check {', '.join(wrong)}")
    table: dict[str, dict[str, float | None]] = {}
    for point in points:
        table[point] = {}
        for label in order:
            value = file["labels"][label].get(point, {}).get("threshold", "missing")
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1
            ):
                raise ArtifactError(
                    f"{path}: {label}.{point}.threshold is {value!r}; a number from 0 to 1, or null for never"
                )
            table[point][label] = value
    return table


def _golden(path: Path, outputs: int) -> tuple[tuple[str, tuple[float, ...]], ...]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if not isinstance(row["text"], str) or len(row["scores"]) != outputs:
            raise ArtifactError(f"{path}:{number}: needs a text and {outputs} scores")
        rows.append((row["text"], tuple(float(score) for score in row["scores"])))
    if not rows:
        raise ArtifactError(f"{path}: holds no sentence, so nothing proves that the model still means the same")
    return tuple(rows)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ArtifactError(f"{path}: broken JSON") from None
