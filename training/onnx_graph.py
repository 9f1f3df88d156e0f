"""The ONNX graph that serving runs, built node by node: no padding is computed outside attention.

The tokens of all windows lie in one long row, so every matrix product runs over real tokens only; padding exists just
around attention. Of the last layer only each window's `<s>` is read, so it alone is computed there, attending to all
others. Today's exporters no longer give graphs that ONNX Runtime's optimiser fuses, hence the fused nodes of its
`com.microsoft` domain here by name; run it with basic optimisation (see `skip_norm`).

Inputs (T tokens, B windows, S tokens in the longest; int64 unless noted):
    input_ids [T], position_ids [T], pad_index [B, S] (row of the token at that place, 0 where padding),
    lengths [B] int32, unpad_index [T] (b·S + s of each token), first_index [B] (row of each window's `<s>`).
Output: logits [B, labels], float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SEVEN_BITS = 63
GRAPHS = {"fp32": "model.onnx", "int8": "model.int8.onnx", "8bit": "model.8bit.onnx"}
"""Precision → file. In none of them does a window's answer depend on what else is in the run."""

_OPSET, _IR_VERSION, _MICROSOFT = 17, 10, "com.microsoft"
_BLOCK = 32
"""Neighbouring weights that share a scale in `8bit`: the fewest that ONNX Runtime multiplies as integers."""
_CENTRE, _AFTER_GELU = 128, 16
"""Zero point of 8-bit activations: in the middle, and low where none is below -0.17."""
_COARSE = 0.03
"""Rounding error of weights, over the size of the median one, from which they stay as they are. Evenly spread weights
have 0.01; a few outliers that stretch the scale (in a product near the identity, say) cost all the others."""
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

    def __init__(self, precision: str = "fp32") -> None:
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self._quantised: dict[tuple[str, int], tuple[str, str]] = {}

    def weight(self, name: str, value: np.ndarray | np.generic) -> str:
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def add(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def linear(self, source: str, name: str, weight: np.ndarray, *, zero: int = _CENTRE, exact: bool = False) -> str:
        """`source` [rows, inputs] times the transpose of `weight` [outputs, inputs], in the graph's precision.

        Args:
            exact: fp32 all the same: for products with few rows, which cost next to nothing.
        """
        if self.precision == "fp32" or exact or _is_coarse(weight):
            return self.add("MatMul", [source, self.weight(f"{name}.weight", weight.T)], name)
        if self.precision == "int8":
            return self._integers(source, name, weight, zero)
        return self._blocks(source, name, weight)

    def _integers(self, source: str, name: str, weight: np.ndarray, zero: int) -> str:
        """Product of 8-bit integers; every row of activations has a scale of its own, every column of weights too.

        ONNX Runtime's own dynamic quantisation takes one scale for all rows of a run: coarser, and a text's answer then
        depends on its company. Unsigned activations, because only those take its fast path. Weights of seven bits, so
        that the same file gives the same scores on every processor: those without VNNI add two products in 16 bits, and
        255 · 127 · 2 would not fit there.
        """
        scales = _scale(weight, axis=1, most=_SEVEN_BITS)
        if (source, zero) not in self._quantised:
            self._quantised[source, zero] = self._quantise(source, name, zero)
        rows, scale = self._quantised[source, zero]
        columns = self.weight(f"{name}.weight", np.round(weight / scales).astype(np.int8).T)
        more = [self.weight("one", np.float32(1)), self.weight(f"{name}.scales", scales[:, 0])]
        inputs = [rows, columns, *more, self.weight(f"zero{zero}", np.uint8(zero))]
        return self.add("Mul", [self.add("MatMulIntegerToFloat", inputs, f"{name}.product", _MICROSOFT), scale], name)

    def _quantise(self, source: str, name: str, zero: int) -> tuple[str, str]:
        """The rows as unsigned bytes around `zero`, and the scale of each, [rows, 1]."""
        highest = self.add("ReduceMax", [source], f"{name}.highest", axes=[1], keepdims=1)
        lowest = self.add("ReduceMin", [source], f"{name}.lowest", axes=[1], keepdims=1)
        above = self.add("Mul", [highest, self.weight(f"above{zero}", np.float32(1 / (255 - zero)))], f"{name}.above")
        below = self.add("Mul", [lowest, self.weight(f"below{zero}", np.float32(-1 / zero))], f"{name}.below")
        # The floor keeps a row of zeros from dividing by zero.
        floor = self.weight("floor", np.full((1, 1), 1e-8, dtype=np.float32))
        scale = self.add("Max", [above, below, floor], f"{name}.scale")
        count = self.add("Shape", [scale], f"{name}.count", end=1)
        flat = self.add("Reshape", [scale, count], f"{name}.flat")
        value = numpy_helper.from_array(np.array([zero], dtype=np.uint8))
        zeros = self.add("ConstantOfShape", [count], f"{name}.zeros", value=value)
        return self.add("QuantizeLinear", [source, flat, zeros], f"{name}.rows", axis=0), scale

    def _blocks(self, source: str, name: str, weight: np.ndarray) -> str:
        """Weights of 8 bits with a scale per block of inputs: finer than `int8`, and slower."""
        outputs, inputs = weight.shape
        blocks = -(-inputs // _BLOCK)
        padded = np.zeros((outputs, blocks * _BLOCK), dtype=np.float32)
        padded[:, :inputs] = weight
        grouped = padded.reshape(outputs, blocks, _BLOCK)
        scales = _scale(grouped, axis=2)
        whole = (np.round(grouped / scales) + 128).astype(np.uint8)
        names = [self.weight(f"{name}.weight", whole), self.weight(f"{name}.scales", scales[:, :, 0])]
        shape = {"K": inputs, "N": outputs, "bits": 8, "block_size": _BLOCK}
        # Level 4: activations become integers too, a scale per block of each row.
        return self.add("MatMulNBits", [source, *names], name, _MICROSOFT, accuracy_level=4, **shape)

    def skip_norm(self, source: str, skip: str, name: str, norm: tuple[np.ndarray, np.ndarray], **more: Any) -> str:
        """Layer norm of the sum. Not the fused SkipLayerNormalization, which takes five times as long on a CPU."""
        total = self.add("Add", [source, skip], f"{name}.sum")
        if more.get("bias") is not None:
            total = self.add("Add", [total, self.weight(f"{name}.bias", more["bias"])], f"{name}.biased")
        inputs = [total, self.weight(f"{name}.gamma", norm[0]), self.weight(f"{name}.beta", norm[1])]
        return self.add("LayerNormalization", inputs, name, epsilon=more["epsilon"])


def write_onnx(model: PreTrainedModel, path: Path, *, precision: str = "fp32") -> None:
    """Write a CamemBERT (RoBERTa) sequence classifier as a packed graph.

    Args:
        precision: of the matrix products in the layers, a key of `GRAPHS`; embeddings, norms, attention and the head
            stay fp32.

    Raises:
        UserError: an architecture that this graph does not describe.
    """
    config = model.config
    if config.model_type not in ("camembert", "roberta") or config.hidden_act != "gelu":
        raise UserError(f"cannot export {config.model_type} with {config.hidden_act}; only CamemBERT with gelu")
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    graph = _Graph(precision)
    hidden = _embed(graph, state, config)
    for layer in range(config.num_hidden_layers):
        hidden = _layer(graph, state, config, layer, hidden)
    _classify(graph, state, hidden)
    onnx.save(_assemble(graph, config.num_labels), path)


def _is_coarse(weight: np.ndarray) -> bool:
    scales = _scale(weight, axis=1)
    error = (weight - np.round(weight / scales) * scales).std(axis=1)
    return bool(np.mean(error / np.maximum(np.median(np.abs(weight), axis=1), 1e-12)) > _COARSE)


def _scale(weight: np.ndarray, axis: int, most: int = 127) -> np.ndarray:
    return np.asarray(np.maximum(np.abs(weight).max(axis=axis, keepdims=True) / most, 1e-12), dtype=np.float32)


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

    last = index == config.num_hidden_layers - 1
    asking = graph.add("Gather", [hidden, "first_index"], f"{name}.first") if last else hidden
    attended = _attention(graph, get, config, name, hidden, asking)
    projected = graph.linear(attended, f"{name}.projected", get("attention.output.dense.weight"), exact=last)
    norm = (get("attention.output.LayerNorm.weight"), get("attention.output.LayerNorm.bias"))
    bias = get("attention.output.dense.bias")
    middle = graph.skip_norm(projected, asking, f"{name}.middle", norm, bias=bias, epsilon=config.layer_norm_eps)
    wide = graph.linear(middle, f"{name}.wide", get("intermediate.dense.weight"), exact=last)
    wide_bias = graph.weight(f"{name}.wide.bias", get("intermediate.dense.bias"))
    active = graph.add("BiasGelu", [wide, wide_bias], f"{name}.active", _MICROSOFT)
    narrow = graph.linear(active, f"{name}.narrow", get("output.dense.weight"), zero=_AFTER_GELU, exact=last)
    norm = (get("output.LayerNorm.weight"), get("output.LayerNorm.bias"))
    bias = get("output.dense.bias")
    return graph.skip_norm(narrow, middle, f"{name}.out", norm, bias=bias, epsilon=config.layer_norm_eps)


def _attention(graph: _Graph, get: Any, config: Any, name: str, hidden: str, asking: str) -> str:
    """What the rows of `asking` (`hidden` itself, or each window's first token) take from their window's tokens."""
    parts = ("query", "key", "value")
    bias = graph.weight(f"{name}.bias", np.concatenate([get(f"attention.self.{part}.bias") for part in parts]))
    graph.weight("flat", np.array([-1, config.hidden_size], dtype=np.int64))
    last, heads = asking != hidden, []
    for part in parts:
        first = last and part == "query"
        rows = asking if part == "query" else hidden
        product = graph.linear(rows, f"{name}.{part}", get(f"attention.self.{part}.weight"), exact=first)
        if first:
            one = graph.weight("one_each", np.array([-1, 1, config.hidden_size], dtype=np.int64))
            heads.append(graph.add("Reshape", [product, one], f"{name}.asked"))
        else:
            heads.append(graph.add("Gather", [product, "pad_index"], f"{name}.{part}.padded"))
    options = {"num_heads": config.num_attention_heads}
    mixed = graph.add("MultiHeadAttention", [*heads, bias, "lengths"], f"{name}.mixed", _MICROSOFT, **options)
    attended = graph.add("Reshape", [mixed, "flat"], f"{name}.rows")
    return attended if last else graph.add("Gather", [attended, "unpad_index"], f"{name}.attended")


def _classify(graph: _Graph, state: dict[str, np.ndarray], first: str) -> None:
    dense = graph.linear(first, "dense", state["classifier.dense.weight"], exact=True)
    dense = graph.add("Add", [dense, graph.weight("dense.bias", state["classifier.dense.bias"])], "dense.sum")
    dense = graph.add("Tanh", [dense], "dense.tanh")
    scores = graph.linear(dense, "scores", state["classifier.out_proj.weight"], exact=True)
    graph.add("Add", [scores, graph.weight("scores.bias", state["classifier.out_proj.bias"])], "logits")


def _assemble(graph: _Graph, labels: int) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in _INPUTS.items()]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", labels])]
    body = helper.make_graph(graph.nodes, "vigie", inputs, outputs, list(graph.weights.values()))
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="vigie")


def _encoder(state: dict[str, np.ndarray]) -> str:
    return "roberta." if "roberta.embeddings.word_embeddings.weight" in state else "camembert."
