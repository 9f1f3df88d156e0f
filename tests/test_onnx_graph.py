"""training.onnx_graph: the packed graph is the model, and nobody's neighbours matter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from training.onnx_graph import GRAPHS, write_onnx
from training.onnx_run import open_graph, packed_inputs

PAD = 1
# Lengths that differ within a run, so that there is padding; and a window of control tokens alone.
WINDOWS = [[0, *range(5, 5 + count), 2] for count in (1, 7, 30, 12, 0)]


@pytest.fixture(scope="module")
def model() -> Any:
    """Two layers, of which only the last answers for first tokens alone; widths that no block of 32 divides."""
    from transformers import CamembertConfig, CamembertForSequenceClassification

    torch.manual_seed(0)
    shape = CamembertConfig(
        vocab_size=60, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, intermediate_size=72,
        max_position_embeddings=64, type_vocab_size=1, num_labels=5, pad_token_id=PAD, bos_token_id=0, eos_token_id=2,
        initializer_range=40**-0.5,
    )  # fmt: skip
    made = CamembertForSequenceClassification(shape).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="module")
def graphs(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    for precision, name in GRAPHS.items():
        write_onnx(model, folder / name, precision=precision)
    return {precision: folder / name for precision, name in GRAPHS.items()}


def answers(graph: Path, windows: list[list[int]]) -> np.ndarray:
    return np.asarray(open_graph(graph).run(["logits"], packed_inputs(windows, PAD))[0])


def torch_answers(model: Any) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([model(input_ids=torch.tensor([window])).logits.numpy() for window in WINDOWS])


def test_fp32_equals_hugging_face(model: Any, graphs: dict[str, Path]) -> None:
    np.testing.assert_allclose(answers(graphs["fp32"], WINDOWS), torch_answers(model), atol=1e-5)


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.05), ("8bit", 0.05)])
def test_coarser_precisions_come_near(model: Any, graphs: dict[str, Path], precision: str, error: float) -> None:
    exact = torch_answers(model)
    difference = np.abs(answers(graphs[precision], WINDOWS) - exact)
    assert 0 < difference.mean() < error * np.abs(exact).mean()


@pytest.mark.parametrize("precision", GRAPHS)
def test_no_window_depends_on_its_company(graphs: dict[str, Path], precision: str) -> None:
    together = answers(graphs[precision], WINDOWS)
    alone = np.concatenate([answers(graphs[precision], [window]) for window in WINDOWS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_row_of_zeros_is_no_division_by_zero(model: Any, tmp_path: Path) -> None:
    empty = copy.deepcopy(model)
    norm = empty.roberta.embeddings.LayerNorm
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.zeros_(norm.bias)
    write_onnx(empty, tmp_path / "model.onnx", precision="int8")
    assert np.isfinite(answers(tmp_path / "model.onnx", WINDOWS)).all()


@pytest.mark.parametrize(("precision", "integers"), [("int8", np.int8), ("8bit", np.uint8)])
def test_weights_that_integers_would_spoil_stay_exact(
    model: Any, tmp_path: Path, precision: str, integers: Any
) -> None:
    """A product near the identity: the diagonal would stretch every scale, and the rest be rounded away."""
    outlying = copy.deepcopy(model)
    with torch.no_grad():
        outlying.roberta.encoder.layer[0].attention.self.value.weight.mul_(0.05).add_(4 * torch.eye(40))
    write_onnx(outlying, tmp_path / "model.onnx", precision=precision)
    weights = {
        weight.name: onnx.numpy_helper.to_array(weight)
        for weight in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    assert weights["layer0.value.weight"].dtype == np.float32
    assert {weights[f"layer0.{name}.weight"].dtype for name in ("query", "key", "wide")} == {np.dtype(integers)}


def test_the_last_layer_is_computed_for_first_tokens_alone(graphs: dict[str, Path]) -> None:
    """Its feed-forward product has one row a window; the layer before has one a token."""
    loaded = onnx.load(graphs["fp32"])
    for name in ("layer0.wide", "layer1.wide"):
        loaded.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(loaded.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wide = session.run(["layer0.wide", "layer1.wide"], packed_inputs(WINDOWS, PAD))
    assert [len(rows) for rows in wide] == [sum(map(len, WINDOWS)), len(WINDOWS)]


def test_int8_weights_leave_room_for_two_products(model: Any, tmp_path: Path) -> None:
    """Processors without VNNI add two products of a byte and a weight in 16 bits: 255 · w · 2 must fit."""
    write_onnx(model, tmp_path / "graph.onnx", precision="int8")
    tensors = onnx.load(tmp_path / "graph.onnx").graph.initializer
    weights = [onnx.numpy_helper.to_array(one) for one in tensors if one.data_type == onnx.TensorProto.INT8]
    highest = max(int(np.abs(one.astype(np.int32)).max()) for one in weights)
    assert highest > 32 and 255 * highest * 2 < 2**15
