"""Agreement between two labellings of the same texts. Pure arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def krippendorff_alpha(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Krippendorff's alpha for nominal data, two labellers and no missing value: 1 - Dₒ / Dₑ.

    With n texts there are 2n values. Observed disagreement is the share of texts labelled differently; expected is the
    share of differing pairs when values are drawn without replacement from all 2n (Krippendorff, Computing
    Krippendorff's Alpha-Reliability, 2011). None where only one value occurs at all, so that nothing could disagree.
    """
    counts = Counter([*first, *second])
    values = sum(counts.values())
    expected = 1 - sum(count * (count - 1) for count in counts.values()) / (values * (values - 1)) if values > 1 else 0
    if not expected:
        return None
    observed = sum(a != b for a, b in zip(first, second, strict=True)) / len(first)
    return 1 - observed / expected
