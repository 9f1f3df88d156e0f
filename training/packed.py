"""Fine-tuning without padding: the tokens of a step in one long row, attention inside each window alone.

Texts differ much in length, so almost half of a padded batch is padding. Here every layer but attention works on the
bare tokens, and the gradient is that of the padded batch. For processors; a GPU is better served with padded batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "vigie_packed"
MULTIPLE = 64
"""Rows are filled up to a multiple of this: kernels are compiled for each new size, and sizes then come back."""


def pack(windows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Any]:
    """Inputs of a packed step: `input_ids` and `position_ids` of shape (1, tokens), the `lengths`
    of its parts, and how many of them are `texts`.

    Positions count from `pad_id` + 1, as RoBERTa's do. What fills the row up is a part of its own, which no text sees.
    """
    lengths = [len(window) for window in windows]
    filling = -sum(lengths) % MULTIPLE
    ids = [token for window in windows for token in window] + [pad_id] * filling
    positions = [place + pad_id + 1 for length in lengths for place in range(length)] + [pad_id] * filling
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "lengths": lengths + ([filling] if filling else []),
        "texts": len(lengths),
    }


@contextmanager
def packed_forward(model: Any) -> Iterator[None]:
    """Inside, `model` (a CamemBERT or RoBERTa sequence classifier) also takes batches made by `pack`."""
    plain = model.forward

    def forward(*arguments: Any, lengths: list[int] | None = None, texts: int = 0, **inputs: Any) -> Any:
        if lengths is None:
            return plain(*arguments, **inputs)
        states = first_states(model.base_model, inputs, lengths, texts)
        return SequenceClassifierOutput(logits=model.classifier(states[:, None]))

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def first_states(encoder: Any, inputs: dict[str, Any], lengths: Sequence[int], texts: int) -> torch.Tensor:
    """The last layer's state of each window's first token, of shape (windows, hidden size), of a row made by `pack`.

    The last layer is computed for these tokens alone: nobody reads the others.
    """
    attention, encoder.config._attn_implementation = encoder.config._attn_implementation, _NAME
    try:
        states = encoder.embeddings(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"])
        *layers, last = encoder.encoder.layer
        for layer in layers:
            states = layer(states, lengths=lengths)
        return _last_layer(last, states, torch.tensor([0, *lengths[:-1]]).cumsum(0)[:texts], lengths)
    finally:
        encoder.config._attn_implementation = attention


def _last_layer(layer: Any, states: torch.Tensor, first: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    own, attention = states[0, first], layer.attention.self
    heads = (-1, attention.num_attention_heads, attention.attention_head_size)
    # One query a window, and the keys and values of all its tokens: (1, heads, tokens, head size).
    queries = attention.query(own).view(heads).transpose(0, 1)[None]
    keys, values = (
        project(states[0]).view(heads).transpose(0, 1)[None] for project in (attention.key, attention.value)
    )
    dropout = attention.dropout.p if layer.training else 0.0
    summed = [
        scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=attention.scaling)
        # The part that fills the row up has no query.
        for query, key, value in zip(
            queries.split(1, 2), keys.split(lengths, 2), values.split(lengths, 2), strict=False
        )
    ]
    context = torch.cat(summed, dim=2)[0].transpose(0, 1).reshape(own.shape[0], -1)
    attended = layer.attention.output(context, own)
    output: torch.Tensor = layer.output(layer.intermediate(attended), attended)
    return output


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, *,
    lengths: list[int], scaling: float | None = None, dropout: float = 0.0, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention of each part to itself; query, key and value are of shape (1, heads, tokens, head size)."""
    parts = (torch.split(states, lengths, 2) for states in (query, key, value))
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling) for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
