"""The machine's own peak: how many operations a second one thread reaches in plain matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_ROWS, _INPUTS, _OUTPUTS = 512, 768, 3072


def measure_peaks(seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s of one thread in fp32 (torch), and in 8-bit integers (ONNX Runtime); the best of many products."""
    return {"fp32": _best(_float_product(), seconds), "int8": _best(_integer_product(), seconds)}


def _best(product: Callable[[], Any], seconds: float) -> float:
    product()
    shortest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        product()
        shortest = min(shortest, time.perf_counter() - start)
    return round(2 * _ROWS * _INPUTS * _OUTPUTS / shortest / 1e9, 1)


def _float_product() -> Callable[[], Any]:
    import torch

    torch.set_num_threads(1)
    left, right = torch.rand(_ROWS, _INPUTS), torch.rand(_INPUTS, _OUTPUTS)
    return lambda: torch.mm(left, right)


def _integer_product() -> Callable[[], Any]:
    """Unsigned times signed bytes, the weights known in advance, as in a quantised model."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)
    weights = numpy_helper.from_array(chance.integers(-127, 127, (_INPUTS, _OUTPUTS), np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["rows", "weights"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, [_ROWS, _INPUTS])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [_ROWS, _OUTPUTS])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = chance.integers(0, 255, (_ROWS, _INPUTS), np.uint8)
    return lambda: session.run(None, {"rows": rows})
