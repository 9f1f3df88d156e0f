"""The ONNX graph that serving runs, built node by node: no padding is computed outside attention.

The tokens of all windows lie in one long row, so every matrix product runs over real tokens only; padding exists just
around attention. Today's exporters no longer give graphs that ONNX Runtime's optimiser fuses, hence the fused nodes of
its `com.microsoft` domain here by name.

Inputs (T tokens, B windows, S tokens in the longest; int64 unless noted):
    input_ids [T], position_ids [T], pad_index [B, S] (row of the token at that place, 0 where padding),
    lengths [B] int32, unpad_index [T] (b·S + s of each token), first_index [B] (row of each window's `<s>`).
Output: logits [B, labels], float32.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OPSET, _IR_VERSION, _MICROSOFT = 17, 10, "com.microsoft"
_INPUTS = {
    "input_ids": (TensorProto.INT64, ["T"]),
    "position_ids": (TensorProto.INT64, ["T"]),
    "pad_index": (TensorProto.INT64, ["B", "S"]),
    "lengths": (TensorProto.INT32, ["B"]),
    "unpad_index": (TensorProto.INT64, ["T"]),
    "first_index": (TensorProto.INT64, ["B"]),
}


class _Graph:
    """Collects nodes and weights; every method returns the name of the tensor it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def linear(self, source: str, name: str, weight: np.ndarray) -> str:
        return self.add("MatMul", [source, self.weight(f"{name}.weight", weight.T)], name)

    def skip_norm(self, source: str, skip: str, name: str, norm: tuple[np.ndarray, np.ndarray], **more: Any) -> str:
        inputs = [source, skip, self.weight(f"{name}.gamma", norm[0]), self.weight(f"{name}.beta", norm[1])]
        if more.get("bias") is not None:
            inputs.append(self.weight(f"{name}.bias", more["bias"]))
        return self.add("SkipLayerNormalization", inputs, name, _MICROSOFT, epsilon=more["epsilon"])


def write_onnx(model: PreTrainedModel, path: Path) -> None:
    """Write a CamemBERT (RoBERTa) sequence classifier as a packed graph, fp32.

    Raises:
        UserError: an architecture that this graph does not describe.
    """
    config = model.config
    if config.model_type not in ("camembert", "roberta") or config.hidden_act != "gelu":
        raise UserError(f"cannot export {config.model_type} with {config.hidden_act}; only CamemBERT with gelu")
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    graph = _Graph()
    hidden = _embed(graph, state, config)
    for layer in range(config.num_hidden_layers):
        hidden = _layer(graph, state, config, layer, hidden)
    _classify(graph, state, hidden)
    onnx.save(_assemble(graph, config.num_labels), path)


def write_int8(source: Path, target: Path) -> None:
    """Write the graph with its matrix products in 8-bit integers (dynamic, per channel)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It would log advice on a preparation that this graph, which has nothing to fold, does not need.
    logging.disable(logging.WARNING)
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
    logging.disable(logging.NOTSET)


def _embed(graph: _Graph, state: dict[str, np.ndarray], config: Any) -> str:
    prefix = f"{_encoder(state)}embeddings."
    # There is one segment only, so its vector is added to every position once and for all.
    positions = state[f"{prefix}position_embeddings.weight"] + state[f"{prefix}token_type_embeddings.weight"][0]
    words = graph.weight("words", state[f"{prefix}word_embeddings.weight"])
    word = graph.add("Gather", [words, "input_ids"], "word")
    position = graph.add("Gather", [graph.weight("positions", positions), "position_ids"], "position")
    norm = (state[f"{prefix}LayerNorm.weight"], state[f"{prefix}LayerNorm.bias"])
    return graph.skip_norm(word, position, "embedded", norm, epsilon=config.layer_norm_eps)


def _layer(graph: _Graph, state: dict[str, np.ndarray], config: Any, index: int, hidden: str) -> str:
    prefix, name = f"{_encoder(state)}encoder.layer.{index}.", f"layer{index}"

    def get(part: str) -> np.ndarray:
        return state[prefix + part]

    attended = _attention(graph, get, config, name, hidden)
    projected = graph.linear(attended, f"{name}.projected", get("attention.output.dense.weight"))
    norm = (get("attention.output.LayerNorm.weight"), get("attention.output.LayerNorm.bias"))
    bias = get("attention.output.dense.bias")
    middle = graph.skip_norm(projected, hidden, f"{name}.middle", norm, bias=bias, epsilon=config.layer_norm_eps)
    wide = graph.linear(middle, f"{name}.wide", get("intermediate.dense.weight"))
    wide_bias = graph.weight(f"{name}.wide.bias", get("intermediate.dense.bias"))
    active = graph.add("BiasGelu", [wide, wide_bias], f"{name}.active", _MICROSOFT)
    narrow = graph.linear(active, f"{name}.narrow", get("output.dense.weight"))
    norm = (get("output.LayerNorm.weight"), get("output.LayerNorm.bias"))
    bias = get("output.dense.bias")
    return graph.skip_norm(narrow, middle, f"{name}.out", norm, bias=bias, epsilon=config.layer_norm_eps)


def _attention(graph: _Graph, get: Any, config: Any, name: str, hidden: str) -> str:
    parts = ("query", "key", "value")
    weight = np.concatenate([get(f"attention.self.{part}.weight") for part in parts])
    bias = np.concatenate([get(f"attention.self.{part}.bias") for part in parts])
    packed = graph.linear(hidden, f"{name}.qkv", weight)
    padded = graph.add("Gather", [packed, "pad_index"], f"{name}.padded")
    heads = [f"{name}.{part}" for part in parts]
    graph.nodes.append(helper.make_node("Split", [padded], heads, name=f"{name}.split", axis=2))
    mixed = graph.add(
        "MultiHeadAttention",
        [*heads, graph.weight(f"{name}.qkv.bias", bias), "lengths"],
        f"{name}.mixed",
        _MICROSOFT,
        num_heads=config.num_attention_heads,
    )
    if "rows" not in {weight.name for weight in graph.weights}:
        graph.weight("rows", np.array([-1, config.hidden_size], dtype=np.int64))
    rows = graph.add("Reshape", [mixed, "rows"], f"{name}.rows")
    return graph.add("Gather", [rows, "unpad_index"], f"{name}.attended")


def _classify(graph: _Graph, state: dict[str, np.ndarray], hidden: str) -> None:
    first = graph.add("Gather", [hidden, "first_index"], "first")
    dense = graph.linear(first, "dense", state["classifier.dense.weight"])
    dense = graph.add("Add", [dense, graph.weight("dense.bias", state["classifier.dense.bias"])], "dense.sum")
    dense = graph.add("Tanh", [dense], "dense.tanh")
    scores = graph.linear(dense, "scores", state["classifier.out_proj.weight"])
    graph.add("Add", [scores, graph.weight("scores.bias", state["classifier.out_proj.bias"])], "logits")


def _assemble(graph: _Graph, labels: int) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in _INPUTS.items()]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", labels])]
    body = helper.make_graph(graph.nodes, "vigie", inputs, outputs, graph.weights)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="vigie")


def _encoder(state: dict[str, np.ndarray]) -> str:
    return "roberta." if "roberta.embeddings.word_embeddings.weight" in state else "camembert."
