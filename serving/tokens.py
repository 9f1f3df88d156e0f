"""From texts to token ids: exactly those of tokenizer.json, faster, because words come back."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

KNOWN_CHAIN = "fc73ece7d1e96573"
"""Digest (see `chain`) of the project's own normaliser and pre-tokeniser, for which `PLAIN` and `SPELLED_OUT` hold."""

PLAIN = re.compile(
    r"[\t\n\v\f\r !-;=-~\xa0«°»À-ÖØ-öø-ÿŒœ\u2018\u2019\u201c\u201d\u2013\u2014…€\u202f"
    r"\u200d\ufe0f\u2600-\u27bf\U0001f300-\U0001faff]*"
)
"""Texts whose ids are those of their words (`str.split`), one after the other, unless they are `SPELLED_OUT`.

It holds because every step of the chain looks at single characters, or at neighbours inside a word, and runs of white
space become one. Left out is `<`, since a control token's name is spelled out only next to other characters, and all
characters nobody types often.
"""
SPELLED_OUT = re.compile(r"\s(?:[\u200d\ufe0f]*[^\W\d_][\u200d\ufe0f]*\s){2}")
"""Two words of a single letter side by side, invisible signs aside: four or more (« m e n a ç e ») the chain joins."""
_LONGEST, _MOST = 24, 30_000
_WORD_START = "▁"


class TokenReader:
    """Remembers the ids of words of plain texts; all else goes through the tokenizer as it stands.

    What is remembered stays in memory and is bounded: words of at most 24 characters, all forgotten after 30,000.
    """

    def __init__(self, file: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        described = json.loads(file.read_text(encoding="utf-8"))
        self._known = chain(described) == KNOWN_CHAIN
        self._words: dict[str, list[int]] = {}
        vocabulary = described["model"]["vocab"] if self._known else []
        self._starts = frozenset(
            number for number, (piece, _) in enumerate(vocabulary) if piece.startswith(_WORD_START)
        )

    def ids(self, text: str) -> list[int]:
        """Token ids without control tokens; halves of surrogate pairs count as U+FFFD."""
        if not self._known or PLAIN.fullmatch(text) is None or SPELLED_OUT.search(text):
            return self._encode(clean(text))
        words = text.split()
        self._learn({word for word in words if word not in self._words})
        found = []
        for word in words:
            known = self._words.get(word)
            found += self._encode(word) if known is None else known
        return found

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _learn(self, words: set[str]) -> None:
        """Read new words in one go: where each begins shows in its ids, unless one of them left none."""
        new = [word for word in words if len(word) <= _LONGEST]
        if not new:
            return
        if len(self._words) + len(new) > _MOST:
            self._words.clear()
        ids = self._encode(" ".join(new))
        starts = [place for place, number in enumerate(ids) if number in self._starts]
        if len(starts) == len(new):
            parts = [ids[start:end] for start, end in pairwise([*starts, len(ids)])]
        else:
            parts = [self._encode(word) for word in new]
        self._words.update(zip(new, parts, strict=True))


def chain(described: dict[str, Any]) -> str:
    """Digest of what in a tokenizer.json decides how a text becomes words: not of its vocabulary."""
    model = described["model"]
    parts = [described["normalizer"], described["pre_tokenizer"], described["added_tokens"]]
    parts += [model["type"], model.get("byte_fallback")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def clean(text: str) -> str:
    """Halves of surrogate pairs, which JSON can carry and no tokenizer takes, become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
