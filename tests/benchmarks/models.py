"""The models that are timed: an artifact, the exact shape of CamemBERT base, and what rivals read of both.

Speed does not depend on weights, so the base shape has random ones. All that is built here lies in a cache folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.labels import ROOT

ENCODER = ROOT / "training" / "encoder"
BASE = {
    "vocab_size": 32_005,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
"""almanach/camembert-base."""


@dataclass(frozen=True)
class Shape:
    """A model as Vigie serves it (`artifact`) and as others read it (`rival`: Hugging Face's files and onnx/)."""

    name: str
    artifact: Path
    rival: Path

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.rival / "config.json").read_text(encoding="utf-8"))
        return found

    @property
    def tokenizer(self) -> Path:
        return self.artifact / "tokenizer.json"

    @property
    def precisions(self) -> list[str]:
        """What the artifact has, fp32 first."""
        return list(self._described["precision"]["available"])

    @property
    def served(self) -> str:
        return str(self._described["precision"]["served"])

    @property
    def max_tokens(self) -> int:
        return int(self._described["windows"]["max_tokens"])

    @property
    def _described(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.artifact / "artifact.json").read_text(encoding="utf-8"))
        return found

    def flops(self, tokens: int) -> float:
        """Operations of one text of so many tokens, every layer over every token, as the model is defined.

        A multiplication and an addition count as two; softmax, norms and the head are left out.
        """
        config = self.config
        hidden, wide = config["hidden_size"], config["intermediate_size"]
        products = 2 * tokens * (4 * hidden * hidden + 2 * hidden * wide)
        attention = 4 * tokens * tokens * hidden
        return float(config["num_hidden_layers"] * (products + attention))


def compact_shape(artifact: Path, cache: Path) -> Shape:
    """The shape of an artifact that was trained."""
    return Shape("compact", artifact, _rival("compact", artifact, cache))


def base_shape(cache: Path, *, config: dict[str, Any] | None = None, max_tokens: int = 512) -> Shape:
    """The base shape, exported by the project's own functions with the tokenizer of its encoder.

    Args:
        config: another shape than `BASE`, for a test.
    """
    wanted = config or BASE
    key = _digest(ROOT / "training" / "onnx_graph.py", ROOT / "training" / "export.py", ENCODER / "tokenizer.json")
    key = hashlib.sha256(f"{key}{wanted}{max_tokens}".encode()).hexdigest()[:12]
    artifact = _cached(cache, "base", key, lambda folder: _export_random(wanted, max_tokens, folder))
    return Shape("base", artifact, _rival("base", artifact, cache))


def _export_random(shape: dict[str, Any], max_tokens: int, target: Path) -> None:
    from transformers import CamembertConfig, CamembertForSequenceClassification

    from training.config import ModelConfig, RunConfig
    from training.data import Corpus
    from training.export import Trained, write_artifact
    from training.fit import seed_everything
    from training.labels import load_labels
    from training.model import BaseModel, load_base, windows_of
    from training.train import conclude

    labels = load_labels()
    settings = ModelConfig(base=str(ENCODER), max_tokens=256)
    compact = load_base(settings, labels)
    tokenizer = compact.tokenizer
    tokenizer.model_max_length = max_tokens
    head = {name: getattr(compact.model.config, name) for name in ("id2label", "label2id", "problem_type")}
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    seed_everything(1)
    model = CamembertForSequenceClassification(CamembertConfig(**shape, **head, **ids)).eval()
    nothing = np.zeros((0, len(labels.ids)), dtype=np.float32)
    corpus = Corpus((), ())
    found = conclude({"validation": nothing, "test": nothing}, corpus, labels)
    windows = windows_of(ModelConfig(base="random", max_tokens=max_tokens), tokenizer)
    base = BaseModel(model, tokenizer, "random", None, False)
    write_artifact(Trained(base, windows, labels, RunConfig(name="vigie-base-shape"), corpus, *found), target)


def _rival(name: str, artifact: Path, cache: Path) -> Path:
    """What other software reads: the checkpoint, and stock ONNX graphs of it as onnx/*.onnx."""
    key = _digest(artifact / "model.safetensors", artifact / "config.json", Path(__file__))
    return _cached(cache, f"rival-{name}", key, lambda folder: _write_rival(artifact, folder))


def _write_rival(artifact: Path, folder: Path) -> None:
    (folder / "onnx").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(artifact / name, folder)
    described = json.loads((artifact / "tokenizer_config.json").read_text(encoding="utf-8"))
    # Older releases of transformers do not know the class by its new name.
    described["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _export_stock(folder, folder / "stock.onnx")
        _fuse(folder, folder / "stock.onnx")


def _export_stock(folder: Path, target: Path) -> None:
    """`torch.onnx.export` with free batch and length, by the exporter that needs no further package."""
    import torch
    from transformers import AutoModelForSequenceClassification

    # Written-out attention: of the fused kind ONNX Runtime's optimiser recognises nothing.
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    names = ["input_ids", "attention_mask"]
    sample = torch.ones((2, 16), dtype=torch.long)
    free = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        model, (), target, kwargs=dict.fromkeys(names, sample), input_names=names, output_names=["logits"],
        dynamic_axes={**dict.fromkeys(names, free), "logits": {0: "batch"}}, opset_version=17, dynamo=False,
    )  # fmt: skip


def _fuse(folder: Path, stock: Path) -> None:
    """The best that ONNX Runtime's own tools make of it: every fusion, and dynamic int8 per channel."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    fused = optimize_model(str(stock), model_type="bert", num_heads=heads, hidden_size=hidden)
    fused.save_model_to_file(str(folder / "onnx" / "model.onnx"))
    quantize_dynamic(
        folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx", per_channel=True, reduce_range=True,
        weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )  # fmt: skip


def _cached(cache: Path, name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `name`-`key`, built once; others of that name are out of date and removed."""
    target = cache / f"{name}-{key}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"{name}-????????????*"):
            shutil.rmtree(old)
        partial = cache / f"building-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        build(partial)
        partial.rename(target)
    return target


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def mean_gflop(shape: Shape, lengths: Sequence[int]) -> float:
    """Billions of operations of a text, averaged over texts of these lengths."""
    return sum(shape.flops(tokens) for tokens in lengths) / len(lengths) / 1e9
