"""Collection: the packaged suite without a path, parametrised by checkpoint and finding."""

import re
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from robustness.checks.planned import PlannedCheck
from robustness.checks.registry import CHECKS
from robustness.pytest_support.state import STATE

SUITE = "robustness.suite"
FOLDER = Path(__file__).parent.parent / "suite"


def _in_order(folder: Path) -> tuple[str, ...]:
    """The suite's files, in the order of the first check that each holds."""
    order = {check.test: place for place, check in enumerate(CHECKS.values())}

    def first(file: Path) -> int:
        functions = re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        return min(order[function] for function in functions)

    return tuple(file.name for file in sorted(folder.glob("test_*.py"), key=first))


FILES = _in_order(FOLDER)
ID_PREFIX = "robustness/"
"""What the ids of the packaged suite's tests begin with, whatever folder pytest runs in."""


class SuiteCollection:
    """Makes ``pytest --model=X`` without paths collect the packaged suite, and nothing else."""

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Let the session collect the suite's modules instead of the current folder."""
        if not isinstance(collector, pytest.Session):
            return (yield)
        suite = (_suite_module(collector, name) for name in FILES)
        collector.collect = lambda: suite  # type: ignore[method-assign]
        try:
            return (yield)
        finally:
            del collector.collect


class PlannedChecks:
    """The packaged suite, however it is collected: one set of ids, and only the planned checks."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(
        self, module_path: Path, parent: pytest.Collector
    ) -> pytest.Module | None:
        """Give the suite's modules the same ids after ``--pyargs`` as without a path."""
        ours = module_path.parent.resolve() == FOLDER.resolve()
        return _suite_module(parent, module_path.name) if ours else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(
        self, collector: pytest.Module | pytest.Class, name: str
    ) -> list[pytest.Item] | None:
        """Make nothing of a check that no checkpoint has: it would be reported as skipped."""
        if not isinstance(collector, pytest.Module) or not _is_suite(collector.obj.__name__):
            return None
        plan = collector.config.stash[STATE].plan
        planned = {check.test for checkpoint in plan.checkpoints for check in checkpoint.checks}
        return [] if name.startswith("test_") and name not in planned else None


class ModelFolders:
    """Keeps pytest out of the checkpoints' folders: what lies in them is data, never code."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = [folder.resolve() for folder in folders]

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Ignore a checkpoint's folder and everything in it."""
        path = collection_path.resolve()
        return True if any(path.is_relative_to(folder) for folder in self._folders) else None


def _suite_module(parent: pytest.Collector, name: str) -> pytest.Module:
    module: pytest.Module = pytest.Module.from_parent(
        parent, path=FOLDER / name, nodeid=f"{ID_PREFIX}{name}"
    )
    module.add_marker(pytest.mark.filterwarnings("default"))  # whatever the user's own tests say
    return module


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Parametrise a test that uses ``checkpoint``, directly or through ``vetting``."""
    state = metafunc.config.stash.get(STATE, None)
    if state is None:
        skip = pytest.mark.skip(reason="needs a checkpoint: run pytest with --model=…")
        values = [pytest.param(None, id="no-model", marks=skip)]
        metafunc.parametrize("checkpoint", values, indirect=True)
        if "check" in metafunc.fixturenames:
            metafunc.parametrize("check", [pytest.param(None, id="none")], indirect=True)
        return
    if not _is_suite(metafunc.module.__name__):
        labels = [planned.label for planned in state.plan.checkpoints]
        metafunc.parametrize("checkpoint", labels, indirect=True)
        return
    name = metafunc.function.__name__
    cases = [
        pytest.param(planned.label, check, id=check.test_id(planned.label))
        for planned in state.plan.checkpoints
        for check in planned.checks
        if check.test == name
    ]
    # With the scope of "check", every test would load its checkpoint anew.
    metafunc.parametrize(("checkpoint", "check"), cases, indirect=True, scope="session")


def planned_check(item: pytest.Item) -> PlannedCheck | None:
    """The check that a test of the packaged suite decides."""
    callspec = getattr(item, "callspec", None)
    check = callspec.params.get("check") if callspec is not None else None
    return check if isinstance(check, PlannedCheck) else None


def is_suite(item: pytest.Item) -> bool:
    """Whether a test belongs to the packaged suite."""
    return isinstance(item, pytest.Function) and _is_suite(item.module.__name__)


def _is_suite(module: str) -> bool:
    return module.startswith(f"{SUITE}.")


def is_suite_id(nodeid: str) -> bool:
    """The same by its id: all that the controller of a run with workers knows of a test."""
    file = nodeid.partition("::")[0]
    return file.startswith(ID_PREFIX) and file.removeprefix(ID_PREFIX) in FILES


def refuse_suite_without_model(items: Iterable[pytest.Item]) -> None:
    """Naming the suite without a checkpoint is a usage problem, not a run of skips."""
    if any(map(is_suite, items)):
        raise pytest.UsageError("the packaged suite needs a checkpoint: add --model=X")
