"""How far a fleet has come: a live table on a terminal, elsewhere a line for every change."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from robustness.fleet.run import Progress, State
from robustness.fleet.tasks import Task
from robustness.runtime.plain import plain

STYLES: dict[State, str] = {
    "running": "cyan",
    "passed": "green",
    "did not pass": "bold red",
    "lost": "yellow",
    "no verdict": "bold red",
    "refused": "bold red",
}
WIDE = 200
"""Characters of a reason at most."""


class Board:
    """Shows what the tasks come to, on standard error: standard output is for the verdict."""

    def __init__(
        self, tasks: Sequence[Task], *, retries: int, stream: TextIO | None = None
    ) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._retries = retries
        self._rows = {task.part.index: Progress(task=task, state="waiting") for task in tasks}
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator["Board"]:
        """While the fleet runs."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(
            self._table(),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as self._live:
            yield self
        self._live = None

    def tell(self, progress: Progress) -> None:
        """Take in a change."""
        before = self._rows[progress.task.part.index]
        self._rows[progress.task.part.index] = replace(progress, why=progress.why or before.why)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        else:
            self.note(_line(progress, self._retries))

    def note(self, line: str) -> None:
        """Say something that is of no task."""
        self._console.print(Text(plain(f"robustness: {line}")), soft_wrap=True)

    def _table(self) -> Table:
        table = Table("shard", "checkpoint", "state", "attempt", "node", "why")
        for row in self._rows.values():
            cells = (
                str(row.task.part), row.task.name, row.state, str(row.attempt), row.where, row.why
            )  # fmt: skip
            style = STYLES.get(row.state, "")
            table.add_row(
                *(Text(plain(text, limit=WIDE), style * (text == row.state)) for text in cells)
            )
        return table


def _line(progress: Progress, retries: int) -> str:
    where = f" on {progress.where}" if progress.where else ""
    again = f", attempt {progress.attempt} of {1 + retries}" if progress.attempt > 1 else ""
    why = f": {progress.why}" if progress.why else ""
    return f"{progress.task}: {progress.state}{where}{again}{why}"
