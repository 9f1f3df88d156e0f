"""What each token adds to the linear teacher's answer: something to learn at every position, not at `<s>` alone.

A text's labels say little about which of its words they come from, and an encoder needs tens of thousands of texts to
find out. The linear teacher knows: its answer is a sum over n-grams. Here the states that the last layer reads must
tell, token by token, what the n-grams around a token add to each label, so that the last layer only has to sum up
(intermediate targets: Romero et al., ICLR 2015). The layer that tells it is thrown away with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from itertools import pairwise
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


def word_starts(tokenizer: Any) -> Callable[[Sequence[int]], NDArray[np.bool_]]:
    """Token ids → which of them begin a word (« ▁ » in front of the piece); every control token counts as one."""
    control = set(tokenizer.all_special_ids)
    begins = np.zeros(len(tokenizer), dtype=bool)
    for piece, number in tokenizer.get_vocab().items():
        begins[number] = piece.startswith("▁") or number in control
    return lambda ids: begins[np.asarray(ids, dtype=np.int64)]


class RowShares:
    """Rows (`input_ids`, and `plain` where they were rewritten: the ids before that) → what each token adds.

    The teacher's n-grams do not know a misspelt word. What it adds is what the word as it was meant would add: the
    shares of the plain text are handed on word by word, in equal parts to the pieces that now spell the word. Where
    several words became one or the other way round, they are handed on as a whole; words put in between add nothing.
    """

    def __init__(self, shares: Shares, starts: Callable[[Sequence[int]], NDArray[np.bool_]]) -> None:
        """`starts` tells which tokens begin a word; control tokens must be among them."""
        self._shares, self._starts = shares, starts

    def __call__(self, row: Mapping[str, Any]) -> NDArray[np.float32]:
        """Shares of shape (tokens, labels)."""
        plain = row.get("plain")
        told = self._shares(row["input_ids"] if plain is None else plain)
        return told if plain is None else self._handed_on(told, plain, row["input_ids"])

    def _handed_on(
        self, told: NDArray[np.float32], plain: Sequence[int], rewritten: Sequence[int]
    ) -> NDArray[np.float32]:
        values = np.zeros((len(rewritten), told.shape[1]), dtype=np.float32)
        (before, words), (after, others) = self._words(plain), self._words(rewritten)
        matcher = SequenceMatcher(None, words, others, autojunk=False)
        for _, first, last, start, end in matcher.get_opcodes():
            pairs = [(first, last, start, end)]
            if last - first == end - start:
                pairs = [(first + k, first + k + 1, start + k, start + k + 1) for k in range(last - first)]
            for i, j, k, m in pairs:
                source, target = slice(before[i], before[j]), slice(after[k], after[m])
                if words[i:j] == others[k:m]:
                    values[target] = told[source]
                elif m > k and j > i:
                    values[target] = told[source].sum(axis=0) / (after[m] - after[k])
        return values

    def _words(self, ids: Sequence[int]) -> tuple[list[int], list[tuple[int, ...]]]:
        """Where each word begins, and the end of the text; and the words, as their ids."""
        bounds = [*np.flatnonzero(self._starts(ids)).tolist(), len(ids)]
        return bounds, [tuple(ids[start:end]) for start, end in pairwise(bounds)]


def evidence_of(
    shares: Callable[[Mapping[str, Any]], NDArray[np.float32]], rows: Sequence[Mapping[str, Any]], ids: torch.Tensor
) -> torch.Tensor:
    """Targets for a batch, of shape (*ids.shape, labels), NaN at what fills it up.

    Args:
        shares: a row → what each of its tokens adds.
        rows: the batch's rows, one after the other in a packed row, or one a padded row.
        ids: their `input_ids`.
    """
    parts = [torch.from_numpy(shares(row)) for row in rows]
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
