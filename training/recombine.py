"""Texts that nobody wrote, cut from the training texts and put together anew, with what the teacher thinks of them.

A few thousand texts are too few for an encoder to find out what each word alone has to say: it learns texts by heart
instead. A linear teacher knows it, and can be asked about any number of texts. So the encoder is shown passages in
company that they never had and told the teacher's answer, until it has learnt the teacher's view of every word, beside
what the whole texts and their labels say (distillation on transfer data: Hinton, Vinyals and Dean 2015; Ba and Caruana
2014). What an epoch holds follows from its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.perturb import PERTURBATIONS

_PASSAGES = (1, 1, 2, 2)
"""Passages in a text. Short texts say more in the same time: each word's part in the answer is plainer."""
_SHORTEST, _LONGEST = 3, 14
_WHOLE, _SHUFFLED = 0.1, 0.1
_MOST_WORDS = 150


class Recombiner:
    """Draws rows of recombined texts: `input_ids` of one window, and `labels`, the teacher's probabilities."""

    def __init__(
        self,
        texts: Sequence[str],
        *,
        tokenize: Callable[[Sequence[str]], list[list[int]]],
        teacher: Callable[[Sequence[str], Sequence[Sequence[int]]], NDArray[np.float64]],
        rewritten: float,
        kinds: Sequence[str],
    ) -> None:
        """
        Args:
            texts: the training texts to cut from.
            tokenize: texts → token ids of one window each, control tokens included.
            teacher: texts and their token ids → logits of shape (texts, labels).
            rewritten: share of the texts that are written in another way (`training.perturb`) after the teacher has
                judged them, so that the other way of writing means the same.
            kinds: the ways of writing to draw from.
        """
        self._words = [words for text in texts if (words := text.split())]
        self._tokenize, self._teacher, self._rewritten, self._kinds = tokenize, teacher, rewritten, tuple(kinds)

    def rows(self, count: int, chance: random.Random) -> list[dict[str, Any]]:
        """`count` rows; none where there is no text to cut from."""
        if not (count and self._words):
            return []
        plain = [self._text(chance) for _ in range(count)]
        ids = self._tokenize(plain)
        told = 1 / (1 + np.exp(-np.clip(self._teacher(plain, ids), -30, 30)))
        chosen = [index for index in range(count) if self._kinds and chance.random() < self._rewritten]
        again = [PERTURBATIONS[chance.choice(self._kinds)].apply(plain[index], chance) for index in chosen]
        for index, rewritten in zip(chosen, self._tokenize(again) if again else [], strict=True):
            ids[index] = rewritten
        return [{"input_ids": one, "labels": label.tolist()} for one, label in zip(ids, told, strict=True)]

    def _text(self, chance: random.Random) -> str:
        """One or two passages of different texts, sometimes with all their words in another order."""
        passages = [self._passage(chance.choice(self._words), chance) for _ in range(chance.choice(_PASSAGES))]
        words = [word for passage in passages for word in passage][:_MOST_WORDS]
        if chance.random() < _SHUFFLED:
            chance.shuffle(words)
        return " ".join(words)

    def _passage(self, words: list[str], chance: random.Random) -> list[str]:
        if len(words) <= _SHORTEST or chance.random() < _WHOLE:
            return words
        length = chance.randint(_SHORTEST, min(len(words), _LONGEST))
        start = chance.randrange(len(words) - length + 1)
        return words[start : start + length]
