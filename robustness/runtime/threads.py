"""How many processor threads a process may use while others of the same run compute, too."""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

_PATIENCE_S = 0.02
"""Between tries to mark this process as computing: others look at the mark for microseconds."""

_SPIN_COUNT = "3000"
"""Tries of GNU's OpenMP before a waiting thread sleeps: some microseconds; by itself 300,000."""


@dataclass(frozen=True, kw_only=True)
class SharedCores:
    """One of several processes: cores ÷ processes that compute right now, ``most`` of them at most.

    A process that waits for what another one measures, or has no test left, leaves its cores to the
    others. That a process computes is a lock that it holds in the run's folder, so that one that
    dies gives its cores back.
    """

    folder: Path
    number: int
    processes: int
    cores: int
    most: int | None = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold this process's lock, which tells the others that it computes."""
        try:
            lock = self._lock(self.number)
            lock.acquire(timeout=-1, poll_interval=_PATIENCE_S)
        except OSError:  # a folder that is gone or cannot be written: as if the others computed
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def __call__(self) -> int:
        """Cores divided by the processes that compute right now, at least one."""
        others = (number for number in range(self.processes) if number != self.number)
        share = self.cores // (1 + sum(map(self._computes, others)))
        return max(1, share if self.most is None else min(share, self.most))

    def _computes(self, number: int) -> bool:
        try:
            with self._lock(number).acquire(blocking=False):
                return False
        except (Timeout, OSError):
            return True

    def _lock(self, number: int) -> FileLock:
        return FileLock(self.folder / f"{number}.lock", is_singleton=False)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wait_asleep(environment: MutableMapping[str, str]) -> None:
    """Let threads that wait for one another sleep at once, before their library is loaded.

    They spin for milliseconds otherwise, on cores that other processes of the run want: where three
    threads of two processes meet on two cores, these lose 40 % of their speed (RESULTS.md).
    What the user has set about that stands.
    """
    if environment.keys().isdisjoint({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}):
        environment["GOMP_SPINCOUNT"] = _SPIN_COUNT


def wanted_at_most(environment: Mapping[str, str]) -> int | None:
    """The threads that the user allows a process, by OpenMP's variable; ``None`` for any number."""
    text = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(text) if text.isdecimal() and int(text) else None
