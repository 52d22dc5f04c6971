"""Collection: the packaged suite without a path, parametrised by checkpoint and finding."""

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import pytest

from robustness.checks import Check
from robustness.pytest_support.state import STATE

SUITE = "robustness.suite"


class SuiteCollection:
    """Makes ``pytest --model=X`` without paths collect the packaged suite, and nothing else."""

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Let the session collect the suite's modules instead of the current folder."""
        if not isinstance(collector, pytest.Session):
            return (yield)
        collector.collect = lambda: _suite_modules(collector)  # type: ignore[method-assign]
        try:
            return (yield)
        finally:
            del collector.collect


def _suite_modules(session: pytest.Session) -> Iterator[pytest.Module]:
    folder = Path(__file__).parent.parent / "suite"
    for name in ("test_weights.py", "test_outliers.py", "test_controls.py"):
        yield pytest.Module.from_parent(session, path=folder / name, nodeid=f"robustness/{name}")


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Parametrise a test that uses ``checkpoint``, directly or through ``vetting``."""
    state = metafunc.config.stash.get(STATE, None)
    if state is None:
        reason = "needs a checkpoint: run pytest with --model=…"
        marks = pytest.mark.skip(reason=reason)
        values = [pytest.param(None, id="no-model", marks=marks)]
        metafunc.parametrize("checkpoint", values, indirect=True)
        if "check" in metafunc.fixturenames:
            metafunc.parametrize("check", [pytest.param(None, id="none")], indirect=True)
        return
    labels = [planned.label for planned in state.plan.checkpoints]
    if not _is_suite(metafunc.module.__name__):
        metafunc.parametrize("checkpoint", labels, indirect=True)
        return
    name = metafunc.function.__name__
    cases = [
        pytest.param(planned.label, check, id=check_id(planned.label, check))
        for planned in state.plan.checkpoints
        for check in planned.checks
        if check.test == name
    ]
    metafunc.parametrize(("checkpoint", "check"), cases, indirect=True)


def check_id(label: str, check: Check) -> str:
    """The part of a test's id in brackets."""
    return f"{label}-{check.suffix}" if check.suffix else label


def drop_disabled_checks(items: list[pytest.Item]) -> None:
    """Remove the items pytest makes of a check that no checkpoint has: opt-in, or switched off.

    An empty parametrisation would be reported as a skipped test, which is not what happened.
    """
    items[:] = [item for item in items if not (is_suite(item) and planned_check(item) is None)]


def planned_check(item: pytest.Item) -> Check | None:
    """The check that a test of the packaged suite decides."""
    callspec = getattr(item, "callspec", None)
    check = callspec.params.get("check") if callspec is not None else None
    return check if isinstance(check, Check) else None


def is_suite(item: pytest.Item) -> bool:
    """Whether a test belongs to the packaged suite."""
    return isinstance(item, pytest.Function) and _is_suite(item.module.__name__)


def _is_suite(module: str) -> bool:
    return module.startswith(f"{SUITE}.")


def refuse_suite_without_model(items: Iterable[pytest.Item]) -> None:
    """Naming the suite without a checkpoint is a usage problem, not a run of skips.

    Raises:
        pytest.UsageError: if the packaged suite was collected.
    """
    if any(map(is_suite, items)):
        raise pytest.UsageError("the packaged suite needs a checkpoint: add --model=X")
