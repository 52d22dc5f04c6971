"""pytest on a leash: it ends as soon as whoever holds the other end of its standard input does.

A worker of a cluster may be killed at any time; what it has started must not go on without it.
Run as a script, not imported: ``python -P leash.py ARGUMENTS OF PYTEST``.
"""

import os
import sys
import threading

import pytest

LET_GO = 113
"""Exit status of a run that nobody waits for any more."""


def main() -> int:
    """Run pytest, with a thread that waits for the end of standard input."""
    leash = os.dup(sys.stdin.fileno())  # pytest closes the original
    threading.Thread(target=_wait_for_the_end, args=(leash,), daemon=True).start()
    return int(pytest.main(sys.argv[1:]))


def _wait_for_the_end(leash: int) -> None:
    while os.read(leash, 4096):
        continue
    os._exit(LET_GO)  # workers of pytest-xdist end with the process that started them


if __name__ == "__main__":
    sys.exit(main())
