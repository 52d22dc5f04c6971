"""What all measuring in a process shares: store, freshness, threads and progress."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustness.runtime.threads import SharedCores
from robustness.store.store import Store


def _nobody_waits(_: str) -> None:
    """Told of progress that nobody asked for."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Store, freshness, threads and progress, handed on as one.

    What the store has from before ``newer_than`` (seconds since the epoch) is not used. Whoever
    waits is told in one line of every chunk, and of every step that may take long.
    """

    root: Path
    newer_than: float | None = None
    threads: SharedCores | None = None
    progress: Callable[[str], None] = _nobody_waits

    def store(self, identity: Mapping[str, Any], *, in_memory: bool = True) -> Store:
        """The records of one kind of measurement, by everything that its numbers depend on.

        Whether they stay in memory, too, or are read anew wherever the disk has them.
        """
        return Store(self.root, identity, newer_than=self.newer_than, in_memory=in_memory)
