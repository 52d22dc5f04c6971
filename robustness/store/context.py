"""What all measuring in a process shares: store, freshness, threads and progress."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustness.runtime.threads import Threads
from robustness.store.store import Store


def _nobody_waits(_: str) -> None:
    """Told of progress that nobody asked for."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Store, freshness, threads and progress, handed on as one.

    Attributes:
        root: folder of the store.
        newer_than: seconds since the epoch; what the store has from before is not used.
        threads: a share of the processor's cores; ``None`` leaves the library's choice.
        progress: called with one line after every chunk, or before every step that may take long.
    """

    root: Path
    newer_than: float | None = None
    threads: Threads | None = None
    progress: Callable[[str], None] = _nobody_waits

    def store(self, identity: Mapping[str, Any]) -> Store:
        """The records of one kind of measurement.

        Args:
            identity: everything that its numbers depend on, in plain JSON types.
        """
        return Store(self.root, identity, newer_than=self.newer_than)
