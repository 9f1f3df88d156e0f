"""Linear probes: what the encoder's state of `<s>` already says about the labels, before any fine-tuning.

An encoder that knows the task, or one near it, says as much as n-grams do and errs elsewhere. Its probe joins the
linear teacher (`training.teacher`), and the new head starts from what the teacher says instead of from random weights,
which would spoil the encoder while it learns (linear probing, then fine-tuning: Kumar et al., ICLR 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.onnx_run import batches
from training.packed import first_states, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RIDGE = 3.0
"""Strength of the penalty on the weights with which the head starts."""
TOKENS = 4096
"""Tokens of one forward pass."""


class States:
    """A view of the teacher (`training.teacher.View`): states of `<s>` of the encoder as it stands when this is made,
    standardised by the texts that it is fitted on. Of longer texts it reads the first `max_tokens` tokens."""

    c = 0.03
    most: int | None = 6000

    def __init__(self, model: PreTrainedModel, *, pad_id: int, max_tokens: int) -> None:
        self._encoder = copy.deepcopy(model.base_model).eval()
        self._pad_id, self._max_tokens = pad_id, max_tokens
        self._mean = self._scale = np.zeros(0, dtype=np.float32)

    def fit_transform(self, pieces: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        states = self._states(pieces)
        self._mean, self._scale = states.mean(axis=0), states.std(axis=0) + 1e-6
        return self._standard(states)

    def transform(self, pieces: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return self._standard(self._states(pieces))

    def _standard(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return (states - self._mean) / self._scale

    def _states(self, pieces: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return encoder_states(self._encoder, [ids[: self._max_tokens] for ids in pieces], self._pad_id)


def encoder_states(encoder: Any, windows: Sequence[Sequence[int]], pad_id: int) -> NDArray[np.float32]:
    """States of each window's first token, of shape (windows, hidden size)."""
    states = np.empty((len(windows), encoder.config.hidden_size), dtype=np.float32)
    for part in batches([len(window) for window in windows], TOKENS):
        batch = pack([windows[index] for index in part], pad_id)
        with torch.inference_mode():
            inputs = {key: batch[key].to(encoder.device) for key in ("input_ids", "position_ids")}
            states[part] = first_states(encoder, inputs, batch["lengths"], batch["texts"]).float().cpu().numpy()
    return states


def start_head(model: PreTrainedModel, rows: Sequence[dict[str, Any]], *, pad_id: int) -> None:
    """Set the head's output layer to the ridge regression of the rows' log-odds on what its first layer makes of them.

    Args:
        model: a CamemBERT sequence classifier; its head's first layer stays as it was drawn.
        rows: `input_ids` of one window, and `labels`, a probability a label.
    """
    training = model.training
    model.eval()
    states = torch.from_numpy(encoder_states(model.base_model, [row["input_ids"] for row in rows], pad_id))
    head: Any = model.classifier
    with torch.no_grad():
        hidden = torch.tanh(head.dense(states)).double()
        odds = torch.logit(torch.tensor([row["labels"] for row in rows], dtype=torch.float64), eps=1e-3)
        centre, level = hidden.mean(dim=0), odds.mean(dim=0)
        squares = (hidden - centre).T @ (hidden - centre) + RIDGE * torch.eye(hidden.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(squares, (hidden - centre).T @ (odds - level)).T
        head.out_proj.weight.copy_(weights)
        head.out_proj.bias.copy_(level - weights @ centre)
    model.train(training)
