"""A fleet's run: tasks handed out, those that were lost again, and one verdict of the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from robustness import __version__
from robustness.errors import FleetError
from robustness.fleet.tasks import Fleet, Task
from robustness.report.merge import merge, parse_shard
from robustness.report.results import SCHEMA, Report
from robustness.runtime.plain import plain

Kind = Literal["report", "lost", "broken", "refused"]
"""Decided, whatever the verdict; process or node died; no report; unusable as it was asked."""
USAGE_ERROR = 4
LINES = 5
"""Of a task's output, quoted where it ended without a report."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of the cluster, by the cluster's id of it and by its name for people."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a task ended: with a report as its text, or why without."""

    kind: Kind
    text: str
    exit_status: int | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """A task has started on a node, or (with a result) ended."""

    task: Task
    node: Node | None = None
    result: Result | None = None


class Executor(Protocol):
    """Whoever runs tasks somewhere."""

    def submit(self, task: Task, *, avoid: Node | None) -> None:
        """Have a task run as soon as there is room, elsewhere than on ``avoid`` if possible."""

    def wait(self) -> Sequence[Event]:
        """What has happened since, once something has."""


State = Literal["waiting", "running", "passed", "did not pass", "lost", "no verdict", "refused"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a task has come to: in which attempt (from 1 on), on which node, and why."""

    task: Task
    state: State
    attempt: int = 1
    where: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came back: JSON reports by the shard's index, and why others are missing."""

    reports: Mapping[int, str]
    problems: tuple[str, ...]


def result_of(answer: Mapping[str, Any]) -> Result:
    """What a node's answer (:func:`robustness.fleet.node.vet`) means."""
    status, report, output = answer["exit_status"], answer["report"], answer["output"]
    kind: Kind
    if status is None or status == USAGE_ERROR:
        errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
        sentence = errors[-1].removeprefix("ERROR: ") if errors else _last_lines(output)
        kind, text = "refused", sentence.removeprefix("robustness: ")
    elif status < 0:
        kind, text = "lost", f"pytest was ended by signal {-status}"
    elif report is not None:
        kind, text = "report", report
    else:
        why = f"pytest ended with exit status {status} and no report"
        kind, text = "broken", f"{why}: {_last_lines(output)}"
    return Result(kind=kind, text=text, exit_status=status)


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(lines[-LINES:]) or "it wrote nothing"


def is_tried_again(result: Result, *, attempts: int, retries: int) -> bool:
    """Whether a task is handed out again: never one with a verdict, whichever that is."""
    return result.kind == "lost" and attempts <= retries


def run(
    tasks: Sequence[Task], executor: Executor, *, retries: int, tell: Callable[[Progress], None]
) -> Outcome:
    """Hand out all tasks until each has a report or was lost more than ``retries`` times.

    Raises:
        FleetError: as soon as a node refuses its task as unusable.
    """
    attempts = {task.part.index: 1 for task in tasks}
    nodes: dict[int, Node] = {}
    reports: dict[int, str] = {}
    problems: dict[int, str] = {}
    for task in tasks:
        executor.submit(task, avoid=None)
        tell(Progress(task=task, state="waiting"))
    while len(reports) + len(problems) < len(tasks):
        for event in executor.wait():
            task, number = event.task, event.task.part.index
            if event.node is not None:
                nodes[number] = event.node
            attempt, where = attempts[number], nodes[number].name if number in nodes else ""
            if event.result is None:
                tell(Progress(task=task, state="running", attempt=attempt, where=where))
                continue
            state = _state(event.result)
            why = "" if event.result.kind == "report" else event.result.text
            tell(Progress(task=task, state=state, attempt=attempt, where=where, why=why))
            if event.result.kind == "report":
                reports[number] = event.result.text
            elif event.result.kind == "refused":
                raise FleetError(f"{task}{f' on {where}' if where else ''}: {why}")
            elif is_tried_again(event.result, attempts=attempt, retries=retries):
                attempts[number] += 1
                executor.submit(task, avoid=nodes.pop(number, None))
                tell(Progress(task=task, state="waiting", attempt=attempts[number]))
            else:
                times = f" after {attempt} attempts" if attempt > 1 else ""
                problems[number] = plain(f"{task} has no report{times}: {why}")
    return Outcome(reports=reports, problems=tuple(problems[n] for n in sorted(problems)))


def _state(result: Result) -> State:
    if result.kind == "report":
        return "passed" if result.exit_status == 0 else "did not pass"
    return "no verdict" if result.kind == "broken" else result.kind


def verdict(
    fleet: Fleet, outcome: Outcome, *, confidence: float, policy: str | None, reference: str | None
) -> Report:
    """Return the report of the whole run, made as ``robustness merge`` makes it.

    ``policy`` and ``reference`` are called as the user knows them: the nodes had copies.

    Raises:
        ShardError: if the reports are not of one run: the nodes differ.
    """
    called = {"policy": policy, "compared_with": reference}
    if not outcome.reports:
        return Report(  # that says only why there is no other
            **called,
            schema=SCHEMA,
            robustness=__version__,
            versions={},
            command=None,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            duration_s=0.0,
            confidence=confidence,
            comparisons=0,
            alpha=1 - confidence,
            partial=False,
            problems=tuple(outcome.problems),
            exit_status=1,
            passed=False,
            shard=None,
            merged=len(fleet.tasks),
            checkpoints=(),
        )
    answered = [task for task in fleet.tasks if task.part.index in outcome.reports]
    sources = [f"the report of {task}" for task in answered]
    texts = [outcome.reports[task.part.index].encode() for task in answered]
    report = merge(list(map(parse_shard, texts, sources)), sources, problems=outcome.problems)
    return report.model_copy(update=called)
