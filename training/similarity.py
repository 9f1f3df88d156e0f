"""Near-identical texts, exactly and without comparing every pair."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

ROWS = 256
"""Texts whose candidates are looked up at a time: tables this small are kept in memory that is used again."""


def grams(text: str, n: int = 5) -> frozenset[str]:
    """Character n-grams of the lower-cased text without accents, its white space folded."""
    folded = unicodedata.normalize("NFKD", " ".join(text.lower().split()))
    folded = "".join(character for character in folded if not unicodedata.combining(character))
    return frozenset(folded[i : i + n] for i in range(max(1, len(folded) - n + 1)))


def near_duplicates(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Pairs whose 5-gram Jaccard similarity |a ∩ b| / |a ∪ b| is at least `threshold`.

    Two sets that similar share an element among the rarest 1 - threshold of either, so only texts that meet in such a
    prefix are compared (prefix filtering: Chaudhuri, Ganti and Kaushik, ICDE 2006). No pair is missed.

    Yields:
        (i, j, similarity) with i < j, in the order of j.
    """
    if not texts:
        return
    sets = [grams(text) for text in texts]
    frequency = Counter(gram for item in sets for gram in item)
    rank = {gram: place for place, gram in enumerate(sorted(frequency, key=lambda gram: (frequency[gram], gram)))}
    ranks = [np.sort([rank[gram] for gram in item]) for item in sets]
    # In order of size, the texts that are large enough to be similar to a run of others are a run themselves.
    order = np.argsort([len(item) for item in ranks], kind="stable")
    ranks = [ranks[place] for place in order]
    prefixes = [item[: len(item) - math.ceil(threshold * len(item)) + 1] for item in ranks]
    ends, sizes = np.array([prefix[-1] for prefix in prefixes]), np.array([len(item) for item in ranks])
    beyond = sizes - [len(prefix) for prefix in prefixes]
    whole, held = _rows(ranks, len(rank)), _rows(prefixes, len(rank))
    pairs = []
    for start in range(0, len(sets), ROWS):
        low, stop = int(np.searchsorted(sizes, threshold * sizes[start])), start + ROWS
        met = (held[start:stop] @ held[low:stop].T).tocoo()
        j, i = met.coords[0] + start, met.coords[1] + low
        # What both hold up to where the first prefix ends is counted; the rest lies beyond that prefix.
        most = met.data + beyond[np.where(ends[i] < ends[j], i, j)]
        possible = (i < j) & (most * (1 + threshold) >= threshold * (sizes[i] + sizes[j]))
        i, j = i[possible], j[possible]
        shared = np.asarray((whole[i] * whole[j]).sum(axis=1))
        similarity = shared / (sizes[i] + sizes[j] - shared)
        found = similarity >= threshold
        both = np.sort(np.stack([order[i[found]], order[j[found]]]), axis=0).T
        pairs += [(int(one), int(two), float(value)) for (one, two), value in zip(both, similarity[found], strict=True)]
    yield from sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def _rows(ranks: Sequence[NDArray[np.int64]], width: int) -> csr_array:
    """A row of ones and zeros for each text."""
    starts = np.cumsum([0, *map(len, ranks)])
    return csr_array((np.ones(starts[-1], dtype=np.int32), np.concatenate(ranks), starts), shape=(len(ranks), width))
