"""Near-identical texts, exactly and without comparing every pair."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence


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
        (i, j, similarity) with i < j.
    """
    sets = [grams(text) for text in texts]
    frequency = Counter(gram for item in sets for gram in item)
    seen_by: dict[str, list[int]] = defaultdict(list)
    ends: list[tuple[int, str]] = []
    beyond: list[int] = []
    for j, item in enumerate(sets):
        rarest_first = sorted((frequency[gram], gram) for gram in item)
        prefix = rarest_first[: len(item) - math.ceil(threshold * len(item)) + 1]
        ends.append(prefix[-1])
        beyond.append(len(item) - len(prefix))
        shared = Counter(i for _, gram in prefix for i in seen_by[gram])
        for i, count in sorted(shared.items()):
            # What both hold up to where the first prefix ends is counted; the rest lies beyond that prefix.
            most = count + beyond[i if ends[i] < ends[j] else j]
            if most * (1 + threshold) < threshold * (len(sets[i]) + len(item)):
                continue
            similarity = jaccard(sets[i], item)
            if similarity >= threshold:
                yield i, j, similarity
        for _, gram in prefix:
            seen_by[gram].append(j)


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a ∩ b| / |a ∪ b|; 0 where both are empty."""
    shared = len(a & b)
    union = len(a) + len(b) - shared
    return shared / union if union else 0.0
