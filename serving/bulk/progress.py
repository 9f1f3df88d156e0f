"""What a person sees of a run, on standard error: a bar or a line now and then, and the summary."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

_LINE_EVERY_S = 10.0


class Progress:
    """A tqdm bar on a terminal, where tqdm is installed; otherwise a line every ten seconds.

    Args:
        rows: rows done by the runs before this one.
        done: how far into the input that is, in the units of `total`, which is None where it is not known.
    """

    def __init__(self, *, rows: int, done: int, total: int | None) -> None:
        self._first_rows, self._first_done, self._total = rows, done, total
        self._started = self._said = time.monotonic()
        self._bar = _bar(done, total) if sys.stderr.isatty() else None

    def update(self, rows: int, done: int) -> None:
        """Rows scored, and how far into the input, since its start."""
        now = time.monotonic()
        speed = (rows - self._first_rows) / max(now - self._started, 1e-9)
        said = f"{rows:,} texts, {speed:,.1f} texts/s"
        if self._bar is not None:
            self._bar.set_postfix_str(said, refresh=False)
            self._bar.update(done - self._bar.n)
        elif now - self._said >= _LINE_EVERY_S:
            self._said = now
            print(said + self._remaining(done, now - self._started), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _remaining(self, done: int, elapsed: float) -> str:
        advanced = done - self._first_done
        if not self._total or advanced <= 0:
            return ""
        left = max(0, self._total - done) / advanced * elapsed
        return f", {min(1.0, done / self._total):.0%}, about {_duration(left)} left"


def summary(tally: Counter[str], seconds: float, rejects: str) -> str:
    """One line: rows, rejects, time, speed, and what was flagged and proposed."""
    rejected = f"{tally['rejected']:,} rejected" + (f" ({rejects})" if tally["rejected"] else "")
    speed = tally["rows"] / max(seconds, 1e-9)
    return (
        f"{tally['rows']:,} rows, {rejected}, {seconds:,.1f} s, {speed:,.1f} texts/s; "
        f"flagged: {_counts(tally, 'flagged ')}; route: {_counts(tally, 'route ')}"
    )


def _counts(tally: Counter[str], prefix: str) -> str:
    named = [f"{key.removeprefix(prefix)} {count:,}" for key, count in sorted(tally.items()) if key.startswith(prefix)]
    return ", ".join(named) or "nothing"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _bar(done: int, total: int | None) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    shape = "{percentage:3.0f} %|{bar}| {elapsed}<{remaining}{postfix}" if total else "{elapsed}{postfix}"
    return tqdm(total=total, initial=done, bar_format=shape, file=sys.stderr)
