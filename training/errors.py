"""One exception for what a user can mend: printed as one message, exit code 2, no traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in a file, an option or an installation, told so that it can be mended.

    The message names the key, the file or the line and what is allowed; it never holds a text that a person wrote.
    """


def command(main: Callable[[], int]) -> Callable[[], int]:
    """Turn a `UserError` (or an interruption) of a command into a message on stderr and an exit code."""

    @functools.wraps(main)
    def run() -> int:
        try:
            return main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run
