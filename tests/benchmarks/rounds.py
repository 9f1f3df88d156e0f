"""Fair turns on a noisy machine: contestants alternate round by round, and only ratios within a round count."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

Figure = TypeVar("Figure")
Clock = Callable[[], float]


class Budget:
    """Deals out the minutes of a run over its sections; what one leaves unused goes to those after it."""

    def __init__(self, minutes: float, weights: Mapping[str, float], *, clock: Clock = time.monotonic) -> None:
        self._clock, self._end, self._weights = clock, clock() + 60 * minutes, dict(weights)

    def deadline(self, section: str) -> float:
        """When `section`, which begins now, should be over: its share of what is left, by weight."""
        now, left = self._clock(), sum(self._weights.values())
        return now + max(0.0, self._end - now) * self._weights.pop(section) / left


def alternate(
    contestants: Mapping[str, Callable[[int], Figure]],
    *,
    until: float,
    most: int,
    clock: Clock = time.monotonic,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, list[Figure]]:
    """Let every contestant run once a round, whoever began the last round at the end of the next.

    Args:
        contestants: name → what it does in the round of that number.
        until: no round begins that would, if it took as long as the longest so far, end after this time of `clock`.
        most: rounds. At least one is run, however late it is.
    """
    names, found, longest = list(contestants), {name: list[Figure]() for name in contestants}, 0.0
    for number in range(most):
        begun = clock()
        if number and begun + longest > until:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(contestants[name](number))
        longest = max(longest, clock() - begun)
        say(f"round {number + 1}: {clock() - begun:.0f} s")
    return found


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """Median of the ratios that two contestants had within the same round; infinite where the other has nothing."""
    return statistics.median(a / b if b else float("inf") for a, b in zip(of, to, strict=True))


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); None without values."""
    if not values:
        return None
    rank = max(1, -int(-share * len(values) // 1))
    return sorted(values)[rank - 1]
