"""A run over many machines, without the machines: what they are asked, and what their answers mean.

How it goes on a cluster is in ``test_fleet_on_ray.py``.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustness.errors import CheckpointError, FleetError, ShardError
from robustness.fleet import run as running
from robustness.fleet.leash import LET_GO
from robustness.fleet.progress import Board
from robustness.fleet.run import Event, Executor, Node, Outcome, Progress, result_of, verdict
from robustness.fleet.tasks import Fleet, Request, Task, fleet_of
from robustness.report.collected import Ending, check_result, collected
from robustness.report.json_document import render, sealed
from robustness.report.merge import merge, parse_shard
from robustness.report.results import Report
from robustness.run.shards import Part, take
from robustness.statistics.verdict import Verdict
from tests.support.records.plans import plan

# --- what the machines are asked -----------------------------------------------------------------


def asked(*checkpoints: str, **more: Any) -> Fleet:
    return fleet_of(Request(checkpoints=checkpoints, **more), threads=1)


@settings(deadline=None)
@given(count=st.integers(1, 8))
def test_every_task_names_all_checkpoints_and_vets_its_own(count: int) -> None:
    references = [f"organisation/model-{n}" for n in range(count)]
    tasks = asked(*references).tasks
    assert [task.name for task in tasks] == [f"model-{n}" for n in range(count)]
    assert [str(task.part) for task in tasks] == [f"{n}/{count}" for n in range(1, count + 1)]
    whole = plan(*(task.name for task in tasks))
    for task in tasks:
        models = [a for a in task.arguments if a.startswith("--robustness-model=")]
        assert models == [f"--robustness-model={reference}" for reference in references]
        assert f"--robustness-shard={task.part}" in task.arguments
        (planned,) = take(whole, Part.parse(str(task.part))).checkpoints
        assert planned.label == task.name  # the shard is that checkpoint, and no other


def test_nothing_asked_for_is_lost(tmp_path: Path) -> None:
    (task,) = asked(
        "a/b",
        expectation="hardened",
        device="cuda",
        store=tmp_path / "store",
        pytest_arguments=("--robustness-dtype=auto", "-n", "2"),
    ).tasks
    assert task.arguments == (
        "--robustness-model=a/b",
        "--robustness-expectation=hardened",
        "--robustness-device=cuda",
        f"--robustness-store={tmp_path / 'store'}",
        "--robustness-dtype=auto",
        "-n",
        "2",
        "--robustness-shard=1/1",
        "--robustness-json=report.json",
    )


def test_files_travel_with_the_tasks(tmp_path: Path) -> None:
    for name in ("text:1.csv", "robustness.toml", "then.json"):
        (tmp_path / name).write_text(name)
    found = asked(
        "a/b",
        corpus=f"{tmp_path / 'text:1.csv'}:rxn",
        policy=tmp_path / "robustness.toml",
        reference=str(tmp_path / "then.json"),
    )
    assert found.files == {
        "corpus/text:1.csv": b"text:1.csv",
        "policy/robustness.toml": b"robustness.toml",
        "reference/then.json": b"then.json",
    }
    (task,) = found.tasks
    assert "--robustness-corpus=corpus/text:1.csv:rxn" in task.arguments
    assert "--robustness-policy=policy/robustness.toml" in task.arguments
    assert "--robustness-reference=reference/then.json" in task.arguments
    assert task.needs == ()


@pytest.mark.parametrize("corpus", ["builtin", "Salesforce/wikitext:wikitext-2:test:text"])
def test_what_is_no_file_here_is_named_as_it_is(corpus: str) -> None:
    found = asked("a/b", corpus=corpus)
    assert found.files == {}
    assert f"--robustness-corpus={corpus}" in found.tasks[0].arguments


def test_paths_of_checkpoints_do_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "texts").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    elsewhere = "/only/the/nodes/have/this"
    found = asked("./x", "x", elsewhere, "pkg:nowhere/x", corpus="../texts:train:text")
    paths = [str(tmp_path / "runs" / "x")] * 2
    for task in found.tasks:
        assert task.arguments[:4] == tuple(
            f"--robustness-model={text}" for text in (*paths, elsewhere, "pkg:nowhere/x")
        )
        assert task.needs == (*paths, elsewhere, str(tmp_path / "texts"))
        assert f"--robustness-corpus={tmp_path / 'texts'}:train:text" in task.arguments


@pytest.mark.parametrize("reference", ["./x", "../x/y", "./a/b/c", "x.gguf", ""])
def test_what_no_node_could_find_is_refused_at_once(reference: str) -> None:
    with pytest.raises(CheckpointError, match=r"There is no such|is empty"):
        asked(reference)


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--model=x", "set for every task by the fleet"),
        ("--robustness-shard=1/2", "set for every task by the fleet"),
        ("--robustness-save-baseline=x", "for a run of its own"),
        ("--robustness-corpus=x", "write --corpus=... before '--'"),
    ],
)
def test_arguments_that_would_not_arrive_as_meant_are_refused(argument: str, named: str) -> None:
    with pytest.raises(FleetError) as caught:
        asked("a/b", pytest_arguments=(argument,))
    assert named in str(caught.value)
    assert argument.partition("=")[0] in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"--reference=.* cannot be read"):
        asked("a/b", reference=str(tmp_path / "gone.json"))


# --- handing out ---------------------------------------------------------------------------------


def report(exit_status: int = 0) -> running.Result:
    return running.Result(kind="report", text="{}", exit_status=exit_status)


LOST = running.Result(kind="lost", text="its node\x1b died")
BROKEN = running.Result(kind="broken", text="no report")
REFUSED = running.Result(kind="refused", text="there is no corpus")


@dataclass
class Scripted:
    """An executor whose tasks end as they are told to, one attempt after the other."""

    results: Mapping[int, Sequence[running.Result]]
    submitted: list[tuple[int, str | None]] = field(default_factory=list)
    _queue: list[Task] = field(default_factory=list)

    def submit(self, task: Task, *, avoid: Node | None) -> None:
        self.submitted.append((task.part.index, None if avoid is None else avoid.id))
        self._queue.append(task)

    def attempts(self, index: int) -> int:
        return sum(number == index for number, _ in self.submitted)

    def wait(self) -> Sequence[Event]:
        task = self._queue.pop(0)
        index = task.part.index
        attempt = self.attempts(index)
        result = self.results[index][attempt - 1]
        where = Node(id=f"{index}.{attempt}", name="machine")
        return [Event(task=task, node=where), Event(task=task, result=result)]


def handed_out(
    results: Sequence[Sequence[running.Result]], *, retries: int
) -> tuple[Outcome, Scripted, list[Progress]]:
    tasks = asked(*(f"m-{n}" for n in range(len(results)))).tasks
    executor = Scripted(results=dict(enumerate(results, 1)))
    told: list[Progress] = []
    checked: Executor = executor
    return running.run(tasks, checked, retries=retries, tell=told.append), executor, told


ends = st.sampled_from([report(0), report(1), report(2), BROKEN])


@given(
    histories=st.lists(st.tuples(st.integers(0, 6), ends), min_size=1, max_size=6),
    retries=st.integers(0, 4),
)
def test_only_what_was_lost_is_tried_again_and_only_so_often(
    histories: list[tuple[int, running.Result]], retries: int
) -> None:
    results = [[LOST] * lost + [end] for lost, end in histories]
    outcome, executor, told = handed_out(results, retries=retries)
    for index, (lost, end) in enumerate(histories, 1):
        assert executor.attempts(index) == min(lost, retries) + 1
        reported = lost <= retries and end.kind == "report"
        assert (index in outcome.reports) == reported
        assert sum(f"shard {index}/" in problem for problem in outcome.problems) == (not reported)
        last = [progress for progress in told if progress.task.part.index == index][-1]
        assert (last.state in ("passed", "did not pass")) == reported
        assert (last.state == "passed") == (reported and end.exit_status == 0)
    avoided = [(index, avoid) for index, avoid in executor.submitted if avoid is not None]
    assert all(avoid.startswith(f"{index}.") for index, avoid in avoided)
    assert len(executor.submitted) == len(avoided) + len(histories)


def test_a_refusal_ends_the_run_with_its_sentence() -> None:
    with pytest.raises(FleetError, match=r"m-1 \(shard 2/3\) on machine: there is no corpus"):
        handed_out([[report()], [REFUSED], [report()]], retries=2)


def test_what_is_given_up_is_named_with_its_reason() -> None:
    outcome, _, _ = handed_out([[LOST] * 3, [BROKEN], [report()]], retries=2)
    assert outcome.problems == (
        "m-0 (shard 1/3) has no report after 3 attempts: its node\\x1b died",
        "m-1 (shard 2/3) has no report: no report",
    )


@pytest.mark.parametrize(
    ("status", "text", "output", "kind", "named"),
    [
        (0, "{}", "", "report", "{}"),
        (1, "{}", "", "report", "{}"),
        (2, "{}", "", "report", "{}"),
        (3, "{}", "", "report", "{}"),
        (1, None, "a\nTraceback\nb", "broken", "exit status 1 and no report: a | Traceback | b"),
        (0, None, "", "broken", "exit status 0 and no report: it wrote nothing"),
        (-9, None, "", "lost", "ended by signal 9"),
        (-9, "{}", "", "lost", "ended by signal 9"),
        (LET_GO, None, "", "broken", "status 113 and no report: it wrote nothing"),
        (4, None, "x\nERROR: robustness: no corpus\n", "refused", "no corpus"),
        (4, None, "usage: pytest\n", "refused", "usage: pytest"),
        (None, None, "ERROR: /m is not there", "refused", "/m is not there"),
    ],
)
def test_what_an_answer_means(
    status: int | None, text: str | None, output: str, kind: str, named: str
) -> None:
    found = result_of({"exit_status": status, "report": text, "output": output})
    assert found.kind == kind
    assert found.text.endswith(named)
    assert running.is_tried_again(found, attempts=1, retries=1) == (kind == "lost")
    assert not running.is_tried_again(found, attempts=2, retries=1)


# --- what is shown -------------------------------------------------------------------------------

HOSTILE = "\x1b[2J[red]::error x"


def test_every_change_is_a_line_without_a_terminal() -> None:
    tasks = asked("m-0").tasks
    stream = io.StringIO()
    board = Board(tasks, retries=2, stream=stream)
    with board.shown():
        board.tell(Progress(task=tasks[0], state="waiting"))
        board.tell(Progress(task=tasks[0], state="lost", attempt=2, where="vm", why=HOSTILE))
    assert stream.getvalue().splitlines() == [
        "robustness: m-0 (shard 1/1): waiting",
        r"robustness: m-0 (shard 1/1): lost on vm, attempt 2 of 3: \x1b[2J[red]::error x",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "CI", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    tasks = asked("m-0", "m-1").tasks
    stream = Terminal()
    board = Board(tasks, retries=2, stream=stream)
    with board.shown():
        board.tell(Progress(task=tasks[1], state="lost", attempt=1, where="vm", why=HOSTILE))
        board.tell(Progress(task=tasks[1], state="running", attempt=2, where="vm"))
    last = stream.getvalue().rpartition("shard")[2]
    assert "m-0" in last
    assert "waiting" in last
    assert "running" in last  # again, and one still sees why
    assert r"\x1b[2J[red]::error x" in last


# --- the one verdict -----------------------------------------------------------------------------

VERDICT = Verdict(outcome="pass", statement="c", reason="r")


def shard_report(*labels: str, index: int) -> str:
    """As pytest writes it, of a plan without checkpoints."""
    part = take(plan(*labels), Part(index=index, count=len(labels)))
    results = [
        check_result(f"robustness/test_x.py::{check.test_name(planned.label)}", check, VERDICT)
        for planned in part.checkpoints
        for check in planned.checks
    ]
    ending = Ending(
        partial=False, problems=(), exit_status=0, started=datetime.now(UTC), duration_s=1.0
    )
    return render(sealed(collected(part, {each.test_name: each for each in results}, ending)))


def judged(fleet: Fleet, outcome: Outcome, *, policy: str | None = None) -> Report:
    return verdict(fleet, outcome, confidence=0.99, policy=policy, reference=None)


def test_the_verdict_is_that_of_merge() -> None:
    fleet = asked("a", "b", "c")
    reports = {n: shard_report("a", "b", "c", index=n) for n in (3, 1, 2)}
    found = judged(fleet, Outcome(reports=reports, problems=()), policy="p.toml")
    shards = [parse_shard(reports[n].encode(), str(n)) for n in (1, 2, 3)]
    whole = merge(shards, ["1", "2", "3"])
    assert found == whole.model_copy(update={"policy": "p.toml"})
    assert found.passed
    assert len(found.checks) == 18


def test_a_lost_checkpoint_fails_the_run_and_is_named() -> None:
    outcome = Outcome(reports={1: shard_report("a", "b", index=1)}, problems=("b died",))
    found = judged(asked("a", "b"), outcome)
    assert not found.passed
    assert found.exit_status == 1
    assert found.problems[:2] == ("b died", "shard 2/2 is missing")
    assert sum("b" in problem and "no verdict" in problem for problem in found.problems) == 6


def test_nothing_at_all_is_no_success() -> None:
    found = judged(asked("a"), Outcome(reports={}, problems=("a died",)))
    assert not found.passed
    assert found.exit_status == 1
    assert found.problems == ("a died",)


@pytest.mark.parametrize(
    "other", [shard_report("a", "c", index=2), shard_report("a", "b", "c", index=2), "{}", ""]
)
def test_reports_of_different_runs_are_refused(other: str) -> None:
    outcome = Outcome(reports={1: shard_report("a", "b", index=1), 2: other}, problems=())
    with pytest.raises(ShardError, match=r"the report of b \(shard 2/2\)"):
        judged(asked("a", "b"), outcome)
