"""What each token adds to the linear teacher's answer: something to learn at every position, not at `<s>` alone.

A text's labels say little about which of its words they come from, and an encoder needs tens of thousands of texts to
find out. The linear teacher knows: its answer is a sum over n-grams. Here the states that the last layer reads must
tell, token by token, what the n-grams around a token add to each label, so that the last layer only has to sum up
(intermediate targets: Romero et al., ICLR 2015). The layer that tells it is thrown away with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Shares = Callable[[Sequence[int]], NDArray[np.float32]]
"""Token ids of one window → what each token adds, of shape (tokens, labels); NaN where nothing is to be learnt."""

HEAD = "evidence_head"


def spared(shares: Callable[[Sequence[int]], NDArray[Any]], special: Sequence[int]) -> Shares:
    """`shares` with NaN at control tokens, of which nothing is to be learnt."""
    control = np.array(sorted(special))

    def told(ids: Sequence[int]) -> NDArray[np.float32]:
        values = np.asarray(shares(ids), dtype=np.float32)
        values[np.isin(ids, control)] = np.nan
        return values

    return told


def standardised(shares: Shares, windows: Sequence[Sequence[int]]) -> Shares:
    """`shares` divided, label by label, by their root mean square over the tokens of `windows`."""
    told = np.concatenate([shares(window) for window in windows])
    scale = np.sqrt(np.nanmean(np.square(told), axis=0)) + 1e-6
    return lambda window: (shares(window) / scale).astype(np.float32)


def evidence_of(shares: Shares, windows: Sequence[Sequence[int]], ids: torch.Tensor) -> torch.Tensor:
    """Targets for a batch, of shape (*ids.shape, labels), NaN at what fills it up.

    Args:
        windows: the batch's windows, one after the other in a packed row, or one a padded row.
        ids: their `input_ids`.
    """
    parts = [torch.from_numpy(shares(window)) for window in windows]
    targets = torch.full((*ids.shape, parts[0].shape[1]), torch.nan)
    if len(parts) == ids.shape[0]:
        for row, part in enumerate(parts):
            targets[row, : len(part)] = part
    else:
        whole = torch.cat(parts)
        targets[0, : len(whole)] = whole
    return targets


@contextmanager
def evidence_forward(model: Any, labels: int) -> Iterator[None]:
    """Inside, `model` also takes `evidence` (see `evidence_of`) and its output holds `evidence_loss`, the mean square
    error of what the states before the last layer tell, from a linear layer that is trained along."""
    layers = model.base_model.encoder.layer
    source = layers[-2] if len(layers) > 1 else model.base_model.embeddings
    own, plain, states = vars(model).get("forward"), model.forward, list[torch.Tensor]()
    setattr(model, HEAD, torch.nn.Linear(model.config.hidden_size, labels))
    hook = source.register_forward_hook(lambda _module, _inputs, output: states.append(output))

    def forward(*arguments: Any, evidence: torch.Tensor | None = None, **inputs: Any) -> Any:
        states.clear()
        output = plain(*arguments, **inputs)
        if evidence is not None:
            known = ~evidence[..., 0].isnan()
            told = getattr(model, HEAD)(states[0][known])
            output["evidence_loss"] = torch.nn.functional.mse_loss(told, evidence[known])
        return output

    model.forward = forward
    try:
        yield
    finally:
        hook.remove()
        delattr(model, HEAD)
        del model.forward
        if own is not None:
            model.forward = own


def with_evidence(loss: Callable[..., torch.Tensor], weight: float) -> Callable[..., torch.Tensor]:
    """`loss`, and `weight` times the evidence loss where the output holds one."""

    def both(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        value = loss(outputs, labels, num_items_in_batch)
        return value + weight * outputs["evidence_loss"] if "evidence_loss" in outputs else value

    return both
