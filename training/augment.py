"""Training texts that change from epoch to epoch: written as people evade filters, or joined with another text.

Only the training split passes through here. What an epoch holds depends on the seed and the number of the epoch alone,
so an interrupted run that goes on, and every process of a run, draws the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from training.config import OptimConfig
from training.data import UNKNOWN
from training.model import Windows, encode
from training.perturb import PERTURBATIONS

KINDS = tuple(PERTURBATIONS)


class VariedTexts(Dataset[dict[str, Any]]):
    """The windows of all training texts, drawn and tokenised anew for every epoch (about 0.3 ms a text).

    The number of rows never changes, since the steps of a run are counted before it: a variant that would need more or
    fewer windows than its text is not used.
    """

    def __init__(
        self,
        texts: Sequence[str],
        targets: np.ndarray,
        *,
        tokenizer: Any,
        windows: Windows,
        optim: OptimConfig,
        voices: int,
        seed: int,
    ) -> None:
        """Targets are of shape (texts, labels) as `label_matrix` gives them, the last `voices` columns the voices."""
        self._texts, self._targets = list(texts), targets
        self._tokenizer, self._windows, self._optim = tokenizer, windows, optim
        self._voices, self._seed = voices, seed
        self._clean = encode(self._texts, tokenizer, windows)
        self._short = [index for index, text in enumerate(texts) if len(text) <= optim.join_characters]
        self._rows: list[dict[str, Any]] = []
        self._epoch: int | None = None
        self.draw(0)

    def draw(self, epoch: int) -> list[int]:
        """Make the rows of an epoch (drawn once, however often it is asked for); returns their lengths in tokens."""
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._drawn(random.Random(self._seed * 1_000_003 + epoch))
        return [len(row["input_ids"]) for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]

    def _drawn(self, chance: random.Random) -> list[dict[str, Any]]:
        variants = [self._variant(index, chance) for index in range(len(self._texts))]
        pieces = encode([text for text, _ in variants], self._tokenizer, self._windows)
        rows = []
        for (_, target), varied, clean, own in zip(variants, pieces, self._clean, self._targets, strict=True):
            fits = len(varied) == len(clean)
            labels = (target if fits else own).tolist()
            rows += [{"input_ids": ids, "labels": labels} for ids in (varied if fits else clean)]
        return rows

    def _variant(self, index: int, chance: random.Random) -> tuple[str, np.ndarray]:
        text, target = self._texts[index], self._targets[index]
        if self._short and chance.random() < self._optim.join:
            other = chance.choice(self._short)
            if other != index:
                pair = [text, self._texts[other]]
                chance.shuffle(pair)
                text, target = " ".join(pair), joined_targets(target, self._targets[other], voices=self._voices)
        if chance.random() < self._optim.augment:
            kind = chance.choice(self._optim.augment_kinds or KINDS)
            text = PERTURBATIONS[kind].apply(text, chance)
        return text, target


def joined_targets(first: np.ndarray, second: np.ndarray, *, voices: int) -> np.ndarray:
    """Targets of two texts read as one, of shape (labels,).

    A category or context holds as surely as in the text where it is surer, and is unknown where neither surely has it
    and one is unknown; the voice (the last `voices` columns) is kept where both have the same, and unknown otherwise.
    """
    unknown = ((first == UNKNOWN) | (second == UNKNOWN)) & (np.maximum(first, second) <= 0.5)
    joined = np.where(unknown, UNKNOWN, np.maximum(first, second)).astype(first.dtype)
    own, other = first[-voices:], second[-voices:]
    same = ((own > 0.5) == (other > 0.5)).all() and (own != UNKNOWN).all() and (other != UNKNOWN).all()
    joined[-voices:] = np.maximum(own, other) if same else UNKNOWN
    return joined
