"""Texts of a fixed mix of lengths, drawn from the project's own data: joined where too short, cut where too long."""

from __future__ import annotations

import json
import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.labels import ROOT

POOL = ROOT / "data_cards" / "testimonies" / "train.jsonl"
MIX = ((0.0, 4), (0.25, 12), (0.5, 22), (0.75, 40), (0.95, 114), (0.99, 240), (1.0, 505))
"""Share of the texts → tokens at most, control tokens included: messages, with a few long letters among them."""


class Drawer:
    """Draws texts whose lengths in tokens of one tokenizer follow `MIX`.

    Texts longer than `longest` tokens are cut to it: an engine that truncates and one that reads on in windows would
    not do the same work.
    """

    def __init__(self, tokenizer_file: Path, *, longest: int = 505, pool: Path = POOL) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_truncation()
        self._longest = longest
        lines = pool.read_text(encoding="utf-8").splitlines()
        self._pool = [str(json.loads(line)["text"]) for line in lines]
        encoded = self._tokenizer.encode_batch(self._pool, add_special_tokens=False)
        self._ends = [[end for _, end in item.offsets] for item in encoded]

    def draw(self, count: int, *, seed: int) -> list[str]:
        """`count` texts in random order; every stretch of the mix is met in its share."""
        chance = random.Random(seed)
        wanted = [min(length_at((place + 0.5) / count), self._longest) for place in range(count)]
        chance.shuffle(wanted)
        return [self._text(tokens - 2, chance.randrange(len(self._pool))) for tokens in wanted]

    def of_characters(self, count: int, characters: int, *, seed: int) -> list[str]:
        """`count` texts of exactly so many characters."""
        chance, texts = random.Random(seed), []
        for _ in range(count):
            place, text = chance.randrange(len(self._pool)), ""
            while len(text) < characters:
                text, place = f"{text} {self._pool[place % len(self._pool)]}".strip(), place + 1
            texts.append(text[:characters])
        return texts

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, control tokens included."""
        return [len(item.ids) + 2 for item in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def _text(self, tokens: int, place: int) -> str:
        parts: list[str] = []
        while tokens > 0:
            text, ends = self._pool[place % len(self._pool)], self._ends[place % len(self._pool)]
            parts.append(text if len(ends) <= tokens else text[: ends[tokens - 1]])
            tokens, place = tokens - len(ends), place + 1
        return " ".join(parts)


def length_at(share: float) -> int:
    """Tokens at a share of `MIX`, from 0 to 1; between its points the logarithm runs straight."""
    index = min(bisect_right([point for point, _ in MIX], share), len(MIX) - 1)
    (left, low), (right, high) = MIX[index - 1], MIX[index]
    part = (share - left) / (right - left)
    return round(math.exp((1 - part) * math.log(low) + part * math.log(high)))


def describe(lengths: Sequence[int]) -> dict[str, float]:
    """Median, mean, 95th percentile and maximum of lengths in tokens."""
    ordered = sorted(lengths)
    return {
        "texts": len(ordered),
        "median": statistics.median(ordered),
        "mean": round(statistics.mean(ordered), 1),
        "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
        "max": ordered[-1],
    }
